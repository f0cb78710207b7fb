"""Megatron-Core as one would use it without r1mega: its schedule and its optimizer on rows at hand.

The model, its data-parallel wrapper and the optimizer are the policy's own. What is left out is
what r1mega adds: packing, per-token values, the GRPO loss, metrics over ranks, whole scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from r1mega.model.rows import Row, Sample
from r1mega.policy import Policy


def rows(policy: Policy, samples: Sequence[Sample]) -> list[Row]:
    """This rank's rows, the same that the policy would make; not part of what is timed."""
    return policy._rows(samples, {})


def forward(policy: Policy, packed: Sequence[Row]) -> None:
    """One forward pass."""
    for chunk in policy.chunks:
        chunk.eval()
    with torch.no_grad():
        _run(policy, packed, forward_only=True)


def update(policy: Policy, packed: Sequence[Row]) -> None:
    """Forward, backward and one optimizer step."""
    for chunk in policy.chunks:
        chunk.zero_grad_buffer()
        chunk.train()
    policy.optimizer.zero_grad()
    _run(policy, packed, forward_only=False)
    policy.optimizer.step()


def _run(policy: Policy, packed: Sequence[Row], *, forward_only: bool) -> None:
    get_forward_backward_func()(
        forward_step_func=_forward_step,
        data_iterator=[iter(packed) for _ in policy.chunks],
        model=policy.chunks,
        num_microbatches=len(packed),
        seq_length=policy.tokens_per_microbatch,
        micro_batch_size=1,
        forward_only=forward_only,
    )


def _forward_step(packed: Iterator[Row], chunk: Any) -> Any:
    row = next(packed)
    losses_1T = chunk(
        row.tokens_1T,
        row.positions_1T,
        None,
        labels=row.labels_1T,
        loss_mask=row.answer_mask_1T,
        packed_seq_params=row.packed,
        padding_mask=row.padding_1T,
    )
    return losses_1T, partial(_loss, row)


def _loss(row: Row, losses_1T: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return (losses_1T * row.answer_mask_1T).mean(), {}
