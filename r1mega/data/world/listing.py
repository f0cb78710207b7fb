"""Streams over questions that can all be listed, split by a hash of their text."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from r1mega.data.question import Question
from r1mega.data.source import Streams
from r1mega.data.world.words import LANGUAGES, draw_language

HELD_OUT_SHARE = 0.2


@dataclass(kw_only=True, slots=True)
class Shares:
    """How many of the questions are in Chinese."""

    zh_share: float = 0.5

    def validate(self) -> None:
        """Raises AssertionError, naming the parameter."""
        assert 0 <= self.zh_share <= 1, "zh_share must be from 0 to 1"


def held_out(question: Question) -> bool:
    """Whether the question belongs to the held-out ones: always the same, for every stage."""
    digest = hashlib.sha256(f"listed:{question.text}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def streams(shares: Shares, seed: str, every: Callable[[str], Iterator[Question]]) -> Streams:
    """Both sides in random order; a stream ends where the language to come has no more questions."""
    return Streams(
        held_out=_drawn(shares, f"{seed}:held-out", every, of_held_out=True),
        train=_drawn(shares, f"{seed}:train", every, of_held_out=False),
    )


def _drawn(
    shares: Shares, seed: str, every: Callable[[str], Iterator[Question]], *, of_held_out: bool
) -> Iterator[Question]:
    rng = random.Random(seed)
    left = {
        language: [question for question in every(language) if held_out(question) == of_held_out]
        for language in LANGUAGES
    }
    for questions in left.values():
        rng.shuffle(questions)
    while left[language := draw_language(rng, shares.zh_share)]:
        yield left[language].pop()
