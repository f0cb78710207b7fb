"""The ways by which weights reach engines, all with the same two verbs; where the engines live decides."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from r1mega.config import Backend, Config, Placement
from r1mega.rollout.engines import Engines
from r1mega.rollout.plugin import BACKEND
from r1mega.rollout.shared_memory_transport import SharedMemoryTransport
from r1mega.rollout.vllm_transport import IPC, NCCL, VllmTransport
from r1mega.weights.pieces import Piece
from r1mega.weights.quantised import QuantisedSource
from r1mega.weights.source import MegatronSource
from r1mega.weights.table import Served


class Transport(Protocol):
    """The way from all ranks' shards to all engines; every rank calls its verbs in the same order."""

    @property
    def bytes(self) -> int:
        """What one `send` carries to the engines."""

    def connect(self, new: Collection[int]) -> None:
        """Open the way to these engines, which hold no weights yet."""

    def send(self, version: int) -> list[str]:
        """Hand the weights over as the policy's version; returns what is wrong with what has arrived."""


def backend_for(config: Config) -> str:
    """The weight-transfer engine that the run's engines take: vLLM's name of it, or ours."""
    if config.cluster.backend is Backend.cpu:
        return BACKEND
    return {Placement.shared: IPC, Placement.apart: NCCL}[config.rollout.placement]


def transport_to(
    engines: Engines, pieces: Sequence[Piece], source: MegatronSource, buffer_bytes: int
) -> Transport:
    """The way to these engines; every rank calls it.

    Args:
        pieces: this rank's.
        source: of the same.
        buffer_bytes: what is gathered, and what vLLM's engines send, at a time.
    """
    settings = engines.settings
    if settings.backend == BACKEND:
        return SharedMemoryTransport(engines, pieces, source)
    served = [piece for piece in pieces if piece.place.served is Served.engine]
    needed = MegatronSource(served, buffer_bytes)
    return VllmTransport(
        engines,
        QuantisedSource(needed) if settings.fp8_weights else needed,
        backend=settings.backend,
        buffer_bytes=buffer_bytes,
    )
