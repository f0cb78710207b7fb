"""Megatron's contiguous buffers: where each weight lies in one, with its padding, and who owns which part.

With the distributed optimizer a model chunk's weights, and their gradients, lie in one buffer for what is
dense and one for experts. It is cut into buckets, each into as many equal parts as there are data-parallel
ranks, and a rank keeps the optimizer's state of the weights in its parts. This is the arithmetic of
Megatron-Core 0.16's `param_and_grad_buffer.py`, as `Policy` configures it: all in one bucket, but for a
shared embedding, which has its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import lcm

from r1mega.planner.weights import Weight

WEIGHT_MULTIPLE = 64
"""A weight begins at a multiple of so many elements."""
BUCKET_MULTIPLE = 128
"""A bucket ends at a multiple of so many, and of its ranks."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Part of a buffer that is reduced in one go."""

    start: int
    end: int
    """With its padding."""
    unpadded: int
    """Up to the end of its last weight."""
    starts: tuple[int, ...]
    """Of its weights."""
    before: tuple[int, ...]
    """Elements of all weights before each of them, and of all."""

    def owned(self, rank: int, ranks: int) -> int:
        """Elements of weights in one of its equal parts."""
        part = (self.end - self.start) // ranks
        first = self.start + rank * part
        return self._until(first + part) - self._until(first)

    def _until(self, position: int) -> int:
        """Elements of weights that lie before a position."""
        index = bisect_right(self.starts, position) - 1
        if index < 0:
            return 0
        size = self.before[index + 1] - self.before[index]
        return self.before[index] + min(size, position - self.starts[index])


@dataclass(frozen=True, slots=True)
class Buffer:
    """All buckets of a chunk's dense weights, or of its experts'."""

    buckets: tuple[Bucket, ...]
    ranks: int

    @property
    def elements(self) -> int:
        """With all padding: what is allocated, once for weights and once for gradients."""
        return self.buckets[-1].end

    @property
    def unpadded(self) -> int:
        """Without the padding at the ends of buckets: what a save gathers."""
        return sum(bucket.unpadded for bucket in self.buckets)

    def owned(self, rank: int) -> int:
        """Elements whose optimizer state one of the data-parallel ranks keeps."""
        return sum(bucket.owned(rank, self.ranks) for bucket in self.buckets)


def lay_out(weights: Sequence[Weight], ranks: int) -> Buffer | None:
    """The buffer of these weights; None where there are none.

    Args:
        weights: in Megatron's order.
        ranks: of the data-parallel group that shares it.
    """
    runs: list[list[Weight]] = [[]]
    for weight in reversed(weights):  # as gradients come
        if weight.shared:
            runs += [[weight], []]
        else:
            runs[-1].append(weight)
    buckets: list[Bucket] = []
    runs = [run for run in runs if run]
    for number, run in enumerate(runs):
        aligned = number + 1 < len(runs) and runs[number + 1][0].shared
        buckets.append(_bucket(run, buckets[-1].end if buckets else 0, ranks, aligned))
    return Buffer(tuple(buckets), ranks) if buckets else None


def _bucket(weights: Sequence[Weight], start: int, ranks: int, aligned: bool) -> Bucket:
    """The bucket of these weights; `aligned`: its end is counted up to where a next weight would begin."""
    starts, at = [], start
    for weight in weights:
        at += -at % WEIGHT_MULTIPLE
        starts.append(at)
        at += weight.elements
    at += -at % WEIGHT_MULTIPLE if aligned else 0
    before = (0, *accumulate(weight.elements for weight in weights))
    return Bucket(start, at + -at % lcm(ranks, BUCKET_MULTIPLE), at - start, tuple(starts), before)
