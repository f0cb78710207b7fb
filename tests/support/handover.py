"""Engines and hand-overs for tests: how to start them, move the weights between, and stage a fault."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.models import random_fields

EXPERT = "model.layers.1.mlp.experts.{}.down_proj.weight"


def engine_fields(draw: Any, **fixed: Any) -> dict[str, Any]:
    """A random model of sizes that vLLM's CPU kernels take, with experts from the second layer on.

    Queries and keys of 32, 48, 64, ...; what goes into experts and comes out of them by 32.
    """
    sizes = {"hidden_size": draw.choice([64, 96]), "moe_intermediate_size": 16 * draw.choice([1, 2, 3])}
    heads = {"qk_nope_head_dim": draw.choice([16, 32]), "qk_rope_head_dim": 16, "v_head_dim": 32}
    layers = {"num_hidden_layers": 2, "first_k_dense_replace": 1}
    return random_fields(draw, divisible_by=2, **sizes | heads | layers | fixed)


def engine_config(folder: Path, *, replicas: int, **fields: Any) -> Any:
    """A run in `folder` with small engines; further fields are the rollout's."""
    from r1mega.config import Config, RolloutConfig, Stage

    small = {"max_context_tokens": 128, "kv_cache_bytes": 64 * 1024**2}
    rollout = RolloutConfig(replicas=replicas, **small | fields)
    return Config(stage=Stage.grpo, name=folder.name, runs_dir=str(folder.parent), rollout=rollout)


def move_weights(policy: Any, course: int) -> None:
    """As an update would: every weight changes, copies of one alike, and the version counts on."""
    import torch

    for piece in policy.pieces:
        seed = zlib.crc32(f"{course} {piece.place}".encode())
        noise = torch.randn(piece.tensor.shape, generator=torch.Generator().manual_seed(seed))
        piece.tensor.add_(noise.to(piece.tensor), alpha=0.02)
    policy.version += 1


def message(call: Callable[[], Any]) -> str:
    """What the hand-over says is wrong; empty where nothing is."""
    from r1mega.weights.proof import HandoverError

    try:
        call()
    except HandoverError as error:
        return str(error)
    return ""


@contextmanager
def interposed(owner: Any, name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    """`owner.name(...)` becomes `stand_in(the real one, ...)`."""
    real = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **named: stand_in(real, *arguments, **named))
    try:
        yield
    finally:
        delattr(owner, name)


def arriving(handover: Any, damage: Callable[[Memory], None]) -> Any:
    """What every rank has written is damaged before any engine looks at it."""
    import torch.distributed as dist

    def write(real: Any) -> Any:
        checksums = real()
        dist.barrier()
        if dist.get_rank() == 0:
            damage(Memory(handover))
        dist.barrier()
        return checksums

    return interposed(handover.way.sender, "write", write)


class Memory:
    """All workers' memory, by HF name, as the trainer sees it."""

    def __init__(self, handover: Any) -> None:
        self.handover = handover

    def views(self, name: str) -> list[Any]:
        """The tensor's boxes, in every worker that has some of it; blocks of rows one by one."""
        from r1mega.weights.memory import SharedMemory

        way = self.handover.way
        return [
            view
            for copy in way.plan.copies
            if copy.box.name == name
            for _, view in way.workers.slot(copy).views(
                SharedMemory.at(way.workers.paths[copy.receiver]).bytes
            )
        ]


def dropped(handover: Any, name: str) -> Any:
    """The tensor is not sent."""
    before = [view.clone() for view in Memory(handover).views(name)]
    assert before

    def restore(memory: Memory) -> None:
        for view, old in zip(memory.views(name), before, strict=True):
            view.copy_(old)

    return arriving(handover, restore)


def swap(memory: Memory, one: str, other: str) -> None:
    for a, b in zip(memory.views(one), memory.views(other), strict=True):
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)


def double(memory: Memory, one: str, other: str) -> None:
    for a, b in zip(memory.views(one), memory.views(other), strict=True):
        b.copy_(a)


