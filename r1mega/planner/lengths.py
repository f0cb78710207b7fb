"""How long answers are: a lognormal distribution, cut at the longest allowed, with a given mean.

Its spread is not known before a run; `SPREAD` is an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import exp, log
from statistics import NormalDist

SPREAD = 0.8
"""Standard deviation of the logarithm before the cut."""
_BODY, _BODY_SHARE = 32, 0.9
"""So many groups of equal size make up so much of the distribution; the rest halves from group to group."""

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of an answer."""

    mean: float
    longest: int
    """Longer ones are cut."""

    @property
    def mean_square(self) -> float:
        """The mean of their squares."""
        return sum(share * length * length for length, share in groups(self, 4096))


@lru_cache(maxsize=256)
def groups(lengths: Lengths, answers: int) -> tuple[tuple[float, float], ...]:
    """Answers that stand for all: the length and the share of each group, from short to long.

    Args:
        answers: how many there are in all; the last group is the longest of them.
    """
    edges = [_BODY_SHARE * part / _BODY for part in range(_BODY + 1)]
    while 1 - edges[-1] > 1 / answers and len(edges) < 64:
        edges.append((1 + edges[-1]) / 2)
    edges.append(1.0)
    median = _median(lengths)
    found = []
    for low, high in pairwise(edges):
        found.append((_quantile(median, lengths, (low + high) / 2), high - low))
    mean = sum(length * share for length, share in found)
    scale = lengths.mean / mean  # what is left of the mean's error in so few groups
    return tuple((min(length * scale, lengths.longest), share) for length, share in found)


def _quantile(median: float, lengths: Lengths, share: float) -> float:
    return min(median * exp(SPREAD * _NORMAL.inv_cdf(share)), lengths.longest)


@lru_cache(maxsize=256)
def _median(lengths: Lengths) -> float:
    """Of the lognormal before its cut, so that the mean after the cut is the given one; by bisection."""
    if lengths.mean >= lengths.longest:
        return lengths.longest * exp(8 * SPREAD)
    low, high = lengths.mean * exp(-SPREAD * SPREAD), lengths.longest * exp(8 * SPREAD)
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _mean(middle, lengths.longest) < lengths.mean else (low, middle)
    return low


def _mean(median: float, longest: float) -> float:
    """Of min(X, longest) where log X is normal around log median."""
    cut = (log(longest) - log(median)) / SPREAD
    whole = median * exp(SPREAD * SPREAD / 2)
    return whole * _NORMAL.cdf(cut - SPREAD) + longest * (1 - _NORMAL.cdf(cut))
