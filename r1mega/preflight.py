"""`srun python -m r1mega.preflight <overrides>`, one task a node: which node would spoil the run, and why.

Every node looks at itself and all are compared (`r1mega.node_faults`); then they add up their numbers over
the backend that the run will use. stdout has a line for each fault, `NODE: what it is, what it may be`, and
nothing else: the first node prints them, and of a first node that does not answer the others do. The exit
code is 0 where all is well, 1 where a node is at fault, 2 where the run itself is.

Nodes talk through torch's store at MASTER_ADDR, so a node that is named needs no disk in common with others.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from r1mega.compose import compose
from r1mega.config import Backend, BadRun
from r1mega.node_faults import Report, compare, examine, first_line

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

COLLECTIVE_LIMIT_S = 60.0
"""How long the all-reduce may take, the first meeting of all nodes included."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where this task stands among those of the preflight, as srun and slurm/env.sh say."""

    rank: int
    names: tuple[str, ...]
    """Of the nodes, in the tasks' order."""
    address: str
    port: int
    answer_s: float
    """How long the nodes may take to answer."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Place:
        # Not the run's port, nor that of a run beside it: its own may start before this one is free again.
        return cls(
            rank=int(environment.get("SLURM_PROCID", "0")),
            names=tuple(environment.get("R1MEGA_NODES", socket.gethostname()).split()),
            address=environment.get("MASTER_ADDR", "127.0.0.1"),
            port=20_001 + 2 * (int(environment.get("SLURM_JOB_ID", os.getpid())) % 6_000),
            answer_s=float(environment.get("R1MEGA_PREFLIGHT_S", "180")),
        )

    @property
    def nodes(self) -> int:
        return len(self.names)


def main(arguments: Sequence[str]) -> int:
    """This task's part; the exit code."""
    from r1mega.__main__ import configurations

    place = Place.of(os.environ)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what it warns of, a line of ours says
    try:
        config = compose(configurations(), list(arguments))
    except BadRun as error:
        if place.rank == 0:
            print(f"error: {error}", file=sys.stderr)
        return 2
    gpus = int(os.environ.get("R1MEGA_TASKS_PER_NODE", "1"))
    free_bytes = int(float(os.environ.get("R1MEGA_FREE_GIB", "5")) * 1024**3)
    report = examine(config, place.names[place.rank], gpus=gpus, free_bytes=free_bytes)
    gpu = config.cluster.backend is Backend.cuda
    return _lead(place, report, gpu) if place.rank == 0 else _follow(place, report, gpu)


def _lead(place: Place, report: Report, gpu: bool) -> int:
    """The first node's part: gather, compare, let all add up, and say what is wrong."""
    store = _open(place, keep=True)
    deadline = time.monotonic() + place.answer_s
    reports: dict[str, Report] = {report.node: report}
    clocks_s: dict[str, float] = {report.node: 0.0}
    silent = []
    for rank in range(1, place.nodes):
        said = _await(store, f"report/{rank}", deadline)
        if said is None:
            silent.append(place.names[rank])
            continue
        other = Report(**json.loads(said))
        reports[other.node] = other
        clocks_s[other.node] = _clock_of(store, rank, deadline)
    faults = compare(reports, clocks_s) | unreachable(place, silent)
    store.set("go", "0" if faults else "1")
    if not faults:
        faults = _sums(store, place, gpu)
    # Said before the others know: they leave at once, and srun ends this task when one does.
    for node in sorted(faults):
        for fault in faults[node]:
            print(f"{node}: {fault}", flush=True)
    store.set("verdict", "1" if faults else "0")
    # The store goes with this process.
    deadline = time.monotonic() + 5
    for rank in range(1, place.nodes):
        if place.names[rank] not in silent:
            _await(store, f"gone/{rank}", deadline)
    if not faults:
        print(f"r1mega: preflight of {place.nodes} nodes: all well", file=sys.stderr, flush=True)
    return 1 if faults else 0


def unreachable(place: Place, silent: Sequence[str]) -> dict[str, list[str]]:
    """Whose fault it is that nodes did not answer: where none of several did, the first node's own."""
    if len(silent) > 1 and len(silent) == place.nodes - 1:
        where = f"{place.address}:{place.port}"
        return {place.names[0]: [f"no other node reached it at {where} within {place.answer_s:g} s"]}
    return {node: [f"no answer within {place.answer_s:g} s (R1MEGA_PREFLIGHT_S)"] for node in silent}


