"""Questions of reasoning-gym tasks: seeded, distinct, and split before training sees any.

Guarantees: no text occurs twice, neither within nor between the two sets, also where two tasks ask
the same; the held-out questions are drawn first, so they depend on tasks, `held_out` and seed, and
not on how many are trained on. Each task's share of both sets follows its weight. Refuses a task
that cannot yield as many distinct questions as its share, and says how many it found.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from r1mega import gym
from r1mega.data.question import Question, Questions, question_id

_CHUNK = 500  # some generators prepare all their questions at once: ask for few at a time
_PATIENCE = 1_000  # so many draws without a new question end the search


class Task(NamedTuple):
    """A reasoning-gym task, its parameters, and its weight beside the other tasks."""

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
    held = [q for draw, key, n, more in draws for q in _take(draw, n, f"{key}: {n} + {more}")]
    rest = [q for draw, key, n, more in draws for q in _take(draw, more, f"{key}: {n} + {more}", n)]
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


def _take(draw: Iterator[Question], count: int, wanted: str, before: int = 0) -> list[Question]:
    taken = [question for _, question in zip(range(count), draw, strict=False)]
    if len(taken) < count:
        raise TooFewQuestionsError(
            f"{wanted} distinct questions (held out + training) are wanted, only"
            f" {before + len(taken)} were found: widen its parameters, or lower"
            " data.train_questions, data.held_out_questions or its weight"
        )
    return taken


def _distinct(task: Task, position: int, seed: int, seen: set[str]) -> Iterator[Question]:
    """Questions of one task whose text no task has asked before; ends when no new one turns up."""
    repeats = 0
    for entry in _entries(task, f"data.tasks[{position}] ({task.name})", f"{seed}:{position}"):
        text = entry["question"]
        repeats = repeats + 1 if text in seen else 0
        if repeats == _PATIENCE:
            return
        if repeats == 0:
            seen.add(text)
            yield _question(task, entry)


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
