"""What an engine's worker keeps: its part of the weights, and the cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any

from r1mega.config import Config, Dtype
from r1mega.model.family import family_of
from r1mega.parallel.plan import RolloutPlan
from r1mega.planner.training import BYTES, FP32
from r1mega.planner.weights import ROUTER_BIAS, weight_table
from r1mega.weights.fp8_names import is_quantised, scale_shape
from r1mega.weights.groups import grouped, reading_order
from r1mega.weights.paper import needed_on_paper, rows_of_stage
from r1mega.weights.table import Row, Served
from r1mega.weights.transfer import Box


def worker_weights(hf: dict[str, Any], rollout: RolloutPlan, config: Config) -> list[int]:
    """Bytes of each of an engine's workers' weights, as its loader takes them; a kernel may pad them more."""
    rows, heads = served(weight_table(hf)), family_of(hf).shape(hf).key_value_heads
    one = replace(rollout, replicas=1, pp=1)
    found: list[int] = []
    for stage in range(rollout.pp):
        of_stage = tuple(rows_of_stage(rows, rollout, stage))
        found += _stage_weights(of_stage, heads, one, config.precision.dtype, config.rollout.fp8_weights)
    return found


# A search asks for the same engines beside thousands of the trainer's layouts.
@lru_cache
def _stage_weights(
    rows: tuple[Row, ...], heads: int | None, rollout: RolloutPlan, dtype: Dtype, fp8: bool
) -> tuple[int, ...]:
    """Those of the workers of one pipeline stage, which has these rows."""
    found = [0] * rollout.tp
    seen: set[tuple[str, ...]] = set()
    for row in rows:
        if row.layers is None and row.hf in seen:
            continue  # a head that is the embedding again
        seen.add(row.hf)
        sample, copies = _sample(row, rollout)
        width = _element_bytes(row, dtype)
        for worker, boxes in enumerate(needed_on_paper([sample], rollout, heads)):
            found[worker] += copies * sum(_box_bytes(box, width, fp8=fp8) for box in boxes)
    return tuple(found)


def served(table: Sequence[Row]) -> list[Row]:
    """The rows of what an engine holds."""
    return [row for row in table if not row.fused and row.served is Served.engine]


def bytes_of_a_token(hf: dict[str, Any], rollout: RolloutPlan, config: Config) -> int:
    """What a worker's cache keeps of one token: with latent attention the latent, the same on each worker.

    Of a pipeline's stages that with the most layers; vLLM gives all as many blocks as that one can have.
    """
    fields, width = family_of(hf).read(hf), BYTES[config.precision.dtype]
    if "kv_lora_rank" in fields:
        each = fields["kv_lora_rank"] + fields["qk_rope_head_dim"]
    else:
        each = 2 * max(1, fields["num_key_value_heads"] // rollout.tp) * fields["head_dim"]
    layers = fields["num_hidden_layers"]
    return int(max(len(rollout.layers_of(stage, layers)) for stage in range(rollout.pp)) * each * width)


def gathered_bytes(hf: dict[str, Any], config: Config) -> int:
    """What a hand-over on GPUs gathers, whole tensors, on every rank: a group, while the last is still held.

    FP8 codes are made of a group that is whole, and stand beside it.
    """
    rows = served(weight_table(hf))
    of_layer: dict[int, tuple[Row, ...]] = {}
    for row in rows:
        for layer in row.layers or ():
            of_layer[layer] = (*of_layer.get(layer, ()), row)
    sizes = config.precision.dtype, config.rollout.fp8_weights, config.handover.buffer_bytes
    kinds = {kind: _groups(kind, *sizes) for kind in {*of_layer.values()}}
    norm = tuple(row for row in rows if row.layers is None and "norm" in row.megatron)
    others = tuple(row for row in rows if row.layers is None and row not in norm)
    groups = [*_groups(others, *sizes)]
    for layer in sorted(of_layer):
        groups += kinds[of_layer[layer]]
    groups += _groups(norm, *sizes)
    return max(max(one[0] + two[0] + one[1], two[0] + one[1] + two[1]) for one, two in pairwise(groups))


@lru_cache
def _groups(rows: tuple[Row, ...], dtype: Dtype, fp8: bool, most_bytes: int) -> tuple[tuple[int, int], ...]:
    """Of each group of a layer's tensors, or of those of none: its bytes, and those of its FP8 codes."""
    plain: dict[str, int] = {}
    quantised: dict[str, int] = {}
    for row in rows:
        for expert in range(row.experts or 1):
            for name, shape in zip(row.named({"l": 0, "e": expert}), row.shapes, strict=True):
                box = Box(name, (0,) * len(shape), shape)
                plain[name] = _box_bytes(box, _element_bytes(row, dtype), fp8=False)
                if fp8 and is_quantised(name):
                    quantised[name] = _box_bytes(box, 0, fp8=True)
    in_order = sorted(plain.items(), key=lambda tensor: reading_order(tensor[0]))
    return tuple(
        (sum(size for _, size in group), sum(quantised.get(name, 0) for name, _ in group))
        for group in grouped(in_order, most_bytes)
    )


def largest_tensor(hf: dict[str, Any], config: Config) -> int:
    """Bytes of the largest tensor that an engine is sent."""
    dtype, fp8 = config.precision.dtype, config.rollout.fp8_weights
    return max(
        _box_bytes(Box(name, (0,) * len(shape), shape), _element_bytes(row, dtype), fp8=fp8)
        for row in served(weight_table(hf))
        for name, shape in zip(row.hf, row.shapes, strict=True)
    )


def _sample(row: Row, rollout: RolloutPlan) -> tuple[Row, int]:
    """The row with one layer, and an expert for each that gets whole ones; how many times it stands."""
    copies = 1 if row.layers is None else len(row.layers)
    if row.experts:
        copies *= row.experts // rollout.ep
        row = replace(row, experts=rollout.ep)
    return replace(row, layers=row.layers if row.layers is None else row.layers[:1]), copies


def _element_bytes(row: Row, dtype: Dtype) -> int:
    return FP32 if row.megatron.endswith(ROUTER_BIAS) else BYTES[dtype]


def _box_bytes(box: Box, element_bytes: int, *, fp8: bool) -> int:
    if fp8 and is_quantised(box.name):
        return prod(box.size) + FP32 * prod(scale_shape(box.size))
    return prod(box.size) * element_bytes
