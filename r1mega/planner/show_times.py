"""A run's times as JSON and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from r1mega.planner.table import columns
from r1mega.planner.times import Part, Times

_WORD = "modelled, and not measured on GPU; docs/planning_times.md has the model's errors"


def times_as_json(times: Times) -> dict[str, Any]:
    """All of it; None where the run does not say how many steps it has, or what an hour of a GPU costs."""
    return {
        "step": times.unit,
        "parts": [_part(part) for part in times.parts],
        "gpus": times.gpus,
        "seconds": times.seconds,
        "gpu_hours": times.gpu_hours,
        "cost_usd": times.cost_usd,
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "steps": part.steps,
        "seconds": part.seconds,
        "tokens_per_s_per_gpu": part.tokens_per_s_per_gpu,
        "phases": [
            {"phase": phase.name, "seconds": phase.seconds, "causes": phase.causes} for phase in part.phases
        ],
    }


def time_words(times: Mapping[str, Any]) -> list[str]:
    """The phases of a step, and what the whole run takes."""
    lines = [f"Time of a step (a {times['step']}), seconds; {_WORD}"]
    for part in times["parts"]:
        if len(times["parts"]) > 1:
            lines.append(f"  {part['steps']:,} steps:")
        rows = []
        for phase in part["phases"]:
            most = sorted(phase["causes"].items(), key=lambda one: -one[1])
            causes = ", ".join(f"{cause} {seconds:,.1f}" for cause, seconds in most if seconds >= 0.05)
            rows.append((phase["phase"], f"{phase['seconds']:,.1f}", causes))
        rows.append(
            ("together", f"{part['seconds']:,.1f}", f"{part['tokens_per_s_per_gpu']:,.1f} tokens/s/GPU")
        )
        table = columns([row[:2] for row in rows])
        lines += [f"  {line}  {row[2]}".rstrip() for line, row in zip(table, rows, strict=True)]
    return [*lines, *(f"  {name}: {value}" for name, value in time_facts(times).items())]


def time_facts(times: Mapping[str, Any]) -> dict[str, str]:
    """What the whole run takes, as far as it is known."""
    facts = {}
    if times["seconds"] is not None:
        facts["whole run"] = f"{times['seconds'] / 3600:,.1f} h on {times['gpus']:,} GPUs"
    if times["gpu_hours"] is not None:
        facts["GPU-hours"] = f"{times['gpu_hours']:,.0f}"
    if times["cost_usd"] is not None:
        facts["cost"] = f"{times['cost_usd']:,.0f} USD"
    return facts
