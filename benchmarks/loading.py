"""A function by its name, loaded when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Callable


def load(home: str) -> Callable:
    """The function "module:function"."""
    module, _, function = home.partition(":")
    return getattr(importlib.import_module(module), function)
