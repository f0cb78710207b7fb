"""Who sends what to whom: a plan computed once, from who holds what and who needs what.

Senders are the trainer's ranks, receivers the engines' workers. The plan's invariants, asserted by its
tests: every byte that a receiver needs is sent to it exactly once; a box that several ranks hold is sent
by the least loaded of them; and nothing is sent that nobody needs. It is plain integers, so the plan of
2,048 ranks is made on a laptop.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import NamedTuple


class Box(NamedTuple):
    """A box of an HF tensor, in elements."""

    name: str
    start: tuple[int, ...]
    size: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}[{', '.join(f'{a}:{a + n}' for a, n in zip(self.start, self.size, strict=True))}]"


class Copy(NamedTuple):
    """One box's way from a sender to a receiver."""

    sender: int
    receiver: int
    box: Box
    bytes: int


class TransferPlan(NamedTuple):
    """All copies of a hand-over."""

    copies: Sequence[Copy]
    senders: int
    receivers: int

    def sent_by(self, rank: int) -> list[Copy]:
        """What one sender sends."""
        return [copy for copy in self.copies if copy.sender == rank]

    def sent_to(self, worker: int) -> list[Copy]:
        """What one receiver gets."""
        return [copy for copy in self.copies if copy.receiver == worker]

    def sent_bytes(self) -> list[int]:
        """Load of each sender."""
        return _sums(((copy.sender, copy.bytes) for copy in self.copies), self.senders)

    def received_bytes(self) -> list[int]:
        """Load of each receiver."""
        return _sums(((copy.receiver, copy.bytes) for copy in self.copies), self.receivers)


def make_transfer_plan(
    held: Mapping[Box, Sequence[int]],
    needed: Sequence[Iterable[Box]],
    element_bytes: Mapping[str, int],
    senders: int,
) -> TransferPlan:
    """The plan that brings every receiver what it needs.

    Args:
        held: boxes that tile their tensors, each with the ranks that hold it.
        needed: each receiver's boxes.
        element_bytes: of each tensor's elements, by name.
        senders: how many ranks there are.

    Raises:
        ValueError: receivers need what nobody holds; all of it, by name.
    """
    receivers: dict[Box, list[int]] = defaultdict(list)
    for receiver, boxes in enumerate(needed):
        for box in boxes:
            receivers[box].append(receiver)
    parts, lacking = _overlaps(held, receivers)
    if lacking:
        raise ValueError("\n  ".join(lacking))
    sized = [(prod(part.size) * element_bytes[part.name], part, source, to) for part, source, to in parts]
    # The largest first: what is small then evens out what differs.
    sized.sort(key=lambda one: (-one[0], one[1]))
    least = _LeastLoaded(senders)
    copies = [
        Copy(least.take(held[source], size), receiver, part, size)
        for size, part, source, to in sized
        for receiver in to
    ]
    return TransferPlan(copies, senders, len(needed))


def _overlaps(
    held: Mapping[Box, Sequence[int]], receivers: Mapping[Box, list[int]]
) -> tuple[list[tuple[Box, Box, list[int]]], list[str]]:
    """Each part of a needed box that lies in one held box: it, that box, its receivers; and what lacks."""
    by_name: dict[str, list[Box]] = defaultdict(list)
    for box in held:
        by_name[box.name].append(box)
    parts, lacking = [], []
    for box, to in receivers.items():
        found = [(part, source) for source in by_name.get(box.name, ()) if (part := _overlap(source, box))]
        if sum(prod(part.size) for part, _ in found) != prod(box.size):
            lacking.append(f"the trainer's ranks do not hold {box} whole, which an engine needs")
        parts += [(part, source, to) for part, source in found]
    return parts, lacking


class _LeastLoaded:
    """Deals loads out among ranks, each to the least loaded of those that may take it."""

    def __init__(self, ranks: int) -> None:
        self.load = [0] * ranks
        # One heap for each set of ranks; an entry may be out of date, loads only grow.
        self._heaps: dict[tuple[int, ...], list[tuple[int, int]]] = {}

    def take(self, ranks: Sequence[int], load: int) -> int:
        """The rank that takes the load."""
        key = tuple(ranks)
        heap = self._heaps.setdefault(key, [])
        if not heap:
            heap.extend(sorted((self.load[rank], rank) for rank in key))
        while heap[0][0] != self.load[heap[0][1]]:
            heapq.heapreplace(heap, (self.load[heap[0][1]], heap[0][1]))
        rank = heap[0][1]
        self.load[rank] += load
        heapq.heapreplace(heap, (self.load[rank], rank))
        return rank


def not_served(held: Iterable[Box], needed: Iterable[Iterable[Box]]) -> list[str]:
    """The held boxes that the workers of one engine together do not take up whole; they must all be.

    Args:
        needed: the boxes of each worker of the engine; boxes that several have count once.
    """
    wanted: dict[str, set[Box]] = defaultdict(set)
    for boxes in needed:
        for box in boxes:
            wanted[box.name].add(box)
    faults = []
    for box in held:
        taken = {part for other in wanted[box.name] if (part := _overlap(box, other)) is not None}
        if sum(prod(part.size) for part in taken) != prod(box.size):
            faults.append(str(box))
    return faults


def _overlap(a: Box, b: Box) -> Box | None:
    if a == b:
        return a
    start, size = [], []
    for a_start, a_size, b_start, b_size in zip(a.start, a.size, b.start, b.size, strict=True):
        first = max(a_start, b_start)
        length = min(a_start + a_size, b_start + b_size) - first
        if length <= 0:
            return None
        start.append(first)
        size.append(length)
    return Box(a.name, tuple(start), tuple(size))


def _sums(loads: Iterable[tuple[int, int]], count: int) -> list[int]:
    total = [0] * count
    for number, size in loads:
        total[number] += size
    return total
