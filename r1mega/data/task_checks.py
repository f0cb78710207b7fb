"""What is wrong with the tasks of a run, all of it at once, before a question is drawn.

Checks names, parameters (their names, their types and the task's own validation) and weights.
Each fault is one line that starts with the key as the user wrote it. Needs reasoning-gym, never
torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from functools import partial
from typing import Any, NamedTuple

from r1mega import gym
from r1mega.data.hints import nearest
from r1mega.data.tasks import SOURCES, Task

_OURS = {"seed": "seed", "size": "data.train_questions and data.held_out_questions"}
_UNFIT = {
    "composite": "list its tasks one by one under data.tasks instead",
    "coin_flip": "its verifier takes the first digits of an answer for the whole of it",
    "game_of_life_halting": "its verifier takes any answer for right",
}
_SCALARS = (bool, int, float, str)


def check_tasks(tasks: Sequence[tuple[Any, ...]]) -> list[str]:
    """Every fault of tasks given as (name, parameters, weight); an empty list if there is none."""
    if not tasks:
        return ["data.tasks: was empty; must name at least one task"]
    named = [Task(*task) for task in tasks]
    return [fault for i, task in enumerate(named) for fault in _faults(f"data.tasks[{i}]", task)]


class _Schema(NamedTuple):
    """A task's parameters: the dataclass, how to make one of it, and whose validation it has."""

    parameters: type
    make: Callable[..., Any]
    owner: str


def _faults(key: str, task: Task) -> Iterator[str]:
    if not (math.isfinite(task.weight) and task.weight > 0):
        yield f"{key}.weight: was {task.weight}; must be a positive number"
    if task.name in _UNFIT:
        yield f"{key}.name: was {task.name}; must be another: {_UNFIT[task.name]}"
    elif task.name in SOURCES:
        parameters = SOURCES[task.name].parameters
        schema = _Schema(parameters, parameters, task.name)
        yield from _parameter_faults(f"{key}.parameters", schema, task.parameters)
    else:
        yield from _gym_faults(key, task)


def _gym_faults(key: str, task: Task) -> Iterator[str]:
    gym.load()
    from reasoning_gym.factory import DATASETS

    if task.name not in DATASETS:
        hint = nearest(task.name, sorted([*SOURCES, *DATASETS]))
        yield f"{key}.name: was {task.name}; must be {', '.join(SOURCES)} or reasoning-gym's, {hint}"
        return
    parameters = DATASETS[task.name][1]
    schema = _Schema(parameters, partial(parameters, seed=0, size=1), "reasoning-gym")
    yield from _parameter_faults(f"{key}.parameters", schema, task.parameters)


def _parameter_faults(key: str, schema: _Schema, given: Mapping[str, Any]) -> Iterator[str]:
    """Faults of names and types; only if there are none, those of the task's own validation."""
    known = {field.name: field for field in fields(schema.parameters)}
    faults = [fault for name in given for fault in _name_or_type(key, name, given[name], known)]
    yield from faults or _validation_faults(key, schema, given)


def _name_or_type(key: str, name: str, value: Any, known: Mapping[str, Field[Any]]) -> Iterator[str]:
    if name in _OURS:
        yield f"{key}.{name}: was {value}; must be left out, use {_OURS[name]}"
    elif name not in known:
        names = sorted(set(known) - set(_OURS))
        yield f"{key}.{name}: was {value}; must be a parameter of the task, {nearest(name, names)}"
    elif not _same_type(value, _default(known[name])):
        wanted = type(_default(known[name])).__name__
        yield f"{key}.{name}: was {value!r}; must be {_a(wanted)}"


def _default(field: Field[Any]) -> Any:
    if field.default is not MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not MISSING else None


def _same_type(value: Any, default: Any) -> bool:
    """Whether a scalar has its default's type; an int serves as a float, None and lists are let
    be."""
    if value is None or not isinstance(default, _SCALARS):
        return True
    if type(default) is float and type(value) is int:
        return True
    return type(value) is type(default)


def _validation_faults(key: str, schema: _Schema, given: Mapping[str, Any]) -> Iterator[str]:
    try:
        config = schema.make(**given)
        getattr(config, "validate", bool)()  # not every task has one
    except Exception as error:  # validators assert, or trip over the value
        text = str(error) or "these values do not go together"
        named = [name for name in given if re.search(rf"\b{re.escape(name)}\b", text)]
        at = f"{key}.{named[0]}: was {given[named[0]]}" if named else f"{key}: was {dict(given)}"
        yield f"{at}; {schema.owner} says: {text}"


def _a(type_name: str) -> str:
    return {"int": "a whole number", "float": "a number", "bool": "true or false"}.get(type_name, "a text")
