"""The hand-over on GPUs, through vLLM's own weight-transfer engines `ipc` and `nccl`. Not measured on GPU.

`ipc` is for engines on the trainer's own GPUs: every rank gathers whole tensors, a buffer's worth at a time,
and the worker on its GPU reads them there. `nccl` is for engines on other GPUs: the rank that owns an engine
broadcasts the tensors to its workers. Either way vLLM's own loader cuts them.

A trainer has one sender, as vLLM sees it: rank 0. Here every rank that owns an engine is the sender to that
engine and to no other, and the other ranks take part in the gathers alone. So nothing crosses machines but
in the gather, and each engine is asked by its owner, as everywhere.

Written against vLLM 0.32. In vLLM 0.26 these two engines have no trainer's side of this form.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Collection
from math import prod
from typing import Any, NoReturn

import torch

from r1mega import stopping
from r1mega.rollout.engines import Engine, EngineError, EngineLost, Engines
from r1mega.weights.quantised import Source

IPC, NCCL = "ipc", "nccl"
SENDER, GATHERER = 0, 1
"""The ranks that vLLM's trainer side knows: the one that sends, and any other."""


class VllmTransport:
    """The way from all ranks' shards to all engines; every rank calls its verbs in the same order."""

    def __init__(self, engines: Engines, source: Source, *, backend: str, buffer_bytes: int) -> None:
        """Prepare the way; `connect` opens it.

        Args:
            source: all tensors that an engine needs.
            backend: `IPC` or `NCCL`; the engines were started with the same.
            buffer_bytes: sent at a time. A rank needs that much memory besides, or the largest tensor's size.
        """
        self.engines = engines
        self.source = source
        self.backend = backend
        sizes = [prod(meta.shape) * meta.dtype.itemsize for meta in source.metadata()]
        self.bytes = sum(sizes) * engines.replicas
        """Handed to all engines' owners; the gathers are not counted."""
        self._buffer_bytes = max(buffer_bytes, *sizes)
        self._client: _Client | None = None
        self._sender: Any = None

    def connect(self, new: Collection[int]) -> None:
        """Open the way to these engines.

        Raises:
            EngineError: on every rank.
        """
        self.engines.together(self._open, new)
        if self._sender is None:
            self._sender = self._trainer_engine(GATHERER, None, workers=0)

    def send(self, version: int) -> list[str]:
        """Hand the weights over as the policy's version; returns what is wrong with what the engines say.

        Raises:
            EngineError: on every rank. Where it happens while `nccl` sends, the engine's owner ends instead.
        """
        # Who is gone is found here, on every rank: in the middle of a gather one alone would know.
        self.engines.together(_held_version)
        # vLLM's sender reads on streams of its own, which do not wait for the last update.
        torch.cuda.synchronize()
        if self._client is not None:
            self._client.begin(version)
        self._sender.send_weights()
        held = self.engines.together(self._settle)
        return [
            f"engine {engine} holds version {its}; the policy is at {version}"
            for engine, its in sorted(held.items())
            if its != version
        ]

    def _open(self, engine: Engine) -> None:
        self._client = _Client(engine, self.backend)
        self._sender = self._trainer_engine(SENDER, self._client, self.engines.settings.tensor_parallel)

    def _trainer_engine(self, rank: int, client: _Client | None, workers: int) -> Any:
        # Seven seconds' import, which only those who send to GPUs pay.
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        packed = {"packed": True, "packed_buffer_size_bytes": self._buffer_bytes}
        info = (
            IPCTrainerInitInfo(rank=rank, **packed)
            if self.backend == IPC
            else NCCLTrainerInitInfo(
                rank=rank,
                # The engine is on this machine, and the trainer's other ranks are not in the group.
                master_address="127.0.0.1",
                master_port=_free_port(),
                world_size=1 + workers,
                **packed,
            )
        )
        return WeightTransferTrainerFactory.trainer_init(info, client=client, source=self.source)

    def _settle(self, engine: Engine) -> int:
        """The version that the engine holds, if nothing went wrong on the way."""
        assert self._client is not None
        if self._client.failure is not None:
            raise self._client.failure
        return _held_version(engine)


class _Client:
    """What vLLM's sender on this rank tells the engine: vLLM's `VLLMWeightSyncClient`.

    What fails in an update is kept, and the rest of it left out, so that this rank goes through every gather
    and barrier that the others wait in; the transport raises it when all are through. But nothing gets this
    rank out of a broadcast that an engine is to receive and does not, so there it ends.
    """

    def __init__(self, engine: Engine, backend: str) -> None:
        self._engine = engine
        self._backend = backend
        self._version = -1
        self.failure: EngineError | None = None

    def begin(self, version: int) -> None:
        """What follows is this version."""
        self._version = version
        self.failure = None

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._engine.call("init_weight_transfer_engine", init_info=init_info)

    def start_weight_update(self) -> None:
        self._tell("start_weight_update")

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        self._tell("update_weights", update_info=update_info)
        if self.failure is not None and self._backend == NCCL:
            _end(self.failure)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._tell("end_weight_update", version=self._version)

    def _tell(self, verb: str, **arguments: Any) -> None:
        if self.failure is None:
            try:
                self._engine.call(verb, **arguments)
            except EngineError as error:
                self.failure = error


def _end(failure: EngineError) -> NoReturn:
    """End this rank, and with it the run, which goes on from its last state where the engine was lost."""
    print(f"error: {failure}; it was to receive weights, and the run ends", file=sys.stderr, flush=True)
    os._exit(stopping.SAVED if isinstance(failure, EngineLost) else 1)


def _held_version(engine: Engine) -> int:
    return int(engine.call("held_version"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
