"""Which layers a model is built from: Transformer Engine's where it is installed, torch's otherwise.

This is the one place that asks. The rest of the package sees a Megatron `GPTModel` either way.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import (
    get_gpt_decoder_block_spec,
    get_gpt_decoder_layer_specs,
    get_gpt_mtp_block_spec,
)
from megatron.core.tensor_parallel import checkpoint, scatter_to_sequence_parallel_region
from megatron.core.transformer import TransformerConfig, multi_latent_attention
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.multi_token_prediction import MultiTokenPredictionLayerSubmodules
from megatron.core.transformer.torch_norm import WrappedTorchNorm
from torch import Tensor

from r1mega.model.extras import is_there
from r1mega.model.torch_layers import PackedAttention, ReplicatedLinear, RMSNorm, ScalarHead

HAVE_TRANSFORMER_ENGINE = is_there("transformer_engine")

_DRAFT_PARTS = {item.name for item in fields(MultiTokenPredictionLayerSubmodules)}
DRAFT_LAYER = "mtp_model_layer" if "mtp_model_layer" in _DRAFT_PARTS else "transformer_layer"
"""What a multi-token-prediction layer calls the layer inside it: Megatron-Core 0.19.2's name, or 0.16.1's."""


class CausalLM(GPTModel):
    """Megatron's GPTModel, with token losses at the sampling temperature and padding masked everywhere.

    A policy that samples at temperature t draws from softmax(logits / t); its log-probs must be of
    that distribution too.

    Megatron-Core 0.16.1 gives each rank its part of the padding mask only where it embeds, and does not
    tell the draft layers of it; their routers would count padding.
    """

    temperature: float = 1.0
    padding: Tensor | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        for layer in self.mtp.layers if self.mtp_process else ():
            layer.get_submodule(DRAFT_LAYER).register_forward_pre_hook(self._mask_padding, with_kwargs=True)
            layer._checkpointed_forward = self._recompute_draft

    def _mask_padding(self, layer: torch.nn.Module, arguments: Any, named: dict[str, Any]) -> Any:
        return arguments, named | {"padding_mask": self.padding}

    @staticmethod
    def _recompute_draft(forward: Callable[..., Tensor], **named: Any) -> Tensor:
        """A draft layer that the backward pass computes again.

        Megatron-Core 0.16.1 would have the checkpoint keep all arguments as if they were tensors; the packing
        is none. Draft layers are on the last stage, whose backward pass follows at once on each forward pass,
        so the padding is still that of the same micro-batch.
        """
        kept = {name: value for name, value in named.items() if isinstance(value, Tensor)}

        def again(*tensors: Tensor) -> Tensor:
            return forward(**(named | dict(zip(kept, tensors, strict=True))))

        return checkpoint(again, False, *kept.values())

    def forward(self, *arguments: Any, padding_mask: Tensor | None = None, **named: Any) -> Tensor:
        """As GPTModel's; `padding_mask_1T` is of all tokens of this context-parallel rank."""
        self.padding = padding_mask
        if padding_mask is not None and self.config.sequence_parallel:
            self.padding = scatter_to_sequence_parallel_region(padding_mask.T.contiguous()).T
        mask = padding_mask if self.pre_process else self.padding
        return super().forward(*arguments, padding_mask=mask, **named)

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        if self.temperature != 1.0:
            logits = logits / self.temperature
        return super().compute_language_model_loss(labels, logits)


class ScalarModel(CausalLM):
    """The model with a scalar head: minus each position's value stands where a token's loss would."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.post_process:
            self.output_layer = ScalarHead(self.config)

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        return -logits[..., 0].transpose(0, 1)


def build(
    model_class: type[CausalLM],
    config: TransformerConfig,
    model_fields: dict[str, Any],
    first: bool,
    last: bool,
    vp_stage: int | None,
) -> CausalLM:
    """One rank's (virtual) pipeline stage of the model, on the ranks Megatron's groups describe.

    Args:
        model_class: which head it has.
        config: the family's Megatron config.
        model_fields: the family's further arguments of `GPTModel` (vocabulary, positions, tying).
        first: the stage has the embedding.
        last: the stage has the output layer.
        vp_stage: the virtual stage's number, None where there is only one.
    """
    spec = get_gpt_decoder_block_spec(
        config, HAVE_TRANSFORMER_ENGINE, normalization=config.normalization, vp_stage=vp_stage
    )
    mtp_spec = _mtp_spec(config, vp_stage) if config.mtp_num_layers else None
    if not HAVE_TRANSFORMER_ENGINE:
        # Megatron tells a replicated down-projection from a split one by this name.
        multi_latent_attention.TELinear = ReplicatedLinear
        spec, mtp_spec = _in_torch(spec), _in_torch(mtp_spec)
    _mend_padded_expert_count()
    model = model_class(
        config=config,
        transformer_layer_spec=spec,
        mtp_block_spec=mtp_spec,
        pre_process=first,
        post_process=last,
        parallel_output=True,
        vp_stage=vp_stage,
        **model_fields,
    )
    _mark_replicated(model)
    # The model's own alone: with it Megatron takes the draft layers' loss as a sum over tokens, and not as a
    # mean over each row, which would depend on how samples are packed. The policy divides.
    model.config = copy(config)
    model.config.calculate_per_token_loss = True
    return model


def _mtp_spec(config: TransformerConfig, vp_stage: int | None) -> Any:
    """The multi-token-prediction block: each of its layers is built as the model's last layer is."""
    last_layer = get_gpt_decoder_layer_specs(
        config, HAVE_TRANSFORMER_ENGINE, normalization=config.normalization
    )[-1]
    return get_gpt_mtp_block_spec(config, last_layer, HAVE_TRANSFORMER_ENGINE, vp_stage=vp_stage)


_TORCH_LAYERS = {WrappedTorchNorm: RMSNorm, DotProductAttention: PackedAttention}


def _in_torch(spec: Any) -> Any:
    """The spec with Megatron's torch norm, attention and down-projections replaced by ours."""
    if isinstance(spec, list):
        return [_in_torch(part) for part in spec]
    if is_dataclass(spec) and not isinstance(spec, type):
        for item in fields(spec):
            down = item.name in ("linear_q_down_proj", "linear_kv_down_proj")
            setattr(spec, item.name, ReplicatedLinear if down else _in_torch(getattr(spec, item.name)))
        return spec
    return _TORCH_LAYERS.get(spec, spec) if isinstance(spec, type) else spec


def _mark_replicated(model: CausalLM) -> None:
    """Have the down-projections of latent attention counted as what they are, whole on every rank.

    Transformer Engine 2.19 marks the weight of each of its linears as split, also where it is told of no
    tensor parallelism; Megatron's gradient norm would count such a weight once a tensor-parallel rank.
    """
    for module in model.modules():
        if type(module) is multi_latent_attention.TELinear:
            module.weight.tensor_model_parallel = False


def _mend_padded_expert_count() -> None:
    """Count only real tokens into the expert bias.

    Megatron-Core 0.16.1 combines a [tokens, experts] map with a [tokens] mask, which does not
    broadcast; the mask needs its second dimension.
    """

    def apply(self: TopKRouter, routing_map: Tensor, padding_mask: Tensor | None = None) -> None:
        if self.enable_expert_bias and torch.is_grad_enabled():
            with torch.no_grad():
                real = routing_map if padding_mask is None else routing_map & ~padding_mask[:, None]
                self.local_tokens_per_expert += real.sum(dim=0)

    TopKRouter._apply_expert_bias = apply
