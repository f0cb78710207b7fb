"""A plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from r1mega.planner.batch import words
from r1mega.planner.fits import Shortage, Trial
from r1mega.planner.phases import Memory, staged_by_rank, state_bytes
from r1mega.planner.run import Run
from r1mega.planner.show_times import time_words, times_as_json
from r1mega.planner.table import columns, gib
from r1mega.planner.times import Times
from r1mega.planner.weights import model_biases, model_parameters

NOT_MODELLED = (
    "gradients of activations, and temporary buffers of layers, attention, loss and optimizer",
    "tokens that experts get beyond their equal share",
    "the CUDA context, NCCL's and vLLM's own buffers and graphs",
    "fragmentation of the allocator",
)
"""What needs memory on a GPU and is in no figure here."""


def as_json(
    run: Run,
    memory: Memory,
    times: Times | None,
    found: Sequence[Shortage],
    change: Trial | None,
    tried: Sequence[Trial],
) -> dict[str, Any]:
    """All that is known of the plan; sizes are bytes, times seconds."""
    config = run.config
    limit = config.cluster.gpu_memory_gib
    parameters, draft = model_parameters(run.hf)
    return {
        "run": config.name,
        "stage": str(config.stage),
        "notes": list(run.notes),
        "layout": {"training": str(memory.plan), "ranks": memory.plan.world_size}
        | ({"rollout": f"{memory.rollout}, {_where(memory)}"} if memory.generates else {}),
        "model": {"parameters": parameters, "draft_parameters": draft, "dtype": str(config.precision.dtype)},
        "batch": words(config, memory),
        "gpu_memory_bytes": None if limit is None else int(limit * 1024**3),
        "phases": [
            {"phase": one.name, "worst": one.who, "bytes": one.bytes, "causes": one.causes}
            for one in memory.phases
        ],
        "times": None if times is None else times_as_json(times),
        "search": None,
        "not_modelled": list(NOT_MODELLED),
        "checkpoint": _checkpoint(run, memory) if memory.optimizes else None,
        "fits": not found,
        "shortages": [asdict(one) for one in found],
        "tried": [
            {"overrides": list(one.overrides), "ranks": one.ranks, "lacking": one.lacking, "why": one.why}
            for one in tried
        ],
        "change": None if change is None else {"overrides": list(change.overrides), "ranks": change.ranks},
    }


def as_text(plan: Mapping[str, Any]) -> str:
    """The same for people, in GiB."""
    model = plan["model"]
    draft = f", and {model['draft_parameters']:,} of draft layers" if model["draft_parameters"] else ""
    lines = [
        f"{plan['run']} ({plan['stage']}): {model['parameters']:,} parameters{draft}, {model['dtype']}",
        *(f"note: {note}" for note in plan["notes"]),
        "",
        "Layout",
        *(f"  {line}" for line in layout_words(plan)),
        "",
        "Batch",
        *(f"  {line}" for line in plan["batch"]),
        "",
        f"Memory of the rank that holds most, GiB{_limit(plan)}",
        *_table(plan),
        "",
        "In no figure above, and to be had of the room that is left:",
        *(f"  {what}" for what in plan["not_modelled"]),
        *_checkpoint_words(plan),
    ]
    for told in (time_words(plan["times"]) if plan["times"] else [], verdict(plan)):
        lines += ["", *told] if told else []
    return "\n".join(lines)


def layout_words(plan: Mapping[str, Any]) -> list[str]:
    """Both layouts, a line each."""
    layout = plan["layout"]
    lines = [f"training  {layout['training']}"]
    return lines + ([f"rollout   {layout['rollout']}"] if "rollout" in layout else [])


def _where(memory: Memory) -> str:
    if not memory.on_gpus:
        return "on this machine"
    return "on the trainer's GPUs" if memory.shared else "on GPUs of their own"


def _limit(plan: Mapping[str, Any]) -> str:
    limit = plan["gpu_memory_bytes"]
    return "" if limit is None else f" (a GPU has {gib(limit)})"


def _table(plan: Mapping[str, Any]) -> list[str]:
    """Phases across, causes down; what no phase has is left out."""
    phases, limit = plan["phases"], plan["gpu_memory_bytes"]
    named = dict.fromkeys(cause for phase in phases for cause in phase["causes"])
    causes = [cause for cause in named if any(phase["causes"].get(cause, 0) >= _SHOWN for phase in phases)]
    rows = [["", *(str(number) for number in range(1, len(phases) + 1))]]
    rows += [
        [cause, *(gib(phase["causes"][cause]) if cause in phase["causes"] else "" for phase in phases)]
        for cause in causes
    ]
    rows.append(["together", *(gib(phase["bytes"]) for phase in phases)])
    if limit is not None:
        rows.append(["left for the rest", *(gib(limit - phase["bytes"]) for phase in phases)])
    names = [f"{number}  {phase['phase']}: {phase['worst']}" for number, phase in enumerate(phases, 1)]
    return [f"  {line}".rstrip() for line in [*names, "", *columns(rows)]]


def _checkpoint(run: Run, memory: Memory) -> dict[str, Any]:
    """A saved state on disk, and what it takes of a machine's own memory while it is saved."""
    biases, has_reference = model_biases(run.hf), memory.has_reference
    parameters = sum(model_parameters(run.hf)) - biases
    staged = staged_by_rank(memory.trainer, has_reference)
    gpus = run.config.cluster.gpus_per_machine or len(staged)
    machines = [sum(staged[first : first + gpus]) for first in range(0, len(staged), gpus)]
    return {
        "bytes_on_disk": state_bytes(memory.trainer, parameters, biases, has_reference),
        "host_bytes_of_a_machine": max(machines),
        "ranks_of_a_machine": min(gpus, len(staged)),
    }


