"""A plan as one HTML page: memory and time by phase, in stacked bars of their causes, and as figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1mega.planner.show import layout_words, verdict
from r1mega.planner.show_search import words_of_search
from r1mega.planner.show_times import time_facts
from r1mega.planner.table import gib
from r1mega.track.charts import stacked_bars_svg
from r1mega.track.files import write_atomic
from r1mega.track.page import inline, page

_GIB = 1024**3


def write_page(path: Path, plan: Mapping[str, Any]) -> None:
    """Write the page of a plan, as `show.as_json` describes one."""
    write_atomic(path, page("plan.html.j2", _content(plan)))


def _content(plan: Mapping[str, Any]) -> dict[str, Any]:
    limit, times = plan["gpu_memory_bytes"], plan["times"]
    memory = {one["phase"]: one["causes"] for one in plan["phases"]}
    room = "" if limit is None else f" The broken line is a GPU's memory, {gib(limit)} GiB."
    return {
        "name": plan["run"],
        "facts": _facts(plan),
        "notes": plan["notes"],
        "memory": _bars(
            "Memory of the rank that holds most, by phase",
            f"GiB.{room}",
            {name: {cause: size / _GIB for cause, size in causes.items()} for name, causes in memory.items()},
            "GiB",
            None if limit is None else limit / _GIB,
        ),
        "times": [] if times is None else [_time_bars(times, part) for part in times["parts"]],
        "verdict": "\n".join(verdict(plan)),
        "searched": "\n".join(words_of_search(plan["search"])) if plan["search"] else "",
        "words": [*layout_words(plan), *plan["batch"]],
        "not_modelled": plan["not_modelled"],
    }


def _facts(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    model, times = plan["model"], plan["times"]
    facts = [
        ("stage", plan["stage"]),
        ("parameters", f"{model['parameters']:,}"),
        ("ranks that train", f"{plan['layout']['ranks']:,}"),
        ("what is counted", "fits" if plan["fits"] else "does not fit"),
    ]
    return facts if times is None else [*facts, *time_facts(times).items()]


def _time_bars(times: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    steps = f"{part['steps']:,} of them; " if part["steps"] is not None else ""
    return _bars(
        f"Time of a {times['step']}, by phase",
        f"Seconds; {steps}{part['tokens_per_s_per_gpu']:,.1f} tokens/s/GPU. Modelled, and not measured on"
        " GPU: docs/planning_times.md has the model's errors.",
        {one["phase"]: one["causes"] for one in part["phases"]},
        "seconds",
        None,
    )


def _bars(
    title: str, note: str, bars: Mapping[str, Mapping[str, float]], unit: str, limit: float | None
) -> dict[str, Any]:
    """A chart, and its figures as a table: phases across, causes down, and all of them together."""
    causes = dict.fromkeys(cause for parts in bars.values() for cause in parts)
    rows = [
        (cause, [f"{parts[cause]:,.2f}" if cause in parts else "" for parts in bars.values()])
        for cause in causes
    ]
    rows.append(("together", [f"{sum(parts.values()):,.2f}" for parts in bars.values()]))
    return {
        "title": title,
        "note": note,
        "chart": inline(stacked_bars_svg(bars, unit, limit)),
        "columns": list(bars),
        "rows": rows,
    }
