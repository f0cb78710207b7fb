"""Being told to stop: by a signal before a node goes, or by the clock; the run saves and ends with 75.

SIGTERM and SIGUSR1 only leave a mark. Ranks look at it where a rollout or update ends, and while they wait
for an engine; all agree before any acts, since a rank that left alone would leave the others waiting.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

SAVED = 75
"""Exit code of a run that saved its state and is to be started again (EX_TEMPFAIL)."""


class Stop(Exception):
    """Unwinds a rank that was told to stop; the message says by whom."""


_began = time.monotonic()
_reason: str | None = None
_ends_at: float | None = None


def listen(max_time_s: float | None = None) -> None:
    """From now on SIGTERM and SIGUSR1 ask the run to stop, and so does the time, counted from the import."""
    global _ends_at
    _ends_at = None if max_time_s is None else _began + max_time_s
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _mark)


def spare_children() -> None:
    """Keep SIGUSR1 from all that this process starts from now on; it still asks this one to stop.

    Slurm signals every process of a step, and what tells ranks to save would end engines, graders and W&B's
    service. A signal that is held back is inherited so; one thread here waits for it instead.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    threading.Thread(target=_wait_for_it, name="stopping", daemon=True).start()


def asked(ahead_s: float = 0.0) -> str | None:
    """Who asks the run to stop, if anyone does.

    Args:
        ahead_s: the time asks so much before it is over: what the next unit of work may take.
    """
    if _reason is None and _ends_at is not None and time.monotonic() + ahead_s > _ends_at:
        return "launch.max_time_s"
    return _reason


def _wait_for_it() -> None:
    while True:
        _mark(signal.sigwait({signal.SIGUSR1}), None)


def _mark(number: int, frame: FrameType | None) -> None:
    global _reason
    _reason = signal.Signals(number).name
