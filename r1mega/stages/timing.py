"""How long each phase of a rollout takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timing:
    """Seconds by phase, since this was made."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what runs within it to a phase."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - began

    def figures(self) -> dict[str, float]:
        """`timing_s/<phase>`, and `timing_s/step`: all seconds so far."""
        return {f"timing_s/{phase}": seconds for phase, seconds in self.seconds.items()} | {
            "timing_s/step": time.monotonic() - self._began
        }
