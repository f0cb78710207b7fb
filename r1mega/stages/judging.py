"""Rewards over all ranks: each rank grades its share of the answers, all ranks get every score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from r1mega.data.question import Question
from r1mega.rewards.grader import Grader, GraderError, Grading
from r1mega.rewards.registry import combine
from r1mega.stages.sampling import Batch

Components = list[dict[str, float]]
"""Of each answer, its reward components by name."""


def submit(grader: Grader, batch: Batch) -> Grading:
    """Begin to grade this rank's share of the answers."""
    share = slice(dist.get_rank(), None, dist.get_world_size())
    return grader.submit(batch.questions[share], batch.texts[share], batch.truncated[share])


def collect(grading: Grading, answers: int) -> Components:
    """The components of all answers, in their order, on every rank.

    Raises:
        GraderError: on every rank, where any rank's workers could not grade.
    """
    try:
        mine: Any = grading.result()
    except GraderError as error:
        mine = error
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, mine)
    for part in parts:
        if isinstance(part, GraderError):
            raise part
    components: list[Any] = [None] * answers
    for rank, part in enumerate(parts):
        components[rank :: len(parts)] = part
    return components


def rewards(
    components: Components,
    questions: Sequence[Question],
    weights: Mapping[str, Mapping[str, float]],
    samples_per_question: int,
) -> Tensor:
    """`rewards_PG`: each answer's sum, weighed as its kind of question is."""
    summed = [
        combine(parts, weights[question.kind]) for parts, question in zip(components, questions, strict=True)
    ]
    return torch.tensor(summed).view(-1, samples_per_question)


def figures(components: Components) -> dict[str, float]:
    """Mean of each component over the answers that have it, and how many answers reflect."""
    names = dict.fromkeys(name for parts in components for name in parts)
    means = {name: fmean(parts[name] for parts in components if name in parts) for name in names}
    reflecting = means.pop("reflects")
    return {f"reward/{name}": mean for name, mean in means.items()} | {
        "emergence/reflection_rate": reflecting
    }
