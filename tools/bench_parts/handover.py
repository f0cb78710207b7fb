"""`tools/bench.py handover`: what it costs to bring new weights to the engines, and to prove it.

Beside it stands one memcpy of the same bytes, by one thread from one buffer to another: no transport
can do less. The probe stands beside the two raw forwards that it is made of.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bench_parts import raw_megatron
from bench_parts.raw_vllm import RawVllm, Settings
from bench_parts.timing import Turn, line, timed
from r1mega.config import Config
from r1mega.model.rows import Sample
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.rollout.shared_memory_transport import SharedMemoryTransport
from r1mega.stages.handover import Handover
from r1mega.stages.parts import load_model_fields
from r1mega.stages.recorder import Recorder
from r1mega.stages.serving import open_engines

MEMCPY, WRITE, CHECKSUMS, PROBE, FORWARDS = "memcpy", "copying", "checksums", "probe", "two raw forwards"
TEXT_TOKENS = 96


def run(config: Config, plan: Plan, repetitions: int) -> dict[str, Any]:
    """All figures; `table` reads them."""
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        recorder = stack.enter_context(Recorder(config))
        recorder.say("building the model and starting the engines ...")
        policy = Policy(config, load_model_fields(config), plan)
        if config.model.init_from is not None:
            policy.load(Path(config.model.init_from))
        engines = stack.enter_context(open_engines(config, policy))
        engines.wait()
        probe = _probe(policy, config.handover.probe_samples)
        planned, handover = timed(lambda: Handover(config, policy, engines, probe))
        handover.run()
        raw = stack.enter_context(_raw_engine(config, policy))
        memcpy = _memcpy(handover) if dist.get_rank() == 0 else lambda: None
        turns = []
        for number in range(repetitions + 1):  # the first warms up
            turns.append(_turn(policy, handover, memcpy, raw))
            recorder.say(f"hand-over {number}/{repetitions}  {line(turns[-1], '{:.3f} s')}")
    way = _way(handover)
    return {
        "load_before": load,
        "handover": turns[1:],
        "planning_s": planned,
        "bytes": way.bytes,
        "bytes_over_needed": way.bytes / _needed_bytes(handover),
        "copies": len(way.plan.copies),
    }


def _turn(policy: Policy, handover: Handover, memcpy: Any, raw: RawVllm | None) -> Turn:
    """One hand-over in its parts, and what each is held against, by turns."""
    copied, _ = timed(memcpy)
    way = _way(handover)
    handover.engines.start_weight_update()
    written, own = timed(way.sender.write)
    checked, _ = timed(lambda: way.read_back(policy.version, own))
    samples = [Sample(text, 1) for text in handover.probe]
    scored, _ = timed(lambda: handover.score_both_sides())
    rows = raw_megatron.rows(policy, samples)
    forward, _ = timed(lambda: raw_megatron.forward(policy, rows))
    engine = raw.score(handover.probe) if raw else 0.0
    dist.barrier()
    return {MEMCPY: copied, WRITE: written, CHECKSUMS: checked, PROBE: scored, FORWARDS: forward + engine}


def _memcpy(handover: Handover) -> Any:
    """One copy of as many bytes as a hand-over moves."""
    size = handover.way.bytes
    source, target = torch.ones(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return lambda: target.copy_(source)


def _needed_bytes(handover: Handover) -> int:
    """What the workers' parameters take up, of the weights that are served."""
    workers = _way(handover).workers
    item = handover.policy.dtype.itemsize
    return sum(prod(box.size) * item for worker in range(len(workers.paths)) for box in workers.boxes(worker))


def _way(handover: Handover) -> SharedMemoryTransport:
    """What is measured here is the CPU's transport."""
    assert isinstance(handover.way, SharedMemoryTransport)
    return handover.way


def _probe(policy: Policy, count: int) -> list[list[int]]:
    draw, words = random.Random(0), policy.family.shape(policy.hf).vocabulary
    return [[draw.randrange(words) for _ in range(TEXT_TOKENS)] for _ in range(count)]


@contextmanager
def _raw_engine(config: Config, policy: Policy) -> Iterator[RawVllm | None]:
    """Raw vLLM with the policy's weights, on rank 0, with as many threads as the engines have together."""
    folder = config.folder / "weights"
    policy.export(folder)
    rollout = config.rollout
    threads = rollout.replicas * rollout.tensor_parallel * rollout.threads_per_worker
    cores = tuple(sorted(os.sched_getaffinity(0))[:threads])
    with ExitStack() as stack:
        raw = None
        if dist.get_rank() == 0:
            settings = Settings(
                str(folder), "float32", False, cores, rollout, 0, str(config.folder / "raw.log")
            )
            raw = stack.enter_context(RawVllm("vLLM in process", [settings]))
            raw.wait()
        dist.barrier()
        yield raw


def show(figures: Mapping[str, Any]) -> None:
    """Print the ratios beside their bars."""
    turns: Sequence[Turn] = figures["handover"]
    print(
        f"\n{figures['bytes'] / 1e6:,.0f} MB in {figures['copies']:,} copies; planned once, in"
        f" {figures['planning_s']:.2f} s; bytes copied over bytes needed {figures['bytes_over_needed']:.3f}"
        " (bar <= 1.02)"
    )
    for name, over, bar in (
        (WRITE, MEMCPY, "<= 1.5, or 3 with resharding"),
        (CHECKSUMS, MEMCPY, "<= 1.0"),
        (PROBE, FORWARDS, "<= 1.2"),
    ):
        ratios = sorted(turn[name] / turn[over] for turn in turns)
        middle = ratios[len(ratios) // 2]
        seconds = sorted(turn[name] for turn in turns)[len(turns) // 2]
        against = sorted(turn[over] for turn in turns)[len(turns) // 2]
        print(
            f"{name:10} {seconds:8.3f} s  over {over} {against:.3f} s: {middle:.2f}"
            f" ({ratios[0]:.2f}-{ratios[-1]:.2f}), bar {bar}"
        )
    print(
        f"{os.cpu_count()} cores; load before: {figures['load_before']:.1f}; at {time.strftime('%Y-%m-%d')}.",
        flush=True,
    )
