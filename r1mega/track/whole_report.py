"""The report of a whole recipe: claims, tables of models, curves of the RL stages, answers side by side.

Made of the folders that the stages left, and of nothing else; what is not there yet is left out. Like a
stage's own report it is one file that needs nothing, in which whatever a model wrote is shown and never
obeyed. It imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r1mega.track import jsonl
from r1mega.track.charts import bars_svg, curves_svg
from r1mega.track.claims import claims
from r1mega.track.durations import words
from r1mega.track.files import write_atomic
from r1mega.track.page import inline, page
from r1mega.track.summary import figure, read_summary
from r1mega.track.tables import WHAT_INTERVALS_COVER, cell, columns, table

QUESTIONS_SHOWN = 8

CURVES = (
    ("reward/accuracy", "Accuracy", "Share of sampled answers that are right"),
    ("response_length/mean", "Answer length", "Tokens"),
    ("reward/mixed_language", "Mixed languages", "Share of thoughts in more than one language"),
    ("emergence/reflection_rate", "Reflection", "Share of answers with words such as wait, mistake, 检查"),
    ("reward/helpful", "Helpfulness", "What the reward model says, 0 to 1"),
    ("reward/harmless", "Harmlessness", "What the reward model says, 0 to 1"),
)

Stages = Mapping[str, Mapping[str, Any]]


def write_whole_report(folder: Path) -> Path:
    """Write `folder`/report.html from its summary and the stages' folders in it; returns its path."""
    path = folder / "report.html"
    write_atomic(path, page("whole_report.html.j2", _content(folder)))
    return path


def format_whole_result(summary: Mapping[str, Any], report: Path | None = None) -> str:
    """What a whole run ends with on the terminal: a table for each evaluation, the claims, the time."""
    parts = [
        f"{name}: {figure(stage, 'eval.questions')} held-out questions,"
        f" {figure(stage, 'eval.samples_per_question')} samples each\n\n"
        + table(stage["models"], figure(stage, "eval.samples_per_question"))
        for name, stage in _evaluations(summary["stages"]).items()
    ]
    parts += [WHAT_INTERVALS_COVER] if parts else []
    parts.append("\n".join(f"  {c.verdict:<12}  {c.title}: {c.words}" for c in claims(summary)))
    parts.append(
        f"  time          {words(summary['wall_s'])}" + (f"\n  report        {report}" if report else "")
    )
    return "\n\n".join(parts)


def _content(folder: Path) -> dict[str, Any]:
    summary = read_summary(folder / "summary.json")
    stages: Stages = summary["stages"]
    seconds = {name: stage["seconds"] for name, stage in stages.items()}
    return {
        "name": summary["name"],
        "facts": [
            ("seed", summary["seed"]),
            ("stages done", len(stages)),
            ("time, all stages", words(summary["wall_s"])),
        ],
        "claims": claims(summary),
        "tables": [_table(name, stage) for name, stage in _evaluations(stages).items()],
        "covers": WHAT_INTERVALS_COVER,
        "curves": _curves(folder, stages),
        "time_chart": inline(bars_svg(seconds, "seconds")) if seconds else "",
        "stages": [(name, stage["stage"], words(seconds[name])) for name, stage in stages.items()],
        "answers": [{"stage": name, "questions": _answers(folder / name)} for name in _evaluations(stages)],
    }


def _evaluations(stages: Stages) -> Stages:
    return {name: stage for name, stage in stages.items() if stage.get("models")}


def _table(name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    models, k = stage["models"], figure(stage, "eval.samples_per_question")
    shown = columns(models, k)
    return {
        "name": name,
        "questions": figure(stage, "eval.questions"),
        "samples": k,
        "headings": [heading for _, heading in shown],
        "rows": [
            (model, [cell(measure, measures.get(measure)) for measure, _ in shown])
            for model, measures in models.items()
        ],
    }


def _curves(folder: Path, stages: Stages) -> list[dict[str, Any]]:
    """A chart for each figure that any RL stage has, with a line a stage."""
    rows = {
        name: jsonl.read(folder / name / "metrics.jsonl")
        for name, stage in stages.items()
        if stage["stage"] == "grpo"
    }
    found = []
    for metric, title, note in CURVES:
        lines = {name: [row[metric] for row in of] for name, of in rows.items() if of and metric in of[-1]}
        if lines:
            whole = {name: [row.get(metric) for row in rows[name]] for name in lines}
            found.append({"title": title, "note": note, "chart": inline(curves_svg(whole))})
    return found


def _answers(folder: Path) -> list[dict[str, Any]]:
    """The first questions whose answers were kept, each with every model's first answer."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for row in jsonl.read(folder / "samples.jsonl"):
        by_prompt.setdefault(row["prompt"], []).append(row)
    shown: Sequence[tuple[str, list[Mapping[str, Any]]]] = list(by_prompt.items())[:QUESTIONS_SHOWN]
    return [
        {"prompt": prompt, "reference": rows[0].get("reference", ""), "answers": rows}
        for prompt, rows in shown
    ]
