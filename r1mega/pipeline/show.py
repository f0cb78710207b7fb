"""What a pipeline says at the terminal: its plan, the head of each stage, and how it went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from r1mega.pipeline.graph import Node
from r1mega.pipeline.standing import Standing
from r1mega.track.durations import clock


def plan(
    name: str,
    folder: Path,
    nodes: Sequence[Node],
    standings: Mapping[str, Standing],
    seconds: Mapping[str, float],
) -> str:
    """The graph: stages in order, what each reads and writes, what is done, what would run and why."""
    blocks = [_block(number, node, standings[node.name], seconds) for number, node in enumerate(nodes, 1)]
    return "\n".join([f"{name}: {len(nodes)} stages in {folder}", *blocks])


def _block(number: int, node: Node, state: Standing, seconds: Mapping[str, float]) -> str:
    took = f" (took {clock(seconds[node.name])})" if node.name in seconds else ""
    reads = ", ".join(dict.fromkeys(node.reads.values())) or "nothing"
    writes = ", ".join(f"{node.name}/{what}" for what in node.writes) or "figures"
    return (
        f"{number:>3}  {node.name} ({node.config.stage}): {_standing(state)}{took}"
        f"\n       {reads} -> {writes}"
    )


def _standing(state: Standing) -> str:
    if state.runs is None:
        return f"would run {state.why}"
    return f"would run: {state.why}" if state.runs else "done"


def head(
    number: int,
    nodes: Sequence[Node],
    why: str,
    so_far_s: float,
    to_run: Sequence[str],
    seconds: Mapping[str, float],
) -> str:
    """The line above a stage; `to_run` are the stages, this one first, that are still to be run."""
    node = nodes[number - 1]
    left = _left(to_run, seconds)
    return (
        f"\n[{number}/{len(nodes)}] {node.name} ({node.config.stage}): {why}; {clock(so_far_s)} so far{left}"
    )


def _left(to_run: Sequence[str], seconds: Mapping[str, float]) -> str:
    known = [seconds[name] for name in to_run if name in seconds]
    if not known:
        return ""
    return f", {'about' if len(known) == len(to_run) else 'at least'} {clock(sum(known))} left"


def ended(folder: Path, nodes: Sequence[Node], seconds: Mapping[str, float]) -> str:
    """The last lines of a pipeline that is done."""
    width = max(len(node.name) for node in nodes)
    lines = [
        f"  {node.name:<{width}}  {clock(seconds[node.name]) if node.name in seconds else '-':>8}"
        f"  {node.config.folder}"
        for node in nodes
    ]
    return "\n".join(
        [f"\nAll {len(nodes)} stages are done:", *lines, f"  summary: {folder / 'summary.json'}"]
    )
