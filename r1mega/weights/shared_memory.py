"""The trainer's end of the hand-over on one machine: every rank writes into the engines' own parameters.

No rank gathers and no byte is sent twice: the plan says which boxes of which parameters this rank sends to
whom, and `write` copies them there, with the checksum of what it copies. The receiving end is
`SharedMemoryEngine` (r1mega/rollout/shared_memory_engine.py), a weight-transfer engine of vLLM.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from r1mega.weights.memory import Checksum, SharedMemory, buckets, in_order
from r1mega.weights.pieces import Piece, Place
from r1mega.weights.slots import Slot, like
from r1mega.weights.table import Served
from r1mega.weights.transfer import Box, Copy, TransferPlan, make_transfer_plan, not_served


class Workers:
    """All workers of all engines, numbered through, as they described themselves."""

    def __init__(self, layouts: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
        """Take the workers' descriptions.

        Args:
            layouts: by engine, each worker's `path`, `slots` and `empty`.
        """
        self.of_engine = {engine: len(workers) for engine, workers in sorted(layouts.items())}
        self._layouts = [layout for _, workers in sorted(layouts.items()) for layout in workers]
        self.paths: list[str] = [layout["path"] for layout in self._layouts]
        self.names = [
            f"engine {engine} worker {worker}"
            for engine, workers in self.of_engine.items()
            for worker in range(workers)
        ]
        self._slots: list[dict[str, list[Slot]]] = [defaultdict(list) for _ in self._layouts]
        for slots, layout in zip(self._slots, self._layouts, strict=True):
            for slot in layout["slots"]:
                slots[slot.name].append(slot)

    def boxes(self, worker: int) -> list[Box]:
        """What a worker needs."""
        return [Box(slot.name, slot.start, slot.size) for slot in self._layouts[worker]["slots"]]

    def slot(self, copy: Copy) -> Slot:
        """Where a copy goes."""
        for slot in self._slots[copy.receiver][copy.box.name]:
            if _contains(slot.start, slot.size, copy.box):
                return slot.cut(copy.box.start, copy.box.size)
        raise KeyError(f"{self.names[copy.receiver]} has no place for {copy.box}")

    def by_engine(self, of_each: Sequence[Any]) -> dict[int, list[Any]]:
        """One value a worker, as lists by engine."""
        rest = iter(of_each)
        return {engine: [next(rest) for _ in range(count)] for engine, count in self.of_engine.items()}

    def faults(self, held: Mapping[Place, Sequence[int]]) -> list[str]:
        """What keeps the engines from taking up these weights whole and as they are; empty where nothing."""
        dtypes = {place.name: place.dtype for place in held}
        faults = [
            f"{name}: nothing fills all of its parameter {parameter}"
            for name, layout in zip(self.names, self._layouts, strict=True)
            for parameter in layout["empty"]
        ]
        faults += [
            f"{name} keeps {slot.name} as {slot.dtype}; the trainer has {dtypes[slot.name]}"
            for name, layout in zip(self.names, self._layouts, strict=True)
            for slot in layout["slots"]
            if dtypes.get(slot.name, slot.dtype) != slot.dtype
        ]
        boxes = self.by_engine([self.boxes(worker) for worker in range(len(self.paths))])
        held_boxes = [_box(place) for place in held]
        faults += [
            f"engine {engine} has no use for {box}, which is served to it"
            for engine, of_workers in boxes.items()
            for box in not_served(held_boxes, of_workers)
        ]
        return faults


def served_to_engine(holders: Mapping[Place, Sequence[int]]) -> dict[Place, Sequence[int]]:
    """Of all places, those of tensors that the engine needs."""
    return {place: ranks for place, ranks in holders.items() if place.served is Served.engine}


def plan_transfer(holders: Mapping[Place, Sequence[int]], workers: Workers, ranks: int) -> TransferPlan:
    """Who writes what to which worker.

    Args:
        holders: each place that is served to engines, with the ranks that hold it.

    Raises:
        ValueError: a worker needs what nobody holds, or an engine does not take up all that is served.
    """
    faults = workers.faults(holders)
    if faults:
        raise ValueError("\n  ".join(faults))
    held = {_box(place): of for place, of in holders.items()}
    sizes = {place.name: getattr(torch, place.dtype).itemsize for place in holders}
    needed = [workers.boxes(worker) for worker in range(len(workers.paths))]
    return make_transfer_plan(held, needed, sizes, ranks)


class SharedMemorySender:
    """One rank's part of a transfer plan, ready to be carried out again and again."""

    def __init__(self, pieces: Sequence[Piece], plan: TransferPlan, workers: Workers, rank: int) -> None:
        """Map the workers' memory and find this rank's copies in it.

        Args:
            pieces: this rank's; views of its parameters, read anew at each `write`.
        """
        own = defaultdict(list)
        for piece in pieces:
            own[piece.place.name].append(piece)
        memories: dict[int, Tensor] = {}
        self.ways: dict[int, list[tuple[Tensor, Tensor]]] = {}
        """By the copy's number, from where to where: views of one shape, in the order of the latter."""
        for number, copy in enumerate(plan.copies):
            if copy.sender != rank:
                continue
            if copy.receiver not in memories:
                memories[copy.receiver] = SharedMemory.at(workers.paths[copy.receiver]).bytes
            source = _part(own[copy.box.name], copy.box)
            views = workers.slot(copy).views(memories[copy.receiver])
            self.ways[number] = [(like(view, source[rows]), view) for rows, view in views]

    def write(self) -> dict[int, int]:
        """Copy this rank's boxes into the workers' parameters.

        Returns:
            By the copy's number, the checksum of what this rank's parameters hold; taken before it is
            copied, so nothing of it comes from the worker's memory.
        """
        return {number: _copy(ways) for number, ways in self.ways.items()}


def _copy(ways: Sequence[tuple[Tensor, Tensor]]) -> int:
    total = Checksum()
    for source, target in ways:
        for part, place in zip(buckets(source), buckets(target), strict=True):
            # A bucket is read from memory once: what follows finds it in the cache.
            elements = in_order(part)
            total.add(elements)
            place.copy_(elements)
    return total.value()


def _box(place: Place) -> Box:
    return Box(place.name, place.start, place.size)


def _contains(start: tuple[int, ...], size: tuple[int, ...], box: Box) -> bool:
    return all(
        first <= inner and inner + length <= first + whole
        for first, whole, inner, length in zip(start, size, box.start, box.size, strict=True)
    )


def _part(pieces: Sequence[Piece], box: Box) -> Tensor:
    """The box's view of the piece that has it."""
    for piece in pieces:
        place = piece.place
        if _contains(place.start, place.size, box):
            part = piece.tensor
            for dim, (outer, inner, length) in enumerate(zip(place.start, box.start, box.size, strict=True)):
                part = part.narrow(dim, inner - outer, length)
            return part
    raise KeyError(f"this rank does not hold {box}")
