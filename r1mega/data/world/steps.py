"""The steps that word problems are made of, and which of them are for what.

A step adds or takes away a term of two digits, no multiple of ten, and stays within 0 to 99. Steps
that state the same sum (47 + 38 = 85, 38 + 47 = 85, 85 - 38 = 47, 85 - 47 = 38) belong together, and to
one of the three sets (`sets`), so that neither a reordering nor a check by the reverse operation moves
one to another set.

What a worked step is broken into (a multiple of ten, a single digit) is no step in this sense: those
are few, and all sets share them.
"""

from __future__ import annotations

import random
from functools import cache

from r1mega.data.world import sets

LARGEST = 99
TERMS = tuple(term for term in range(11, LARGEST + 1) if term % 10)


def set_of(left: int, op: str, right: int) -> str:
    """The set that the step belongs to."""
    return _set_of(*sorted((left, right) if op == "+" else (left - right, right)))


@cache
def _set_of(smaller: int, larger: int) -> str:
    return sets.set_of(f"step:{smaller}:{larger}")


def result(left: int, op: str, right: int) -> int:
    """What the step comes to."""
    return left + right if op == "+" else left - right


def draw(rng: random.Random, count: int, wanted: tuple[str, ...]) -> str:
    """An expression of so many steps, all of them of those sets, like "47 + 38 - 12"."""
    while True:
        value = rng.choice(TERMS)
        parts = [str(value)]
        for _ in range(count):
            ways = _ways(value, wanted)
            if not ways:
                break
            op, terms = rng.choice(ways)
            term = rng.choice(terms)
            parts += [op, str(term)]
            value = result(value, op, term)
        if len(parts) == 1 + 2 * count:
            return " ".join(parts)


@cache
def _ways(left: int, wanted: tuple[str, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The operations that may follow `left`, each with its terms."""
    by_op = {
        op: tuple(
            term
            for term in TERMS
            if 0 <= result(left, op, term) <= LARGEST and set_of(left, op, term) in wanted
        )
        for op in "+-"
    }
    return tuple((op, terms) for op, terms in by_op.items() if terms)
