"""A pipeline's stages as runs that are composed and checked, in an order in which each reads what is there.

Everything wrong with any stage is found at once, before one runs. What an earlier stage will make need
not be there for it: a model's fields are those of the model that its maker starts from. What only the
made file can show, a stage's own check says when it starts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from r1mega.checks import check, inputs, model_fields
from r1mega.config import BadRun, Config, PipelineStageConfig, Stage
from r1mega.pipeline.artifacts import MODEL, outputs
from r1mega.pipeline.overrides import last_of_each, quoted, reading

Compose = Callable[[list[str]], Config]
"""Overrides -> the run that they describe; raises BadRun."""

Stages = Mapping[str, PipelineStageConfig]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_ARTIFACT = re.compile(rf"{_NAME.pattern}/{_NAME.pattern}")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One stage: a run, ready to start.

    Attributes:
        arguments: what `r1mega` is told to run it.
        ranks: how many processes it is.
        reads: key of a path in the config -> `stage/artifact`.
        writes: artifact -> where it will lie.
        hf: the fields of its model.
    """

    name: str
    config: Config
    arguments: Sequence[str]
    ranks: int
    reads: Mapping[str, str]
    writes: Mapping[str, Path]
    hf: Mapping[str, Any] | None = field(repr=False)

    @property
    def after(self) -> set[str]:
        """The stages whose artifacts it reads."""
        return {_maker(artifact) for artifact in self.reads.values()}


def build(stages: Stages, folder: Path, shared: Sequence[str], compose: Compose) -> list[Node]:
    """The stages, each after those whose artifacts it reads, else in the order given.

    Args:
        folder: where the stages' folders lie.
        shared: overrides that every stage is given, before its own.

    Raises:
        BadRun: with every fault of every stage, led by the stage's name.
    """
    if not stages:
        raise BadRun(["pipeline.stages: was empty; must name at least one stage"])
    faults = _graph_faults(stages)
    nodes: dict[str, Node] = {}
    for name in _order(stages):
        try:
            nodes[name] = _node(name, stages[name], folder, shared, compose, nodes)
        except BadRun as error:
            faults += [f"{name}: {fault}" for fault in error.faults]
    if faults:
        raise BadRun(faults)
    return list(nodes.values())


def dependents(nodes: Sequence[Node], name: str) -> set[str]:
    """The stage, and all that read what it writes, by however many steps."""
    found = {name}
    for node in nodes:
        if node.after & found:
            found.add(node.name)
    return found


def _node(
    name: str,
    stage: PipelineStageConfig,
    folder: Path,
    shared: Sequence[str],
    compose: Compose,
    nodes: Mapping[str, Node],
) -> Node:
    places = {artifact: _place(artifact, folder, nodes) for artifact in _artifacts(stage)}
    own = [f"runs_dir={quoted(folder)}", f"name={name}"]
    reads = [reading(key, value, places) for key, value in stage.reads.items()]
    arguments = last_of_each([f"run={stage.run}", *shared, *stage.overrides, *own, *reads])
    artifacts = {str(place): artifact for artifact, place in places.items()}
    config = compose(arguments)
    if config.stage is Stage.pipeline:
        raise BadRun([f"run: was {stage.run}; must be no pipeline itself"])
    coming: dict[str, Any] = {str(place): None for place in places.values()}
    for node in nodes.values():
        coming |= {str(path): node.hf if what == MODEL else None for what, path in node.writes.items()}
    faults = _read_faults(stage, config, nodes)
    ranks = 0
    try:
        ranks = check(config, None, coming).world_size
    except BadRun as error:
        faults += error.faults
    if faults:
        raise BadRun(faults)
    return Node(
        name=name,
        config=config,
        arguments=arguments,
        ranks=ranks,
        reads={key: artifacts[path] for key, path in inputs(config).items() if path in artifacts},
        writes=outputs(config),
        hf=model_fields(config, coming)[0],
    )


def _graph_faults(stages: Stages) -> list[str]:
    faults = [
        f"{name}: a stage's name is its folder's: letters, digits, _ and - only"
        for name in stages
        if not _NAME.fullmatch(name)
    ]
    for name, stage in stages.items():
        for key, artifact in _by_key(stage).items():
            if not _ARTIFACT.fullmatch(artifact):
                faults.append(f"{name}: reads.{key}: was {artifact}; must be STAGE/ARTIFACT")
            elif _maker(artifact) not in stages:
                faults.append(f"{name}: reads.{key}: was {artifact}; stages: {', '.join(stages)}")
    cycle = _cycle(stages)
    return faults + ([f"pipeline.stages: {' reads '.join(cycle)}, in a circle"] if cycle else [])


def _read_faults(stage: PipelineStageConfig, config: Config, nodes: Mapping[str, Node]) -> list[str]:
    known = inputs(config)
    faults = []
    for key, artifact in _by_key(stage).items():
        maker, _, what = artifact.partition("/")
        if maker in nodes and what not in nodes[maker].writes:
            node = nodes[maker]
            offered = ", ".join(node.writes) or "nothing that others read"
            faults.append(f"reads.{key}: was {artifact}; {maker} ({node.config.stage}) writes {offered}")
        if key not in known:
            faults.append(f"reads.{key}: must be a key that names a file or folder; this run has {known}")
    return faults


def _sorter(stages: Stages) -> TopologicalSorter[str]:
    makers = {name: {_maker(one) for one in _artifacts(stage)} for name, stage in stages.items()}
    return TopologicalSorter({name: found & stages.keys() for name, found in makers.items()})


def _cycle(stages: Stages) -> list[str]:
    """The names of a circle, each reading the next; empty where there is none."""
    try:
        _sorter(stages).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def _order(stages: Stages) -> list[str]:
    """Each after its makers, else as given; as given where that cannot be."""
    if _cycle(stages):
        return list(stages)
    sorter, given, order = _sorter(stages), list(stages), []
    sorter.prepare()
    ready: set[str] = set()
    while sorter.is_active():
        ready |= set(sorter.get_ready())
        first = min(ready, key=given.index)
        ready.remove(first)
        order.append(first)
        sorter.done(first)
    return order


def _by_key(stage: PipelineStageConfig) -> dict[str, str]:
    """What is read, by key, of a list that of each place in it: `sft.data_files[0]`."""
    found: dict[str, str] = {}
    for key, value in stage.reads.items():
        if isinstance(value, list):
            found |= {f"{key}[{i}]": str(one) for i, one in enumerate(value)}
        else:
            found[key] = str(value)
    return found


def _artifacts(stage: PipelineStageConfig) -> list[str]:
    return list(_by_key(stage).values())


def _maker(artifact: str) -> str:
    return artifact.partition("/")[0]


def _place(artifact: str, folder: Path, nodes: Mapping[str, Node]) -> Path:
    """Where the artifact will lie; some path in its stage's folder where that is at fault, which is said."""
    maker, _, what = artifact.partition("/")
    return nodes[maker].writes.get(what, folder / artifact) if maker in nodes else folder / artifact
