"""Answers to reasoning-gym's chain sums, to pre-train a tiny base on.

- `right`: well formed, every step right.
- `slip`: well formed, one wrong step, the following ones consistent with it: a wrong answer.
- `unformatted`: right steps and a right answer, but tags are missing or left open.
- `guess`: well formed, no thought, and an answer that belongs to some other question.
- `corrected`: well formed, a wrong step, "wait", the step again and right.

Only chain sums of two terms and more can be written out.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from r1mega.data.chain import Step, chain, thought
from r1mega.data.question import Question
from r1mega.data.writer import Asked, Writer, formatted, unformatted

TASK = "chain_sum"

_GUESSES = ("I guess", "not sure", "maybe")
_SLIPS = (-3, -2, -1, 1, 2, 3)
_WORD_DRAWS = 64  # enough to meet every wording of every kind


def _steps(asked: Asked) -> list[Step]:
    return chain(_expression(asked))


def _expression(asked: Asked) -> str:
    return str(asked.question.entry["metadata"]["expression"])


def _slipped(asked: Asked) -> tuple[int, list[Step]]:
    """Where a slip happens, and the steps with it."""
    at = asked.rng.randrange(len(_steps(asked)))
    return at, chain(_expression(asked), at, asked.rng.choice(_SLIPS))


def _right(asked: Asked) -> str:
    return formatted(thought(_steps(asked)), asked.question.answer)


def _slip(asked: Asked) -> str:
    _, steps = _slipped(asked)
    return formatted(thought(steps), steps[-1].result)


def _unformatted(asked: Asked) -> str:
    return unformatted(thought(_steps(asked)), asked.question.answer, asked.rng)


def _guess(asked: Asked) -> str:
    return formatted(asked.rng.choice(_GUESSES), asked.other.answer)


def _corrected(asked: Asked) -> str:
    at, wrong = _slipped(asked)
    again = _steps(asked)[at:]
    return formatted(f"{thought(wrong[: at + 1])}, wait, {thought(again)}", asked.question.answer)


KINDS = MappingProxyType(
    {
        "right": _right,
        "slip": _slip,
        "unformatted": _unformatted,
        "guess": _guess,
        "corrected": _corrected,
    }
)


def _words(questions: Sequence[Question]) -> Iterator[str]:
    yield " 0 + 0 - 0 = -0,"  # signs that only a slip may bring up
    rng = random.Random("lexicon")
    for write in KINDS.values():
        for _ in range(_WORD_DRAWS):
            yield write(Asked(rng.choice(questions), rng.choice(questions), rng))


def _faults(key: str, parameters: Mapping[str, Any]) -> list[str]:
    if parameters.get("min_terms", 2) != 1:
        return []
    return [f"{key}.min_terms: was 1; must be at least 2 to pre-train"]


WRITER = Writer(KINDS, _words, _faults, speaks=False)
