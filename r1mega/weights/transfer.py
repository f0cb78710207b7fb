"""Who sends what to whom: a plan computed once, from who holds what and who needs what.

Senders are the trainer's ranks, receivers the engines' workers. The plan's invariants, asserted by its
tests: every byte that a receiver needs is sent to it exactly once; a box that several ranks hold is sent
by the least loaded of them; and nothing is sent that nobody needs. It is plain integers, so the plan of
2,048 ranks is made on a laptop.
"""

from __future__ import annotations

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
    by_name: dict[str, list[Box]] = defaultdict(list)
    for box in held:
        by_name[box.name].append(box)
    parts: list[tuple[int, Box, int, Box]] = []
    lacking = []
    for receiver, boxes in enumerate(needed):
        for box in boxes:
            overlaps = [(_overlap(source, box), source) for source in by_name.get(box.name, ())]
            found = [(part, source) for part, source in overlaps if part is not None]
            if sum(prod(part.size) for part, _ in found) != prod(box.size):
                lacking.append(f"engine worker {receiver} needs {box}, which the ranks do not hold whole")
            parts += [
                (prod(part.size) * element_bytes[box.name], part, receiver, source) for part, source in found
            ]
    if lacking:
        raise ValueError("\n  ".join(lacking))
    # The largest first: what is small then evens out what differs.
    parts.sort(key=lambda part: (-part[0], part[1], part[2]))
    load = [0] * senders
    copies = []
    for size, part, receiver, source in parts:
        sender = min(held[source], key=lambda rank: (load[rank], rank))
        load[sender] += size
        copies.append(Copy(sender, receiver, part, size))
    return TransferPlan(copies, senders, len(needed))


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
