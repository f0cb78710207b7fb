"""The whole run's folder: its config, `summary.json` over all stages, and how long each stage took.

`summary.json` holds `name`, `stage` ("pipeline"), `finished` (whether every stage is), `wall_s` (what the
stages took together, pauses between commands left out) and `stages`: each finished stage's own summary
with `seconds` (from start to end of its processes) and `key`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from r1mega.compose import to_yaml
from r1mega.config import BadRun, Config
from r1mega.pipeline import keys
from r1mega.pipeline.graph import Node
from r1mega.track.files import write_atomic
from r1mega.track.summary import read_summary, write_summary

_SECONDS = "seconds.json"


def open_folder(config: Config) -> None:
    """Make the whole run's folder, and leave the resolved config in it.

    Raises:
        BadRun: the folder is another kind of run's, or holds what no run left there.
    """
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    kept = folder / "config.yaml"
    if visible and not (kept.exists() and "stage: pipeline" in kept.read_text().splitlines()):
        raise BadRun([f"name: {folder} exists and is no pipeline's folder; choose another name"])
    write_atomic(kept, to_yaml(config))


def forget(nodes: Sequence[Node], names: Collection[str]) -> None:
    """Make these stages unfinished, so that they are run again even where this run is cut short."""
    for node in nodes:
        if node.name in names:
            # Without the description of what it is made of, nothing in the folder is gone on from.
            (node.config.folder / keys.FILE).unlink(missing_ok=True)
            shutil.rmtree(node.config.folder / "checkpoints", ignore_errors=True)
            (node.config.folder / "summary.json").unlink(missing_ok=True)


def read_seconds(folder: Path) -> dict[str, float]:
    """How long each stage took when it last ended well."""
    file = folder / _SECONDS
    return json.loads(file.read_text()) if file.exists() else {}


def write_seconds(folder: Path, seconds: Mapping[str, float]) -> None:
    """Keep how long each stage took."""
    write_atomic(folder / _SECONDS, json.dumps(seconds, indent=1) + "\n")


def write_whole(config: Config, done: Sequence[Node], seconds: Mapping[str, float]) -> None:
    """Write the whole run's summary; stages that are not done are not in it."""
    stages = {}
    for node in done:
        summary = read_summary(node.config.folder / "summary.json")
        took = seconds.get(node.name, summary.get("wall_s", 0.0))
        stages[node.name] = summary | {"seconds": took, "key": summary["config_hash"]}
    write_summary(
        config.folder / "summary.json",
        {
            "name": config.name,
            "stage": config.stage.value,
            "seed": config.seed,
            "finished": len(done) == len(config.pipeline.stages),
            "wall_s": sum(stage["seconds"] for stage in stages.values()),
            "stages": stages,
        },
    )
