"""`summary.json`, a run's final figures for machines, and the same for people at the terminal's
end.

The figures are nested: `summary["eval"]["pass_at_1"]["gain_ci95"]`. Known to `format_result` and to
the report, all of them optional there: `name`, `seed`, `config_hash`, `wall_s`; `eval.questions`,
`eval.samples_per_question`, `eval.pass_at_1.*` and `eval.pass_at_1_any_format.*` (`base`, `final`,
`gain`, each with `_ci95`), `eval.told_rightly.*` of a reward model, `eval.cons_at_k.base` and
`.final`; `handover.count`,
`handover.max_abs_dlogp`, `handover.limit`; `mismatch.mean_abs_dlogp`; `environment`.

Guarantees: the file is whole or not there, and strict JSON. Refuses, by raising ValueError, NaN and
infinities: a final figure that is not a number is a fault, not a result.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1mega.track.durations import words
from r1mega.track.files import write_atomic
from r1mega.track.tables import table

Summary = Mapping[str, Any]

MEASURES = (
    ("pass_at_1", "pass@1"),
    ("pass_at_1_any_format", "pass@1, any format"),
    ("cons_at_k", "cons@{k}"),
    ("format", "format"),
    ("mixed_language", "mixed languages"),
    ("general", "general requests"),
    ("safety", "safety requests"),
    ("told_rightly", "told rightly"),
)
"""Section of `eval` and its name for people, in the order in which they are shown."""


def write_summary(path: Path, summary: Summary) -> None:
    """Write the summary, replacing an earlier one as a whole."""
    write_atomic(path, json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run; empty if it has none yet."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def figure(summary: Summary, dotted: str) -> Any:
    """The value at a dotted name such as `eval.pass_at_1.base`, or None if there is none."""
    value: Any = summary
    for part in dotted.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def measures(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
    """The evaluation's measures that the summary holds: name for people, and figures."""
    k = figure(summary, "eval.samples_per_question")
    found = [(name.format(k=k), figure(summary, f"eval.{key}")) for key, name in MEASURES]
    return [(name, figures) for name, figures in found if figures]


def format_result(summary: Summary, report: Path | str | None = None) -> str:
    """The block of text that a run ends with; `report` is where its report lies."""
    facts = _facts(summary) + ([("report", str(report))] if report else [])
    models = summary.get("models")
    parts = [
        _title(summary),
        table(models, figure(summary, "eval.samples_per_question")) if models else "",
        _table(measures(summary)),
        "\n".join(f"  {name:<18}  {value}" for name, value in facts),
    ]
    return "\n\n".join(part for part in parts if part)


def _title(summary: Summary) -> str:
    name, seed = summary.get("name", "run"), summary.get("seed")
    title = name if seed is None else f"{name}, seed {seed}"
    questions, k = (figure(summary, f"eval.{key}") for key in ("questions", "samples_per_question"))
    return f"{title}: {questions} held-out questions, {k} samples each" if questions else title


def _table(rows: list[tuple[str, Mapping[str, Any]]]) -> str:
    if not rows:
        return ""
    head = f"  {'':<18}  {'base':>6}  {'final':>6}  {'gain':>6}   95 % interval of the gain"
    return "\n".join([head, *(_table_row(name, figures) for name, figures in rows)])


def _table_row(name: str, figures: Mapping[str, Any]) -> str:
    base, final = figures.get("base"), figures["final"]
    if base is None:  # a model evaluated alone
        return f"  {name:<18}  {'':>6}  {final:>6.3f}"
    row = f"  {name:<18}  {base:>6.3f}  {final:>6.3f}  {final - base:>+6.3f}"
    return row + (f"   {interval(figures['gain_ci95'])}" if "gain_ci95" in figures else "")


def interval(ci95: tuple[float, float] | list[float]) -> str:
    """A gain's interval as text, saying so where it does not tell the gain from none."""
    low, high = ci95
    return f"{low:+.3f} to {high:+.3f}" + (" (no change shown)" if low <= 0 <= high else "")


def _facts(summary: Summary) -> list[tuple[str, str]]:
    count, wall_s = figure(summary, "handover.count"), summary.get("wall_s")
    worst = figure(summary, "handover.max_abs_dlogp")
    mean = figure(summary, "mismatch.mean_abs_dlogp")
    facts = []
    if worst is not None:
        facts.append(("hand-overs", f"{count} proven, worst |dlogp| {worst:.1e}"))
    if mean is not None:
        facts.append(("trainer - sampler", f"mean |dlogp| {mean:.1e}"))
    if wall_s is not None:
        facts.append(("time", words(wall_s)))
    return facts
