"""Which panels of the list (`panel_list.py`) the report draws, with their values from `metrics.jsonl`.

Guarantees: every numeric figure of the rows is drawn somewhere, known or not; a panel without a
single figure in the rows is left out.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from r1mega.track.panel_list import SECTIONS, TIME, TIMES, WHOLE, Panel, Section

__all__ = ["Panel", "Rows", "Section", "counter_of", "metrics_in", "phases", "sections", "series"]

Rows = Sequence[Mapping[str, Any]]

COUNTERS = ("rollout", "update", "policy_version")


def sections(rows: Rows) -> list[Section]:
    """The report's sections for these rows, without what they hold nothing for."""
    # Times have a chart of their own.
    known = [section for section in SECTIONS if section is not TIMES]
    drawn = {metric for section in known for panel in section.panels for metric in panel.metrics}
    rest = tuple(
        Panel(title=metric, meaning="", lines=((metric, ""),))
        for metric in metrics_in(rows)
        if metric not in drawn and metric not in COUNTERS and not metric.startswith(TIME)
    )
    found = [
        Section(title=section.title, panels=tuple(p for p in section.panels if _is_in(p, rows)))
        for section in (*known, Section(title="Other figures", panels=rest))
    ]
    return [section for section in found if section.panels]


def metrics_in(rows: Rows) -> list[str]:
    """Names of the numeric figures, in the order in which they first appear."""
    seen: dict[str, None] = {}
    for row in rows:
        seen.update((key, None) for key, value in row.items() if _is_number(value))
    return list(seen)


def series(rows: Rows, metric: str) -> list[float]:
    """The metric in every row; NaN where a row has none, or none that is finite."""
    return [float(row[metric]) if _is_number(row.get(metric)) else math.nan for row in rows]


def counter_of(rows: Rows) -> str:
    """What the rows count: `rollout` where they have it, else `update`."""
    return "rollout" if "rollout" in rows[0] else "update"


def phases(rows: Rows) -> dict[str, list[float]]:
    """Seconds of each row by phase, and as `other` what the whole took beyond its phases."""
    names = [m for m in metrics_in(rows) if m.startswith(TIME) and m != WHOLE]
    table = {name.removeprefix(TIME): _zeroed(series(rows, name)) for name in names}
    whole = _zeroed(series(rows, WHOLE))
    spent = [sum(column) for column in zip(*table.values(), strict=True)] or [0.0] * len(rows)
    other = [max(0.0, all_s - some_s) for all_s, some_s in zip(whole, spent, strict=True)]
    return {**table, "other": other} if any(other) else table


def _is_in(panel: Panel, rows: Rows) -> bool:
    return any(_any_number(row.get(metric) for row in rows) for metric in panel.metrics)


def _any_number(values: Iterable[Any]) -> bool:
    return any(_is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _zeroed(values: Iterable[float]) -> list[float]:
    return [0.0 if math.isnan(value) else value for value in values]
