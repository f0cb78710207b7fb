"""What vLLM loads of r1mega inside its own processes: the shared-memory weight-transfer engine.

vLLM finds `register` through the entry point `vllm.general_plugins` and calls it in every process it
starts. Outside an engine that r1mega started, it does nothing.
"""

from __future__ import annotations

import os
from typing import Any

IN_ENGINE = "R1MEGA_ENGINE"
"""Set in the environment of an engine's process."""
BACKEND = "r1mega_shared_memory"


def register() -> None:
    """Make the engine known to vLLM, and keep linear weights where a hand-over can reach them."""
    if IN_ENGINE not in os.environ:
        return
    from vllm import _custom_ops
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    # With oneDNN a linear's weight moves into a private handle at load, and later weights never get there.
    _custom_ops._supports_onednn = False
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "r1mega.rollout.shared_memory_engine", "SharedMemoryEngine"
        )


class WorkerExtension:
    """Methods that every worker of an engine gets besides vLLM's own."""

    def weight_receipt(self) -> dict[str, Any]:
        """What the worker's last weight update received and loaded; see `SharedMemoryEngine`."""
        return self.weight_transfer_engine.receipt()  # type: ignore[attr-defined]
