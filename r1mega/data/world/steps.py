"""The steps that word problems are made of, and which of them no training text may show.

A step adds or takes away a term of two digits, no multiple of ten, and stays within 0 to 99. Steps
that state the same sum (47 + 38 = 85, 38 + 47 = 85, 85 - 38 = 47, 85 - 47 = 38) belong together: the
whole set is training or held out, by a hash of its own, so that neither a reordering nor a check by
the reverse operation shows a held-out step in training. What a worked step is broken into (a multiple
of ten, a single digit) is no step in this sense: those are few, and both sides share them.
"""

from __future__ import annotations

import hashlib
import random
from functools import cache

LARGEST = 99
TERMS = tuple(term for term in range(11, LARGEST + 1) if term % 10)
HELD_OUT_SHARE = 0.2


def held_out(left: int, op: str, right: int) -> bool:
    """Whether the step belongs to the held-out ones."""
    return _held_out(*sorted((left, right) if op == "+" else (left - right, right)))


@cache
def _held_out(smaller: int, larger: int) -> bool:
    digest = hashlib.sha256(f"step:{smaller}:{larger}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def result(left: int, op: str, right: int) -> int:
    """What the step comes to."""
    return left + right if op == "+" else left - right


def draw(rng: random.Random, count: int, *, of_held_out: bool) -> str:
    """An expression of so many steps, all of them held out or none, like "47 + 38 - 12"."""
    while True:
        value = rng.choice(TERMS)
        parts = [str(value)]
        for _ in range(count):
            ways = _ways(value, of_held_out)
            if not ways:
                break
            op, terms = rng.choice(ways)
            term = rng.choice(terms)
            parts += [op, str(term)]
            value = result(value, op, term)
        if len(parts) == 1 + 2 * count:
            return " ".join(parts)


@cache
def _ways(left: int, of_held_out: bool) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The operations that may follow `left`, each with its terms."""
    by_op = {
        op: tuple(
            term
            for term in TERMS
            if 0 <= result(left, op, term) <= LARGEST and held_out(left, op, term) == of_held_out
        )
        for op in "+-"
    }
    return tuple((op, terms) for op, terms in by_op.items() if terms)
