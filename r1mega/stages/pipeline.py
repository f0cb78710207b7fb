"""A pipeline: stages that read each other's artifacts, each run in order unless it is done already.

It runs in the launcher and has no ranks of its own: each stage's are started as `r1mega` alone would
start them. Killed at any moment, the same command goes on: a stage is done when its folder says so by
its key, and starts over otherwise. A stage is run again where its config changed, or what it reads; where
a stage run again leaves what it left before, those that read it stay done. It imports no torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from r1mega import stopping
from r1mega.compose import compose
from r1mega.config import BadRun, Config
from r1mega.launch import start_ranks
from r1mega.pipeline import record, show, slurm
from r1mega.pipeline.graph import Compose, Node, build, dependents
from r1mega.pipeline.overrides import shared
from r1mega.pipeline.standing import Standing, standing, standings
from r1mega.stopping import SAVED
from r1mega.track.summary import read_summary
from r1mega.track.whole_report import format_whole_result, write_whole_report

Start = Callable[[Sequence[str], int], int]
"""Runs `r1mega` with these arguments as so many ranks; returns the exit code."""


def main(config: Config, arguments: Sequence[str], configurations: Path) -> int:
    """What `pipeline` tells to do with the stages: print the plan, submit them, or run them.

    Args:
        arguments: the command line's overrides; all but the pipeline's own are each stage's as well.
        configurations: the folder in which runs are found.

    Raises:
        BadRun: with every fault of every stage, before one is started.
    """
    nodes, forced = plan(config, arguments, partial(compose, configurations))
    before = standings(nodes, forced)
    if config.pipeline.plan_only:
        seconds = record.read_seconds(config.folder)
        print(show.plan(config.name, config.folder, nodes, before, seconds))
        return 0
    stopping.listen()
    record.open_folder(config)
    record.forget(nodes, forced)
    if config.pipeline.submit:
        return slurm.submit(config, nodes, before, configurations.parent / "slurm" / "r1_stage.sh")
    return run(config, nodes, before)


def plan(config: Config, arguments: Sequence[str], composer: Compose) -> tuple[list[Node], set[str]]:
    """The stages in order, and the names of those that are to be run again though they are done."""
    pipeline = config.pipeline
    nodes = build(pipeline.stages, config.folder, [*pipeline.overrides, *shared(arguments)], composer)
    if pipeline.start is not None and pipeline.start not in pipeline.stages:
        stages = ", ".join(pipeline.stages)
        raise BadRun([f"pipeline.from: was {pipeline.start}; must be a stage: {stages}"])
    if config.fresh:
        return nodes, set(pipeline.stages)
    return nodes, dependents(nodes, pipeline.start) if pipeline.start is not None else set()


def run(
    config: Config, nodes: Sequence[Node], before: dict[str, Standing], start: Start = start_ranks
) -> int:
    """Run every stage that is not done; `before` is how they stood, which says why.

    Returns:
        0 where all are done, else the exit code of the stage that failed; none is run after it.
    """
    began = time.monotonic()
    seconds = record.read_seconds(config.folder)
    for number, node in enumerate(nodes, 1):
        now = standing(node)
        if now.runs:
            to_run = [node.name, *(one.name for one in nodes[number:] if before[one.name].runs is not False)]
            why = before[node.name].why if before[node.name].runs else now.why
            print(show.head(number, nodes, why, time.monotonic() - began, to_run, seconds), flush=True)
            stage_began = time.monotonic()
            if stopping.asked():
                return _stopped(config, node, SAVED)
            code = start(node.arguments, node.ranks) or _unfinished(node)
            if code:
                record.write_whole(config, nodes[: number - 1], seconds)
                write_whole_report(config.folder)
                return _stopped(config, node, code)
            seconds[node.name] = time.monotonic() - stage_began
            record.write_seconds(config.folder, seconds)
        else:
            print(f"[{number}/{len(nodes)}] {node.name} ({node.config.stage}): done before", flush=True)
        record.write_whole(config, nodes[:number], seconds)
    print(show.ended(config.folder, nodes, seconds))
    summary = read_summary(config.folder / "summary.json")
    print(f"\n{format_whole_result(summary, write_whole_report(config.folder))}")
    return 0


def _unfinished(node: Node) -> int:
    """1, with a word why, where a stage that ended well did not leave what it should; else 0."""
    left = standing(node)
    if left.runs:
        print(f"error: {node.name} ended, but is not done: {left.why}", file=sys.stderr)
    return int(bool(left.runs))


def _stopped(config: Config, node: Node, code: int) -> int:
    again = "pipeline.from" if config.pipeline.start is not None else "fresh=true" if config.fresh else ""
    command = f"the same command without {again}" if again else "the same command"
    how = (
        f"saved and stopped in {node.name}" if code == SAVED else f"stopped in {node.name}, exit code {code}"
    )
    print(f"{config.name} {how}; {command} goes on there.", file=sys.stderr)
    return code
