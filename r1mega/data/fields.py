"""The values of one row, read by key; whatever is wrong with them is gathered, not raised.

A reader asks for what it needs and gets a value of that type, empty where there was a fault, so that
one pass over a row names all its faults. A null is a value that is not there, as it is in parquet:
it does for an optional key, and is said to be null for one that is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

from r1mega.data.strict_json import LIMIT_BYTES, kind

ROLES = ("system", "user", "assistant")

Turn = tuple[str, str]
"""Who speaks, one of `ROLES`, and the text."""


@final
class Fields:
    """One row, or an object inside it; `faults` holds a text for each thing wrong, led by its key."""

    def __init__(self, values: dict[str, Any], inside: str = "", faults: list[str] | None = None) -> None:
        self.values = values
        self.faults: list[str] = [] if faults is None else faults
        self._inside = inside

    def has(self, key: str) -> bool:
        """Whether there is a value that is not null."""
        return self.values.get(key) is not None

    def first(self, *keys: str) -> str:
        """The first of the keys that has a value; if none has, the first key."""
        return next((key for key in keys if self.has(key)), keys[0])

    def wrong(self, key: str, fault: str) -> None:
        self.faults.append(f"{self._inside}{key} {fault}")

    def text(self, key: str) -> str:
        """A text that is not blank."""
        value = self._needed(key)
        fault = None if value is None else text_fault(value)
        if fault:
            self.wrong(key, fault)
        return value if isinstance(value, str) else ""

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if self.has(key) else None

    def choice(self, key: str, allowed: Sequence[str]) -> str | None:
        """One of the allowed words, or None if there is none."""
        value = self.optional_text(key)
        if value and value not in allowed:
            self.wrong(key, f"must be {' or '.join(allowed)}, was {value[:40]!r}")
        return value

    def number(self, key: str) -> float | None:
        """A finite number, or None if there is none."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(key, f"must be a number, is {kind(value)}")
        elif not math.isfinite(value):
            self.wrong(key, f"must be a finite number, was {value}")
        else:
            return float(value)
        return None

    def inner(self, key: str) -> Fields:
        """The object under a key; without values if there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self.wrong(key, f"must be an object, is {kind(value)}")
        return self.within(key, value if isinstance(value, dict) else {})

    def within(self, key: str, values: dict[str, Any]) -> Fields:
        """The fields of `values`, said in faults to be under a key."""
        return Fields(values, f"{self._inside}{key}.", self.faults)

    def turns(self, key: str) -> tuple[Turn, ...]:
        """Messages of a chat: a system turn, if any, then user and assistant by turns; or one
        assistant's turn alone.

        Messages are objects with `role` and `content`. An empty system turn is left out.
        """
        value = self._needed(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.wrong(key, f"must be a list of messages, is {kind(value)}")
            return ()
        before = len(self.faults)
        turns = [self._turn(f"{key}[{i}]", message) for i, message in enumerate(value)]
        if len(self.faults) == before:
            self._check_order(key, [role for role, _ in turns])
        return tuple((role, text) for role, text in turns if text)

    def _needed(self, key: str) -> Any:
        value = self.values.get(key)
        if value is None:
            self.wrong(key, "is null" if key in self.values else "is missing")
        return value

    def _turn(self, key: str, message: Any) -> Turn:
        if not isinstance(message, dict):
            self.wrong(key, f"must be an object with role and content, is {kind(message)}")
            return "", ""
        fields = self.within(key, message)
        role = fields.text("role")
        if role and role not in ROLES:
            fields.wrong("role", f"must be {', '.join(ROLES)}, was {role[:40]!r}")
        if role == "system" and message.get("content") == "":
            return role, ""
        return role, fields.text("content")

    def _check_order(self, key: str, roles: Sequence[str]) -> None:
        first = 1 if roles[:1] == ["system"] else 0
        if len(roles) == first:
            self.wrong(key, "holds no turn" if roles else "is empty")
        elif roles != ["assistant"]:
            for i, role in enumerate(roles[first:]):
                due = ("user", "assistant")[i % 2]
                if role != due:
                    return self.wrong(f"{key}[{first + i}]", f"must be the {due}'s turn, is the {role}'s")
        return None


def text_fault(value: Any) -> str | None:
    """Why a value is no text to train on."""
    if not isinstance(value, str):
        return f"must be a text, is {kind(value)}"
    if not value.strip():
        return "is empty"
    if "\0" in value:
        return f"holds a NUL character (at {value.index(chr(0))})"
    if len(value) > LIMIT_BYTES:
        return f"is longer than {LIMIT_BYTES} characters"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    return None