def _checkpoint_words(plan: Mapping[str, Any]) -> list[str]:
    kept = plan["checkpoint"]
    if kept is None:
        return []
    ranks = kept["ranks_of_a_machine"]
    whose = "its rank takes" if ranks == 1 else f"the {ranks} ranks of a machine take up to"
    return [
        "",
        f"A saved state takes {gib(kept['bytes_on_disk'])} GiB on disk; while it is saved, {whose}"
        f" {gib(kept['host_bytes_of_a_machine'])} GiB of the machine's own memory.",
    ]


def verdict(plan: Mapping[str, Any]) -> list[str]:
    """Whether all that is counted fits; what does not, and what would."""
    if plan["fits"]:
        return ["Nothing that is counted is over."] if plan["gpu_memory_bytes"] is not None else []
    lines = ["It does not fit:", *_over(plan["shortages"]), "", "Each of these alone:"]
    lines += [f"  {_trial(one)}" for one in plan["tried"]]
    if plan["change"] is None:
        return [*lines, "No change was found that would do, these or several of them together."]
    change = plan["change"]
    shown = " ".join(change["overrides"])
    return [*lines, f"Nothing that is counted would be over with {shown}, on {change['ranks']:,} ranks."]


def _trial(one: Mapping[str, Any]) -> str:
    shown = " ".join(one["overrides"])
    if not one["ranks"]:
        return f"{shown}: cannot be; {one['why']}"
    if one["lacking"]:
        return f"{shown}: {one['ranks']:,} ranks, {gib(one['lacking'])} GiB lack ({one['why']})"
    return f"{shown}: {one['ranks']:,} ranks, nothing that is counted is over"


def _over(shortages: Sequence[dict[str, Any]]) -> list[str]:
    """The worst phase with its causes, the others by name; and the cache, where it is too small."""
    phases = [one for one in shortages if not one["of_cache"]]
    lines = []
    for one in [*phases[:1], *(one for one in shortages if one["of_cache"])]:
        sizes = sorted(one["causes"].items(), key=lambda item: -item[1])
        causes = ", ".join(f"{cause} {gib(size)}" for cause, size in sizes if size >= _SHOWN)
        lines.append(f"  {one['what']}: {gib(one['bytes'])} GiB over ({causes})")
    if len(phases) > 1:
        others = ", ".join(one["what"].split(":")[0] for one in phases[1:])
        lines.append(f"  over too, by no more: {others}")
    return lines


_SHOWN = 1024**3 // 200
"""What is shown as 0.00 GiB is not named."""
