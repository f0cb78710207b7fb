"""A Codeforces-style rating from the problems solved, and the share of people it leaves behind.

The model of Elo: a player of rating r solves a problem of rating d with probability

    p(r, d) = 1 / (1 + 10 ** ((d - r) / 400)),

so that 400 points more are ten to one. The rating is the one of greatest likelihood; there the sum of
p over the problems is how many were solved, and only that number matters, not which.

With all solved, or none, no finite rating is likeliest. So the number solved is held between half a
problem and all but half of one, the usual correction of a share's end: the rating is then bounded, and
still rises with every problem. Such an end of the scale rests on this convention, as does the interval's
side towards it.

A problem with several samples counts once, by the share of them that solved it: k samples are not k
independent trials. The interval holds every rating whose likelihood ratio to the best is not refused at
5 % (twice the difference of log-likelihoods up to 3.84, Wilks).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import NormalDist
from typing import final

_POINTS_A_NAT = 400 / math.log(10)
_CHI2_95 = NormalDist().inv_cdf(0.975) ** 2
_HALVINGS = 60


@final
@dataclass(frozen=True, slots=True)
class Rating:
    """A fitted rating, and its 95 % interval as (low, high)."""

    rating: float
    ci95: tuple[float, float]


@final
@dataclass(frozen=True, slots=True)
class Population:
    """The ratings that people have: in rising order, with the share of people up to each."""

    ratings: tuple[float, ...]
    shares_up_to: tuple[float, ...]

    def percentile(self, rating: float) -> float:
        """Percent, 0 to 100, of the people whose rating is lower."""
        below = bisect_left(self.ratings, rating)
        return 100 * self.shares_up_to[below - 1] if below else 0.0


class PopulationError(ValueError):
    """A file of ratings that cannot be used; str() has a line for each fault."""


def solve_probability(rating: float, difficulty: float) -> float:
    """The probability that a player of this rating solves a problem of this one."""
    odds = math.exp(-abs(rating - difficulty) / _POINTS_A_NAT)  # of the less likely outcome
    return 1 / (1 + odds) if rating >= difficulty else odds / (1 + odds)


def fit(difficulties: Sequence[float], solved: Sequence[float]) -> Rating:
    """The rating that best explains which problems were solved.

    Args:
        difficulties: the problems' ratings.
        solved: of each, 1 if it was solved, 0 if not, or the share of samples that did.

    Raises ValueError for no problem, lists of unlike length, a share outside [0, 1], a rating not finite.
    """
    if not difficulties or len(difficulties) != len(solved):
        raise ValueError(f"{len(difficulties)} ratings of problems for {len(solved)} results: not paired")
    if not all(0 <= share <= 1 for share in solved):
        raise ValueError("a share solved lies between 0 and 1")
    if not all(map(math.isfinite, difficulties)):
        raise ValueError("a problem's rating must be finite")
    total = min(max(math.fsum(solved), 0.5), len(solved) - 0.5)
    # Nobody is further out than one who solves, or misses, half of one problem.
    reach = 400 * math.log10(2 * len(solved)) + 1
    low, high = min(difficulties) - reach, max(difficulties) + reach
    best = _root(lambda r: sum(solve_probability(r, d) for d in difficulties) - total, low, high)
    least = _log_likelihood(best, difficulties, total) - _CHI2_95 / 2

    def above(r: float) -> float:
        return _log_likelihood(r, difficulties, total) - least

    down, up = _out(above, best, -reach), _out(above, best, reach)
    return Rating(best, (_root(above, down, best), _root(above, best, up)))


def population(people: Sequence[tuple[float, float]]) -> Population:
    """The distribution of (rating, share or number of people). Raises ValueError for an unusable one."""
    rows = sorted(people)
    whole = math.fsum(share for _, share in rows)
    if not all(math.isfinite(x) for row in rows for x in row) or any(share < 0 for _, share in rows):
        raise ValueError("ratings and shares must be finite, and no share may be negative")
    if whole <= 0:
        raise ValueError("the shares must add up to more than 0")
    return Population(
        tuple(rating for rating, _ in rows), tuple(s / whole for s in accumulate(share for _, share in rows))
    )


def read_population(path: str | Path) -> Population:
    """The distribution in a text file: a person's rating a line, or `rating,share` a line.

    Blank lines and lines that begin with # are skipped; a header is not.

    Raises PopulationError, with every bad line by file and number.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise PopulationError(f"{path}: cannot be read ({error})") from error
    people: list[tuple[float, float]] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                people.append(_person(line))
            except ValueError as error:
                faults.append(f"{path}:{number}: {error}")
    if not (faults or people):
        faults.append(f"{path}: holds no rating")
    if faults:
        raise PopulationError("\n".join(faults))
    return population(people)


def _person(line: str) -> tuple[float, float]:
    rating, comma, share = line.partition(",")
    try:
        values = float(rating), float(share) if comma else 1.0
    except ValueError:
        raise ValueError(f"must be a rating, or rating,share; was {line.strip()[:60]!r}") from None
    if not all(map(math.isfinite, values)) or values[1] < 0:
        raise ValueError(f"must be finite, with no negative share; was {line.strip()[:60]!r}")
    return values


def _log_likelihood(rating: float, difficulties: Sequence[float], total: float) -> float:
    """Up to what does not depend on the rating."""
    odds = math.fsum(_softplus((rating - d) / _POINTS_A_NAT) for d in difficulties)
    return total * rating / _POINTS_A_NAT - odds


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _out(function: Callable[[float], float], start: float, stride: float) -> float:
    """A place on that side where the function is negative."""
    while function(start + stride) >= 0:
        stride *= 2
    return start + stride


def _root(function: Callable[[float], float], a: float, b: float) -> float:
    """Where the function, of unlike signs at a and b, is zero; by halving."""
    rising = function(b) > 0
    for _ in range(_HALVINGS):
        middle = (a + b) / 2
        if (function(middle) > 0) == rising:
            b = middle
        else:
            a = middle
    return (a + b) / 2
