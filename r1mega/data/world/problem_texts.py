"""Answers to the world's word problems, to pre-train a base on and to teach it a cold start.

- `direct`: well formed and right, all steps in one formula: the shortest way, and the hardest to get right.
- `brief`, `worked`: well formed and right, in that style (`thoughts`).
- `checked`: either style with a check of one step; in a third of them it is the check that finds a slip.
- `slip`: well formed, either style, one wrong step, and a wrong answer that follows from it.
- `unformatted`: right, either style, but tags are missing or left open.
- `guess`: well formed, no step, and an answer that belongs to some other question.

Where the question's steps are familiar, so is every step that a text states, slips and checks included.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from types import MappingProxyType

from r1mega.data.chain import Step, chain
from r1mega.data.world import steps, thoughts
from r1mega.data.world.problems import MOST_STEPS, problem
from r1mega.data.world.thoughts import USES, Clause, Style
from r1mega.data.world.words import LANGUAGES
from r1mega.data.writer import Asked, formatted, unformatted

_SLIP_SHARE = 1 / 3  # of checked thoughts
_WORD_DRAWS = 16  # of each kind, language, use and number of steps: enough to meet every wording


def _steps(asked: Asked) -> list[Step]:
    return chain(asked.question.entry["expression"])


def _spoken(asked: Asked, clauses: Sequence[Clause], answer: object) -> str:
    whole = thoughts.concluded(clauses, answer)
    return thoughts.spoken(whole, asked.question.language, asked.use, asked.rng)


def _right(asked: Asked, style: Style) -> str:
    return _spoken(asked, thoughts.solved(_steps(asked), style, asked.rng), asked.question.answer)


def _direct(asked: Asked) -> str:
    formula = f"{asked.question.entry['expression']} = {asked.question.answer}"
    return formatted(
        _spoken(asked, [Clause("first", [formula])], asked.question.answer), asked.question.answer
    )


def brief(asked: Asked) -> str:
    """Right, each step at once."""
    return formatted(_right(asked, thoughts.brief), asked.question.answer)


def worked(asked: Asked) -> str:
    """Right, each step by tens and ones."""
    return formatted(_right(asked, thoughts.worked), asked.question.answer)


def checked(asked: Asked) -> str:
    """Right in the end, with one check."""
    return checked_in(asked.rng.choice(thoughts.STYLES), asked)


def checked_in(style: Style, asked: Asked) -> str:
    """`checked` in a style of the caller's choice."""
    taken, at = _steps(asked), asked.rng.randrange(len(_steps(asked)))
    slip = thoughts.checkable_slip(asked.question.entry["expression"], asked.rng)
    if slip is not None and asked.rng.random() < _SLIP_SHARE:
        at, taken = slip.at, list(slip.steps)
    clauses = thoughts.checked(taken, at, style, asked.rng)
    return formatted(_spoken(asked, clauses, asked.question.answer), asked.question.answer)


def _slip(asked: Asked) -> str:
    taken = thoughts.slip(asked.question.entry["expression"], asked.rng).steps
    clauses = thoughts.solved(taken, asked.rng.choice(thoughts.STYLES), asked.rng)
    return formatted(_spoken(asked, clauses, taken[-1].result), taken[-1].result)


def _unformatted(asked: Asked) -> str:
    thought = _right(asked, asked.rng.choice(thoughts.STYLES))
    return unformatted(thought, asked.question.answer, asked.rng)


def _guess(asked: Asked) -> str:
    clauses = [Clause("unsure"), Clause("guess", [asked.other.answer])]
    thought = thoughts.spoken(clauses, asked.question.language, asked.use, asked.rng)
    return formatted(thought, asked.other.answer)


KINDS = MappingProxyType(
    {
        "direct": _direct,
        "brief": brief,
        "worked": worked,
        "checked": checked,
        "slip": _slip,
        "unformatted": _unformatted,
        "guess": _guess,
    }
)


def words() -> Iterator[str]:
    """Texts that together hold every word of every kind, whatever questions a run asks."""
    rng = random.Random("problem words")
    for language in LANGUAGES:
        for count in range(1, MOST_STEPS + 1):
            for _ in range(_WORD_DRAWS):
                asked = problem(rng, language, steps.draw(rng, count, (steps.FAMILIAR,)))
                for use in USES:
                    yield from (write(Asked(asked, asked, rng, use)) for write in KINDS.values())
