"""Where the engines live: which rank owns each, and on which GPUs it runs.

A rank owns at most one engine on GPUs, so that a sender and an engine belong to each other; on a CPU
engines are dealt out among the ranks. An engine's workers are on one machine, its owner's.

Guarantees: no GPU has two engines; the engines that share the trainer's GPUs use nothing but those, and the
engines apart from it none of them. What does not fit is refused with what there is.
"""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from r1mega.config import Backend, BadRun, Config, Placement


@dataclass(frozen=True, slots=True)
class Seat:
    """An engine's place.

    Attributes:
        owner: the rank that starts it and alone talks to it.
        gpus: of its workers, as CUDA_VISIBLE_DEVICES calls them on the owner's machine; none on a CPU.
    """

    owner: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A rank's machine.

    Attributes:
        name: of the machine.
        gpu: the rank's own, as CUDA_VISIBLE_DEVICES calls it.
        gpus: all that the rank sees.
    """

    name: str
    gpu: str
    gpus: tuple[str, ...]

    @classmethod
    def here(cls) -> Host:
        """This rank's."""
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
        return cls(socket.gethostname(), gpus[torch.cuda.current_device()], tuple(gpus))


def seats(config: Config) -> list[Seat]:
    """The seats of the run's engines; every rank calls it, and gets the same.

    Raises:
        BadRun: on every rank; engines have no place.
    """
    replicas, workers = config.rollout.replicas, config.rollout.tensor_parallel
    ranks = dist.get_world_size()
    if config.cluster.backend is Backend.cpu:
        return [Seat(number % ranks) for number in range(replicas)]
    hosts: list[Host] = [Host("", "", ())] * ranks
    dist.all_gather_object(hosts, Host.here())
    place = shared if config.rollout.placement is Placement.shared else apart
    return place(hosts, replicas, workers)


def shared(hosts: Sequence[Host], replicas: int, workers: int) -> list[Seat]:
    """Each engine on the GPUs of as many ranks that follow each other; the first of them owns it."""
    if len({(host.name, host.gpu) for host in hosts}) < len(hosts):
        fault = "ranks of one machine call their GPUs by the same name; each must see all GPUs of its machine"
        raise BadRun([f"{fault} (with srun: --gpus-per-node, not --gpus-per-task)"])
    used = [hosts[first : first + workers] for first in range(0, replicas * workers, workers)]
    for number, own in enumerate(used):
        if len(own) < workers or len({host.name for host in own}) > 1:
            fault = f"rollout.placement: was shared; engine {number} has no {workers} ranks of one machine"
            raise BadRun([f"{fault}, on whose GPUs its workers would live"])
    return [Seat(number * workers, tuple(host.gpu for host in own)) for number, own in enumerate(used)]


def apart(hosts: Sequence[Host], replicas: int, workers: int) -> list[Seat]:
    """Engines on the GPUs that no rank computes on, machine by machine, each owned by a rank beside it."""
    ranks_of: dict[str, list[int]] = defaultdict(list)
    for rank, host in enumerate(hosts):
        ranks_of[host.name].append(rank)
    seats = []
    for ranks in ranks_of.values():
        used = {hosts[rank].gpu for rank in ranks}
        spare = [gpu for gpu in hosts[ranks[0]].gpus if gpu not in used]
        for rank, first in zip(ranks, range(0, len(spare) - workers + 1, workers), strict=False):
            seats.append(Seat(rank, tuple(spare[first : first + workers])))
    if len(seats) < replicas:
        fault = (
            f"rollout.placement: was apart; beside the trainer's GPUs there is room for {len(seats)} engines"
        )
        raise BadRun([f"{fault} of {workers} workers, at most one a rank; rollout.replicas = {replicas}"])
    return seats[:replicas]
