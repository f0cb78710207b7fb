"""Models against measures: for the terminal a line a model, for a page a column, as the paper prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Models = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By model, its measures: each has `mean` and `ci95`."""

MEASURES = (
    ("pass_at_1", "pass@1"),
    ("pass_at_1_any_format", "any format"),
    ("cons_at_k", "cons@{k}"),
    ("rating", "rating"),
    ("percentile", "percentile"),
    ("format", "format"),
    ("language", "language"),
    ("mixed_language", "mixed"),
    ("reflection", "reflection"),
    ("answer_tokens", "tokens"),
    ("truncated", "cut off"),
    ("general", "general"),
    ("safety", "safety"),
)
"""Measure and its heading, in the table's order."""

_BRIEF = (
    "pass_at_1",
    "cons_at_k",
    "rating",
    "format",
    "mixed_language",
    "answer_tokens",
    "general",
    "safety",
)
_NO_SHARE = {"rating": "{:.0f}", "percentile": "{:.1f}", "answer_tokens": "{:.1f}"}

WHAT_INTERVALS_COVER = (
    "Intervals are of the mean over questions, 95 %: they cover the choice of questions, not of the seed."
)


def columns(models: Models, k: Any) -> list[tuple[str, str]]:
    """Measures that any of the models has, with their headings."""
    found = {name for measures in models.values() for name in measures}
    return [(name, heading.format(k=k)) for name, heading in MEASURES if name in found]


def cell(name: str, figures: Mapping[str, Any] | None) -> tuple[str, str]:
    """A measure's value and its interval as text; empty where a model does not have it."""
    if figures is None:
        return "", ""
    form = _NO_SHARE.get(name, "{:.3f}")
    low, high = figures["ci95"]
    return form.format(figures["mean"]), f"{form.format(low)} to {form.format(high)}"


def for_page(models: Models, k: Any) -> dict[str, Any]:
    """What the macro `models_table` takes: a column a model, a row a measure, as the paper has it."""
    return {
        "models": list(models),
        "rows": [
            (heading, [cell(name, measures.get(name)) for measures in models.values()])
            for name, heading in columns(models, k)
        ],
    }


def table(models: Models, k: Any) -> str:
    """The main measures, a line a model, for the terminal; pass@1 with its interval."""
    shown = [(name, heading) for name, heading in columns(models, k) if name in _BRIEF]
    width = max((len(name) for name in models), default=0)
    head = "  " + " " * width + "".join(f"  {heading:>9}" for _, heading in shown)
    return "\n".join([head, *(_line(name, measures, shown, width) for name, measures in models.items())])


def _line(
    model: str, measures: Mapping[str, Mapping[str, Any]], shown: Sequence[tuple[str, str]], width: int
) -> str:
    values = "".join(f"  {cell(name, measures.get(name))[0]:>9}" for name, _ in shown)
    interval = cell("pass_at_1", measures.get("pass_at_1"))[1]
    return f"  {model:<{width}}{values}" + (f"   pass@1 {interval}" if interval else "")
