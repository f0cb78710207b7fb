"""A hand-over on paper: who would hold and who would need what, for a model that nobody has built.

From the weight table and the two layouts alone come the same boxes that a model at hand would give
(tests hold them against it), so the plan of a hand-over between thousands of GPUs is made, and its loads
are known, before the first of them is allocated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from r1mega.parallel.plan import Plan, RolloutPlan, stage_of_last_norm, stage_of_layer
from r1mega.weights.table import Row, Served
from r1mega.weights.transfer import Box

WORDS_PADDED_TO = 64
"""vLLM pads the vocabulary to a multiple of so many words before it splits it (`pad_vocab_size`)."""


def held_on_paper(table: Sequence[Row], plan: Plan, layers: int) -> dict[Box, list[int]]:
    """What the trainer's ranks hold of the weights that engines need, and who holds each box.

    Args:
        table: the family's.
        plan: the training layout.
        layers: of the model.
    """
    held: dict[Box, set[int]] = defaultdict(set)  # one rank may have a tied embedding twice
    by_tp, by_expert = _ranks_by_shard(plan)
    drafts = sum(row.served is Served.draft for row in table)
    norm_stage, _ = stage_of_last_norm(plan, layers, drafts)
    for row in table:
        if row.fused or row.served is not Served.engine:
            continue
        for stage, indices in _places(row, plan, layers, norm_stage):
            names = row.named(indices)
            if row.experts:
                ranks_of = by_expert[stage, indices["e"] // (row.experts // plan.ep)]
            else:
                ranks_of = by_tp[stage]
            if row.split is None:
                ranks_of = [[rank for ranks in ranks_of for rank in ranks]]
            for shard, ranks in enumerate(ranks_of):
                for part in row.parts(names, shard, len(ranks_of)):
                    held[Box(part.name, part.start, part.size)].update(ranks)
    return {box: sorted(ranks) for box, ranks in held.items()}


def needed_on_paper(
    table: Sequence[Row], rollout: RolloutPlan, key_value_heads: int | None
) -> list[list[Box]]:
    """What the engines' workers need, one after the other, the workers of an engine side by side.

    vLLM splits what Megatron splits, over its own number of workers, the vocabulary with its padding; it
    repeats the heads of keys and values where there are fewer of them than workers, and deals experts out
    whole where `rollout.ep` is above 1. Of a pipeline the workers of a stage follow each other; a head that
    is the embedding again is on the first stage and on the last.
    """
    rows = [row for row in table if not row.fused and row.served is Served.engine]
    of_engine = []
    for stage in range(rollout.pp):
        of_stage = rows_of_stage(rows, rollout, stage)
        for worker in range(rollout.tp):
            boxes: dict[Box, None] = {}  # a tied embedding has two rows and one tensor
            for row in of_stage:
                for indices in _indices(row, worker, rollout):
                    for box in _worker_boxes(row, row.named(indices), worker, rollout, key_value_heads):
                        boxes[box] = None
            of_engine.append(list(boxes))
    return of_engine * rollout.replicas


def rows_of_stage(rows: Sequence[Row], rollout: RolloutPlan, stage: int) -> list[Row]:
    """Of the rows that an engine takes, those of a pipeline stage, each with the layers that it has there."""
    layers = 1 + max(chain.from_iterable(row.layers or () for row in rows), default=-1)
    mine = rollout.layers_of(stage, layers)
    found = []
    for row in rows:
        if row.layers is not None:
            here = tuple(layer for layer in row.layers if layer in mine)
            found += [replace(row, layers=here)] if here else []
        elif stage == (0 if row.megatron.startswith("embedding.") else rollout.pp - 1):
            found.append(row)
    return found


def _ranks_by_shard(plan: Plan) -> tuple[dict[int, list[list[int]]], dict[tuple[int, int], list[list[int]]]]:
    """By stage, and by stage and expert-parallel rank: for each tensor-parallel shard, who holds it."""
    by_tp: dict[int, list[list[int]]] = {s: [[] for _ in range(plan.tp)] for s in range(plan.pp)}
    by_expert: dict[tuple[int, int], list[list[int]]] = {
        (s, e): [[] for _ in range(plan.etp)] for s in range(plan.pp) for e in range(plan.ep)
    }
    for rank in range(plan.world_size):
        at = plan.coordinates(rank)
        by_tp[at["pp"]][at["tp"]].append(rank)
        by_expert[at["pp"], at["ep"]][at["etp"]].append(rank)
    return by_tp, by_expert


def _places(row: Row, plan: Plan, layers: int, norm_stage: int) -> Iterator[tuple[int, dict[str, int]]]:
    """The stages that hold weights of a row, with the layer and the expert of each."""
    if row.layers is None:
        outer = {"embedding": 0, "decoder": norm_stage, "output_layer": plan.pp - 1}
        yield outer[row.megatron.split(".")[0]], {}
        return
    for layer in row.layers:
        stage, _ = stage_of_layer(plan, layers, layer)
        for expert in range(row.experts or 1):
            yield stage, {"l": layer, "e": expert}


def _indices(row: Row, worker: int, rollout: RolloutPlan) -> Iterator[dict[str, int]]:
    """The layers and experts of a row that a worker has some of."""
    each = row.experts // rollout.ep if row.experts else 1
    first = worker * each if row.experts and rollout.ep > 1 else 0
    for layer in row.layers if row.layers is not None else (0,):
        for expert in range(first, first + each):
            yield {"l": layer, "e": expert}


def _worker_boxes(
    row: Row, names: Sequence[str], worker: int, rollout: RolloutPlan, key_value_heads: int | None
) -> Iterator[Box]:
    whole = row.split is None or (row.experts > 0 and rollout.ep > 1)
    for number, (name, shape) in enumerate(zip(names, row.shapes, strict=True)):
        start, size = [0] * len(shape), list(shape)
        if not whole:
            ranks, rank = rollout.tp, worker
            if row.runs and number > 0 and key_value_heads and key_value_heads < ranks:
                ranks, rank = key_value_heads, worker // (ranks // key_value_heads)
            dim = row.split or 0
            padded = -(-size[dim] // WORDS_PADDED_TO) * WORDS_PADDED_TO if row.layers is None else size[dim]
            each = padded // ranks
            start[dim] = min(rank * each, size[dim])
            size[dim] = min(each, size[dim] - start[dim])
        if all(size):  # a small vocabulary's padding may be all that a worker has
            yield Box(name, tuple(start), tuple(size))
