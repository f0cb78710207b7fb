"""A whole run of the demo, shortened until it costs half a minute, and what it leaves in its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil

from support.command import environment

ROLLOUTS = 2
SHORT = (
    "pretrain.updates=8",
    "pretrain.samples_per_update=32",
    "data.train_questions=300",
    "data.held_out_questions=32",
    f"grpo.rollouts={ROLLOUTS}",
    "grpo.prompts_per_rollout=4",
    "grpo.samples_per_prompt=4",
    "grpo.updates_per_rollout=2",
    "grpo.reference_refresh_updates=3",
    "rollout.max_answer_tokens=32",
    "rollout.replicas=1",
    "eval.questions=8",
    "eval.samples_per_question=4",
    "track.samples_kept=3",
)
OURS = (sys.executable, "-m", "r1mega")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "r1mega")


def run(folder: Path, *overrides: str, program: tuple[str, ...] = OURS) -> subprocess.CompletedProcess[str]:
    """The finished command, started in `folder`."""
    return subprocess.run(
        [*program, *overrides],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=400,
    )


def start(folder: Path, *overrides: str) -> psutil.Popen:
    """The command, started in `folder` and in a session of its own; what it prints is to be read of it."""
    return psutil.Popen(
        [*OURS, *overrides],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def rows(file: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def but_for_time(row: dict[str, Any]) -> dict[str, Any]:
    """What of a row may not differ where the run is repeated."""
    return {
        name: value
        for name, value in row.items()
        if not name.startswith(("timing_s/", "perf/")) and name not in ("tokens_per_s", "wall_s")
    }


def weights(folder: Path) -> dict[str, str]:
    """The checksum of each file of weights."""
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.safetensors"))}
