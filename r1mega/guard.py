"""Which updates would do harm: a gradient that is not finite, or far larger than those before it.

Invariants: the verdict is a function of the norms so far alone, so all ranks, which see the same norm, come
to the same one; a skipped update's norm does not count among those that later ones are held against; a run
that goes on from a state judges as the undisturbed one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

LATEST_NORMS = 64
FEWEST_NORMS = 8
"""Until so many updates were made, no norm is called too large."""


class DivergedError(RuntimeError):
    """Too many updates in a row would have done harm; the message has the last one's figures."""


class Guard:
    """Judges the gradients of a course of updates."""

    def __init__(self, *, spike_ratio: float, stop_after: int, clip_grad_norm: float) -> None:
        """`clip_grad_norm` is what gradients are clipped to: one below it is never too large."""
        self.spike_ratio = spike_ratio
        self.stop_after = stop_after
        self.clip_grad_norm = clip_grad_norm
        self.skipped = 0
        self.skipped_in_a_row = 0
        self._norms: deque[float] = deque(maxlen=LATEST_NORMS)

    def against(self, grad_norm: float) -> str | None:
        """Why the update with this gradient is not to be made, if so; counts it.

        Raises:
            DivergedError: `stop_after` updates in a row were not to be made.
        """
        reason = self._reason(grad_norm)
        if reason is None:
            self._norms.append(grad_norm)
            self.skipped_in_a_row = 0
            return None
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.stop_after:
            raise DivergedError(
                f"{self.skipped_in_a_row} updates in a row were skipped (guard.stop_after): {reason}"
            )
        return reason

    def _reason(self, grad_norm: float) -> str | None:
        if not math.isfinite(grad_norm):
            return f"the gradient's norm is {grad_norm}"
        if len(self._norms) < FEWEST_NORMS:
            return None
        usual = max(median(self._norms), self.clip_grad_norm)
        if grad_norm <= self.spike_ratio * usual:
            return None
        return (
            f"the gradient's norm is {grad_norm:.3g}, above guard.spike_ratio = {self.spike_ratio:g} times"
            f" the usual {usual:.3g}"
        )

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return {"norms": list(self._norms), "skipped": self.skipped, "in_a_row": self.skipped_in_a_row}

    def take(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._norms.extend(state["norms"])
        self.skipped, self.skipped_in_a_row = state["skipped"], state["in_a_row"]
