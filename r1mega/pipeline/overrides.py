"""What a stage's run is told, as Hydra's overrides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

OWN_KEYS = ("run", "name", "runs_dir", "stage", "fresh", "pipeline")
"""Keys that are the pipeline's own: given to it, they do not reach its stages."""


def shared(arguments: Iterable[str]) -> list[str]:
    """Those of the command line's overrides that are for every stage: all but the pipeline's own."""
    return [one for one in arguments if _key(one).split(".")[0] not in OWN_KEYS]


def last_of_each(overrides: Sequence[str]) -> list[str]:
    """The last word on each key; Hydra refuses two choices of one group."""
    last = {_key(one): number for number, one in enumerate(overrides)}
    return [overrides[number] for number in sorted(last.values())]


def reading(key: str, value: Any, places: Mapping[str, Path]) -> str:
    """The override by which a run reads an artifact, or a list of them, in its place."""
    paths = [quoted(places[str(one)]) for one in (value if isinstance(value, list) else [value])]
    # `++`: a key of a dict, such as a model to compare, is not there yet.
    return f"++{key}=[{','.join(paths)}]" if isinstance(value, list) else f"++{key}={paths[0]}"


def quoted(path: Path) -> str:
    """The path in Hydra's grammar, in which spaces, commas, braces and the like mean something."""
    text = str(path)
    if "/" in text and re.fullmatch(r"[A-Za-z0-9_./-]+", text):  # else it may look like a number
        return text
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"'{escaped}'"


def _key(override: str) -> str:
    return override.lstrip("+~").split("=", 1)[0]
