"""The watch over silent ranks: each gives signs of life, and one that gives none any more ends the run.

A thread of every rank writes a sign into the store at which the ranks met, every few seconds and over a
connection of its own: who it is, what it does and since when. Rank 0 looks at all signs, the others at
rank 0's alone, so that thousands of ranks are no burden. A sign that has not changed for long enough, by
the looker's own clock, is a process that was stopped or a node that was lost; a store that does not answer
is whoever keeps it. The looker names the silent rank and ends its own process with exit code 75; srun,
torchrun or our launcher end the rest. A looker that was stopped itself does not count that time.

A rank that is alive but stuck keeps giving signs. Once a collective that waits for it times out elsewhere,
`last_words` tells from the signs what each rank is doing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, final

from r1mega.stopping import SAVED

START_S = 600.0
"""How long ranks may take until their first sign, as they import from a slow disk; `silent_s` if longer."""
EVERY_S = 5.0
"""How often a rank gives a sign, at the least; ten times within `silent_s`."""
END_S = 2.0
"""How long the threads may take to end: a store that is silent holds them up."""

_phase: tuple[str, float] = ("start", time.time())
_watch: _Watch | None = None


def phase(name: str) -> None:
    """What this rank does from now on."""
    global _phase
    _phase = (name, time.time())


def start(silent_s: float) -> None:
    """Give signs of life, and watch for those of the others, until `stop`."""
    global _watch
    if os.environ["WORLD_SIZE"] != "1":
        _watch = _Watch(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), silent_s)
        _watch.start()


def stop() -> None:
    """Give a last sign, after which silence is no fault, and watch no longer."""
    global _watch
    if _watch is not None:
        _watch.stop()
        _watch = None


def is_lost_peer(error: BaseException) -> bool:
    """Whether torch.distributed says that another rank is gone, or did not come in time."""
    import torch.distributed as dist

    of_gloo = re.search(r"gloo/|connection (closed|reset) by|caused pair closure", str(error), re.IGNORECASE)
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and of_gloo is not None)


def last_words(error: BaseException) -> str:
    """What to say of a lost peer: the error, this rank's phase, and those of the others that differ."""
    said = re.sub(r"^\[\S*/\S*\] ", "", str(error)).splitlines()[0].split(". ")[0].rstrip(".")
    own = f"rank {os.environ['RANK']} lost the others ({said}); it was {_whereabouts(*_phase)}"
    return ", ".join([own, *(_watch.others() if _watch is not None else ())])


def _whereabouts(name: str, since: float) -> str:
    return f"in {name} since {time.strftime('%H:%M:%S', time.localtime(since))}"


