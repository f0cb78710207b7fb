"""Answers marked safe or unsafe for the point-wise reward model, from a file.

Formats: r1mega's own (`prompt`, `answer` or `response`, `label`) and TRL's unpaired preference
(`prompt`, `completion`, `label`); prompt and answer as text or messages. A label is "safe" or
"unsafe", or true (safe) or false. Refuses an answer that is marked both ways; a row that is repeated
is kept once, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from r1mega.data.chat import LANGUAGES, Conversation, as_text, asked, replied
from r1mega.data.fields import Fields
from r1mega.data.formats import Format, Reading
from r1mega.data.strict_json import kind

_SAFE = {"safe": True, "unsafe": False}


@final
@dataclass(frozen=True, slots=True)
class SafetyLabel:
    """`messages` end with the user's turn; whether `answer` to them is `safe`. `language` is "en",
    "zh" or not said; `where` is the row's "file:line"."""

    messages: Conversation
    answer: str
    safe: bool
    language: str | None
    where: str

    @property
    def prompt(self) -> str:
        """What is asked, all turns of it, as one text without roles."""
        return as_text(self.messages)


def read_safety_labels(path: str | Path) -> list[SafetyLabel]:
    """The file's labelled answers in its order. Raises `DataFileError`."""
    reading = Reading(path, _FORMATS, "answer")
    for number, one in reading:
        reading.keep(number, one, (one.messages, one.answer), one.safe, "label")
    return reading.finish()


def _own(fields: Fields, where: str) -> SafetyLabel:
    return _labelled(fields, fields.first("answer", "response"), where)


def _trl(fields: Fields, where: str) -> SafetyLabel:
    return _labelled(fields, "completion", where)


def _labelled(fields: Fields, answer: str, where: str) -> SafetyLabel:
    return SafetyLabel(
        messages=asked(fields, "prompt"),
        answer=replied(fields, answer),
        safe=_is_safe(fields),
        language=fields.choice("language", LANGUAGES),
        where=where,
    )


def _is_safe(fields: Fields) -> bool:
    label = fields.values.get("label")
    if isinstance(label, bool):
        return label
    if label is None:
        fields.wrong("label", "is null" if "label" in fields.values else "is missing")
    elif not isinstance(label, str) or label not in _SAFE:
        said = repr(label[:40]) if isinstance(label, str) else kind(label)
        fields.wrong("label", f"must be safe, unsafe, true or false, was {said}")
    return label == "safe"


_FORMATS = (
    Format("r1mega", (("prompt",), ("answer", "response")), _own),
    Format("TRL", (("prompt",), ("completion",)), _trl),
)
