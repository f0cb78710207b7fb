"""`r1mega plan run=...`: whether a run fits, what it holds where, and its batches, without starting it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from r1mega.compose import compose
from r1mega.config import BadRun
from r1mega.planner.fits import Trial, search, shortages
from r1mega.planner.run import read_run
from r1mega.planner.show import as_json, as_text


def main(arguments: Sequence[str], configurations: Path) -> int:
    """Print the plan; the exit code is 2 where the run cannot be or does not fit."""
    overrides = [argument for argument in arguments if argument != "--json"]
    if any(argument.startswith("-") for argument in overrides):
        print(f"error: r1mega plan takes overrides and --json; it got {' '.join(arguments)}", file=sys.stderr)
        return 2
    composed = partial(compose, configurations)
    try:
        run = read_run(composed(overrides), composed)
    except BadRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    memory = run.memory()
    found = shortages(run.config, memory)
    change: Trial | None = None
    tried: list[Trial] = []
    if found:
        change, tried = search(run)
    plan = as_json(run, memory, found, change, tried)
    print(json.dumps(plan, indent=2) if "--json" in arguments else as_text(run, memory, plan))
    return 2 if found else 0
