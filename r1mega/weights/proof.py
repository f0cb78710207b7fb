"""Proof of a hand-over: what the trainer sent is what every engine holds, and it scores alike.

Two independent checks, each naming what fails it. Every box of every HF tensor that a worker holds, read
from its own parameters as its own loader would fill them, has the bytes that the trainer's parameters
have, at the policy's version: no transport, layout or kernel of the receiving side can garble a weight
unseen. And a probe text is scored alike on both sides, which sees what bytes cannot: a weight that the
trainer itself calls by a wrong name, or computes with otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class HandoverError(RuntimeError):
    """A hand-over that is not proven; the message names what differs, all of it."""


def check_receipt(
    version: int, sent: Sequence[tuple[str, int]], receipt: Mapping[str, Any], worker: str
) -> list[str]:
    """What a worker holds otherwise than it was sent.

    Args:
        version: of the policy.
        sent: each box that was sent to the worker, with the checksum of its bytes.
        receipt: the worker's `version`, and the `checksums` of these boxes as it holds them.
    """
    faults = []
    if receipt["version"] != version:
        faults.append(f"{worker} holds version {receipt['version']}; the policy is at {version}")
    if len(receipt["checksums"]) != len(sent):
        faults.append(f"{worker} answers for {len(receipt['checksums'])} boxes; it was sent {len(sent)}")
    faults += [
        f"{worker} holds other bytes of {box} than were sent"
        for (box, checksum), held in zip(sent, receipt["checksums"], strict=False)
        if held != checksum
    ]
    return faults


def largest_difference(trainer: Sequence[np.ndarray], engine: Sequence[np.ndarray]) -> float:
    """Largest |log-prob difference| of any probe token; infinite where either is not a number."""
    differences = [np.abs(ours - theirs).max() for ours, theirs in zip(trainer, engine, strict=True)]
    # Python's max would pass over a NaN that is not the first.
    return float(np.nan_to_num(np.max(differences), nan=np.inf))
