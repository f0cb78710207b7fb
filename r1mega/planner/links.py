"""What GPUs and their links give of what they promise, and how long GPUs take to exchange bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

from r1mega.planner.chips import Chip

IN_MACHINE_S = 10e-6
"""Latency of an all-reduce over NVLink: vLLM's own takes 9 to 12 us up to 32 KiB on H100 (measured in
sglang's pull request 2904)."""
ACROSS_S = 50e-6
"""What each doubling of the machines adds to it, by the tree that NCCL makes of them; an assumption."""


@dataclass(frozen=True, slots=True)
class Constants:
    """What is fitted to published times (`times.FITTED`); all else is derived or stated."""

    compute: float
    """Share of a GPU's peak that matrix multiplications reach."""
    bandwidth: float
    """Share of the bandwidth that streams reach: of a GPU's memory, of NVLink and of the network."""
    balance: float
    """Tokens of the mean expert-parallel rank over those of the fullest, for which all others wait."""
    step_s: float
    """What an engine takes for a decoding step besides: its scheduler, its sampler."""


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs that share NVLink."""

    chip: Chip
    gpus: int


def gather_s(size: float, ranks: int, machine: Machine, constants: Constants) -> float:
    """An all-gather or a reduce-scatter of so many bytes in all: inside machines, then across."""
    inside = min(ranks, machine.gpus)
    seconds = size * (inside - 1) / inside / machine.chip.nvlink_bandwidth
    if ranks > machine.gpus:
        machines = ranks / machine.gpus
        seconds += size / machine.gpus * (machines - 1) / machines / machine.chip.network_bandwidth
    return seconds / constants.bandwidth


def all_reduce_s(size: float, ranks: int, machine: Machine, constants: Constants) -> float:
    """An all-reduce: a reduce-scatter and an all-gather, and their latency."""
    if ranks == 1:
        return 0.0
    latency = IN_MACHINE_S + ACROSS_S * max(0, ceil(log2(ranks / machine.gpus)))
    return 2 * gather_s(size, ranks, machine, constants) + latency
