"""Which weights Megatron builds on a rank, and in which order, from a family's weight table and a layout.

What holds (`tests/dist/test_planner.py`, against real models): number, size and order are those of the model
that a rank builds. Megatron lays weights out in a buffer in this order, so a rank's share of the optimizer's
state, down to the element, follows from it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from math import prod
from operator import itemgetter
from typing import Any

from r1mega.model.family import family_of
from r1mega.parallel.plan import Plan, stage_of_last_norm, stage_of_layer
from r1mega.weights.table import Row, Served

ROUTER_BIAS = "router.expert_bias"
"""No parameter: a buffer of each router in fp32, beside another that counts tokens."""

_IN_A_LAYER = (
    "enorm.",
    "hnorm.",
    "eh_proj.",
    "input_layernorm.",
    "self_attention.linear_proj.",
    "self_attention.linear_q_proj.",
    "self_attention.linear_q_down_proj.",
    "self_attention.linear_q_up_proj.",
    "self_attention.linear_kv_down_proj.",
    "self_attention.linear_kv_up_proj.",
    "self_attention.linear_qkv.weight",
    "self_attention.linear_qkv.bias",
    "self_attention.q_layernorm.",
    "self_attention.k_layernorm.",
    "self_attention.kv_layernorm.",
    "pre_mlp_layernorm.",
    "mlp.router.",
    "mlp.experts.",
    "mlp.shared_experts.linear_fc1.",
    "mlp.shared_experts.linear_fc2.",
    "mlp.linear_fc1.",
    "mlp.linear_fc2.",
    "final_layernorm.",
)
"""Modules of a layer in the order in which Megatron makes them."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A parameter, as one rank has it."""

    elements: int
    split: bool
    """Whether tensor parallelism splits it; else all ranks of a group have it whole."""
    expert: bool
    draft: bool
    """Of a multi-token-prediction layer."""
    shared: bool = False
    """One of two copies of the embedding, on the first and the last pipeline stage."""
    copy: bool = False
    """The second of those two."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A (virtual) pipeline stage of the model, on one rank; in other shards it has as much."""

    weights: tuple[Weight, ...]
    """In the order in which Megatron makes them."""
    biases: int
    """Elements of its routers' biases."""
    draft_biases: int
    """Of them, those of draft layers."""


def weight_table(hf: dict[str, Any]) -> list[Row]:
    """The family's, made once: a search asks for it with thousands of layouts."""
    return _table(json.dumps(hf, sort_keys=True))


@lru_cache
def _table(fields: str) -> list[Row]:
    hf = json.loads(fields)
    return family_of(hf).weight_table(hf)


def all_chunks(hf: dict[str, Any], plan: Plan) -> list[list[Chunk]]:
    """By pipeline rank, the chunks that each of its ranks builds; chunks that are alike are one object.

    Args:
        hf: the model's HF fields.
    """
    parts = layers_by_chunk(hf, plan)
    made = {part: _chunk(part, plan) for part in {*chain.from_iterable(parts)}}
    return [[made[part] for part in of_rank] for of_rank in parts]


def whole_rows(hf: dict[str, Any]) -> Iterator[tuple[Row, int]]:
    """The rows of the whole model's weights, each once, with how many times each row stands.

    A head that is the embedding again is left out.
    """
    seen: set[tuple[str, ...]] = set()
    for row in weight_table(hf):
        if row.fused or (row.layers is None and row.hf in seen):
            continue
        seen.add(row.hf)
        yield row, (1 if row.layers is None else len(row.layers)) * (row.experts or 1)


def model_parameters(hf: dict[str, Any]) -> tuple[int, int]:
    """Parameters of the whole model, each once, as HF counts them: of the model, and of its draft layers.

    The router's bias is among them, as in a checkpoint.
    """
    counted = Counter[bool]()
    for row, copies in whole_rows(hf):
        counted[row.served is Served.draft] += _elements(row, 1) * copies
    return counted[False], counted[True]


def model_biases(hf: dict[str, Any]) -> int:
    """Elements of all routers' biases; `model_parameters` counts them in."""
    rows = [row for row in weight_table(hf) if row.megatron.endswith(ROUTER_BIAS)]
    return sum(sum(prod(shape) for shape in row.shapes) * len(row.layers or ()) for row in rows)


_Part = tuple["Layer", ...]
"""What a chunk is made of, in order."""


