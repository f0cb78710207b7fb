"""Fits the time model's four constants to published times, and says how far off it is.

    python tools/calibrate.py

Prints a Markdown page: the constants, each row's error with all rows fitted, and with its own run left out, and the
rows that are never fitted. `r1mega/planner/times.py` has the constants, docs/planning_times.md the tables.

The fit makes the sum of absolute log errors least, which a few rows that no constants fit cannot pull far. It is a
pattern search: every constant, and every two together, are moved up and down by a share that halves until nothing
helps. Constants stay within physical bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from itertools import product
from math import log
from statistics import median

from r1mega.planner.links import Constants
from r1mega.planner.published_times import CHECKS, ROWS, PublishedTime

BOUNDS = Constants(1.0, 1.0, 1.0, 0.1)
"""The most that each may be; all are above 0."""
START = Constants(0.5, 0.5, 0.5, 0.01)
FIRST_SHARE, LAST_SHARE = 0.25, 0.002


def misfit(constants: Constants, rows: Sequence[PublishedTime]) -> float:
    """The sum of absolute log errors."""
    return sum(abs(log(row.seconds(constants) / row.measured_s)) for row in rows)


def fit(rows: Sequence[PublishedTime], start: Constants = START, first_share: float = FIRST_SHARE) -> Constants:
    """The constants that fit these rows best."""
    best, least, share = start, misfit(start, rows), first_share
    while share > LAST_SHARE:
        before = least
        for tried in _around(best, share):
            if (found := misfit(tried, rows)) < least:
                best, least = tried, found
        if least == before:
            share /= 2
    return best


def _around(constants: Constants, share: float) -> Iterator[Constants]:
    """Within the bounds, with one or two constants moved by a share of themselves."""
    steps = (1.0, 1 + share, 1 / (1 + share))
    for factors in product(steps, repeat=len(fields(Constants))):
        if 1 <= sum(factor != 1 for factor in factors) <= 2:
            values = zip(asdict(constants).values(), factors, asdict(BOUNDS).values(), strict=True)
            yield Constants(*(min(value * factor, most) for value, factor, most in values))


def left_out(rows: Sequence[PublishedTime], start: Constants) -> list[float]:
    """Each row's relative error when the constants are fitted to the rows of other runs alone."""
    found = []
    for row in rows:
        others = [other for other in rows if other is not row and not (row.run and other.run == row.run)]
        found.append(error(row, fit(others, start, FIRST_SHARE / 4)))
    return found


def error(row: PublishedTime, constants: Constants) -> float:
    """Of the model's time, relative to what was measured."""
    return row.seconds(constants) / row.measured_s - 1


def main() -> None:
    """Print the page."""
    constants = fit(ROWS)
    print("| constant | fitted |\n|---|---|")
    for name, value in asdict(constants).items():
        print(f"| `{name}` | {value:.4g} |")
    print("\n| row | measured, s | model, s | error | left out |\n|---|---|---|---|---|")
    outside = left_out(ROWS, constants)
    for row, out in zip(ROWS, outside, strict=True):
        print(f"{_cells(row, constants)} {out:+.0%} |")
    sizes = sorted(abs(value) for value in outside)
    print(f"\nLeft out: median {median(sizes):.1%}, worst {sizes[-1]:.1%}, of {len(sizes)} rows.\n")
    print("| never fitted | measured, s | model, s | error |\n|---|---|---|---|")
    for row in CHECKS:
        print(_cells(row, constants))


def _cells(row: PublishedTime, constants: Constants) -> str:
    seconds = row.seconds(constants)
    return f"| {row.name} | {row.measured_s:,.1f} | {seconds:,.1f} | {error(row, constants):+.0%} |"


if __name__ == "__main__":
    main()
