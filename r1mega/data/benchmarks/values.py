"""Values that several benchmarks' rows have in one of two forms."""

from __future__ import annotations

from typing import Any

from r1mega.data.fields import Fields
from r1mega.data.strict_json import kind


def text_or_number(fields: Fields, *keys: str) -> str:
    """The text under the first of the keys that is there; a whole number is its digits."""
    key = fields.first(*keys)
    value = fields.values.get(key)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else fields.text(key)


def identity(fields: Fields, *keys: str) -> str:
    """The row's own id, or "" if it brings none."""
    return text_or_number(fields, *keys) if any(map(fields.has, keys)) else ""


def raw_text(fields: Fields, key: str) -> str:
    """A text that may be blank or very long."""
    value = fields.values.get(key)
    if not isinstance(value, str):
        fields.wrong(key, "is missing" if key not in fields.values else f"must be a text, is {kind(value)}")
        return ""
    return value


def metadata(fields: Fields, *keys: str) -> dict[str, str | int | float]:
    """What the row says of itself under these keys, where it is plain."""
    return {key: fields.values[key] for key in keys if isinstance(fields.values.get(key), str | int | float)}


def has_half_a_pair(value: Any) -> bool:
    """Whether any text in the value, however deep, holds half of a surrogate pair: no file takes it."""
    if isinstance(value, dict):
        return any(map(has_half_a_pair, [*value.keys(), *value.values()]))
    if isinstance(value, list):
        return any(map(has_half_a_pair, value))
    try:
        return isinstance(value, str) and not value.isascii() and not value.encode()
    except UnicodeEncodeError:
        return True
