"""The report of a whole recipe: claims, tables of models, curves of the RL stages, answers side by side.

Made of the folders that the stages left, and of nothing else; what is not there yet is left out. Like a
stage's own report it is one file that needs nothing, in which whatever a model wrote is shown and never
obeyed. Its only links go to the stages' own reports, beside it. It imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any
from urllib.parse import quote

from r1mega.track import jsonl
from r1mega.track.charts import bars_svg, curves_svg
from r1mega.track.claims import claims
from r1mega.track.durations import words
from r1mega.track.files import write_atomic
from r1mega.track.page import inline, page
from r1mega.track.samples import side_by_side
from r1mega.track.summary import figure, read_summary
from r1mega.track.tables import WHAT_INTERVALS_COVER, for_page, table

QUESTIONS_SHOWN = 6
TERMINAL_COLUMNS = 110

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
    """Write `folder`/report.html from its summary and the stages' folders in it; returns its path.

    Raises ValueError, with file and line, for a damaged row.
    """
    path = folder / "report.html"
    write_atomic(path, page("whole_report.html.j2", _content(folder)))
    return path


def format_whole_result(summary: Mapping[str, Any], report: Path | None = None) -> str:
    """What a whole run ends with on the terminal: a table for each evaluation, the claims, the time."""
    tables = [
        f"{name}: {_size(stage)}\n\n{table(stage['models'], figure(stage, 'eval.samples_per_question'))}"
        for name, stage in _evaluations(_stages(summary)).items()
    ]
    facts = [("time", words(summary["wall_s"]))] if "wall_s" in summary else []
    facts += [("report", str(report))] if report else []
    parts = [
        *tables,
        WHAT_INTERVALS_COVER if tables else "",
        "\n".join(
            f"  {claim.verdict:<12}  {claim.title}\n{_indented(claim.words)}" for claim in claims(summary)
        ),
        "\n".join(f"  {name:<12}  {value}" for name, value in facts),
    ]
    return "\n\n".join(part for part in parts if part)


def _indented(text: str) -> str:
    return fill(text, TERMINAL_COLUMNS, initial_indent=" " * 16, subsequent_indent=" " * 16)


def _content(folder: Path) -> dict[str, Any]:
    """Everything the template names, as plain values and drawn charts."""
    summary = read_summary(folder / "summary.json")
    stages = _stages(summary)
    seconds = {name: _seconds(stage) for name, stage in stages.items()}
    return {
        "name": summary.get("name", folder.resolve().name),
        "facts": _facts(summary),
        "claims": claims(summary),
        "tables": [_table(name, stage) for name, stage in _evaluations(stages).items()],
        "covers": WHAT_INTERVALS_COVER,
        "curves": _curves(folder, stages),
        "time_chart": inline(bars_svg(seconds, "seconds")) if seconds else "",
        "stages": [_stage(folder, name, stage) for name, stage in stages.items()],
        "answers": [_answers(folder, name) for name in _evaluations(stages)],
    }


def _stages(summary: Mapping[str, Any]) -> Stages:
    stages: Stages = summary.get("stages", {})
    return stages


def _evaluations(stages: Stages) -> Stages:
    return {name: stage for name, stage in stages.items() if stage.get("models")}


def _seconds(stage: Mapping[str, Any]) -> float:
    return float(stage.get("seconds", stage.get("wall_s", 0.0)))


def _size(stage: Mapping[str, Any]) -> str:
    questions, k = (figure(stage, f"eval.{key}") for key in ("questions", "samples_per_question"))
    return f"{questions} held-out questions, {k} samples each"


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    done = f"{len(_stages(summary))}" + ("" if summary.get("finished", True) else ", more to come")
    seed = [("seed", str(summary["seed"]))] if "seed" in summary else []
    time = [("time, all stages", words(summary["wall_s"]))] if "wall_s" in summary else []
    return [*seed, ("stages done", done), *time]


def _table(name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    models = for_page(stage["models"], figure(stage, "eval.samples_per_question"))
    return {"name": name, "size": _size(stage), "models": models}


def _curves(folder: Path, stages: Stages) -> list[dict[str, Any]]:
    """A chart for each figure that any RL stage has; a stage's line has one colour in all of them."""
    rows = {
        name: jsonl.read(folder / name / "metrics.jsonl")
        for name, stage in stages.items()
        if stage.get("stage") == "grpo"
    }
    charts = []
    for metric, title, note in CURVES:
        lines = {name: [row.get(metric) for row in of] for name, of in rows.items()}
        if any(value is not None for values in lines.values() for value in values):
            charts.append({"title": title, "note": note, "chart": inline(curves_svg(lines))})
    return charts


def _stage(folder: Path, name: str, stage: Mapping[str, Any]) -> dict[str, str]:
    link = f"./{quote(name)}/report.html" if (folder / name / "report.html").exists() else ""
    return {"name": name, "kind": stage.get("stage", ""), "time": words(_seconds(stage)), "link": link}


def _answers(folder: Path, name: str) -> dict[str, Any]:
    rows = jsonl.read(folder / name / "samples.jsonl")
    return {"stage": name, "questions": side_by_side(rows, QUESTIONS_SHOWN)}