def _follow(place: Place, report: Report, gpu: bool) -> int:
    """Every other node's part; the first node's verdict is its exit code."""
    # Longer than the first node waits, which then names those that are silent, or is silent itself.
    deadline = time.monotonic() + place.answer_s * 1.5 + 10
    try:
        store = _open(place, keep=False)
    except RuntimeError:
        print(
            f"{place.names[0]}: no answer at {place.address}:{place.port} within {place.answer_s:g} s",
            flush=True,
        )
        return 1
    try:
        store.set(f"report/{place.rank}", json.dumps(asdict(report)))
        if _await(store, f"clock?/{place.rank}", deadline) is not None:
            store.set(f"clock/{place.rank}", repr(time.time()))
        if _await(store, "go", deadline) == "1":
            store.set(f"sum/{place.rank}", _sum(place, gpu))
        verdict = _await(store, "verdict", deadline + COLLECTIVE_LIMIT_S)
        store.set(f"gone/{place.rank}", "1")
    except RuntimeError as error:
        print(f"the preflight's first task is gone: {first_line(error)}", file=sys.stderr, flush=True)
        return 1
    return int(verdict or 1)


def _open(place: Place, keep: bool) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    return TCPStore(
        place.address,
        place.port,
        place.nodes,
        is_master=keep,
        timeout=timedelta(seconds=place.answer_s * 1.5 + 10),
        wait_for_workers=False,
    )


def _await(store: TCPStore, key: str, deadline: float) -> str | None:
    """What the key holds, as soon as it does; None where that takes too long."""
    try:
        store.wait([key], timedelta(seconds=max(0.05, deadline - time.monotonic())))
    except RuntimeError:
        return None
    value: bytes = store.get(key)
    return value.decode()


def _clock_of(store: TCPStore, rank: int, deadline: float) -> float:
    """How far the node's clock is ahead of ours; it looked at it half way between our two looks."""
    asked = time.time()
    store.set(f"clock?/{rank}", "1")
    said = _await(store, f"clock/{rank}", deadline)
    return 0.0 if said is None else float(said) - (asked + time.time()) / 2


def _sums(store: TCPStore, place: Place, gpu: bool) -> dict[str, list[str]]:
    """The nodes whose all-reduce went wrong."""
    said = {0: _sum(place, gpu)}
    deadline = time.monotonic() + COLLECTIVE_LIMIT_S
    for rank in range(1, place.nodes):
        said[rank] = _await(store, f"sum/{rank}", deadline) or "all-reduce: no answer"
    return {place.names[rank]: [fault] for rank, fault in said.items() if fault != "well"}


def _sum(place: Place, gpu: bool) -> str:
    """This node's part of the all-reduce; `well`, or what went wrong."""
    result = [f"all-reduce did not end within {COLLECTIVE_LIMIT_S:g} s"]

    def add() -> None:
        try:
            result[0] = _add_up(place, gpu)
        except Exception as error:
            result[0] = f"all-reduce: {first_line(error)}"

    # A collective may hang for good; the thread is left behind then.
    thread = threading.Thread(target=add, daemon=True)
    thread.start()
    thread.join(COLLECTIVE_LIMIT_S)
    return result[0]


def _add_up(place: Place, gpu: bool) -> str:
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    dist.init_process_group(
        "nccl" if gpu else "gloo",
        store=PrefixStore("sum", _open(place, keep=False)),  # where it hangs, the other one is free
        rank=place.rank,
        world_size=place.nodes,
        timeout=timedelta(seconds=COLLECTIVE_LIMIT_S),
    )
    wanted = place.nodes * (place.nodes + 1) // 2
    for device in [f"cuda:{i}" for i in range(torch.cuda.device_count())] if gpu else ["cpu"]:
        numbers = torch.full((1 << 20,), float(place.rank + 1), device=device)
        dist.all_reduce(numbers)
        low, high = numbers.min().item(), numbers.max().item()
        if (low, high) != (wanted, wanted):
            return f"all-reduce on {device}: {low:g} to {high:g}, must be {wanted}"
    dist.destroy_process_group()
    return "well"


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # a collective that hangs in a thread must not keep the process
