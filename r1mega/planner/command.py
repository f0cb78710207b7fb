"""`r1mega plan run=...`: whether a run fits, what it holds where, how long it takes, without starting it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from r1mega.compose import compose
from r1mega.config import BadRun
from r1mega.planner.fits import Trial, search, shortages
from r1mega.planner.run import Run, read_run
from r1mega.planner.show import as_json, as_text

_SEARCH = "search=true"
"""A word of this command among the run's overrides: look for the fastest layout that fits."""


def main(arguments: Sequence[str], configurations: Path) -> int:
    """Print the plan; the exit code is 2 where the run cannot be or does not fit."""
    asked = _parser().parse_intermixed_args(list(arguments))
    overrides = [override for override in asked.overrides if override != _SEARCH]
    composed = partial(compose, configurations)
    try:
        run = read_run(composed(overrides), composed)
        plan = describe(run, searched=_SEARCH in asked.overrides)
    except BadRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if asked.html is not None:
        from r1mega.planner.page import write_page

        write_page(asked.html, plan)
    print(json.dumps(plan, indent=2) if asked.json else as_text(plan))
    return 0 if plan["fits"] else 2


def describe(run: Run, *, searched: bool = False) -> dict[str, Any]:
    """The plan of a run as `as_json` has it.

    Args:
        searched: with the fastest layout that fits on as many GPUs.
    """
    memory = run.memory()
    found = shortages(run.config, memory)
    change: Trial | None = None
    tried: list[Trial] = []
    if found:
        change, tried = search(run)
    return as_json(run, memory, found, change, tried)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r1mega plan", description="Whether a run fits its GPUs, what it holds where, how long it takes."
    )
    parser.add_argument("overrides", nargs="*", help="as those of the run; search=true: the fastest layout")
    parser.add_argument("--json", action="store_true", help="print JSON; sizes in bytes, times in seconds")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with stacked bars as well")
    return parser
