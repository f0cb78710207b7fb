"""The steps that word problems are made of, and which of them are for what.

A step adds or takes away a term of two digits, no multiple of ten, and stays within 0 to 99. Steps
that state the same sum (47 + 38 = 85, 38 + 47 = 85, 85 - 38 = 47, 85 - 47 = 38) belong together, and by
a hash of their own to one of three sets, so that neither a reordering nor a check by the reverse
operation moves one to another set:

- `familiar`: what a base is pre-trained on, and fine-tuned on;
- `new`: what reinforcement learning asks, which nothing was shown of before;
- `held_out`: what evaluation asks, and no training ever.

What a worked step is broken into (a multiple of ten, a single digit) is no step in this sense: those
are few, and all sets share them.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache

LARGEST = 99
TERMS = tuple(term for term in range(11, LARGEST + 1) if term % 10)
FAMILIAR, NEW, HELD_OUT = "familiar", "new", "held_out"
SHARES = {HELD_OUT: 0.2, FAMILIAR: 0.4, NEW: 0.4}


def set_of(left: int, op: str, right: int) -> str:
    """The set that the step belongs to."""
    return _set_of(*sorted((left, right) if op == "+" else (left - right, right)))


@cache
def _set_of(smaller: int, larger: int) -> str:
    digest = hashlib.sha256(f"step:{smaller}:{larger}".encode()).digest()
    place = int.from_bytes(digest[:4], "big") / 2**32
    for name, share in SHARES.items():
        if place < share:
            return name
        place -= share
    return NEW


def result(left: int, op: str, right: int) -> int:
    """What the step comes to."""
    return left + right if op == "+" else left - right


def draw(rng: random.Random, count: int, sets: tuple[str, ...]) -> str:
    """An expression of so many steps, all of them of those sets, like "47 + 38 - 12"."""
    while True:
        value = rng.choice(TERMS)
        parts = [str(value)]
        for _ in range(count):
            ways = _ways(value, sets)
            if not ways:
                break
            op, terms = rng.choice(ways)
            term = rng.choice(terms)
            parts += [op, str(term)]
            value = result(value, op, term)
        if len(parts) == 1 + 2 * count:
            return " ".join(parts)


@cache
def _ways(left: int, sets: tuple[str, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The operations that may follow `left`, each with its terms."""
    by_op = {
        op: tuple(
            term
            for term in TERMS
            if 0 <= result(left, op, term) <= LARGEST and set_of(left, op, term) in sets
        )
        for op in "+-"
    }
    return tuple((op, terms) for op, terms in by_op.items() if terms)
