"""Pipelines whose stages are composed and checked for real, and run by a stand-in that leaves files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from r1mega.__main__ import configurations
from r1mega.compose import compose
from r1mega.config import Config, PipelineConfig, PipelineStageConfig, Stage
from r1mega.pipeline import keys, record
from r1mega.pipeline.artifacts import outputs
from r1mega.pipeline.graph import Node
from r1mega.pipeline.standing import standings
from r1mega.stages import pipeline
from r1mega.stages.finished import prepare_folder
from r1mega.track.summary import write_summary

BASE = PipelineStageConfig(run="cpu_pretrain")
ZERO = PipelineStageConfig(run="cpu_zero", reads={"model.init_from": "base/model"})
EVALUATION = PipelineStageConfig(run="cpu_evaluate", reads={"model.init_from": "zero/model"})
WORLD = PipelineStageConfig(
    run="cpu_zero", overrides=["stage=world", "++world.rows={cold_start:3,general:3}"]
)
TUNED = PipelineStageConfig(
    run="cpu_zero",
    reads={"model.init_from": "base/model", "sft.data_files": ["world/cold_start", "world/general"]},
    overrides=["stage=sft"],
)
CHAIN = {"base": BASE, "zero": ZERO, "evaluation": EVALUATION}


@cache
def _composed(overrides: tuple[str, ...]) -> Config:
    return compose(configurations(), list(overrides))


def composer(overrides: list[str]) -> Config:
    """As `compose`, once for each set of overrides."""
    return copy.deepcopy(_composed(tuple(overrides)))


def changed(stage: PipelineStageConfig, *overrides: str, **reads: Any) -> PipelineStageConfig:
    """The stage with further overrides."""
    return PipelineStageConfig(
        run=stage.run, reads=stage.reads | reads, overrides=[*stage.overrides, *overrides]
    )


def whole(stages: dict[str, PipelineStageConfig], **keys: Any) -> Config:
    """A pipeline of these stages; `keys` are its own, but `fresh`."""
    fresh = keys.pop("fresh", False)
    section = PipelineConfig(stages=stages, **keys)
    return Config(stage=Stage.pipeline, name="r", fresh=fresh, pipeline=section)


class Ranks:
    """Stands in for `start_ranks`: leaves what a stage of these arguments would, and counts.

    What an artifact holds is a function of the seed, the artifact's name and what was read.
    """

    def __init__(self, then: Callable[[Config], int] = lambda config: 0) -> None:
        """`then` is called when the stage is half done, and says with which exit code it ends."""
        self.ran: list[str] = []
        self._then = then

    def __call__(self, arguments: Sequence[str], ranks: int) -> int:
        config = composer(list(arguments))
        self.ran.append(config.name)
        key = keys.key_of(prepare_folder(config))
        for number, (name, path) in enumerate(outputs(config).items()):
            file = path / "model.safetensors" if name == "model" else path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{config.seed} {name}")
            if number == 0 and (code := self._then(config)):
                return code
        write_summary(
            config.folder / "summary.json", {"stage": config.stage.value, "config_hash": key, "wall_s": 2.0}
        )
        return 0


def go(config: Config, ranks: Ranks | None = None, *arguments: str) -> tuple[int, list[str]]:
    """Run the pipeline as `pipeline.main` does; the exit code, and the stages that ran."""
    ranks = Ranks() if ranks is None else ranks
    nodes, forced = pipeline.plan(config, arguments, composer)
    before = standings(nodes, forced)
    record.open_folder(config)
    record.forget(nodes, forced)
    first = len(ranks.ran)
    return pipeline.run(config, nodes, before, ranks), ranks.ran[first:]


def nodes_of(config: Config, *arguments: str) -> dict[str, Node]:
    """The stages, composed, by name."""
    return {node.name: node for node in pipeline.plan(config, arguments, composer)[0]}


def why(config: Config, *arguments: str) -> dict[str, tuple[bool | None, str]]:
    """How each stage stands."""
    nodes, forced = pipeline.plan(config, arguments, composer)
    return {name: (state.runs, state.why) for name, state in standings(nodes, forced).items()}


def folder_of(config: Config, stage: str) -> Path:
    """The stage's folder."""
    return config.folder / stage
