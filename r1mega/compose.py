"""From a `conf/run` file and overrides to one typed `Config`, by Hydra; each override's faults are said.

Importing this module costs a few milliseconds: no torch, no Megatron, no vLLM, and Hydra when it is asked.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from r1mega.config import BadRun, Config, Stage


@cache
def register() -> None:
    """Make the schema known to Hydra, as `schema` in every config folder's defaults list."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=Config)


def compose(folder: Path, overrides: list[str]) -> Config:
    """The run that the overrides describe.

    Raises:
        BadRun: unknown keys or runs, values of the wrong type, missing ones; all of them.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    register()
    failures = (HydraException, OmegaConfBaseException)
    try:
        composed = _compose(folder, overrides)
        missing = sorted(OmegaConf.missing_keys(composed))
        if "stage" in missing:
            raise BadRun([f"run: must be given, as in run=cpu_zero; {_choices(folder, 'run')}"])
        if missing:
            raise BadRun([f"{key}: must be given, as in {key}=..." for key in missing])
        config = OmegaConf.to_object(composed)
    except failures as error:
        raise BadRun(_each_fault(folder, overrides, failures) or [_first_line(error)]) from None
    assert isinstance(config, Config)
    return config


def _compose(folder: Path, overrides: list[str]) -> Any:
    import hydra
    from omegaconf import OmegaConf

    with hydra.initialize_config_dir(str(folder), version_base="1.3"):
        composed = hydra.compose("r1mega", overrides)
    # `+key=value` adds keys that the schema does not have; merged into it anew, they are refused.
    return OmegaConf.merge(_schema(), OmegaConf.to_container(composed))


@cache
def _schema() -> Any:
    """The schema as OmegaConf has it; a pipeline composes tens of runs on it."""
    from omegaconf import OmegaConf

    return OmegaConf.structured(Config)


def _each_fault(folder: Path, overrides: list[str], failures: tuple[type[Exception], ...]) -> list[str]:
    """What is wrong with each override, tried on top of the sound choices of groups."""
    sound: list[str] = []
    faults = []
    for override in sorted(overrides, key=lambda one: not (folder / _key(one)).is_dir()):
        try:
            _compose(folder, [*sound, override])
            sound.append(override)
        except failures as error:
            faults.append(f"{override}: {_first_line(error)}{_hint(_key(override), folder)}")
    return faults


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]


def _first_line(error: Exception) -> str:
    return str(error.__cause__ or error).splitlines()[0].rstrip(".")


def to_yaml(config: Config) -> str:
    """The whole run as YAML, as `config.yaml` keeps it."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _hint(key: str, folder: Path) -> str:
    """What stands where the key was looked for; empty where the key itself is right."""
    import difflib
    from dataclasses import is_dataclass

    if (folder / key).is_dir():
        return f"; {_choices(folder, key)}"
    section: Any = Config(stage=Stage.grpo, name="")
    *path, last = key.split(".")
    for name in path:
        section = getattr(section, name, None)
    names = [item.name for item in fields(section)] if is_dataclass(section) else [last]
    if last in names:
        return ""
    close = difflib.get_close_matches(last, names, n=1)
    return f"; did you mean {'.'.join([*path, *close])}?" if close else f"; keys here: {', '.join(names)}"


def _choices(folder: Path, group: str) -> str:
    return "choices: " + ", ".join(sorted(path.stem for path in (folder / group).glob("*.yaml")))
