"""Proof of a hand-over: what the trainer sent is what every engine holds, and it scores alike.

Three independent checks, each naming what fails it: every place reached the engine with the bytes that the
trainer's parameters have; the engine's loader reached every parameter of its model, at the right version;
and a probe text is scored alike on both sides. The first two see what arrived, not what the loader made of
it; only the probe sees a wrong name, a wrong packing or a wrong layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class HandoverError(RuntimeError):
    """A hand-over that is not proven; the message names what differs, all of it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What the trainer sent: its policy version, and the checksum of each place."""

    version: int
    checksums: Mapping[str, int]


def check_receipt(sent: Sent, receipt: Mapping[str, Any], engine: str) -> list[str]:
    """What an engine's worker received otherwise than it was sent.

    Args:
        receipt: `version`, `checksums` by place, and `not_loaded`, the parameters no weight reached.
    """
    got = receipt["checksums"]
    faults = []
    if receipt["version"] != sent.version:
        faults.append(f"{engine} holds version {receipt['version']}; the policy is at {sent.version}")
    faults += [f"{engine} never received {place}" for place in sent.checksums if place not in got]
    faults += [
        f"{engine} received {place}, which was not sent" for place in got if place not in sent.checksums
    ]
    faults += [
        f"{engine} received other bytes of {place} than were sent"
        for place, checksum in sent.checksums.items()
        if place in got and got[place] != checksum
    ]
    faults += [f"{engine} loaded nothing into its parameter {name}" for name in receipt["not_loaded"]]
    return faults


def largest_difference(trainer: Sequence[np.ndarray], engine: Sequence[np.ndarray]) -> float:
    """Largest |log-prob difference| of any probe token; infinite where either is not a number."""
    differences = [np.abs(ours - theirs).max() for ours, theirs in zip(trainer, engine, strict=True)]
    # Python's max would pass over a NaN that is not the first.
    return float(np.nan_to_num(np.max(differences), nan=np.inf))
