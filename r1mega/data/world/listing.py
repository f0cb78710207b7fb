"""Streams over questions that can all be listed, split by a hash of their text into three sets.

- `familiar`: what a model is fine-tuned on;
- `new`: what reinforcement learning asks, which fine-tuning showed nothing of;
- `held_out`: what evaluation asks, and no training ever.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from r1mega.data.question import Question
from r1mega.data.source import Streams
from r1mega.data.world import sets
from r1mega.data.world.words import LANGUAGES, draw_language


@dataclass(kw_only=True, slots=True)
class Shares:
    """How many of the questions are in Chinese, and of which set those to train on are."""

    zh_share: float = 0.5
    training_requests: str = "any"

    def validate(self) -> None:
        """Raises AssertionError, naming the parameter."""
        assert 0 <= self.zh_share <= 1, "zh_share must be from 0 to 1"
        assert self.training_requests in sets.TRAINING, (
            f"training_requests must be one of {', '.join(sets.TRAINING)}"
        )


def set_of(question: Question) -> str:
    """The set that the question belongs to: always the same, for every stage."""
    return sets.set_of(f"listed:{question.text}")


def streams(shares: Shares, seed: str, every: Callable[[str], Iterator[Question]]) -> Streams:
    """Both sides in random order; a stream ends where the language to come has no more questions."""
    return Streams(
        held_out=_drawn(shares, f"{seed}:held-out", every, (sets.HELD_OUT,)),
        train=_drawn(shares, f"{seed}:train", every, sets.TRAINING[shares.training_requests]),
    )


def _drawn(
    shares: Shares, seed: str, every: Callable[[str], Iterator[Question]], wanted: Sequence[str]
) -> Iterator[Question]:
    rng = random.Random(seed)
    left = {
        language: [question for question in every(language) if set_of(question) in wanted]
        for language in LANGUAGES
    }
    for questions in left.values():
        rng.shuffle(questions)
    while left[language := draw_language(rng, shares.zh_share)]:
        yield left[language].pop()
