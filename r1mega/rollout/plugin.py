"""What vLLM loads of r1mega inside its own processes: the shared-memory weight-transfer engine.

vLLM finds `register` through the entry point `vllm.general_plugins` and calls it in every process it
starts. Outside an engine that r1mega started, it does nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1mega.weights.slots import Slot

IN_ENGINE = "R1MEGA_ENGINE"
"""Set in the environment of an engine's process."""
WORKERS_SPIN_S = 0.005
"""How long a worker of several waits for the next message awake; then it rests until it is told."""
BACKEND = "r1mega_shared_memory"


def register() -> None:
    """Make the engine known to vLLM, keep linear weights where a hand-over can reach them, and let workers
    that wait leave their cores to others."""
    if IN_ENGINE not in os.environ:
        return
    _die_with_parent()
    from vllm import _custom_ops
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    # With oneDNN a linear's weight moves into a private handle at load, and later weights never get there.
    _custom_ops._supports_onednn = False
    # vLLM's is one second, in `sched_yield`. Linux lets such a thread run on all the same, and whoever shares
    # its core, a trainer's rank that writes weights, stands still. Sleeping instead would halve the speed
    # of small models; and a word that vLLM sends within a millisecond of the last may not end a rest.
    shm_broadcast.SpinCondition = partial(shm_broadcast.SpinCondition, busy_loop_s=WORKERS_SPIN_S)
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "r1mega.rollout.shared_memory_engine", "SharedMemoryEngine"
        )


def _die_with_parent() -> None:
    """An engine's workers are processes of their own, and would outlive one that is killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


class WorkerExtension:
    """Methods that every worker of an engine gets besides vLLM's own."""

    def weight_layout(self) -> dict[str, Any]:
        """What lies where in the worker's memory; see `SharedMemoryEngine.layout`."""
        return self.weight_transfer_engine.layout()  # type: ignore[attr-defined]

    def expect_weights(self, of_workers: list[list[Slot]]) -> None:
        """What each update will write into each worker."""
        self.weight_transfer_engine.expect(of_workers[self.rank])  # type: ignore[attr-defined]

    def weight_receipt(self) -> dict[str, Any]:
        """What the worker holds after an update; see `SharedMemoryEngine.receipt`."""
        return self.weight_transfer_engine.receipt()  # type: ignore[attr-defined]
