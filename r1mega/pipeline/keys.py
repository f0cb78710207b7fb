"""What a run's result is made of, the key that stands for it, and what differs between two of them.

A run is made of every value of its config but those that only say where it lies and how it is watched,
of the content of every file and folder that it reads, and of r1mega's version. Where the files lie does
not matter. The version counts and the state of a checkout does not: an edit of a comment is no reason
to train again, and whoever changes code can say `pipeline.from`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import r1mega
from r1mega.checks import inputs
from r1mega.config import Config
from r1mega.pipeline.contents import Contents

FILE = "made_from.json"
"""Where a run's folder says what the run is made of."""

VERSION = "r1mega"
NOTHING_OF_THE_RESULT = ("name", "runs_dir", "fresh", "track", "checkpoint", "launch", "pipeline")

LAYOUT = (
    "parallel.",
    "cluster.",
    "train.",
    "reward.workers",
    "handover.",
    "rollout.placement",
    "rollout.replicas",
    "rollout.tensor_parallel",
    "rollout.pipeline_parallel",
    "rollout.expert_parallel",
    "rollout.concurrent_sequences",
    "rollout.kv_cache_bytes",
    "rollout.threads_per_worker",
    "rollout.start_timeout_s",
    "rollout.answer_timeout_s",
    "rollout.engine_restarts",
)
"""Beginnings of keys that say how a run is laid out over machines: they decide its result only by rounding,
so a run that was cut short under one layout may go on under another."""

Made = Mapping[str, Any]
"""Key of the config -> its value, or the hash of what it names."""


def made_from(config: Config) -> dict[str, Any]:
    """All that decides the run's result; what it reads must be there."""
    contents = Contents(Path(config.runs_dir))
    made = {VERSION: r1mega.__version__, **values(config)}
    made |= {key: f"sha256 {contents.hash_of(Path(path))}" for key, path in inputs(config).items()}
    contents.keep()
    return made


def key_of(made: Made) -> str:
    """Twelve hexadecimal digits of what a run is made of."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:12]


def course_of(made: Made) -> dict[str, Any]:
    """What a run is made of but for its layout: runs of one course can go on from each other's states."""
    return {key: value for key, value in made.items() if not key.startswith(LAYOUT)}


def values(config: Config) -> dict[str, Any]:
    """The config's values by key; those of paths are as the config has them."""
    sections = (item.name for item in fields(config) if item.name not in NOTHING_OF_THE_RESULT)
    return dict(pair for name in sections for pair in _leaves(name, getattr(config, name)))


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if is_dataclass(value):
        deeper = [(f"{key}.{item.name}", getattr(value, item.name)) for item in fields(value)]
    elif isinstance(value, dict) and value:
        deeper = [(f"{key}.{name}", one) for name, one in value.items()]
    elif isinstance(value, list) and value:
        deeper = [(f"{key}[{i}]", one) for i, one in enumerate(value)]
    else:
        yield key, value
        return
    for inner, one in deeper:
        yield from _leaves(inner, one)


def differences(before: Made, now: Made, names: Mapping[str, str]) -> list[str]:
    """What changed, a phrase each; `names` says what a key of a path reads, as `base/model`."""
    keys = sorted(before.keys() | now.keys())
    return [
        _difference(key, before, now, names) for key in keys if before.get(key, _GONE) != now.get(key, _GONE)
    ]


_GONE = object()


def _difference(key: str, before: Made, now: Made, names: Mapping[str, str]) -> str:
    if key not in before:
        return f"{key} is new: {_shown(now[key])}"
    if key not in now:
        return f"{key} was {_shown(before[key])}, is gone"
    if _is_hash(before[key]) and _is_hash(now[key]):
        return f"{names[key]} changed" if key in names else f"what {key} names changed"
    return f"{key} was {_shown(before[key])}, is now {_shown(now[key])}"


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("sha256 ")


def _shown(value: Any) -> str:
    if _is_hash(value):
        return "a file or folder"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
