"""What the trainer keeps on each rank, by cause and exactly: weights, gradients, optimizer, copies.

As `Policy` has Megatron-Core do it: weights in the run's dtype and gradients in fp32, each in buffers with
their padding; of the optimizer, on the rank that owns an element, two fp32 moments, and an fp32 master
where the weights are bf16. Transformer Engine's layers have the same weights under other names and in
another order; where every weight's size is a multiple of 64 elements, as in all published models, the
order changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from r1mega.config import Dtype
from r1mega.parallel.plan import Plan
from r1mega.planner.buffers import Buffer, lay_out
from r1mega.planner.weights import Chunk, Weight, all_chunks

FP32 = 4
BYTES = {Dtype.fp32: 4, Dtype.bf16: 2}
MOMENTS = 2


@dataclass(frozen=True)
class Stage:
    """What all ranks of a pipeline stage have alike."""

    chunks: Sequence[Chunk]
    dense: Sequence[Buffer]
    """One for each chunk that has any."""
    experts: Sequence[Buffer]
    weight_bytes: int
    """Of one element."""

    @cached_property
    def weights(self) -> list[Weight]:
        """Of all chunks."""
        return list(chain.from_iterable(chunk.weights for chunk in self.chunks))

    @cached_property
    def parameters(self) -> int:
        """Elements of all weights."""
        return sum(weight.elements for weight in self.weights)

    @cached_property
    def bias_elements(self) -> int:
        """Of the routers' biases."""
        return sum(chunk.biases for chunk in self.chunks)

    @cached_property
    def buffered(self) -> int:
        """Elements of the buffers, padding included."""
        return sum(buffer.elements for buffer in (*self.dense, *self.experts))

    @property
    def snapshot_bytes(self) -> int:
        """A copy of the weights and of the routers' biases, as `Policy.snapshot` makes one."""
        return self.parameters * self.weight_bytes + self.bias_elements * FP32

    @property
    def draft_bytes(self) -> int:
        """A copy of the draft layers' weights, with their routers' biases."""
        weights = sum(weight.elements for weight in self.weights if weight.draft) * self.weight_bytes
        return weights + (self.draft_bias_elements * FP32)

    @cached_property
    def draft_bias_elements(self) -> int:
        """Of the routers' biases that are the draft layers'."""
        return sum(chunk.draft_biases for chunk in self.chunks)

    @property
    def gathered_bytes(self) -> int:
        """What a save gathers at a time, in fp32: the largest bucket twice, and a rank's part of it again.

        Megatron gathers into a list of tensors, for which torch's NCCL group has a flat copy of its own.
        """
        buckets = [(b.end - b.start, buffer.ranks) for buffer in self.buffers for b in buffer.buckets]
        return max((2 * elements + elements // ranks) * FP32 for elements, ranks in buckets)

    @property
    def buffers(self) -> list[Buffer]:
        """All of them."""
        return [*self.dense, *self.experts]


class Trainer:
    """A model in a training layout, on paper."""

    def __init__(self, hf: dict[str, Any], plan: Plan, dtype: Dtype) -> None:
        self.hf = hf
        self.plan = plan
        self.dtype = dtype

    @cached_property
    def stages(self) -> list[Stage]:
        """By pipeline rank; those that are alike are one object."""
        chunks = all_chunks(self.hf, self.plan)
        made = {tuple(map(id, of_rank)): self._stage(of_rank) for of_rank in chunks}
        return [made[tuple(map(id, of_rank))] for of_rank in chunks]

    def _stage(self, chunks: Sequence[Chunk]) -> Stage:
        plan = self.plan
        dense = [lay_out([w for w in one.weights if not w.expert], plan.cp * plan.dp) for one in chunks]
        experts = [lay_out([w for w in one.weights if w.expert], plan.expert_dp) for one in chunks]
        return Stage(
            chunks,
            [buffer for buffer in dense if buffer is not None],
            [buffer for buffer in experts if buffer is not None],
            BYTES[self.dtype],
        )

    @cached_property
    def places(self) -> list[tuple[int, int, int]]:
        """By rank, what tells ranks apart: the stage, the part of dense buffers, and that of experts'."""
        # As `Plan.coordinates` has it, which takes a rank at a time: a search asks for thousands of layouts.
        plan = self.plan
        ranks, shard = plan.world_size // plan.pp, plan.etp * plan.ep
        return [(stage, rank // plan.tp, rank // shard) for stage in range(plan.pp) for rank in range(ranks)]

    def stage_of(self, rank: int) -> Stage:
        """The pipeline stage that a rank is of."""
        return self.stages[self.places[rank][0]]

    def weights(self, rank: int) -> int:
        """Bytes of the buffers that hold the weights."""
        return self.stage_of(rank).buffered * BYTES[self.dtype]

    def router_state(self, rank: int) -> int:
        """Bytes of the routers' biases, and of the counts of tokens that move them."""
        return 2 * self.stage_of(rank).bias_elements * FP32

    def gradients(self, rank: int) -> int:
        """Bytes of the buffers that gradients are summed up in."""
        return self.stage_of(rank).buffered * FP32

    def optimizer(self, rank: int) -> int:
        """Bytes of the optimizer's state."""
        return self.owned(rank) * (MOMENTS + (self.dtype is Dtype.bf16)) * FP32

    def owned(self, rank: int) -> int:
        """Elements of which the rank keeps the optimizer's state."""
        stage, of_dense, of_experts = self.stage_of(rank), *self.places[rank][1:]
        dense = sum(buffer.owned(of_dense) for buffer in stage.dense)
        return dense + sum(buffer.owned(of_experts) for buffer in stage.experts)

    def frozen(self, rank: int) -> int:
        """Bytes of a model that only scores: no buffers, no padding."""
        return self.stage_of(rank).snapshot_bytes + self.stage_of(rank).bias_elements * FP32
