"""A run to plan: the models and layouts that its configuration describes, checked as far as files are there.

A plan needs no weights, data or tokenizer. What a run reads and is not there yet is passed over; of a model
that is not there the published fields are taken, by the name of its folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1mega.checks import inputs, layouts, position_faults, start_faults, topology, with_positions
from r1mega.config import GENERATING, BadRun, Config, Stage
from r1mega.model.family import family_faults, family_of, with_scalar_head
from r1mega.model.scalar import is_scalar
from r1mega.parallel.plan import Topology
from r1mega.planner.phases import PLANNED, Memory
from r1mega.planner.published import PUBLISHED

Fields = dict[str, Any]

_MAKES = "r1mega run="
"""How `model.made_by` begins where another run makes the folder."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is planned."""

    config: Config
    hf: Fields
    """Of the model that is trained."""
    judges: Mapping[str, Fields]
    """Of each reward model that is asked."""
    topology: Topology
    notes: tuple[str, ...]
    """What was taken for what is not there."""

    def memory(self) -> Memory:
        """Its memory on paper."""
        return Memory(self.config, self.hf, self.topology, self.judges)

    def changed(self, config: Config) -> Run:
        """The same models under another configuration.

        Raises:
            BadRun: its layouts cannot be; every fault.
        """
        return Run(config, self.hf, self.judges, _layouts(config, self.hf), self.notes)


def read_run(config: Config, composed: Callable[[list[str]], Config]) -> Run:
    """The run that the configuration describes.

    Args:
        composed: the run that overrides describe, to find what makes a folder that is not there.

    Raises:
        BadRun: it cannot be, or is of a stage that has no model; every fault.
    """
    if config.stage not in PLANNED:
        raise BadRun(
            [f"stage: was {config.stage}, which trains no model itself; plan a run of its stages, one by one"]
        )
    missing = {path for path in inputs(config).values() if not Path(path).exists()}
    coming: dict[str, Fields | None] = dict.fromkeys(missing)
    hf, notes = _model(config, composed)
    given = config.model.init_from
    if given is not None and not any(Path(given).glob("*.safetensors")):
        coming[given] = hf
    found = topology(config, None, coming)
    if faults := _machine_faults(config):
        raise BadRun(faults)
    judges, taken = _judges(config, hf, missing)
    if config.stage is Stage.reward_model and not is_scalar(hf):
        hf = with_scalar_head(hf)
    notes += taken + [
        f"{path}: not there; nothing of it is needed here" for path in sorted(missing - _models(config))
    ]
    notes += [f"planned only: {fault}" for fault in start_faults(config)]
    return Run(config, hf, judges, found, tuple(notes))


def _models(config: Config) -> set[str | None]:
    return {config.model.init_from, config.reward.helpful_model, config.reward.harmless_model}


def _model(config: Config, composed: Callable[[list[str]], Config]) -> tuple[Fields, list[str]]:
    """The fields of the model that the run starts from, and what was taken for them."""
    hf, notes = _found_model(config, composed)
    if faults := position_faults(config, hf):
        raise BadRun(faults)
    return with_positions(config, hf), notes


def _found_model(config: Config, composed: Callable[[list[str]], Config]) -> tuple[Fields, list[str]]:
    given, made_by = config.model.init_from, config.model.made_by
    if given is None:
        return config.model.hf, []
    if (Path(given) / "config.json").is_file():
        return _read(Path(given)), []
    name = Path(given).name
    if name in PUBLISHED:
        return PUBLISHED[name], [f"model.init_from: {given} is not there; planned as the published {name}"]
    if made_by is not None and made_by.startswith(_MAKES):
        hf, notes = _model(composed([made_by.removeprefix("r1mega ")]), composed)
        return hf, [f"model.init_from: {given} is not there; planned as what `{made_by}` would make", *notes]
    raise BadRun(
        [
            f"model.init_from: was {given}; no such folder yet, and no published model of that name; give the"
            f" model that it comes from, as in model.init_from=models/NAME with one of {', '.join(PUBLISHED)}"
        ]
    )


def _judges(config: Config, hf: Fields, missing: set[str]) -> tuple[dict[str, Fields], list[str]]:
    judges, notes = {}, []
    named = {"helpful": config.reward.helpful_model, "harmless": config.reward.harmless_model}
    for name, folder in named.items():
        if folder is None or config.stage is not Stage.grpo:
            continue
        if folder in missing:
            judges[name] = with_scalar_head(hf)
            notes.append(f"reward.{name}_model: {folder} is not there; taken to be as large as the model")
        else:
            judges[name] = _read(Path(folder))
    return judges, notes


def _read(folder: Path) -> Fields:
    """The HF fields of a folder, of which a plan needs nothing else.

    Raises:
        BadRun: they are not there, or of no model that is known.
    """
    where = str(folder / "config.json")
    try:
        hf: Fields = json.loads(Path(where).read_text())
    except (OSError, ValueError) as error:
        raise BadRun([f"{where}: cannot be read ({error})"]) from None
    if faults := family_faults(hf, where) or family_of(hf).faults(hf, where):
        raise BadRun(faults)
    return hf


def _layouts(config: Config, hf: Fields) -> Topology:
    """Both layouts, without a look at what the run reads.

    Raises:
        BadRun: they cannot be; every fault.
    """
    found, faults = layouts(config, hf, None)
    faults += _machine_faults(config)
    if faults or found is None:
        raise BadRun(faults)
    return found


def _machine_faults(config: Config) -> list[str]:
    """The workers of an engine's stage are on one machine, on which tensor parallelism stays."""
    workers, gpus = config.rollout.tensor_parallel, config.cluster.gpus_per_machine
    if config.stage not in GENERATING or gpus is None or workers <= 0 or gpus % workers == 0:
        return []
    return [
        f"rollout.tensor_parallel: was {workers}; must divide the {gpus} GPUs of a machine"
        " (cluster.gpus_per_machine): those of an engine's stage are on one"
    ]
