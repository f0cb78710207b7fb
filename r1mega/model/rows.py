"""Packed rows: whole samples laid end to end, as Megatron's models take them.

A row's position t holds token t; its label is token t + 1 of the same sample, so the log-prob found at t
is that of label t. Values of answer tokens therefore live one position before the token they are about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt with its answer, as token ids."""

    tokens: Sequence[int]
    answer_start: int
    """Index of the answer's first token; at least 1."""

    @property
    def answer_tokens(self) -> int:
        """Length of the answer."""
        return len(self.tokens) - self.answer_start


@dataclass(frozen=True, slots=True)
class Row:
    """One micro-batch: packed samples and what is known of each of their tokens.

    Attributes:
        samples: indices of the samples, in the order they lie in.
        spans: where each sample's answer lies, [start, stop) of label positions.
        answer_mask_1T: 1.0 where the label is an answer token.
        values_T: named values of answer tokens, 0 elsewhere.
    """

    samples: Sequence[int]
    spans: Sequence[tuple[int, int]]
    tokens_1T: Tensor
    labels_1T: Tensor
    positions_1T: Tensor
    answer_mask_1T: Tensor
    padding_1T: Tensor | None
    packed: PackedSeqParams
    values_T: Mapping[str, Tensor]


def make_row(
    samples: Sequence[Sample],
    indices: Sequence[int],
    values: Mapping[str, Sequence[Tensor]],
    multiple_of: int,
    device: torch.device,
) -> Row:
    """Pack some of the samples into a row.

    Args:
        samples: all samples; `indices` says which go into the row.
        values: named values, one tensor of [answer tokens] a sample.
        multiple_of: the row is padded to a multiple of so many tokens (sequence parallelism needs it);
            a row without samples becomes one of padding alone.
    """
    lengths = [len(samples[i].tokens) for i in indices]
    total = sum(lengths)
    padding = -total % multiple_of if total else multiple_of
    # The padding is a sample of its own, so that no real token attends to it.
    pack_lengths = lengths + [padding] * (padding > 0)
    cu_seqlens = torch.tensor([0, *pack_lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    tokens = torch.tensor([t for i in indices for t in samples[i].tokens] + [0] * padding)
    starts = cu_seqlens.tolist()
    spans = [
        (start + samples[i].answer_start - 1, start + len(samples[i].tokens) - 1)
        for start, i in zip(starts, indices, strict=False)
    ]
    # A row of padding alone counts all its tokens: a mean over none of them would be NaN, and its values
    # weigh nothing anyway.
    mask = torch.zeros(total + padding) if total else torch.ones(padding)
    for start, stop in spans:
        mask[start:stop] = 1.0
    longest = max(pack_lengths)
    cu_seqlens = cu_seqlens.to(device)
    return Row(
        samples=indices,
        spans=spans,
        tokens_1T=tokens[None].to(device),
        labels_1T=tokens.roll(-1)[None].to(device),
        positions_1T=_positions(pack_lengths)[None].to(device),
        answer_mask_1T=mask[None].to(device),
        padding_1T=(torch.arange(total + padding) >= total)[None].to(device) if total and padding else None,
        packed=PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        ),
        values_T={
            name: _spread([of[i] for i in indices], spans, total + padding, device)
            for name, of in values.items()
        },
    )


def _positions(lengths: Sequence[int]) -> Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


def _spread(
    per_sample: Sequence[Tensor], spans: Sequence[tuple[int, int]], tokens: int, device: torch.device
) -> Tensor:
    spread_T = torch.zeros(tokens, device=device)
    for (start, stop), value in zip(spans, per_sample, strict=True):
        spread_T[start:stop] = value.to(device)
    return spread_T
