"""Questions of tasks, the small world's or reasoning-gym's: seeded, distinct, and split before training
sees any.

Guarantees: no text occurs twice, neither within nor between the two sets, also where two tasks ask
the same; the held-out questions are drawn first, so they depend on tasks, `held_out` and seed, and
not on how many are trained on. Each task's share of both sets follows its weight. Refuses a task
that cannot yield as many distinct questions as its share, and says how many it found.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from r1mega import gym
from r1mega.data.question import Question, Questions, question_id
from r1mega.data.source import Source, Streams
from r1mega.data.world import tasks as world

_CHUNK = 500  # some generators prepare all their questions at once: ask for few at a time
_PATIENCE = 1_000  # so many draws without a new question end the search

SOURCES: Mapping[str, Source] = MappingProxyType({**world.SOURCES})
"""The tasks of our own by name; any other name is reasoning-gym's."""


class Task(NamedTuple):
    """A task, its parameters, and its weight beside the other tasks."""

    name: str
    parameters: Mapping[str, Any]
    weight: float = 1.0


class TooFewQuestionsError(ValueError):
    """A task has fewer distinct questions than are wanted of it."""


def generate(tasks: Sequence[tuple[Any, ...]], train: int, held_out: int, seed: int) -> Questions:
    """Draw `held_out` and then `train` distinct questions from tasks of (name, parameters, weight).

    Both sets come shuffled, so that a prefix holds every task. Raises `TooFewQuestionsError`, or
    `ValueError` where a task's own generator fails; `check_tasks` finds wrong parameters sooner.
    """
    named = [Task(*task) for task in tasks]
    weights = [task.weight for task in named]
    wanted = zip(named, shares(held_out, weights), shares(train, weights), strict=True)
    seen: set[str] = set()
    draws = [
        (_distinct(task, i, seed, seen), f"data.tasks[{i}] ({task.name})", n_held, n_train)
        for i, (task, n_held, n_train) in enumerate(wanted)
    ]
    held = [q for draw, key, n, _ in draws for q in _take(draw.held_out, n, f"{key}: {n} held-out")]
    rest = [q for draw, key, _, n in draws for q in _take(draw.train, n, f"{key}: {n} training")]
    return Questions(train=shuffled(rest, f"train:{seed}"), held_out=shuffled(held, f"held:{seed}"))


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Split `total` by weight into whole parts that sum to it; what is left goes to the largest
    rests."""
    exact = [total * weight / sum(weights) for weight in weights]
    parts = [int(part) for part in exact]
    by_rest = sorted(range(len(parts)), key=lambda i: parts[i] - exact[i])
    for i in by_rest[: total - sum(parts)]:
        parts[i] += 1
    return parts


def shuffled(questions: Sequence[Question], seed: str) -> tuple[Question, ...]:
    """The questions in an order that depends on the seed and on their number only."""
    return tuple(random.Random(seed).sample(questions, len(questions)))


def _take(draw: Iterator[Question], count: int, wanted: str) -> list[Question]:
    taken = [question for _, question in zip(range(count), draw, strict=False)]
    if len(taken) < count:
        raise TooFewQuestionsError(
            f"{wanted} questions, all distinct, are wanted, only {len(taken)}"
            " were found: widen its parameters, or lower"
            " data.train_questions, data.held_out_questions or its weight"
        )
    return taken


def _distinct(task: Task, position: int, seed: int, seen: set[str]) -> Streams:
    """Questions of one task whose text no task has asked before."""
    streams = _streams(task, f"data.tasks[{position}] ({task.name})", f"{seed}:{position}")
    held_out = _unseen(streams.held_out, seen)
    if streams.train is streams.held_out:
        return Streams(held_out, held_out)
    return Streams(held_out, _unseen(streams.train, seen))


def _unseen(questions: Iterator[Question], seen: set[str]) -> Iterator[Question]:
    """Those whose text is not `seen`, which it joins; ends when no new one turns up."""
    repeats = 0
    for question in questions:
        repeats = repeats + 1 if question.text in seen else 0
        if repeats == _PATIENCE:
            return
        if repeats == 0:
            seen.add(question.text)
            yield question


def _streams(task: Task, key: str, seed: str) -> Streams:
    if task.name in SOURCES:
        return SOURCES[task.name].streams(task.parameters, seed)
    both = (_question(task, entry) for entry in _entries(task, key, seed))
    return Streams(both, both)


def _entries(task: Task, key: str, seed: str) -> Iterator[dict[str, Any]]:
    """The task's endless stream of entries; reasoning-gym seeds its n-th entry with seed + n."""
    first = random.Random(seed).getrandbits(30)
    for start in range(0, 1 << 30, _CHUNK):
        try:
            yield from gym.load().create_dataset(
                task.name, **task.parameters, seed=first + start, size=_CHUNK
            )
        except Exception as error:  # whatever a generator raises, the user's key is what helps
            raise ValueError(f"{key}: reasoning-gym could not generate it: {error!r}") from error


def _question(task: Task, entry: dict[str, Any]) -> Question:
    answer = entry["answer"]
    return Question(
        id=question_id(entry["question"]),
        text=entry["question"],
        answer="" if answer is None else str(answer),
        task=task.name,
        entry=entry,
        parameters=dict(task.parameters),
    )
