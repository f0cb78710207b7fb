"""Thoughts about a problem: styles that differ in length and in reliability, in one language or two.

- `brief` states each step at once: "first 47 + 38 = 85".
- `worked` goes through tens and ones: "first 47 + 38: 47 + 30 = 77, 77 + 8 = 85".
- a check redoes one step by the reverse operation, and mends it where the two disagree.

A thought is a list of clauses without language, each a role and formulas; `spoken` puts it into words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from r1mega.data.chain import Step, chain
from r1mega.data.world import steps
from r1mega.data.world.words import COMMA, other

USES = ("same", "other", "mixed")
"""The language of a thought: the question's, the other, or the question's and midway the other."""

WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "first": "first",
        "then": "then",
        "answer": "so the answer is",
        "check": "check:",
        "right": "right",
        "again": "wait, that is a mistake, again:",
        "unsure": "I am not sure",
        "guess": "so I guess it is",
    },
    "zh": {
        "first": "先算",
        "then": "再算",
        "answer": "所以答案是",
        "check": "检查:",
        "right": "对",
        "again": "等等，错了，重算:",
        "unsure": "我不知道",
        "guess": "所以我想是",
    },
}

_SLIPS = (-10, -2, -1, 1, 2, 10)


class Clause(NamedTuple):
    """What one clause does, and what it states."""

    role: str
    formulas: Sequence[str] = ()


class Slip(NamedTuple):
    """A step that goes wrong, and all steps as they are then written."""

    at: int
    steps: Sequence[Step]


Style = Callable[[Step, random.Random], list[str]]
"""The formulas that lead to a step's result, which may be wrong."""


def brief(step: Step, _rng: random.Random) -> list[str]:
    """The step at once."""
    return [str(step)]


def worked(step: Step, rng: random.Random) -> list[str]:
    """The step by tens and ones; where its result is wrong, one of the two goes wrong."""
    tens, ones = step.right // 10 * 10, step.right % 10
    middle = steps.result(step.left, step.op, tens)
    off = step.result - steps.result(step.left, step.op, step.right)
    if off and 0 <= middle + off <= steps.LARGEST and rng.random() < 0.5:
        middle += off
    return [
        f"{step.left} {step.op} {step.right}: {Step(step.left, step.op, tens, middle)}",
        str(Step(middle, step.op, ones, step.result)),
    ]


STYLES: Sequence[Style] = (brief, worked)


def solved(taken: Sequence[Step], style: Style, rng: random.Random) -> list[Clause]:
    """The steps one by one."""
    return [Clause("then" if i else "first", style(step, rng)) for i, step in enumerate(taken)]


def concluded(clauses: Sequence[Clause], answer: object) -> list[Clause]:
    """The clauses, and the answer they come to."""
    return [*clauses, Clause("answer", [str(answer)])]


def checked(taken: Sequence[Step], at: int, style: Style, rng: random.Random) -> list[Clause]:
    """The steps, with a check of step `at` after it; a wrong one is done again.

    The steps are to go on from what is right.
    """
    clauses = solved(taken, style, rng)
    step = taken[at]
    exact = steps.result(step.left, step.op, step.right)
    verdict = [Clause("right")] if step.result == exact else [_again(step, exact, style, rng)]
    check = Clause("check", style(reverse(step), rng))
    return [*clauses[: at + 1], check, *verdict, *clauses[at + 1 :]]


def _again(step: Step, exact: int, style: Style, rng: random.Random) -> Clause:
    return Clause("again", style(Step(step.left, step.op, step.right, exact), rng))


def reverse(step: Step) -> Step:
    """From the step's result, as written, back to where it should have started."""
    op = "-" if step.op == "+" else "+"
    return Step(step.result, op, step.right, steps.result(step.result, op, step.right))


def slip(expression: str, rng: random.Random) -> Slip:
    """One step wrong and the following ones consistent with it, all of them familiar steps."""
    return next(s for s in _slips(expression, rng) if all(_familiar(step) for step in s.steps[s.at + 1 :]))


def checkable_slip(expression: str, rng: random.Random) -> Slip | None:
    """One step wrong, the following ones right again, and the check of it a familiar step, if any is."""
    exact = chain(expression)
    for at, wrong in _slips(expression, rng):
        if _familiar(reverse(wrong[at])):
            return Slip(at, [*exact[:at], wrong[at], *exact[at + 1 :]])
    return None


def _slips(expression: str, rng: random.Random) -> Iterator[Slip]:
    ways = [(at, by) for at in range(len(chain(expression))) for by in _SLIPS]
    for at, by in rng.sample(ways, len(ways)):
        taken = chain(expression, at, by)
        if all(0 <= step.result <= steps.LARGEST for step in taken[at:]):
            yield Slip(at, taken)


def _familiar(step: Step) -> bool:
    fits = 0 <= step.result <= steps.LARGEST and 0 <= step.left <= steps.LARGEST
    return fits and steps.set_of(step.left, step.op, step.right) == steps.FAMILIAR


def spoken(
    clauses: Sequence[Clause],
    language: str,
    use: str,
    rng: random.Random,
    words: Mapping[str, Mapping[str, str]] = WORDS,
) -> str:
    """The thought in words; `use` is one of `USES`, seen from the question's `language`.

    `words` are what the clauses' roles say, by language.
    """
    first, second = {
        "same": (language, language),
        "other": (other(language), other(language)),
        "mixed": (language, other(language)),
    }[use]
    switch = rng.randint(1, len(clauses) - 1)
    said = [
        _said(clause, tongue, words)
        for clause, tongue in zip(clauses, [first] * switch + [second] * (len(clauses) - switch), strict=True)
    ]
    return "".join(said).removesuffix(COMMA["en"]).removesuffix(COMMA["zh"])


def _said(clause: Clause, language: str, words: Mapping[str, Mapping[str, str]]) -> str:
    """The clause, with a comma after it."""
    comma = COMMA[language]
    said = words[language][clause.role]
    return (f"{said} {comma.join(clause.formulas)}" if clause.formulas else said) + comma
