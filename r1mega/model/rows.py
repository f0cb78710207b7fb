"""Packed rows: whole samples laid end to end, as Megatron's models take them.

A row's position t holds token t; its label is token t + 1 of the same sample, so the log-prob found at t
is that of label t. Values of answer tokens therefore live one position before the token they are about.

Under context parallelism each sample ends in padding up to a multiple of 2 * cp tokens and is cut into
2 * cp chunks, of which rank r has the chunks r and 2 * cp - 1 - r: as many early tokens, which attend to
little, as late ones. That is Transformer Engine's way, and Megatron's rotary positions follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from r1mega.parallel.plan import Plan


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
    """One micro-batch: packed samples and what is known of each of this rank's T tokens of them.

    Attributes:
        samples: indices of the samples, in the order they lie in.
        spans: where each sample's answer lies in the whole row, [start, stop) of label positions.
        whole_tokens: length of the whole row, of which context parallelism gives each rank a part.
        places_T: where this rank's tokens lie in the whole row.
        answer_mask_1T: 1.0 where the label is an answer token.
        packed: where the samples lie in the whole row, each with its padding.
        values_T: named values of answer tokens, 0 elsewhere.
    """

    samples: Sequence[int]
    spans: Sequence[tuple[int, int]]
    whole_tokens: int
    places_T: Tensor
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
    plan: Plan,
    cp_rank: int,
    device: torch.device,
) -> Row:
    """Pack some of the samples into a row; this context-parallel rank's part of it.

    Args:
        samples: all samples; `indices` says which go into the row. Without any it becomes one of padding.
        values: named values, one tensor of [answer tokens] a sample.
        plan: says how samples and rows are padded.
    """
    lengths = [plan.padded(len(samples[i].tokens)) for i in indices]
    total = sum(lengths)
    padding = -total % plan.row_multiple if total else plan.row_multiple
    # The row's padding is a sample of its own, so that no real token attends to it.
    lengths += [padding] * (padding > 0)
    starts = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    whole = sum(lengths)
    places_T = places_on_rank(starts, plan.cp, cp_rank)
    tokens, real = torch.zeros(whole, dtype=torch.int64), torch.zeros(whole, dtype=torch.bool)
    spans = []
    for start, sample in zip(starts.tolist(), (samples[i] for i in indices), strict=False):
        stop = start + len(sample.tokens)
        tokens[start:stop] = torch.tensor(sample.tokens)
        real[start:stop] = True
        spans.append((start + sample.answer_start - 1, stop - 1))
    answers = _spread((torch.ones(stop - start) for start, stop in spans), spans, whole)
    starts = starts.to(device)

    def here(whole_T: Tensor) -> Tensor:
        return whole_T[places_T].to(device)

    return Row(
        samples=indices,
        spans=spans,
        whole_tokens=whole,
        places_T=places_T.to(device),
        tokens_1T=here(tokens)[None],
        labels_1T=here(tokens.roll(-1))[None],
        positions_1T=here(torch.cat([torch.arange(length) for length in lengths]))[None],
        answer_mask_1T=here(answers)[None],
        padding_1T=None if real.all() else here(~real)[None],
        packed=PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=starts,
            cu_seqlens_kv=starts,
            cu_seqlens_q_padded=starts,
            cu_seqlens_kv_padded=starts,
            max_seqlen_q=max(lengths),
            max_seqlen_kv=max(lengths),
        ),
        values_T={name: here(_spread((of[i] for i in indices), spans, whole)) for name, of in values.items()},
    )


def places_on_rank(starts: Tensor, cp: int, cp_rank: int) -> Tensor:
    """Where a context-parallel rank's tokens lie in the whole row, in the order it holds them.

    Args:
        starts: where each sample begins, and the last ends.
    """
    if cp == 1:
        return torch.arange(int(starts[-1]))
    chunks = [torch.arange(start, stop).chunk(2 * cp) for start, stop in starts.unfold(0, 2, 1).tolist()]
    return torch.cat([part for of in chunks for part in (of[cp_rank], of[2 * cp - 1 - cp_rank])])


def _spread(per_sample: Iterable[Tensor], spans: Sequence[tuple[int, int]], tokens: int) -> Tensor:
    spread_T = torch.zeros(tokens)
    for (start, stop), value in zip(spans, per_sample, strict=True):
        spread_T[start:stop] = value
    return spread_T
