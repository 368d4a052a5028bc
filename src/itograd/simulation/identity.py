"""What the bytes of a run depend on, in a form that can be stored and compared: the identity of a run.

Numbers and arrays count in full, functions by what they are made of: their bytecode, constants, defaults, what they
close over and the globals they name. What a function reaches through a module, or through an object of a foreign
library, is not seen.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from itograd import __version__
from itograd.simulation.result import fingerprint, without_addresses

_MAX_SHOWN = 16
_WHAT_TO_DO = {
    "itograd_version": "go on with the version that began it",
    "jax_version": "go on with the version that began it",
    "numpy_version": "go on with the version that began it",
    "engine": "go on with the engine that began it",
    "step_size_chosen_for": "give dt, or the same arguments",
}


def identity(model: Any, x0: Any, observables: Mapping[str, Any], scheme: Any, **settings: Any) -> dict[str, Any]:
    """The identity of a run, as JSON knows it; `settings` are further arguments that its bytes depend on."""
    found = {
        "itograd_version": __version__,
        "jax_version": jax.__version__,
        "numpy_version": np.__version__,
        "model": _named(getattr(model, "optimizer", model)),
        "problem": _named(model.problem),
        "numbers_of_the_model": fingerprint(model),
        "x0": _named(x0) if callable(x0) else _shown(x0),
        "observables": list(observables),
        "scheme": None if scheme is None else _named(scheme),
        **settings,
        "python": ".".join(map(str, sys.version_info[:2])),
        "code": digest((model, x0, list(observables.items()), scheme)),
    }
    return json.loads(json.dumps(found, default=_shown))


def require_same(stored: Mapping[str, Any], asked: Mapping[str, Any], where: Any) -> None:
    """Raise ValueError, naming the first thing that differs and both of its values, unless two identities agree."""
    for name in dict.fromkeys([*stored, *asked]):
        old, new = stored.get(name), asked.get(name)
        if old == new or name == "python":
            continue
        if name == "code":
            if stored.get("python") != asked.get("python"):
                continue  # the bytecode of one function differs from Python to Python
            detail = "the code of its functions, or what they use from outside, is another"
        else:
            detail = f"its {name} is {_short(old)}, and {_short(new)} is asked for"
        advice = _WHAT_TO_DO.get(name, "ask for the same run")
        raise ValueError(f"the store {where} is of another run: {detail}; {advice}, or give another folder")


def _named(value: Any) -> str:
    return " ".join(without_addresses(repr(value)).split())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:80]} … {text[-30:]}"


def _shown(array: Any) -> Any:
    array = np.asarray(array)
    if array.size <= _MAX_SHOWN:
        return array.tolist()
    first, last = array.flat[0], array.flat[-1]
    return f"{array.size} numbers from {first:g} to {last:g} of digest {digest(array)}"


def digest(value: Any) -> str:
    """A digest of an object by its content; see the head of this file.

    >>> def scaled(factor):
    ...     return lambda x: factor * x
    >>> digest(scaled(2.0)) == digest(scaled(2.0)) != digest(scaled(3.0))
    True
    """
    return _Digest().of(value).hex()[:16]


class _Digest:
    """A tree of digests, each object once."""

    def __init__(self):
        self._known: dict[int, tuple[Any, bytes]] = {}  # by id; the object itself is held, so that ids stay its own

    def of(self, value: Any) -> bytes:
        if isinstance(value, np.ndarray | np.generic | jax.Array | float | int | complex):
            array = np.asarray(value)
            content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            return _hash(b"array", f"{array.dtype} {array.shape}".encode(), content)
        if value is None or isinstance(value, str | bytes):
            return _hash(type(value).__name__.encode(), repr(value).encode())
        if id(value) not in self._known:
            self._known[id(value)] = value, b"cycle"
            self._known[id(value)] = value, _hash(*self._parts(value))
        return self._known[id(value)][1]

    def _parts(self, value: Any) -> list[bytes]:
        kind = type(value).__name__.encode()
        if isinstance(value, Mapping):
            return [kind, *(self.of(part) for item in value.items() for part in item)]
        if isinstance(value, list | tuple):
            return [kind, *map(self.of, value)]
        if isinstance(value, set | frozenset):
            return [kind, *sorted(map(self.of, value))]
        if isinstance(value, types.ModuleType):
            return [kind, value.__name__.encode()]
        if isinstance(value, types.CodeType):
            return [kind, value.co_code, self.of(value.co_consts), self.of(value.co_names)]
        if inspect.isfunction(value):
            return [kind, *self._function(value)]
        if inspect.ismethod(value):
            return [kind, self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, functools.partial):
            return [kind, self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if inspect.isclass(value):
            return [kind, *self._class(value)]
        if hasattr(value, "__wrapped__"):  # a function that jax has wrapped
            return [kind, self.of(value.__wrapped__)]
        if _origin(type(value).__module__) == "foreign" and not hasattr(value, "__dataclass_fields__"):
            return [kind, without_addresses(repr(value)).encode()]
        return [*self._class(type(value)), *(self.of(part) for item in _state(value).items() for part in item)]

    def _function(self, function: types.FunctionType) -> list[bytes]:
        parts = [self.of(f"{function.__module__}.{function.__qualname__}")]
        parts += [self.of(function.__defaults__), self.of(function.__kwdefaults__)]
        parts += [self.of(cell.cell_contents) for cell in function.__closure__ or () if _is_filled(cell)]
        if function.__module__ == "builtins" or _origin(function.__module__) == "user":  # the former by `exec`
            parts.append(self.of(function.__code__))
            outside = _names(function.__code__) & set(function.__globals__)
            parts += [self.of(part) for name in sorted(outside) for part in (name, function.__globals__[name])]
        return parts

    def _class(self, cls: type) -> list[bytes]:
        parts = [f"{cls.__module__}.{cls.__qualname__}".encode()]
        for base in cls.__mro__:
            if _origin(base.__module__) == "user":
                written = {name: _written(member) for name, member in vars(base).items()}
                parts += [self.of(written[name]) for name in sorted(written)]
        return parts


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _state(value: Any) -> dict[str, Any]:
    names = getattr(value, "__dataclass_fields__", None)
    if names is None:
        names = getattr(value, "__dict__", {})
    return {name: getattr(value, name, None) for name in names}


def _names(code: types.CodeType) -> set[str]:
    inner = [_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
    return set(code.co_names).union(*inner)


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _written(member: Any) -> Any:
    """What the author of a class wrote as its member; None for what Python or a library has put there."""
    if isinstance(member, property):
        return member.fget
    if isinstance(member, staticmethod | classmethod):
        return member.__func__
    return member if inspect.isfunction(member) or isinstance(member, np.ndarray | jax.Array | float | int) else None


@functools.cache
def _origin(module: str | None) -> str:
    """Who wrote a module: "user", "itograd" or "foreign", a library whose version is another's concern."""
    top = (module or "__main__").partition(".")[0]
    if top == "itograd":
        return "itograd"
    if top != "__main__" and top in sys.stdlib_module_names:
        return "foreign"
    source = getattr(sys.modules.get(module or "__main__"), "__file__", None) or ""
    return "foreign" if {"site-packages", "dist-packages"} & set(source.replace("\\", "/").split("/")) else "user"
