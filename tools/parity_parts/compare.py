"""How far the sides lie apart: pure arithmetic on what each of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from parity_parts.job import Seen


def figures(
    reference: Seen, trainer: Seen, engine: Sequence[np.ndarray], limit: float, unproven: str = ""
) -> dict[str, Any]:
    """All that is printed, as plain values.

    Args:
        unproven: why the hand-over to the engine is not proven; empty where it is.

    Returns:
        `pairs`: by name, mean and max |dlogp| and the text and token of the latter.
        `layers`: by module, in the order of computation, Megatron's relative difference (`apart`).
        `parts_at`: the first module beyond the limit, None where all are within.
        `rerouted`: by layer of experts, the share of tokens sent to another set of them, and in `any`.
        `alike`: every pair is within the limit, and the hand-over is proven.
    """
    pairs = {
        "Megatron - transformers": pair(trainer.logps, reference.logps),
        "vLLM - transformers": pair(engine, reference.logps),
        "vLLM - Megatron": pair(engine, trainer.logps),
    }
    # Where nothing was watched (context parallelism) the trainer has none of these.
    layers = {
        name: apart(trainer.hidden[name], of) for name, of in reference.hidden.items() if trainer.hidden
    }
    return {
        "limit": limit,
        "unproven": unproven,
        "pairs": pairs,
        "layers": layers,
        "parts_at": next((name for name, value in layers.items() if not value <= limit), None),
        "rerouted": rerouted(trainer, reference) if trainer.experts else {},
        # Not `<= limit` of a maximum: NaN must count as different.
        "alike": not unproven and all(one["max"] <= limit for one in pairs.values()),
    }


def pair(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> dict[str, float | int]:
    """Mean and max |dlogp|, and where the max is: the text's number and the token's index in it."""
    gaps = [np.abs(a.astype(np.float64) - b) for a, b in zip(ours, theirs, strict=True)]
    text = int(np.argmax([gap.max() for gap in gaps]))
    return {
        "mean": float(np.concatenate(gaps).mean()),
        "max": float(gaps[text].max()),
        "text": text,
        "token": int(gaps[text].argmax()) + 1,
    }


def apart(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The largest difference in a token's states, relative to that token's largest state; over all tokens.

    Relative to the token's own, as a few tokens of a trained model have states a thousand times larger.
    """
    of_each = [
        np.abs(a - b).max(axis=1) / np.maximum(np.abs(b).max(axis=1), np.finfo(np.float32).tiny)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return float(np.concatenate(of_each).max())


def rerouted(ours: Seen, theirs: Seen) -> dict[str, float]:
    """By layer, the share of tokens whose set of experts differs; `any`: that of tokens with such a layer."""
    otherwise = {
        name: np.concatenate([(a != b).any(axis=1) for a, b in zip(ours.experts[name], of, strict=True)])
        for name, of in theirs.experts.items()
    }
    return {name: float(of.mean()) for name, of in otherwise.items()} | {
        "any": float(np.any(list(otherwise.values()), axis=0).mean())
    }
