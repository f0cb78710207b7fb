"""Texts to pre-train a tiny base on: answers to a run's questions, good ones and bad ones.

Reinforcement learning chooses among what a model already does. A base that has only seen right,
well formed answers leaves it nothing to do, and one that has seen none leaves it nothing to
choose, so the base is given both on purpose, in shares that the run states (`mixture`). Which kinds
there are is the matter of each task's writer: `sums` for chain sums, `world.problem_texts` and
`world.request_texts` for the small world.

Thoughts that have a language are in the question's, in the other, or switch midway, again in shares
that the run states (`language_use`).

What a base gains under RL on top of this is therefore mostly selection among these kinds, and
should be reported so. A text is a function of (questions, mixture, language use, template, seed, its
number): a resumed run goes on where it stopped. The caller passes training questions and never
held-out ones.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

from r1mega.data import sums
from r1mega.data.hints import nearest
from r1mega.data.question import Question
from r1mega.data.templates import render
from r1mega.data.world import tasks as world
from r1mega.data.world.thoughts import USES
from r1mega.data.writer import Asked, Writer

WRITERS: Mapping[str, Writer] = MappingProxyType({sums.TASK: sums.WRITER, **world.WRITERS})
"""What writes a task's answers, by the task's name."""

SAME_LANGUAGE: Mapping[str, float] = MappingProxyType({"same": 1.0})


@final
@dataclass(frozen=True, slots=True)
class Text:
    """A prompt, the answer to learn (it begins with a space; the end token is the caller's), its
    kind."""

    prompt: str
    answer: str
    kind: str


def write(kind: str, question: Question, other: Question, rng: random.Random, use: str = "same") -> str:
    """An answer of that kind, one of the writer of the question's task; `other` is the question whose
    answer a guess takes."""
    return WRITERS[question.task].kinds[kind](Asked(question, other, rng, use))


@final
class Corpus:
    """Numbered texts without end; number i is always the same text."""

    def __init__(
        self,
        questions: Sequence[Question],
        mixture: Mapping[str, float],
        template: str,
        seed: int,
        language_use: Mapping[str, float] = SAME_LANGUAGE,
    ) -> None:
        """`mixture` gives each kind's share, summing to 1, and `language_use` likewise
        (`check_mixture` and `check_language_use` name what is wrong)."""
        self._questions = {
            kind: [one for one in questions if kind in WRITERS[one.task].kinds] for kind in mixture
        }
        self._kinds = tuple(mixture)
        self._shares = tuple(mixture.values())
        self._uses = tuple(language_use)
        self._use_shares = tuple(language_use.values())
        self._template = template
        self._seed = seed

    def text(self, number: int) -> Text:
        """The text of that number, from 0."""
        rng = random.Random(f"corpus:{self._seed}:{number}")
        (kind,) = rng.choices(self._kinds, self._shares)
        question = rng.choice(self._questions[kind])
        other = rng.choice(self._questions[kind])
        answer = write(kind, question, other, rng, self._use(number))
        return Text(prompt=render(self._template, question.text), answer=answer, kind=kind)

    def _use(self, number: int) -> str:
        rng = random.Random(f"language:{self._seed}:{number}")
        return rng.choices(self._uses, self._use_shares)[0]

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
    asked: dict[Any, list[Question]] = {}
    for question in questions:
        asked.setdefault(WRITERS[question.task].words, []).append(question)
    for words, theirs in asked.items():
        yield from words(theirs)


def check_mixture(mixture: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
    """Every fault of `pretrain.mixture` for tasks of those names: kinds that none of them has,
    negative shares, a sum that is not 1. Tasks that have no writer are `check_corpus_tasks`'s."""
    written = [WRITERS[task] for task in tasks if task in WRITERS] or list(WRITERS.values())
    kinds = list(dict.fromkeys(kind for writer in written for kind in writer.kinds))
    return _share_faults("pretrain.mixture", "a kind of text", mixture, kinds)


def check_language_use(language_use: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
    """Every fault of `pretrain.language_use`, likewise."""
    faults = _share_faults("pretrain.language_use", "a use of language", language_use, USES)
    if dict(language_use) != SAME_LANGUAGE and not any(
        WRITERS[task].speaks for task in tasks if task in WRITERS
    ):
        faults.append(
            f"pretrain.language_use: was {dict(language_use)}; must be {dict(SAME_LANGUAGE)}, the thoughts of"
            f" {', '.join(tasks)} have no language"
        )
    return faults


def _share_faults(key: str, what: str, shares: Mapping[str, float], known: Sequence[str]) -> list[str]:
    faults = [
        f"{key}.{name}: was {share}; must be {what}, {nearest(name, known)}"
        for name, share in shares.items()
        if name not in known
    ]
    faults += [
        f"{key}.{name}: was {share}; must be a share, from 0 to 1"
        for name, share in shares.items()
        if not 0 <= share <= 1
    ]
    if not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
        faults.append(f"{key}: was {sum(shares.values()):g} in all; must sum to 1")
    return faults


def check_corpus_tasks(tasks: Sequence[tuple[Any, ...]]) -> list[str]:
    """Faults of tasks of (name, parameters, ...) whose answers cannot be written out for a base."""
    faults = []
    for i, (name, parameters, *_) in enumerate(tasks):
        if name in WRITERS:
            faults += WRITERS[name].faults(f"data.tasks[{i}].parameters", parameters)
        else:
            known = ", ".join(WRITERS)
            faults.append(f"data.tasks[{i}].name: was {name}; must be one of {known} to pre-train a base")
    return faults
