"""Samples for SFT from a file: a conversation and the answer to learn.

Formats: r1mega's own (`prompt`, `answer`), TRL's (`prompt`, `completion`), OpenAI's chat
(`messages`, which is TRL's too), Alpaca's (`instruction`, `output`, perhaps `input`). Of a chat of
several turns the last answer is learnt, and the turns before it are read only. One conversation may
have several answers; a sample that is repeated is kept once, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from r1mega.data.chat import LANGUAGES, Conversation, answered, as_text, asked, replied
from r1mega.data.fields import Fields
from r1mega.data.formats import Format, Reading


@final
@dataclass(frozen=True, slots=True)
class Dialogue:
    """`messages` end with the user's turn, `answer` follows them. `language` is "en", "zh" or not
    said; `where` is the sample's "file:line"."""

    messages: Conversation
    answer: str
    language: str | None
    where: str

    @property
    def prompt(self) -> str:
        """What is asked, all turns of it, as one text without roles."""
        return as_text(self.messages)


def read_dialogues(path: str | Path) -> list[Dialogue]:
    """The file's samples in its order. Raises `DataFileError`."""
    reading = Reading(path, _FORMATS, "sample")
    for number, one in reading:
        reading.keep(number, one, (one.messages, one.answer), one.language, "language")
    return reading.finish()


def _dialogue(fields: Fields, said: tuple[Conversation, str], where: str) -> Dialogue:
    return Dialogue(*said, language=fields.choice("language", LANGUAGES), where=where)


def _of_two_keys(fields: Fields, answer: str, where: str) -> Dialogue:
    return _dialogue(fields, (asked(fields, "prompt"), replied(fields, answer)), where)


def _own(fields: Fields, where: str) -> Dialogue:
    return _of_two_keys(fields, "answer", where)


def _trl(fields: Fields, where: str) -> Dialogue:
    return _of_two_keys(fields, "completion", where)


def _chat(fields: Fields, where: str) -> Dialogue:
    return _dialogue(fields, answered(fields, "messages"), where)


def _alpaca(fields: Fields, where: str) -> Dialogue:
    parts = [fields.text("instruction")]
    if fields.values.get("input") not in (None, ""):
        parts.append(fields.text("input"))
    return _dialogue(fields, ((("user", "\n\n".join(parts)),), fields.text("output")), where)


_FORMATS = (
    Format("r1mega", (("prompt",), ("answer",)), _own),
    Format("TRL", (("prompt",), ("completion",)), _trl),
    Format("OpenAI chat", (("messages",),), _chat),
    Format("Alpaca", (("instruction",), ("output",)), _alpaca),
)
