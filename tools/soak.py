"""Kill a run again and again, and see that it ends as if nothing had been: `make soak`.

A small GRPO run (two ranks, two engines, states saved every other rollout) is made once undisturbed. Then
the same run is started over and over; at random moments one of its processes, drawn at random, gets
SIGKILL: the launcher, a rank, an engine, a reward worker, W&B's service. Where that ends the run, everything
of it must be gone within seconds, every state under its name must be whole, and the same command is
given again. A run that came to its end must have the undisturbed one's rows, none doubled and none missing,
and bit for bit its weights.

Prints a line a kill, and at the end a table by kind of process; exit code 1 where anything differed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from r1mega.checkpoint.store import Saved, Store

SAVE_EVERY = 2
OVERRIDES = (
    "run=cpu_zero",
    "pretrain.updates=20",
    "grpo.rollouts=12",
    "grpo.prompts_per_rollout=8",
    "eval.questions=8",
    f"checkpoint.save_every_rollouts={SAVE_EVERY}",
    "checkpoint.save_every_updates=5",
)
GONE_WITHIN_S = 15.0
"""How long processes of a run that ended may take to be gone."""
NOT_OF_THE_RESULT = ("timing_s/", "perf/", "tokens_per_s", "reliability/engine_restarts")


@dataclass(slots=True)
class Tally:
    """What the kills did."""

    kills: Counter[str] = field(default_factory=Counter)
    went_on: int = 0
    """The run itself outlived the kill: an engine or a worker was started anew."""
    while_saving: int = 0
    finished: int = 0
    most_redone: int = 0
    faults: list[str] = field(default_factory=list)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims")
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    parser.add_argument("--longest-s", type=float, default=50.0, help="the longest wait before a kill")
    given = parser.parse_args(arguments)
    shutil.rmtree(given.folder, ignore_errors=True)
    began = time.monotonic()
    wanted = undisturbed(given.folder)
    print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
    tally, draw, number = Tally(), random.Random(given.seed), 0
    while sum(tally.kills.values()) < given.kills:
        number += 1
        disturb(given.folder, f"killed-{number}", given.kills, given.longest_s, draw, tally)
        compare(given.folder / f"killed-{number}", wanted, tally)
    report(tally, time.monotonic() - began)
    return int(bool(tally.faults))


def start(folder: Path, name: str) -> psutil.Popen:
    """The run's launcher, in a session of its own."""
    command = [sys.executable, "-m", "r1mega", *OVERRIDES, f"name={name}", f"runs_dir={folder}"]
    log = (folder / f"{name}.log").open("ab")
    return psutil.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def undisturbed(folder: Path) -> dict[str, Any]:
    """What the run leaves when nothing happens to it."""
    folder.mkdir(parents=True, exist_ok=True)
    code = start(folder, "undisturbed").wait()
    if code:
        raise SystemExit(f"the undisturbed run ended with {code}; see {folder}/undisturbed.log")
    return result(folder / "undisturbed")


def disturb(folder: Path, name: str, kills: int, longest_s: float, draw: random.Random, tally: Tally) -> None:
    """Start the run until it ends well, killing one of its processes at random moments."""
    launcher = start(folder, name)
    while True:
        try:
            code = launcher.wait(draw.uniform(0, longest_s) if sum(tally.kills.values()) < kills else None)
        except psutil.TimeoutExpired:
            code = strike(folder / name, launcher, draw, tally)
        if code is None:
            continue
        if code == 0:
            return
        examine(folder / name, tally)
        launcher = start(folder, name)


def strike(run: Path, launcher: psutil.Popen, draw: random.Random, tally: Tally) -> int | None:
    """Kill one process; the run's exit code, where that ended it within some seconds."""
    family = [launcher, *launcher.children(recursive=True)]
    victim = draw.choice(family)
    kind = kind_of(victim, launcher)
    if kind is None:
        return None
    saving = any((run / "checkpoints").glob(".*.partial"))
    try:
        victim.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return None
    tally.kills[kind] += 1
    tally.while_saving += saving
    print(f"{sum(tally.kills.values()):3d} {run.name} {kind}{' while saving' if saving else ''}", flush=True)
    try:
        code: int = launcher.wait(20)
    except psutil.TimeoutExpired:
        tally.went_on += 1
        return None
    _, alive = psutil.wait_procs(family, timeout=GONE_WITHIN_S)
    alive = [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    for one in alive:
        tally.faults.append(f"after {kind} was killed, {one.pid} lived on: {' '.join(one.cmdline())[:100]}")
        one.kill()
    return code or 1


def kind_of(process: psutil.Process, launcher: psutil.Popen) -> str | None:
    """What the process is to the run; None where it has just ended."""
    try:
        command = " ".join(process.cmdline())
        parent = process.ppid()
    except psutil.NoSuchProcess:  # or a zombie
        return None
    if process.pid == launcher.pid:
        return "launcher"
    if "rewards.worker" in command:
        return "reward worker"
    if "wandb" in command:
        return "wandb"
    if parent == launcher.pid:
        return "rank"
    return "engine" if "spawn_main" in command else "helper process"


def examine(run: Path, tally: Tally) -> None:
    """What a killed run left: every state whole, and not too much to be done again."""
    store = Store(run / "checkpoints")
    for unit in ("pretrain", "rollout"):
        for saved in store.saved(unit):
            tally.faults += [f"{run}: {saved}: {fault}" for fault in store.faults(saved)]
    rollouts = [row["rollout"] for row in rows(run, "metrics")]
    newest = next(iter(store.saved("rollout")), Saved("rollout", 0)).number
    tally.most_redone = max(tally.most_redone, max(rollouts, default=0) - newest)


def result(run: Path) -> dict[str, Any]:
    """Rows but for times, and the weights' checksum."""
    weights = sorted((run / "final").glob("*.safetensors"))
    return {
        **{name: rows(run, name) for name in ("metrics", "samples", "pretrain")},
        "weights": [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights],
    }


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    """The whole rows of a file."""
    file = run / f"{name}.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [
        {key: value for key, value in json.loads(line).items() if not key.startswith(NOT_OF_THE_RESULT)}
        for line in lines
    ]


def compare(run: Path, wanted: dict[str, Any], tally: Tally) -> None:
    """Hold the ended run against the undisturbed one."""
    tally.finished += 1
    found = result(run)
    tally.faults += [f"{run}: its {part} differ" for part in wanted if found[part] != wanted[part]]


def report(tally: Tally, seconds: float) -> None:
    """The table."""
    print(f"\n{sum(tally.kills.values())} kills in {seconds / 60:.0f} min")
    for kind, count in tally.kills.most_common():
        print(f"  {kind:16s}{count:4d}")
    print(
        f"  while a state was being written: {tally.while_saving}; the run went on by itself: {tally.went_on}"
    )
    print(f"  most rollouts to be done again: {tally.most_redone} (a state every {SAVE_EVERY})")
    print(f"  {tally.finished} runs ended; faults: {len(tally.faults)}")
    for fault in tally.faults:
        print(f"    {fault}")


if __name__ == "__main__":
    sys.exit(main())