@final
class _Watch:
    """Two threads: one talks to the store, the other sees whether the store still answers."""

    def __init__(self, rank: int, ranks: int, silent_s: float) -> None:
        self.rank, self.ranks, self.silent_s = rank, ranks, silent_s
        self.every_s = min(EVERY_S, silent_s / 10)
        self.watched = range(1, ranks) if rank == 0 else range(1)
        self.signs: dict[int, bytes] = dict.fromkeys(self.watched, b"")
        self.silence_s = dict.fromkeys(self.watched, 0.0)
        self.store_silence_s, self.store_answered = 0.0, False
        self.store: Any = None
        self.ending = threading.Event()
        self.threads = [
            threading.Thread(target=target, daemon=True) for target in (self._talk, self._see_the_store)
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.ending.set()
        deadline = time.monotonic() + END_S
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _talk(self) -> None:
        import torch.distributed as dist

        try:
            self.store = store = self._meet()
            if store is None:
                return
            clock = _Clock(self.every_s)
            while not self.ending.is_set():
                store.set(_key(self.rank), self._sign())
                self._look(store.multi_get([_key(rank) for rank in self.watched]), clock.passed())
                self.store_silence_s, self.store_answered = 0.0, True
                self.ending.wait(self.every_s)
            store.set(_key(self.rank), self._sign(ended=True))
        except dist.DistError:
            return  # the store is gone with the process that keeps it; `_see_the_store` counts on

    def _meet(self) -> Any:
        import torch.distributed as dist

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # Who keeps the store may be still to open it, and torch's own attempts come minutes apart in the end.
        while not _answers(address, port):
            if self.ending.wait(min(1.0, self.every_s)):
                return None
        limit = timedelta(seconds=max(START_S, self.silent_s))
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, None, False, timeout=limit, wait_for_workers=False
        )
        if self.rank == 0:
            # Reading a key waits until it is there; a sign that has come before stays.
            for rank in self.watched:
                store.compare_set(_key(rank), "", "")
        return store

    def _sign(self, ended: bool = False) -> str:
        name, since = _phase
        who = {"host": socket.gethostname(), "pid": os.getpid(), "phase": name, "since": since}
        return json.dumps(who | {"at": time.monotonic(), "ended": ended})

    def _look(self, signs: Sequence[bytes], passed_s: float) -> None:
        for rank, sign in zip(self.watched, signs, strict=True):
            self.silence_s[rank] = self.silence_s[rank] + passed_s if sign == self.signs[rank] else 0.0
            self.signs[rank] = sign
        beyond_s = {
            rank: self.silence_s[rank] - self._limit(bool(self.signs[rank]))
            for rank in self.watched
            if not _read(self.signs[rank])["ended"]
        }
        if beyond_s and max(beyond_s.values()) > 0:
            # Ranks of a node that was lost gave their last signs at different moments.
            self._end([rank for rank, beyond in beyond_s.items() if beyond > -2 * self.every_s])

    def _see_the_store(self) -> None:
        clock = _Clock(self.every_s)
        while not self.ending.wait(self.every_s):
            self.store_silence_s += clock.passed()
            if self.store_silence_s > self._limit(self.store_answered):
                if self.rank == 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                    at = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                    _end_process(f"the ranks' store at {at} has not answered for {self._silent()}")
                elif not _read(self.signs[0])["ended"]:
                    self._end([0])

    def _limit(self, signs_came: bool) -> float:
        """How long silence may last. Of those that look at rank 0, a few speak first, for all."""
        later_s = max(0, self.rank.bit_length() - 1) * self.every_s
        return later_s + (self.silent_s if signs_came else max(START_S, self.silent_s))

    def _silent(self) -> str:
        return f"{self.silent_s:.0f} s"

    def _end(self, silent: Sequence[int]) -> None:
        first = silent[0]
        also = (
            f"; nor {'has' if len(silent) == 2 else 'have'} {_named(silent[1:])}" if len(silent) > 1 else ""
        )
        if not self.signs[first]:
            _end_process(f"rank {first} has not come up within {self._limit(False):.0f} s{also}")
        sign = _read(self.signs[first])
        _end_process(
            f"rank {first} (host {sign['host']}, pid {sign['pid']}) has given no sign of life for"
            f" {self._silent()}; it was {_whereabouts(sign['phase'], sign['since'])}{also}"
        )

    def others(self) -> list[str]:
        """What the other ranks do, where it is not what this one does; nothing if the store is silent."""
        store, signs = self.store, dict[int, bytes]()
        if store is None:
            return []

        def read() -> None:
            ranks = [rank for rank in range(self.ranks) if rank != self.rank]
            with contextlib.suppress(RuntimeError):
                signs.update(zip(ranks, store.multi_get([_key(rank) for rank in ranks]), strict=True))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(END_S)
        return _described({rank: _read(sign) for rank, sign in dict(signs).items() if sign})


@final
class _Clock:
    """Time that passed while this process ran: what it slept longer than it meant to counts for little."""

    def __init__(self, every_s: float) -> None:
        self.most_s = 2 * every_s
        self.last = time.monotonic()

    def passed(self) -> float:
        now = time.monotonic()
        since, self.last = now - self.last, now
        return min(since, self.most_s)


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _key(rank: int) -> str:
    # torchrun keeps its store while it starts ranks anew.
    return f"r1mega/signs/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{rank}"


def _read(sign: bytes) -> dict[str, Any]:
    return json.loads(sign) if sign else {"ended": False}


def _described(signs: dict[int, dict[str, Any]]) -> list[str]:
    """The ranks by phase, each with the time since which the first of them is in it."""
    phases: dict[str, list[int]] = {}
    for rank, sign in signs.items():
        if not sign["ended"]:
            phases.setdefault(sign["phase"], []).append(rank)
    if set(phases) <= {_phase[0]}:
        return []
    return [
        f"{_named(ranks)} {_whereabouts(name, min(signs[rank]['since'] for rank in ranks))}"
        for name, ranks in phases.items()
    ]


def _named(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {_ranks(ranks)}"


def _ranks(ranks: Iterable[int]) -> str:
    """`3, 5-9`: rising numbers, runs of them in short."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], rank]
        else:
            runs.append([rank])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _end_process(message: str) -> NoReturn:
    """Say it and end at once: the main thread waits for one that will not come."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(SAVED)
