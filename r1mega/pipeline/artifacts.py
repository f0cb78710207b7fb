"""What each stage leaves for others to read: the name of an artifact, and its path in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from r1mega.config import Config, Stage

MODEL = "model"
"""An HF folder: the artifact whose fields later stages are checked by before it is there."""

OUTPUTS: Mapping[Stage, Mapping[str, str]] = {
    Stage.pretrain: {MODEL: "base"},
    Stage.sft: {MODEL: "final"},
    Stage.grpo: {MODEL: "final"},
    Stage.reject: {"samples": "sft.jsonl", "review": "review.jsonl"},
    Stage.reward_model: {MODEL: "final"},
}


def outputs(config: Config) -> dict[str, Path]:
    """Artifact -> where the run leaves it; of the small world, each file that is wanted."""
    if config.stage is Stage.world:
        return {name: config.folder / f"{name}.jsonl" for name in config.world.rows}
    return {name: config.folder / path for name, path in OUTPUTS.get(config.stage, {}).items()}


def missing(config: Config) -> list[str]:
    """What a finished run's folder should hold and does not."""
    return [str(path) for path in outputs(config).values() if not path.exists()]