def transpose(memory: Memory, name: str) -> None:
    for view in memory.views(name):
        rows, columns = view.flatten(0, -2).shape
        view.copy_(view.clone().reshape(columns, rows).t().reshape(view.shape))


def truncate(memory: Memory, name: str) -> None:
    memory.views(name)[-1][-1].zero_()


def round_to_half(memory: Memory, name: str) -> None:
    for view in memory.views(name):
        view.copy_(view.bfloat16().float())


def flip_bit(memory: Memory, name: str) -> None:
    import torch

    memory.views(name)[0].view(torch.int32)[..., -1][-1] ^= 1


def other_half(memory: Memory, name: str) -> None:
    """As if a worker had been given the next one's share."""
    for view in memory.views(name):
        view.copy_(view.roll(view.shape[0] // 2 or 1, 0))


def stale_engine(handover: Any) -> Any:
    """The engine ends the update as the one before."""

    def finish(real: Any, info: dict[str, Any]) -> Any:
        return real(info | {"version": info["version"] - 1})

    return interposed(handover.engines, "begin_finish", finish)


@contextmanager
def mislabelled(handover: Any, one: str, other: str) -> Iterator[None]:
    """The trainer takes two weights for each other; what it sends is what it says it sends."""
    copies, ways = handover.way.plan.copies, handover.way.sender.ways
    real = dict(ways)
    numbers = {name: [number for number in ways if copies[number].box.name == name] for name in (one, other)}
    for a, b in zip(numbers[one], numbers[other], strict=True):
        sources = [[source for source, _ in real[number]] for number in (b, a)]
        for number, changed in zip((a, b), sources, strict=True):
            ways[number] = [(source, to) for source, (_, to) in zip(changed, real[number], strict=True)]
    try:
        yield
    finally:
        ways.update(real)


ROUTER_BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"
OUTPUT = "model.layers.{}.self_attn.o_proj.weight"
VALUES = "model.layers.0.self_attn.kv_b_proj.weight"
BY_BYTES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "dropped": (lambda handover: dropped(handover, EXPERT.format(1)), [EXPERT.format(1)]),
    "doubled": (
        lambda handover: arriving(handover, lambda m: double(m, EXPERT.format(0), EXPERT.format(1))),
        [EXPERT.format(1)],
    ),
    "swapped": (
        lambda handover: arriving(handover, lambda m: swap(m, EXPERT.format(0), EXPERT.format(1))),
        [EXPERT.format(0), EXPERT.format(1)],
    ),
    "transposed": (
        lambda handover: arriving(handover, lambda m: transpose(m, OUTPUT.format(0))),
        [OUTPUT.format(0)],
    ),
    "truncated": (lambda handover: arriving(handover, lambda m: truncate(m, VALUES)), [VALUES]),
    "wrong dtype": (
        lambda handover: arriving(handover, lambda m: round_to_half(m, "lm_head.weight")),
        ["lm_head.weight"],
    ),
    "flipped bit": (
        lambda handover: arriving(handover, lambda m: flip_bit(m, EXPERT.format(1))),
        [EXPERT.format(1)],
    ),
    "missing bias": (lambda handover: dropped(handover, ROUTER_BIAS), [ROUTER_BIAS]),
    "wrong shard": (lambda handover: arriving(handover, lambda m: other_half(m, VALUES)), [VALUES]),
    "wrong layer": (
        lambda handover: arriving(handover, lambda m: swap(m, OUTPUT.format(0), OUTPUT.format(1))),
        [OUTPUT.format(0), OUTPUT.format(1)],
    ),
}
"""Each fault with the tensors that it spoils, which the hand-over must name, and no others."""
OTHERS: dict[str, Callable[[Any], Any]] = {
    "stale": stale_engine,
    "wrong expert": lambda handover: mislabelled(handover, EXPERT.format(0), EXPERT.format(1)),
}
FAULTS = {name: stage for name, (stage, _) in BY_BYTES.items()} | OTHERS
