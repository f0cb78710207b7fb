"""Texts to pre-train a tiny base on: chains of thought over chain sums, good ones and bad ones.

Reinforcement learning chooses among what a model already does. A base that has only seen right,
well formed answers leaves it nothing to do, and one that has seen none leaves it nothing to
choose, so the base is given both on purpose, in shares that the run states (`mixture`):

- `right`: well formed, every step right.
- `slip`: well formed, one wrong step, the following ones consistent with it: a wrong answer.
- `unformatted`: right steps and a right answer, but tags are missing or left open.
- `guess`: well formed, no thought, and an answer that belongs to some other question.
- `corrected`: well formed, a wrong step, "wait", the step again and right.

What a base gains under RL on top of this is therefore mostly selection among these kinds, and
should be reported so. A text is a function of (questions, mixture, template, seed, its number): a
resumed run goes on where it stopped. Only chain sums of two terms and more can be written out; the
caller passes training questions and never held-out ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

from r1mega.data.chain import Step, chain, thought
from r1mega.data.hints import nearest
from r1mega.data.question import Question
from r1mega.data.templates import render

TASK = "chain_sum"
"""The only task whose thoughts can be written out."""

_GUESSES = ("I guess", "not sure", "maybe")
_SLIPS = (-3, -2, -1, 1, 2, 3)
_LEXICON_DRAWS = 64  # enough to meet every wording of every kind


@final
@dataclass(frozen=True, slots=True)
class Text:
    """A prompt, the answer to learn (it begins with a space; the end token is the caller's), its
    kind."""

    prompt: str
    answer: str
    kind: str


@final
@dataclass(frozen=True, slots=True)
class _Sum:
    """A question as the writers see it: its sum, its answer, the answer of some other question."""

    expression: str
    answer: str
    other_answer: str
    rng: random.Random

    def slipped(self) -> tuple[int, list[Step]]:
        """Where a slip happens, and the steps with it."""
        at = self.rng.randrange(len(chain(self.expression)))
        return at, chain(self.expression, at, self.rng.choice(_SLIPS))


def _formatted(thinking: str, answer: object) -> str:
    return f" <think> {thinking} </think> <answer> {answer} </answer>"


def _right(asked: _Sum) -> str:
    return _formatted(thought(chain(asked.expression)), asked.answer)


def _slip(asked: _Sum) -> str:
    _, steps = asked.slipped()
    return _formatted(thought(steps), steps[-1].result)


def _unformatted(asked: _Sum) -> str:
    thinking = thought(chain(asked.expression))
    return asked.rng.choice(
        (
            f" {thinking}",
            f" <think> {thinking} </think> {asked.answer}",
            f" {thinking} <answer> {asked.answer}",
        )
    )


def _guess(asked: _Sum) -> str:
    return _formatted(asked.rng.choice(_GUESSES), asked.other_answer)


def _corrected(asked: _Sum) -> str:
    at, wrong = asked.slipped()
    again = chain(asked.expression)[at:]
    return _formatted(f"{thought(wrong[: at + 1])}, wait, {thought(again)}", asked.answer)


_WRITERS: Mapping[str, Callable[[_Sum], str]] = MappingProxyType(
    {
        "right": _right,
        "slip": _slip,
        "unformatted": _unformatted,
        "guess": _guess,
        "corrected": _corrected,
    }
)

KINDS = tuple(_WRITERS)
"""The kinds of text that a mixture may name."""


def write(kind: str, question: Question, other: Question, rng: random.Random) -> str:
    """An answer of that kind to a chain sum; `other` is the question whose answer a guess takes."""
    expression = str(question.entry["metadata"]["expression"])
    return _WRITERS[kind](_Sum(expression, question.answer, other.answer, rng))


@final
class Corpus:
    """Numbered texts without end; number i is always the same text."""

    def __init__(
        self, questions: Sequence[Question], mixture: Mapping[str, float], template: str, seed: int
    ) -> None:
        """`mixture` gives each kind's share, summing to 1 (`check_mixture` names what is wrong)."""
        self._questions = questions
        self._kinds = tuple(mixture)
        self._shares = tuple(mixture.values())
        self._template = template
        self._seed = seed

    def text(self, number: int) -> Text:
        """The text of that number, from 0."""
        rng = random.Random(f"corpus:{self._seed}:{number}")
        (kind,) = rng.choices(self._kinds, self._shares)
        question = rng.choice(self._questions)
        answer = write(kind, question, rng.choice(self._questions), rng)
        return Text(prompt=render(self._template, question.text), answer=answer, kind=kind)

    def texts(self, start: int = 0) -> Iterator[Text]:
        """Texts from number `start` on, without end."""
        number = start
        while True:
            yield self.text(number)
            number += 1


def lexicon(questions: Sequence[Question], template: str) -> Iterator[str]:
    """Texts that together hold every word of any prompt of these questions and of any kind of
    answer."""
    for question in questions:
        yield render(template, question.text)
    yield " 0 + 0 - 0 = -0,"  # signs that only a slip may bring up
    rng = random.Random("lexicon")
    for kind in KINDS:
        for _ in range(_LEXICON_DRAWS):
            yield write(kind, rng.choice(questions), rng.choice(questions), rng)


def check_mixture(mixture: Mapping[str, float]) -> list[str]:
    """Every fault of `pretrain.mixture`: unknown kinds, negative shares, a sum that is not 1."""
    faults = [
        f"pretrain.mixture.{kind}: was {share}; must be a kind of text, {nearest(kind, KINDS)}"
        for kind, share in mixture.items()
        if kind not in KINDS
    ]
    faults += [
        f"pretrain.mixture.{kind}: was {share}; must be a share, from 0 to 1"
        for kind, share in mixture.items()
        if not 0 <= share <= 1
    ]
    if not math.isclose(sum(mixture.values()), 1.0, abs_tol=1e-6):
        faults.append(f"pretrain.mixture: was {sum(mixture.values()):g} in all; must sum to 1")
    return faults


def check_corpus_tasks(tasks: Sequence[tuple[Any, ...]]) -> list[str]:
    """Faults of tasks of (name, parameters, ...) whose thoughts cannot be written out for a
    base."""
    faults = []
    for i, (name, parameters, *_) in enumerate(tasks):
        if name != TASK:
            faults.append(f"data.tasks[{i}].name: was {name}; must be {TASK} to pre-train a base")
        elif parameters.get("min_terms", 2) == 1:
            faults.append(f"data.tasks[{i}].parameters.min_terms: was 1; must be at least 2 to pre-train")
    return faults
