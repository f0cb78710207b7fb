"""Word problems of a few steps over numbers of two digits, in English and Chinese.

Held-out questions have only held-out steps, training questions only familiar ones, only new ones, or
both (`steps` tells which is which).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from r1mega.data.chain import chain
from r1mega.data.question import Question, question_id
from r1mega.data.source import Streams
from r1mega.data.world import steps
from r1mega.data.world.words import COMMA, NAMES, THINGS, draw_language

TASK = "world_problems"
MOST_STEPS = 4

ACTIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "en": {
        "+": ("buys {} more", "finds {} more", "gets {} more"),
        "-": ("gives away {}", "loses {}", "sells {}"),
    },
    "zh": {
        "+": ("又买了 {} 个", "又找到 {} 个", "又得到 {} 个"),
        "-": ("送出 {} 个", "丢了 {} 个", "卖了 {} 个"),
    },
}

TEMPLATES: Mapping[str, Sequence[str]] = {
    "en": (
        "{name} has {first} {things}, {acts}. How many {things} has {name}?",
        "At first {name} has {first} {things}, {acts}. How many {things} are left?",
        "{name} has {first} {things}, {acts}. Now how many are left?",
    ),
    "zh": (
        "{name}有 {first} 个{things}，{acts}。{name}还有几个{things}？",
        "起初{name}有 {first} 个{things}，{acts}。还有几个{things}？",
        "{name}有 {first} 个{things}，{acts}。现在还有几个？",
    ),
}

TRAINING: Mapping[str, tuple[str, ...]] = {
    "familiar": (steps.FAMILIAR,),
    "new": (steps.NEW,),
    "any": (steps.FAMILIAR, steps.NEW),
}
"""The sets of steps that training questions may be of."""

_LAST: Mapping[str, str] = {"en": "then ", "zh": "再"}
"""Comes before the last action."""


@dataclass(kw_only=True, slots=True)
class Parameters:
    """How long the problems are, what steps training ones have, how many are in Chinese."""

    min_steps: int = 2
    max_steps: int = 3
    training_steps: str = "any"
    zh_share: float = 0.5

    def validate(self) -> None:
        """Raises AssertionError, naming the parameter."""
        assert 1 <= self.min_steps <= self.max_steps, "min_steps must be from 1 to max_steps"
        assert self.max_steps <= MOST_STEPS, f"max_steps must be at most {MOST_STEPS}"
        assert self.training_steps in TRAINING, f"training_steps must be one of {', '.join(TRAINING)}"
        assert 0 <= self.zh_share <= 1, "zh_share must be from 0 to 1"


def streams(given: Mapping[str, Any], seed: str) -> Streams:
    """Problems without end, held-out and training ones apart."""
    parameters = Parameters(**given)
    return Streams(
        held_out=_problems(parameters, f"{seed}:held-out", (steps.HELD_OUT,)),
        train=_problems(parameters, f"{seed}:train", TRAINING[parameters.training_steps]),
    )


def _problems(parameters: Parameters, seed: str, sets: tuple[str, ...]) -> Iterator[Question]:
    rng = random.Random(seed)
    while True:
        language = draw_language(rng, parameters.zh_share)
        count = rng.randint(parameters.min_steps, parameters.max_steps)
        yield problem(rng, language, steps.draw(rng, count, sets))


def problem(rng: random.Random, language: str, expression: str) -> Question:
    """A word problem whose answer is the expression's value."""
    text = worded(
        expression,
        language,
        template=rng.choice(TEMPLATES[language]),
        name=rng.choice(NAMES[language]),
        things=rng.choice(THINGS[language]),
        actions=[rng.choice(ACTIONS[language][op]) for op in expression.split()[1::2]],
    )
    answer = str(chain(expression)[-1].result)
    entry = {"kind": "number", "number": answer, "expression": expression}
    return Question(question_id(text), text, answer, TASK, entry, language=language)


def worded(
    expression: str, language: str, *, template: str, name: str, things: str, actions: Sequence[str]
) -> str:
    """The problem's text, of wordings chosen by the caller."""
    first, *terms = expression.split()[::2]
    acts = [action.format(term) for action, term in zip(actions, terms, strict=True)]
    if len(acts) > 1:
        acts[-1] = _LAST[language] + acts[-1].removeprefix("又")
    return template.format(name=name, first=first, things=things, acts=COMMA[language].join(acts))
