"""What the backward pass computes again instead of keeping it: `train.recompute`, in Megatron's words.

It changes no number (`tests/dist/test_recompute.py`). Importing this needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from r1mega.config import FULL_RECOMPUTE, RECOMPUTE_MODULES
from r1mega.model.family import family_of

_NEEDS = {
    "mla_up_proj": ("linear_kv_up_proj.", "latent attention"),
    "mlp": ("}.mlp.linear_fc1.", "layer without experts"),
    "moe": ("mlp.router.", "experts"),
    "moe_act": ("mlp.router.", "experts"),
    "shared_experts": ("shared_experts.", "shared experts"),
}
"""What a model must have for a module to be in it: how its weights are named, and what that is."""
_BY_TRANSFORMER_ENGINE = ("layernorm", "moe_act")
"""Modules whose output Megatron frees in a way of Transformer Engine's, or that its grouped experts have."""


def megatron_fields(modules: Sequence[str]) -> dict[str, Any]:
    """Megatron's fields of it; none where all is kept."""
    if not modules:
        return {}
    if list(modules) == [FULL_RECOMPUTE]:
        return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return {"recompute_granularity": "selective", "recompute_modules": list(modules)}


def faults(modules: Sequence[str], hf: dict[str, Any] | None, *, has_transformer_engine: bool) -> list[str]:
    """What cannot be computed again.

    Args:
        hf: the model's HF fields; None where these are not known.
        has_transformer_engine: where the model will be built.
    """
    was = f"train.recompute: was {list(modules)};"
    found = [
        f"{was} no {name} is known; it may be [{FULL_RECOMPUTE}], or some of {', '.join(RECOMPUTE_MODULES)}"
        for name in modules
        if name not in (FULL_RECOMPUTE, *RECOMPUTE_MODULES)
    ]
    if FULL_RECOMPUTE in modules and len(modules) > 1:
        found.append(f"{was} {FULL_RECOMPUTE} is of whole layers, so it must stand alone")
    if modules and hf is not None:
        names = [row.megatron for row in family_of(hf).weight_table(hf) if row.layers]
        found += [
            f"{was} {module} cannot be, the model has no {what}"
            for module, (part, what) in _NEEDS.items()
            if module in modules and not any(part in name for name in names)
        ]
    if not has_transformer_engine:
        found += [
            f"{was} {module} cannot be, it needs Transformer Engine, which is not installed here"
            for module in _BY_TRANSFORMER_ENGINE
            if module in modules
        ]
    return found
