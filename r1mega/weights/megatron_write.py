"""A rank's part of Megatron's distributed checkpoint, written by a thread: training may go on meanwhile.

Megatron plans a save and closes it with all ranks together, in the main thread; between the two each rank
only writes files. Megatron has processes do that. On a few cores a process costs more than the writing,
and one that is forked under running threads may hang, so here a thread does it, with Megatron's own writer.
The tensors are copied first: what is written is the state of the moment at which the save began.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedBase, is_main_replica
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from r1mega.track.files import Digests, digest
from r1mega.weights.whole import from_first_rank

BACKEND, VERSION = "torch_dist", 1


class Writing:
    """This rank's part of a save under way; all ranks make one together."""

    def __init__(self, state: dict[str, Any], folder: Path) -> None:
        """Plan the save, copy the tensors, and begin to write."""
        self._folder = folder
        self._digests: Digests = {}
        self._error: OSError | None = None
        # Megatron would start a process to hold the queue that its writing processes answer in.
        filesystem_async._results_queue = queue.SimpleQueue()
        self._strategy = _InThread(BACKEND, VERSION, thread_count=1)
        self._request: AsyncRequest = dist_checkpointing.save(
            state, str(folder), self._strategy, async_sharded_save=True
        )
        self._thread = threading.Thread(target=self._write, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether this rank has nothing more to write."""
        return not self._thread.is_alive()

    def close(self) -> Digests:
        """Wait until every rank has written, and end the save; called on every rank.

        Returns:
            Digests of all ranks' files.

        Raises:
            OSError: on every rank; what the disk said to one of them.
        """
        self._thread.join()
        writer, metadata = self._strategy.planned
        results = None if self._error else writer.retrieve_write_results()
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (_words(self._error), results, self._digests))
        fault = next((said for said, _, _ in everyone if said), None)
        if fault is None and dist.get_rank() == 0:
            try:
                writer.finish(metadata, [results for _, results, _ in everyone])
                save_config(CheckpointingConfig(BACKEND, VERSION), str(self._folder))
            except OSError as error:
                fault = _words(error)
        fault = from_first_rank(fault)
        if fault is not None:
            raise OSError(fault)
        return {name: of for _, _, digests in everyone for name, of in digests.items()}

    def _write(self) -> None:
        try:
            files: list[Path] = self._request.async_fn(*self._request.async_fn_args)
            self._digests = {file.name: digest(file) for file in files}
        except Exception as error:
            self._error = _of_the_disk(error)


class _InThread(TorchDistSaveShardedStrategy):
    """Megatron's strategy, but for who writes, and who lists what was written."""

    planned: tuple[FileSystemWriterAsync, Any]

    def _get_save_and_finalize_callbacks(self, writer: FileSystemWriterAsync, planned: Any) -> AsyncRequest:
        transforms = [writer.transforms] if hasattr(writer, "transforms") else []
        copied = [
            (path, key, (of_bytes, [(item, tensor.to("cpu", copy=True)) for item, tensor in tensors]))
            for path, key, (of_bytes, tensors) in writer.write_buckets or []
        ]
        write: Callable[..., list[Path]] = partial(_write, transforms, copied, writer.results_queue)
        self.planned = writer, planned[1]
        return AsyncRequest(write, (), [])


def _write(transforms: list[Any], buckets: list[Any], results: Any) -> list[Path]:
    """Write the buckets, a file each, onto the disk; raises what Megatron's writer met."""
    written: dict[int, Any] = {}
    answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    for number, bucket in enumerate(buckets):
        open_calls: queue.Queue[int] = queue.Queue()  # Megatron's writer takes one off when it is done
        open_calls.put(number)
        FileSystemWriterAsync.write_preloaded_data(
            transforms, number, bucket, answers, open_calls, use_fsync=True
        )
        _, result = answers.get()
        if isinstance(result, Exception):
            raise result
        written[number] = result
    if results is not None:
        results.put(written)
    return [Path(os.fspath(path)) for path, _, _ in buckets]


def _words(error: OSError | None) -> str | None:
    return None if error is None else error.strerror or str(error)


def _of_the_disk(error: BaseException) -> OSError:
    """What the disk said, which torch's own error on top of it hides."""
    said: BaseException | None = error
    while said is not None and not isinstance(said, OSError):
        said = said.__cause__ or said.__context__
    return said or OSError(f"{type(error).__name__}: {str(error).splitlines()[0]}")


def local_bytes(state: dict[str, Any]) -> int:
    """How much this rank will write of the state, copies that other ranks hold too left out."""

    def size(value: Any) -> int:
        return value.data.numel() * value.data.element_size() if torch.is_tensor(value.data) else 0

    return sum(
        size(value)
        for value in nested_values(state)
        if isinstance(value, ShardedBase) and is_main_replica(value.replica_id)
    )
