"""Interrupts at safe points.

Python raises KeyboardInterrupt wherever the main thread happens to be; inside of the compiler that has ended in a
segmentation fault. Within `deferred`, the first interrupt waits for the next `safe_point`; a second one does not wait.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

_requested = threading.Event()


@contextmanager
def deferred() -> Iterator[None]:
    """Within it, in the main thread, an interrupt waits for the next safe point."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(*_):
        if _requested.is_set():
            raise KeyboardInterrupt
        _requested.set()

    previous = signal.signal(signal.SIGINT, request)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        _requested.clear()


def safe_point() -> None:
    """Raise the KeyboardInterrupt that waits, if one does."""
    if _requested.is_set():
        raise KeyboardInterrupt


def wait_for(future: Future) -> Any:
    """The result of a future; every moment of waiting is a safe point."""
    while True:
        safe_point()
        try:
            return future.result(timeout=0.1)
        except TimeoutError:
            if future.done():  # at the last moment, or the error is the task's own
                return future.result()
