"""One JSON object from one line of a file, strictly.

Guarantees a dict of plain values whose numbers are finite. Refuses, naming what is wrong: bytes that
are not UTF-8, a line longer than a limit, brackets deeper than `LIMIT_DEPTH`, a key given twice
in one object (Python's reader would keep the last in silence), NaN and infinities (JSON has none),
and anything that is not an object.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

LIMIT_BYTES = 16 * 2**20
"""A longer line is taken for damage: 32,768 tokens of text are about 1 % of it."""
LIMIT_DEPTH = 64

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_NO_BRACKET = re.compile(rb"[^\[\]{}]++")


class NotUsable(ValueError):
    """Why a line is no row."""


def parse(line: bytes, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """The object of one line. Raises `NotUsable`."""
    if len(line) > limit_bytes:
        raise NotUsable(f"longer than {limit_bytes / 2**20:g} MiB: is a line end missing?")
    _check_depth(line)
    try:
        value = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        raise NotUsable(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise NotUsable(f"not JSON: {error.msg} (column {error.colno})") from error
    except ValueError as error:  # those of this file, and a whole number of too many digits
        raise NotUsable(f"not usable JSON: {error}") from error
    if not isinstance(value, dict):
        raise NotUsable(f"must be an object, is {kind(value)}")
    return value


def kind(value: Any) -> str:
    """What a value is, for messages."""
    names = {type(None): "null", dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    numbers = {int: "a number", float: "a number"}
    return (names | numbers).get(type(value), f"of type {type(value).__name__}")


def _check_depth(line: bytes) -> None:
    if line.count(b"[") + line.count(b"{") <= LIMIT_DEPTH:
        return
    depth = 0
    for bracket in _NO_BRACKET.sub(b"", _TEXT.sub(b"", line)):
        depth += 1 if bracket in b"[{" else -1
        if depth > LIMIT_DEPTH:
            raise NotUsable(f"not usable JSON: nested deeper than {LIMIT_DEPTH}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return values


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.20} is too large")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON; give a number, or leave the key out")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)
