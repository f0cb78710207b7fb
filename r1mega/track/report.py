"""`report.html`: a run's figures, plots and samples on one page that needs nothing else.

Guarantees: one file, without scripts, fonts or images from elsewhere, and a policy in its head that
forbids the browser to load any. Everything that a model, a config or a metric's name wrote is
escaped: an answer is shown and never obeyed. What the folder does not hold is left out, so that a
running run or one of pre-training alone has a report too. Nothing in the folder but the report is
changed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from r1mega.track import jsonl
from r1mega.track.charts import STANDS, measures_svg, panel_svg, time_svg
from r1mega.track.durations import words
from r1mega.track.files import write_atomic
from r1mega.track.page import inline, page
from r1mega.track.panels import Panel, Rows, sections
from r1mega.track.samples import pairs, side_by_side
from r1mega.track.summary import Measure, figure, measures, read_summary
from r1mega.track.tables import WHAT_INTERVALS_COVER, for_page

QUESTIONS_SHOWN = 6


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html from the folder's own files, and return its path.

    Reads metrics.jsonl, samples.jsonl, summary.json and config.yaml, each of them if it is there.

    Raises ValueError, with file and line, for a damaged row.
    """
    path = folder / "report.html"
    write_atomic(path, page("report.html.j2", _content(folder)))
    return path


def _content(folder: Path) -> dict[str, Any]:
    """Everything the template names, as plain values and drawn charts."""
    rows, summary = jsonl.read(folder / "metrics.jsonl"), read_summary(folder / "summary.json")
    config = folder / "config.yaml"
    found, models = measures(summary), summary.get("models")
    samples = jsonl.read(folder / "samples.jsonl")
    shares = [measure for measure in found if not measure.is_length]
    samples_per_question = figure(summary, "eval.samples_per_question")
    return {
        "name": summary.get("name", folder.resolve().name),
        "facts": _facts(summary, rows),
        "measures": [_measure(measure) for measure in found],
        "measures_chart": inline(measures_svg(shares)) if shares else "",
        "models": for_page(models, samples_per_question) if models else None,
        "covers": WHAT_INTERVALS_COVER,
        "questions": figure(summary, "eval.questions"),
        "samples_per_question": samples_per_question,
        "sections": _sections(rows, figure(summary, "handover.limit")),
        "time_chart": inline(time_svg(rows)) if rows else "",
        "pairs": [] if models else pairs(samples, QUESTIONS_SHOWN),
        "side_by_side": side_by_side(samples, QUESTIONS_SHOWN) if models else [],
        "config": config.read_text(encoding="utf-8") if config.exists() else "",
        "versions": summary.get("environment", {}),
    }


def _facts(summary: Mapping[str, Any], rows: Rows) -> list[tuple[str, str]]:
    """The page's head: (what, figure) of what the summary holds."""
    forms: dict[str, tuple[str, Callable[[Any], str]]] = {
        "handover.count": ("hand-overs proven", str),
        "handover.max_abs_dlogp": ("worst |dlogp| of a hand-over", "{:.1e}".format),
        "mismatch.mean_abs_dlogp": ("mean |dlogp|, trainer - sampler", "{:.1e}".format),
        "wall_s": ("wall time", words),
        "seed": ("seed", str),
        "config_hash": ("config", str),
    }
    values = [(label, form, figure(summary, key)) for key, (label, form) in forms.items()]
    return [
        *((m.name, " → ".join(m.text(at) for at in STANDS if at in m.figures)) for m in measures(summary)),
        *((label, form(value)) for label, form, value in values if value is not None),
        ("rows of metrics", f"{len(rows):,}"),
    ]


def _measure(measure: Measure) -> dict[str, str]:
    return {
        "name": measure.name,
        "base": measure.text("base"),
        "final": measure.text("final"),
        "gain": measure.gain(),
        "interval": measure.interval(),
    }


def _sections(rows: Rows, limit: float | None) -> list[dict[str, Any]]:
    return [
        {
            "title": section.title,
            "panels": [
                {"title": p.title, "note": p.note, "chart": _panel_chart(p, rows, limit)}
                for p in section.panels
            ],
        }
        for section in sections(rows)
    ]


def _panel_chart(panel: Panel, rows: Rows, limit: float | None) -> Any:
    held_to_it = panel.lines[0][0] == "handover/max_abs_dlogp"
    return inline(panel_svg(panel, rows, limit if held_to_it else None))
