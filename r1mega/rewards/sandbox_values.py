"""Plain Python values as JSON that keeps their types, on both sides of the fence.

None, bool, int, float, str and list are JSON's own; a tuple, dict, set, frozenset or bytes is an object of
one key that names it. Only these very types pass: an object that merely behaves like one, as by a subclass
or an `__eq__` of its own, is refused. What comes back from `loads` is therefore nothing but data.
"""

from __future__ import annotations

import json
from typing import Any

_SCALARS = (type(None), bool, int, float, str)


class NotPlain(ValueError):
    """A value, or its JSON, that holds something other than plain data."""


def dumps(value: Any) -> str:
    """One line of JSON. Raises `NotPlain`."""
    try:
        return json.dumps(_encode(value))
    except (RecursionError, ValueError) as error:  # too deep, or an integer of too many digits
        raise NotPlain(f"cannot be told: {error}") from error


def loads(text: str | bytes) -> Any:
    """The value that `dumps` was given. Raises `NotPlain`."""
    try:
        return _decode(json.loads(text))
    except (RecursionError, ValueError, TypeError) as error:
        raise NotPlain(f"no value: {error}") from error


def same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal and of the same types throughout; NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return _same_members(one, other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, set | frozenset):
        return _same_members(one, other)
    return bool(one == other or (one != one and other != other))


def _same_members(one: Any, other: Any) -> bool:
    """By their JSON too, for 1 and True are one key to Python."""
    return set(one) == set(other) and sorted(map(dumps, one)) == sorted(map(dumps, other))


def _encode(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list:
        return [_encode(item) for item in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__: [_encode(item) for item in value]}
    if kind is dict:
        return {"dict": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if kind is bytes:
        return {"bytes": value.hex()}
    raise NotPlain(f"a {kind.__name__} is no plain value")


def _decode(told: Any) -> Any:
    if isinstance(told, list):
        return [_decode(item) for item in told]
    if not isinstance(told, dict):
        return told
    [(kind, inner)] = told.items()
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "dict":
        return {_decode(key): _decode(item) for key, item in inner}
    if kind not in _CONTAINERS:
        raise NotPlain(f"no kind of value: {kind}")
    return _CONTAINERS[kind](map(_decode, inner))


_CONTAINERS = {"tuple": tuple, "set": set, "frozenset": frozenset}
