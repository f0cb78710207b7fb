"""FP8: how each recipe of `precision.fp8` scales, what it needs, and Megatron's fields that choose it.

With any of them, the linear layers inside decoder layers and experts multiply in 8 bits by Transformer
Engine, forward and backward, and sum in more. What does not, as in DeepSeek-V3 (arXiv 2412.19437, section
3.3.1): the embedding, the output layer, the router, norms and the attention between queries and keys.
Weights, gradients and the optimizer's state are what they are without FP8: a weight is kept in bf16 and
rounded to 8 bits where it is multiplied, so hand-over, checkpoints and proofs see no difference.
docs/fp8.md says where in Megatron-Core each of these is decided.

Importing this needs no torch. Not measured on GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

from r1mega.config import Fp8, PrecisionConfig
from r1mega.model.extras import is_there
from r1mega.parallel.plan import Plan
from r1mega.weights.table import Row

LOSS_TOLERANCE = 0.0025
"""How far the loss may be from that of bf16, relative to it: the bar of DeepSeek-V3 (arXiv 2412.19437)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to scale.

    Attributes:
        number_format: Megatron's `fp8`: e4m3 throughout, or `hybrid`, where gradients are e5m2.
        side: what both sides of a rank's matrix are a multiple of, in numbers.
        width: the same of a rank's share of the hidden and feed-forward widths.
        tokens: the same of the tokens that a linear layer sees.
        expert_tokens: the same of those that a router sees; Megatron's `get_fp8_align_size`.
        available: Transformer Engine's function that says whether this GPU has it, and if not, why.
        fields: further fields of Megatron's config.
    """

    number_format: str
    side: int = 16
    width: int = 16
    tokens: int = 16
    expert_tokens: int = 16
    available: str = "is_fp8_available"
    fields: tuple[tuple[str, Any], ...] = ()


RECIPES = {
    Fp8.tensorwise: Recipe(number_format="hybrid"),
    # The scale is of the largest of 1,024 steps, Transformer Engine's default; Megatron's is of the last.
    Fp8.delayed: Recipe(
        number_format="hybrid",
        fields=(("fp8_amax_history_len", 1024), ("fp8_amax_compute_algo", "max")),
    ),
    # A matrix may end within a block, as DeepSeek-V3's latent of 576 does; the widths that most products sum
    # over are whole blocks.
    Fp8.blockwise: Recipe(
        number_format="e4m3", width=128, tokens=128, available="is_fp8_block_scaling_available"
    ),
    Fp8.mxfp8: Recipe(
        number_format="e4m3",
        side=32,
        width=32,
        tokens=32,
        expert_tokens=32,
        available="is_mxfp8_available",
    ),
}


def megatron_fields(precision: PrecisionConfig, experts: bool) -> dict[str, Any]:
    """Megatron's fields of the recipe; none without FP8.

    Args:
        experts: the model has routed ones.
    """
    if precision.fp8 is Fp8.none:
        return {}
    recipe = RECIPES[precision.fp8]
    first, last = precision.bf16_first_layers, precision.bf16_last_layers
    return {
        "fp8": recipe.number_format,
        "fp8_recipe": precision.fp8.value,
        "fp8_param": False,
        "fp8_dot_product_attention": False,
        "fp8_multi_head_attention": False,
        "first_last_layers_bf16": first + last > 0,
        "num_layers_at_start_in_bf16": first,
        "num_layers_at_end_in_bf16": last,
        # An expert's tokens are a whole number of tiles: it is sent some more, whose weight is 0.
        "moe_router_padding_for_quantization": experts,
        **dict(recipe.fields),
    }


def tokens_multiple(fp8: Fp8, tp: int) -> int:
    """What a context-parallel rank's part of a row is a multiple of in tokens; 1 without FP8.

    Linear layers see all of that part, a router its tensor-parallel rank's share.
    """
    if fp8 is Fp8.none:
        return 1
    return lcm(RECIPES[fp8].tokens, tp * RECIPES[fp8].expert_tokens)


def layer_faults(precision: PrecisionConfig, plan: Plan, layers: int) -> Iterator[str]:
    """Why these layers cannot be the ones kept in bf16; nothing where they can.

    Args:
        layers: how many the model has.
    """
    fp8, most = precision.fp8, layers // plan.pp
    first, last = precision.bf16_first_layers, precision.bf16_last_layers
    for key, count in {"bf16_first_layers": first, "bf16_last_layers": last}.items():
        was = f"precision.{key}: was {count};"
        if count < 0:
            yield f"{was} must be at least 0"
        elif count and fp8 is Fp8.none:
            yield f"{was} without precision.fp8 no layer is below precision.dtype, so it must be 0"
        elif count and fp8 is Fp8.delayed:
            yield f"{was} with precision.fp8 = delayed all layers share one course of scales, so it must be 0"
        elif count > most:
            yield f"{was} Megatron takes at most {layers} layers / parallel.pp {plan.pp} = {most}"
    if first + last > layers:
        yield (
            f"precision.bf16_first_layers: was {first}; with bf16_last_layers = {last} it is more than the"
            f" {layers} layers there are"
        )


def size_faults(fp8: Fp8, plan: Plan, widths: Sequence[int], table: Sequence[Row]) -> Iterator[str]:
    """Why a rank's matrices cannot be multiplied so; nothing where they can.

    Args:
        widths: a rank's share of the hidden and feed-forward widths.
        table: the model's weights, which the layout divides.
    """
    if fp8 is Fp8.none:
        return
    recipe, was = RECIPES[fp8], f"precision.fp8: was {fp8};"
    for width in sorted({width for width in widths if width % recipe.width}):
        yield (
            f"{was} a rank's share of a hidden or feed-forward width is {width}, which must be a multiple of"
            f" {recipe.width} (model.hf, parallel.tp, parallel.etp)"
        )
    sizes = {row.hf[-1]: _sides(row, plan) for row in table if _is_in_fp8(row)}
    for name, sides in sizes.items():
        if any(side % recipe.side for side in sides):
            yield (
                f"{was} {name} is {' x '.join(map(str, sides))} on a rank,"
                f" and both must be multiples of {recipe.side}"
            )


def _is_in_fp8(row: Row) -> bool:
    """A matrix inside a layer, but not the router's."""
    return row.layers is not None and len(row.shapes[0]) > 1 and "router" not in row.megatron


def _sides(row: Row, plan: Plan) -> tuple[int, int]:
    """Of the matrix that a rank has, all parts in one."""
    parts = list(row.parts(row.hf, 0, plan.etp if row.experts else plan.tp))
    return sum(part.size[0] for part in parts), parts[0].size[1]


def machine_fault(fp8: Fp8) -> str | None:
    """Why this rank's GPU and packages cannot run the recipe; None where they can, or there is no FP8."""
    if fp8 is Fp8.none:
        return None
    if not is_there("transformer_engine"):
        return (
            f"precision.fp8: was {fp8}; it needs the package transformer-engine, which is not installed here"
            " (pyproject.toml's extras cu12 and cu13 have it)"
        )
    engine = importlib.import_module("transformer_engine.pytorch")
    there, reason = getattr(engine, RECIPES[fp8].available)(return_reason=True)
    return None if there else f"precision.fp8: was {fp8}; Transformer Engine says of this GPU: {reason}"
