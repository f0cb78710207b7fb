"""The command itself, in a process of its own: `python -m r1mega ...` from another folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAVY = ("torch", "megatron", "vllm", "transformers")
# Runs the command, then says which of the heavy packages it imported.
PROGRAM = f"""
import runpy, sys
sys.argv = ["r1mega", *sys.argv[1:]]
try:
    runpy.run_module("r1mega", run_name="__main__", alter_sys=True)
finally:
    sys.stdout.flush()
    print(*(name for name in {HEAVY} if name in sys.modules), sep=" ", end="", flush=True, file=open(3, "w"))
"""


def environment(**more: str) -> dict[str, str]:
    """Ours, with the package on the path and without what an outer launcher may have set."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "R1MEGA_LAUNCHED")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"} | more


def command(*arguments: str, folder: Path, timeout_s: float = 60, **more: str) -> tuple[Any, list[str]]:
    """The finished process, and the heavy packages that it imported."""
    reads, writes = os.pipe()
    try:
        done = subprocess.run(
            ["bash", "-c", f'exec "$0" "$@" 3>&{writes}', sys.executable, "-c", PROGRAM, *arguments],
            cwd=folder,
            env=environment(**more),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            pass_fds=[writes],
        )
    finally:
        os.close(writes)
    with open(reads) as imported:
        return done, imported.read().split()
