"""Rewards over all ranks: each rank grades its share of the answers, all ranks get every score."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from r1mega.rewards.grader import Grader, GraderError, Grading
from r1mega.rewards.registry import combine
from r1mega.stages.sampling import Batch

Components = list[dict[str, float]]
"""Of each answer, its reward components by name."""

# The words that DeepSeek-R1 (arXiv 2501.12948) counts to watch reflection grow.
_REFLECTION = re.compile(
    r"\b(wait|mistake|however|but|retry|error|verify|wrong|evaluate|check)\b", re.IGNORECASE
)


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


def rewards(components: Components, weights: Mapping[str, float], samples_per_question: int) -> Tensor:
    """`rewards_PG`: each answer's weighed sum, by question."""
    summed = torch.tensor([combine(parts, weights) for parts in components])
    return summed.view(-1, samples_per_question)


def figures(components: Components, rewards_PG: Tensor, texts: Sequence[str]) -> dict[str, float]:
    """Mean of each component and of the reward, and how many answers reflect."""
    means = {
        f"reward/{name}": sum(parts[name] for parts in components) / len(components) for name in components[0]
    }
    reflecting = sum(bool(_REFLECTION.search(text)) for text in texts) / len(texts)
    return means | {"critic/score/mean": rewards_PG.mean().item(), "emergence/reflection_rate": reflecting}
