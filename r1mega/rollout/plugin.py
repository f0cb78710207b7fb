"""What vLLM loads of r1mega inside its own processes: the shared-memory weight-transfer engine.

vLLM finds `register` through the entry point `vllm.general_plugins` and calls it in every process it
starts. Outside an engine that r1mega started, it does nothing.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r1mega.weights.slots import Slot

IN_ENGINE = "R1MEGA_ENGINE"
"""Set in the environment of an engine's process."""
BACKEND = "r1mega_shared_memory"


def register() -> None:
    """Make the engine known to vLLM, and keep linear weights where a hand-over can reach them."""
    if IN_ENGINE not in os.environ:
        return
    _die_with_parent()
    from vllm import _custom_ops
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    # With oneDNN a linear's weight moves into a private handle at load, and later weights never get there.
    _custom_ops._supports_onednn = False
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
