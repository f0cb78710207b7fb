"""Engines and hand-overs for tests: how to start them, move the weights between, and stage a fault."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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
        piece.tensor.add_(noise, alpha=0.02)
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


def dropped_tensor(handover: Any) -> Any:
    """The engine is not told of one tensor."""
    kept = [meta.name for meta in handover.sender.metas if meta.name != EXPERT.format(1)]

    def update(real: Any, info: dict[str, Any]) -> Any:
        return real(info | {"names": kept})

    return interposed(handover.engines, "update_weights", update)


def dropped_parameter(handover: Any) -> Any:
    """The engine is not told of a tensor that is a parameter of its own there."""
    kept = [meta.name for meta in handover.sender.metas if meta.name != "model.norm.weight"]

    def update(real: Any, info: dict[str, Any]) -> Any:
        return real(info | {"names": kept})

    return interposed(handover.engines, "update_weights", update)


def swapped_in_memory(handover: Any) -> Any:
    """Two experts' bytes change places on their way."""

    def damage(tensors: dict[str, Any]) -> None:
        one, other = tensors[EXPERT.format(0)], tensors[EXPERT.format(1)]
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)

    return damaged_in_memory(handover, damage)


def flipped_bit(handover: Any) -> Any:
    """The lowest bit of one number of one tensor is another on arrival."""
    import torch

    def damage(tensors: dict[str, Any]) -> None:
        tensors[EXPERT.format(1)].view(torch.int32)[-1, -1] ^= 1

    return damaged_in_memory(handover, damage)


def damaged_in_memory(handover: Any, damage: Callable[[dict[str, Any]], None]) -> Any:
    import torch.distributed as dist

    def write(real: Any) -> Any:
        receipt = real()
        if dist.get_rank() == 0:
            damage(handover.sender.tensors)
        dist.barrier()
        return receipt

    return interposed(handover.sender, "write", write)


def stale_engine(handover: Any) -> Any:
    """The engine does nothing and answers with what it received last time."""
    return interposed(handover.engines, "update_weights", lambda real, info: handover.receipts_before)


@contextmanager
def mislabelled_experts(handover: Any) -> Iterator[None]:
    """The trainer takes two experts for each other; what it sends is what it says it sends."""
    sender = handover.sender
    real, at = sender.pieces, {piece.place.name: i for i, piece in enumerate(sender.pieces)}
    one, other = at[EXPERT.format(0)], at[EXPERT.format(1)]
    sender.pieces = list(real)
    sender.pieces[one] = replace(real[one], tensor=real[other].tensor)
    sender.pieces[other] = replace(real[other], tensor=real[one].tensor)
    try:
        yield
    finally:
        sender.pieces = real


FAULTS = {
    "dropped tensor": dropped_tensor,
    "dropped parameter": dropped_parameter,
    "swapped experts": swapped_in_memory,
    "mislabelled experts": mislabelled_experts,
    "stale engine": stale_engine,
    "flipped bit": flipped_bit,
}
