"""What the user reads: the start, the steps, the table; and the same as JSON."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from parity_parts.job import Job
from r1mega.parallel.plan import Topology
from r1mega.track.environment import versions


def header(arguments: argparse.Namespace, job: Job, topology: Topology) -> None:
    """What is about to be compared."""
    lengths = [len(text) for text in job.texts]
    print(f"parity of {arguments.folder}" + (f" with {arguments.reference}" if arguments.reference else ""))
    for line in str(topology).splitlines():
        print(f"  {line}")
    print(f"  texts:    {len(lengths)} of {min(lengths)} to {max(lengths)} tokens", flush=True)
    print(
        "Three builds follow, which take half a minute for a small model. transformers first ...", flush=True
    )


def step(began: float, message: str) -> None:
    """One more is done."""
    print(f"  {time.monotonic() - began:5.0f} s  {message}", flush=True)


def figures(found: dict[str, Any], every_layer: bool) -> None:
    """The table, and the verdict under it."""
    print(f"\n{'':28}{'mean |dlogp|':>14}{'max |dlogp|':>14}")
    for name, pair in found["pairs"].items():
        print(f"  {name:26}{pair['mean']:14.1e}{pair['max']:14.1e}")
    print(f"\n  Megatron - transformers, layer by layer: {_layers(found)}")
    if every_layer:
        for name, value in found["layers"].items():
            moved = found["rerouted"].get(name)
            print(f"    {name:24}{value:10.1e}{'' if moved is None else f'   {moved:.2%} rerouted'}")
    if found["rerouted"]:
        print(f"  tokens routed otherwise: {_rerouted(found['rerouted'])}")
    print()
    if found["unproven"]:
        print(found["unproven"])
    limit = f"handover.max_abs_dlogp = {found['limit']:.0e}"
    if found["alike"]:
        print(f"Alike: every pair is within {limit}, and the hand-over is proven.")
    else:
        beyond = [name for name, pair in found["pairs"].items() if not pair["max"] <= found["limit"]]
        print(f"Different: {'; '.join(beyond)} beyond {limit}." if beyond else "Different.")


def _layers(found: dict[str, Any]) -> str:
    layers, first = found["layers"], found["parts_at"]
    if not layers:
        return "not watched under context parallelism"
    if first is not None:
        return f"they part at {first}, by {layers[first]:.1e} of a token's largest state"
    worst = max(layers, key=lambda name: layers[name])
    return f"all {len(layers)} within {found['limit']:.0e}, {worst} the furthest with {layers[worst]:.1e}"


def _rerouted(shares: dict[str, float]) -> str:
    worst = max((name for name in shares if name != "any"), key=lambda name: shares[name])
    most = f", most of them in {worst} ({shares[worst]:.2%})" if shares["any"] else ""
    return f"{shares['any']:.2%} in any layer{most}"


def write(
    file: Path, arguments: argparse.Namespace, job: Job, topology: Topology, found: dict[str, Any]
) -> None:
    """Every figure with what it rests on."""
    setting = {
        "folder": str(arguments.folder),
        "reference": str(arguments.reference or arguments.folder),
        "overrides": arguments.overrides,
        "training": str(topology.training),
        "rollout": str(topology.rollout),
        "texts": job.texts,
        "versions": versions(),
    }
    file.write_text(json.dumps(setting | found, indent=1) + "\n")
