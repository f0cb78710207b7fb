"""`summary.json`, a run's final figures for machines, and the same for people at the terminal's
end.

The figures are nested: `summary["eval"]["pass_at_1"]["gain_ci95"]`. Known to `format_result` and to
the report, all of them optional there: `name`, `seed`, `config_hash`, `wall_s`; `eval.questions`,
`eval.samples_per_question` and every measure of `MEASURES` in `eval` (`base`, `final`, `gain`, each
with `_ci95`; `final` alone where there was no base); `models`, where several models were evaluated
(track/tables); `handover.count`, `handover.max_abs_dlogp`, `handover.limit`;
`mismatch.mean_abs_dlogp`; `environment`.

Guarantees: the file is whole or not there, and strict JSON. Refuses, by raising ValueError, NaN and
infinities: a final figure that is not a number is a fault, not a result.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    ("answer_tokens", "answer tokens"),
    ("general", "general requests"),
    ("safety", "safety requests"),
    ("told_rightly", "told rightly"),
)
"""Section of `eval` and its name for people, in the order in which they are shown."""

LENGTHS = ("answer_tokens",)
"""Measures that count something; all others are shares between 0 and 1."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure before and after: its name for people, its figures, and how they are written."""

    name: str
    figures: Mapping[str, Any]
    is_length: bool = False

    @property
    def decimals(self) -> int:
        """Shares are told to a thousandth, lengths to a tenth."""
        return 1 if self.is_length else 3

    def text(self, which: str) -> str:
        """The figure `base` or `final`; empty where there is none."""
        return f"{self.figures[which]:.{self.decimals}f}" if which in self.figures else ""

    def gain(self) -> str:
        """What the final figure is above the base's, with its sign; empty without a base."""
        if "base" not in self.figures:
            return ""
        return f"{self.figures['final'] - self.figures['base']:+.{self.decimals}f}"

    def interval(self) -> str:
        """The gain's interval, saying so where it does not tell the gain from none; empty without one."""
        if "gain_ci95" not in self.figures:
            return ""
        low, high = self.figures["gain_ci95"]
        ends = f"{low:+.{self.decimals}f} to {high:+.{self.decimals}f}"
        return ends + (" (no change shown)" if low <= 0 <= high else "")


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


def measures(summary: Summary) -> list[Measure]:
    """The measures before and after that the summary's `eval` holds."""
    k = figure(summary, "eval.samples_per_question")
    found = [(key, name.format(k=k), figure(summary, f"eval.{key}")) for key, name in MEASURES]
    return [Measure(name, figures, key in LENGTHS) for key, name, figures in found if figures]


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


def _table(rows: Sequence[Measure]) -> str:
    if not rows:
        return ""
    head = f"  {'':<18}  {'base':>6}  {'final':>6}  {'gain':>6}   95 % interval of the gain"
    return "\n".join([head, *(_table_row(row) for row in rows)])


def _table_row(row: Measure) -> str:
    figures = f"{row.text('base'):>6}  {row.text('final'):>6}  {row.gain():>6}   {row.interval()}"
    return f"  {row.name:<18}  {figures}".rstrip()


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
