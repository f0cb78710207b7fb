"""How long each phase of a rollout takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from r1mega import watch


class Timing:
    """Seconds by phase, since this was made; the watch over silent ranks is told the phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count what runs within it to a phase."""
        began = time.monotonic()
        watch.phase(phase)
        try:
            yield
            watch.phase(f"the work after {phase}")  # not where it failed: that is where this rank was
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - began

    def figures(self) -> dict[str, float]:
        """`timing_s/<phase>`, and `timing_s/step`: all seconds so far."""
        return {f"timing_s/{phase}": seconds for phase, seconds in self.seconds.items()} | {
            "timing_s/step": time.monotonic() - self._began
        }
