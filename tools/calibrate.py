"""Fits the time model's four constants to published times, and says how far off it is.

    python tools/calibrate.py

Prints Markdown: the constants; of each row the error with all rows fitted, and with its own run left out;
those of the phases of four of the runs, which are fitted to as well; and the rows that are never fitted. It
takes about a minute. `r1mega/planner/times.py` has the constants, docs/planning_times.md the tables.

The fit makes the sum of absolute log errors least, which a few rows that no constants fit cannot pull far. It
is a pattern search: every constant, and every two together, are moved up and down by a share that halves
until nothing helps. Constants stay within physical bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from itertools import product
from math import log
from statistics import median

from r1mega.planner.links import Constants
from r1mega.planner.published_times import CHECKS, PHASES, ROWS, PublishedTime

BOUNDS = Constants(1.0, 1.0, 1.0, 0.1)
"""The most that each may be; all are above 0."""
STARTS = tuple(Constants(0.5, bandwidth, 0.3, 0.007) for bandwidth in (0.6, 0.75, 0.9))
"""Several, since the misfit has a flat valley: less bandwidth fits nearly as well as slower engines."""
FIRST_SHARE, LAST_SHARE = 0.05, 0.001


def misfit(constants: Constants, rows: Sequence[PublishedTime]) -> float:
    """The sum of absolute log errors."""
    return sum(abs(log(row.seconds(constants) / row.measured_s)) for row in rows)


def fit(rows: Sequence[PublishedTime], starts: Sequence[Constants] = STARTS) -> Constants:
    """The constants that fit these rows best, of those found from all starts."""
    return min((_descend(rows, start) for start in starts), key=lambda found: misfit(found, rows))


def _descend(rows: Sequence[PublishedTime], start: Constants) -> Constants:
    best, least, share = start, misfit(start, rows), FIRST_SHARE
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


def left_out(row: PublishedTime, start: Constants) -> float:
    """The row's relative error when the constants are fitted to all other runs."""
    others = [other for other in (*ROWS, *PHASES) if other.run != row.run]
    return error(row, fit(others, [start]))


def error(row: PublishedTime, constants: Constants) -> float:
    """Of the model's time, relative to what was measured."""
    return row.seconds(constants) / row.measured_s - 1


def main() -> None:
    """Print the tables."""
    constants = fit([*ROWS, *PHASES])
    print("| constant | fitted |\n|---|---|")
    for name, value in asdict(constants).items():
        print(f"| `{name}` | {value:.3g} |")
    print("\n| row | measured, s | model, s | error | left out |\n|---|---|---|---|---|")
    sizes = []
    for row in ROWS:
        out = left_out(row, constants)
        sizes.append(abs(out))
        print(f"{_cells(row, constants)} {out:+.0%} |")
    print(f"\nLeft out: median {median(sizes):.1%}, worst {max(sizes):.1%}, of {len(sizes)} rows.")
    for title, rows in (("phase", PHASES), ("never fitted", CHECKS)):
        print(f"\n| {title} | measured, s | model, s | error |\n|---|---|---|---|")
        for row in rows:
            print(_cells(row, constants))


def _cells(row: PublishedTime, constants: Constants) -> str:
    seconds = row.seconds(constants)
    return f"| {row.name} | {row.measured_s:,.1f} | {seconds:,.1f} | {error(row, constants):+.0%} |"


if __name__ == "__main__":
    main()
