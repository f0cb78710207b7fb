"""The layers that Megatron-Core has only with Transformer Engine, in plain torch.

`PackedAttention` is the core attention of packed samples; Megatron's own torch attention takes neither
packed samples nor the unequal head sizes of multi-latent attention. `RMSNorm` marks its weight for the
gradient sum that sequence parallelism needs; Megatron's torch norm refuses sequence parallelism.

`ReplicatedLinear` is the down-projection of latent attention, whole on every tensor-parallel rank;
Megatron's own spec splits it, and then loses the part of the shared rotary key's gradient that comes
from the other ranks' heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer import TransformerConfig
from torch import Tensor
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from r1mega.model.rows import places_on_rank


class RMSNorm(torch.nn.RMSNorm):
    """torch's RMSNorm under the constructor that Megatron's specs call."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]


class ReplicatedLinear(torch.nn.Linear):
    """A linear layer that tensor parallelism does not split, under the constructor of TELinear."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], Any],
        bias: bool,
        **unused: Any,
    ) -> None:
        super().__init__(input_size, output_size, bias=bias, dtype=config.params_dtype)
        if config.perform_initialization:
            init_method(self.weight)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The product, and the bias that Megatron's linears may leave for later: none."""
        return super().forward(hidden), None


class ScalarHead(ReplicatedLinear):
    """One number a position, whole on every tensor-parallel rank, called as Megatron calls an output layer.

    Under sequence parallelism each rank takes the values of its stretch, which are few, and gathers those.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.hidden_size, 1, config=config, init_method=config.init_method, bias=False)
        self.sequence_parallel = config.sequence_parallel

    def forward(self, hidden_SBH: Tensor, **unused: Any) -> tuple[Tensor, None]:  # type: ignore[override]
        """The values as `logits_SB1` of all positions, in fp32: scores are compared by small differences."""
        values_SB1 = linear(hidden_SBH.float(), self.weight.float())
        if self.sequence_parallel:
            # All tensor-parallel ranks go on to compute the same from them, so each keeps its own gradient.
            values_SB1 = gather_from_sequence_parallel_region(values_SB1, tensor_parallel_output_grad=False)
        return values_SB1, None


class PackedAttention(torch.nn.Module):
    """Causal attention inside each sample of a pack, by torch's scaled dot product.

    The samples of a pack are scattered to rows of the longest one's length, since torch has no kernel
    for ragged rows on CPU; what pads a row comes after the sample, where causal attention never looks.

    Under context parallelism a rank has the queries of its part of each sample (see `model/rows`), and
    gathers the keys and values of the whole.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: Any,
        attention_type: str,
        softmax_scale: float | None = None,
        *,
        pg_collection: ProcessGroupCollection,
        **unused: Any,
    ) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale
        self.cp_group = pg_collection.cp

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> Tensor:
        """Attend from `query_THD` to `key_THD` and `value_THD`; returns [T, H * D_value].

        Raises:
            ValueError: the samples are not packed.
        """
        if packed_seq_params is None:
            raise ValueError("PackedAttention takes packed samples only (PackedSeqParams)")
        starts, longest = packed_seq_params.cu_seqlens_q, packed_seq_params.max_seqlen_q
        cp = self.cp_group.size()
        rows = key_rows = _row_of_each_token(starts, longest)
        mask = None
        if cp > 1:
            key, value = self._gather(key, value, starts)
            rows = _row_of_each_token(starts // cp, longest // cp)
            mask = self._mask(starts, longest, rows)
        samples = starts.numel() - 1
        value_size = value.shape[-1]
        # One head size for all three lets torch take its fused path; zero columns add nothing.
        value = pad(value, (0, max(0, query.shape[-1] - value_size)))
        query = _scatter(query, rows, samples, longest // cp)
        key, value = (_scatter(part, key_rows, samples, longest) for part in (key, value))
        if key.shape[1] < query.shape[1]:  # heads of queries share those of keys and values
            shared_by = query.shape[1] // key.shape[1]
            key, value = (part.repeat_interleave(shared_by, dim=1) for part in (key, value))
        out_NHTD = scaled_dot_product_attention(
            query, key, value, mask, is_causal=mask is None, scale=self.softmax_scale
        )
        out_TD = out_NHTD.transpose(1, 2).flatten(0, 1)[rows][..., :value_size]
        return out_TD.flatten(1)

    def _gather(self, key_THD: Tensor, value_THD: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the whole row, in its order; their gradients go back to their owners."""
        cp = self.cp_group.size()
        held = torch.cat([places_on_rank(starts, cp, rank) for rank in range(cp)])
        both = gather_from_sequence_parallel_region(torch.cat([key_THD, value_THD], -1), group=self.cp_group)
        key, value = both[held.argsort()].split([key_THD.shape[-1], value_THD.shape[-1]], -1)
        return key, value

    def _mask(self, starts: Tensor, longest: int, rows: Tensor) -> Tensor:
        """[samples, 1, longest // cp, longest]: each query sees the keys up to its own place."""
        cp = self.cp_group.size()
        lengths = starts.diff() // cp
        place_T = places_on_rank(starts, cp, self.cp_group.rank()) - starts[:-1].repeat_interleave(lengths)
        place_NT = place_T.new_zeros(lengths.numel() * (longest // cp)).index_copy(0, rows, place_T)
        return place_NT.view(-1, 1, longest // cp, 1) >= torch.arange(longest)


def _row_of_each_token(cu_seqlens: Tensor, longest: int) -> Tensor:
    """Where each packed token lies in the flattened [samples, longest] rows."""
    starts = cu_seqlens[:-1].long()
    lengths = cu_seqlens[1:].long() - starts
    shift = torch.arange(lengths.numel()) * longest - starts
    return torch.arange(int(cu_seqlens[-1])) + shift.repeat_interleave(lengths)


def _scatter(packed_THD: Tensor, rows: Tensor, samples: int, longest: int) -> Tensor:
    """The samples in rows, [samples, H, longest, D], each filled up with zeros."""
    flat = packed_THD.new_zeros(samples * longest, *packed_THD.shape[1:])
    return flat.index_copy(0, rows, packed_THD).unflatten(0, (samples, longest)).transpose(1, 2)
