"""Megatron's config of a model in a run and a layout, and this rank's part of the model by it."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig

from r1mega.config import Backend, Config, Dtype
from r1mega.model import extras, precision, recompute, spec
from r1mega.model.family import family_of
from r1mega.model.scalar import is_scalar
from r1mega.parallel.plan import ModelShape, Plan, stages

DTYPES = {Dtype.fp32: torch.float32, Dtype.bf16: torch.bfloat16}
"""torch's, by what a run says."""


def megatron_config(config: Config, hf: dict[str, Any], plan: Plan) -> TransformerConfig:
    """Megatron's config of the model in this run and layout."""
    family = family_of(hf)
    dtype = DTYPES[config.precision.dtype]
    return family.megatron_config(hf, **_run_fields(config, plan, family.shape(hf), dtype))


def build_models(config: TransformerConfig, hf: dict[str, Any], plan: Plan) -> list[spec.CausalLM]:
    """This rank's (virtual) pipeline stages, with Megatron's own first weights; its groups must be open."""
    virtual = range(plan.vpp) if plan.vpp > 1 else [None]
    fields = family_of(hf).gpt_fields(hf)
    return [
        spec.build(
            spec.ScalarModel if is_scalar(hf) else spec.CausalLM,
            config,
            fields,
            first=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
            last=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
            vp_stage=stage,
        )
        for stage in virtual
    ]


def _run_fields(config: Config, plan: Plan, shape: ModelShape, dtype: torch.dtype) -> dict[str, Any]:
    """The part of Megatron's config that the run decides."""
    layout = stages(plan, shape.layers, shape.draft_layers)
    return {
        "params_dtype": dtype,
        "pipeline_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "tensor_model_parallel_size": plan.tp,
        "pipeline_model_parallel_size": plan.pp,
        "virtual_pipeline_model_parallel_size": plan.vpp if plan.vpp > 1 else None,
        "pipeline_model_parallel_layout": layout if plan.pp > 1 else None,
        "context_parallel_size": plan.cp,
        "expert_model_parallel_size": plan.ep,
        "expert_tensor_parallel_size": plan.etp,
        # Megatron's MoE under tensor parallelism requires it.
        "sequence_parallel": plan.tp > 1,
        "variable_seq_lengths": True,
        "moe_router_bias_update_rate": config.model.expert_bias_update_rate,
        "moe_grouped_gemm": spec.HAVE_TRANSFORMER_ENGINE,
        "transformer_impl": "transformer_engine" if spec.HAVE_TRANSFORMER_ENGINE else "local",
        "use_cpu_initialization": True,
        "gradient_accumulation_fusion": False,
        # On GPUs attention without atomics would not take rows of long samples (docs/fp8.md).
        "deterministic_mode": config.cluster.backend is Backend.cpu,
        **recompute.megatron_fields(config.train.recompute),
        **precision.megatron_fields(config.precision, shape.experts > 0),
        **extras.dispatch_fields(plan, on_gpu=config.cluster.backend is Backend.cuda),
    }
