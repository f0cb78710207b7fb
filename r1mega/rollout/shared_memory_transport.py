"""The hand-over on one machine's CPU: ranks write into the workers' own memory, and checksums say what came.

The plan of who writes what is made when engines connect (r1mega/weights/transfer.py), and carried out by
`SharedMemorySender` at every hand-over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch.distributed as dist

from r1mega.rollout.engines import Engines
from r1mega.weights.pieces import Piece, Place
from r1mega.weights.proof import HandoverError, check_receipt
from r1mega.weights.shared_memory import SharedMemorySender, Workers, plan_transfer, served_to_engine
from r1mega.weights.source import MegatronSource


class SharedMemoryTransport:
    """The way from all ranks' shards to all engines; every rank calls its verbs in the same order."""

    def __init__(self, engines: Engines, pieces: Sequence[Piece], source: MegatronSource) -> None:
        """Prepare the way; `connect` opens it.

        Args:
            pieces: this rank's; views of its parameters, read anew at each `send`.
            source: of the same, which knows what the other ranks hold.
        """
        self.engines = engines
        self.pieces = pieces
        self.served = served_to_engine(source.holders)
        self._layouts: dict[int, list[dict[str, Any]]] = {}
        """Of the workers of each engine, as it described them last."""

    def connect(self, new: Collection[int]) -> None:
        """Open the way to these engines, and plan the whole anew.

        Raises:
            EngineError: on every rank.
            HandoverError: on every rank; the weights do not fit the engines.
        """
        self._layouts |= self.engines.connect({"tensors": _tensors(self.served)}, new)
        self.workers = Workers(self._layouts)
        try:
            self.plan = plan_transfer(self.served, self.workers, dist.get_world_size())
        except ValueError as error:
            raise HandoverError(f"the weights do not fit the engines:\n  {error}") from error
        slots = [
            [self.workers.slot(copy) for copy in self.plan.sent_to(worker)]
            for worker in range(self.plan.receivers)
        ]
        unmapped = self._map_memory()
        # An engine that died has no memory to map either, and is found here, on every rank.
        self.engines.expect_weights(self.workers.by_engine(slots))
        if unmapped is not None:
            raise HandoverError(f"an engine's memory cannot be mapped: {unmapped}") from unmapped

    def _map_memory(self) -> OSError | None:
        """Map the memory that this rank writes to; returns why it cannot be."""
        try:
            self.sender = SharedMemorySender(self.pieces, self.plan, self.workers, dist.get_rank())
        except OSError as error:
            return error
        return None

    @property
    def bytes(self) -> int:
        """What all ranks write, at each `send`."""
        return sum(self.plan.sent_bytes())

    def send(self, version: int) -> list[str]:
        """Hand the weights over as the policy's version; returns what the workers hold otherwise.

        Raises:
            EngineError: on every rank.
        """
        self.engines.start_weight_update()
        own = self.sender.write()
        # No engine looks at its weights before every rank has written.
        dist.barrier()
        receipts, sent = self.read_back(version, own)
        of_workers: list[list[tuple[str, int]]] = [[] for _ in range(self.plan.receivers)]
        for number, copy in enumerate(self.plan.copies):
            of_workers[copy.receiver].append((str(copy.box), sent[number]))
        flat = [receipt for _, workers in sorted(receipts.items()) for receipt in workers]
        return [
            fault
            for name, expected, receipt in zip(self.workers.names, of_workers, flat, strict=True)
            for fault in check_receipt(version, expected, receipt, name)
        ]

    def read_back(
        self, version: int, own: dict[int, int]
    ) -> tuple[dict[int, list[dict[str, Any]]], dict[int, int]]:
        """What the workers read in their memory, by engine, and what every rank has written, by copy."""
        self.engines.begin_finish({"version": version})
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, own)
        receipts = self.engines.end_finish()
        return receipts, {number: value for part in parts for number, value in part.items()}


def _tensors(places: Iterable[Place]) -> list[list[Any]]:
    """Name, dtype and shape of each tensor that the places are of."""
    return [
        [name, dtype, list(shape)]
        for name, dtype, shape in sorted({(p.name, p.dtype, p.shape) for p in places})
    ]