@dataclass(frozen=True)
class Layer:
    """The rows of a layer, or of what belongs to none; layers of the same rows are alike."""

    rows: tuple[Row, ...]
    shared: bool = False
    copy: bool = False


def layers_by_chunk(hf: dict[str, Any], plan: Plan) -> list[list[_Part]]:
    """By pipeline rank and virtual stage, what a chunk is made of; layers that are alike are equal."""
    family = family_of(hf)
    table = [row for row in weight_table(hf) if not row.fused]
    shape = family.shape(hf)
    [embedding] = [row for row in table if row.megatron.startswith("embedding.")]
    [head] = [row for row in table if row.megatron.startswith("output_layer.")]
    [norm] = [row for row in table if row.megatron.startswith("decoder.final_layernorm.")]
    parts: list[list[list[Layer]]] = [[[] for _ in range(plan.vpp)] for _ in range(plan.pp)]
    first, last = parts[0][0], parts[-1][-1]
    # Of a pipeline's two ends, both need the embedding: for a tied head, or for the draft layers' input.
    piped, tied, drafts = plan.pp > 1, head.hf == embedding.hf, shape.draft_layers > 0
    first.append(Layer((embedding,), shared=piped and (tied or drafts)))
    if piped and drafts:
        last.append(Layer((embedding,), shared=True, copy=True))
    decoder = _layers([row for row in table if "{l}" in row.megatron])
    for number in range(shape.layers):
        stage, virtual = stage_of_layer(plan, shape.layers, number)
        parts[stage][virtual].append(decoder[number])
    stage, virtual = stage_of_last_norm(plan, shape.layers, shape.draft_layers)
    parts[stage][virtual].append(Layer((norm,)))
    draft = _layers([row for row in table if "{m}" in row.megatron])
    last += [draft[number] for number in range(shape.draft_layers)]
    if piped or not tied:
        last.append(Layer((head,), shared=piped and tied, copy=piped and tied))
    return [[tuple(part) for part in of_rank] for of_rank in parts]


def _layers(rows: Sequence[Row]) -> dict[int, Layer]:
    """By number, each layer's rows."""
    of_layer: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        for number in row.layers or ():
            of_layer[number].append(index)
    kinds = {kind: Layer(tuple(rows[i] for i in kind)) for kind in {tuple(one) for one in of_layer.values()}}
    return {number: kinds[tuple(kind)] for number, kind in of_layer.items()}


def _chunk(part: _Part, plan: Plan) -> Chunk:
    layers = {layer: _layer_weights(layer, plan) for layer in {*part}}
    biases = draft_biases = 0
    for layer in part:
        for row in layer.rows:
            if row.megatron.endswith(ROUTER_BIAS):
                biases += _elements(row, 1)
                draft_biases += _elements(row, 1) if row.served is Served.draft else 0
    return Chunk(tuple(chain.from_iterable(layers[layer] for layer in part)), biases, draft_biases)


def _layer_weights(layer: Layer, plan: Plan) -> list[Weight]:
    """The layer's weights on a rank, in Megatron's order: expert by expert, of each the first of its two."""
    placed: list[tuple[tuple[int, int, int], Weight]] = []
    for row in layer.rows:
        if row.megatron.endswith(ROUTER_BIAS):
            continue
        ranks = (plan.etp if row.experts else plan.tp) if row.split is not None else 1
        weight = Weight(
            _elements(row, ranks),
            split=row.split is not None,
            expert=row.experts > 0,
            draft=row.served is Served.draft,
            shared=layer.shared,
            copy=layer.copy,
        )
        module, second = _order(row.megatron) if row.layers is not None else (0, 0)
        experts = range(row.experts // plan.ep if row.experts else 1)
        placed += [((module, expert, second), weight) for expert in experts]
    return [weight for _, weight in sorted(placed, key=itemgetter(0))]


def _elements(row: Row, ranks: int) -> int:
    return sum(prod(shape) for shape in row.shapes) // ranks


def _order(megatron: str) -> tuple[int, int]:
    """Where a weight stands in its layer: in which module, and of an expert's two which."""
    inside = megatron.split("}.", 1)[1].removeprefix("transformer_layer.")
    module = next(number for number, start in enumerate(_IN_A_LAYER) if inside.startswith(start))
    return module, int(inside.startswith("mlp.experts.") and ".linear_fc2." in inside)
