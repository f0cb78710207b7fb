"""Pairs of answers for the helpfulness reward model, from a file.

One format, TRL's, which is r1mega's own: `prompt`, `chosen` and `rejected`, as text or messages;
`score_chosen` and `score_rejected`, both or neither. Where `chosen` and `rejected` hold the whole
conversation, as UltraFeedback's do, they must agree up to the answer, and `prompt` may be left out.

Refuses a pair of equal answers, one whose scores contradict the choice, and a pair that is there
again the other way round or with other scores. A pair that is repeated is kept once, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from r1mega.data.chat import LANGUAGES, Conversation, as_text, asked
from r1mega.data.fields import Fields
from r1mega.data.formats import Format, Reading


@final
@dataclass(frozen=True, slots=True)
class Preference:
    """`messages` end with the user's turn; `chosen` answers them better than `rejected`.

    The scores are both there or both None; `language` is "en", "zh" or not said; `where` is the
    pair's "file:line".
    """

    messages: Conversation
    chosen: str
    rejected: str
    score_chosen: float | None
    score_rejected: float | None
    language: str | None
    where: str

    @property
    def prompt(self) -> str:
        """What is asked, all turns of it, as one text without roles."""
        return as_text(self.messages)

    @property
    def gap(self) -> float | None:
        """How much better the chosen answer scores, if scores are given; at least 0."""
        if self.score_chosen is None or self.score_rejected is None:
            return None
        return self.score_chosen - self.score_rejected


def read_preferences(path: str | Path) -> list[Preference]:
    """The file's pairs in its order. Raises `DataFileError`."""
    reading = Reading(path, _FORMATS, "pair")
    for number, one in reading:
        key = one.messages, frozenset((one.chosen, one.rejected))
        verdict = one.chosen, one.score_chosen, one.score_rejected
        reading.keep(number, one, key, verdict, "choice or other scores")
    return reading.finish()


def _pair(fields: Fields, where: str) -> Preference:
    before_chosen, chosen = _answer(fields, "chosen")
    before_rejected, rejected = _answer(fields, "rejected")
    messages = _messages(fields, before_chosen, before_rejected)
    if chosen and chosen == rejected:
        fields.wrong("rejected", "is the same text as chosen")
    score_chosen, score_rejected = _scores(fields)
    language = fields.choice("language", LANGUAGES)
    return Preference(messages, chosen, rejected, score_chosen, score_rejected, language, where)


def _answer(fields: Fields, key: str) -> tuple[Conversation, str]:
    """The answer, and the conversation before it if that is there too."""
    if not isinstance(fields.values.get(key), list):
        return (), fields.text(key)
    before = len(fields.faults)
    turns = fields.turns(key)
    if len(fields.faults) > before:
        return (), ""
    if turns[-1][0] != "assistant":
        fields.wrong(key, f"must end with the assistant's turn, ends with the {turns[-1][0]}'s")
    return turns[:-1], turns[-1][1]


def _messages(fields: Fields, chosen: Conversation, rejected: Conversation) -> Conversation:
    """What both answers reply to, wherever it stands."""
    if fields.faults:
        return chosen
    if chosen != rejected:
        fields.wrong("rejected", "must answer the same conversation as chosen")
    if not chosen:
        return asked(fields, "prompt")
    if fields.has("prompt"):
        prompt = asked(fields, "prompt")
        if prompt not in (chosen, chosen[-1:]):
            fields.wrong("prompt", "is another than what chosen and rejected answer")
    return chosen


def _scores(fields: Fields) -> tuple[float | None, float | None]:
    chosen, rejected = fields.number("score_chosen"), fields.number("score_rejected")
    for key, other in (("score_chosen", "score_rejected"), ("score_rejected", "score_chosen")):
        if fields.has(other) and not fields.has(key):
            fields.wrong(key, f"is missing, and {other} is there")
    if chosen is not None and rejected is not None and chosen < rejected:
        fields.wrong("score_chosen", f"must be at least score_rejected, was {chosen:g} to {rejected:g}")
    return chosen, rejected


_FORMATS = (Format("r1mega or TRL", (("chosen",), ("rejected",)), _pair),)
