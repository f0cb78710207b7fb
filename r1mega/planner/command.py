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
from r1mega.planner.fastest import Seconds, fastest
from r1mega.planner.fits import Trial, search, shortages
from r1mega.planner.run import Run, read_run
from r1mega.planner.show import as_json, as_text
from r1mega.planner.show_search import search_as_json, words_of_search
from r1mega.planner.times import Times, run_time
from r1mega.planner.token_costs import TokenCosts, token_costs

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
    if plan["search"] and not asked.json:
        print("\n" + "\n".join(words_of_search(plan["search"])))
    return 0 if plan["fits"] else 2


def describe(run: Run, *, searched: bool = False) -> dict[str, Any]:
    """The plan of a run as `as_json` has it.

    Args:
        searched: with the fastest layout that fits on as many GPUs.
    """
    memory = run.memory()
    over = shortages(run.config, memory)
    change: Trial | None = None
    tried: list[Trial] = []
    if over:
        change, tried = search(run)
    plan = as_json(run, memory, _times(run), over, change, tried)
    if searched:
        plan["search"] = search_as_json(fastest(run, _seconds(run)))
    return plan


def _times(run: Run, costs: TokenCosts | None = None) -> Times | None:
    """None where it is not said what GPUs there are."""
    if run.config.cluster.gpu is None:
        return None
    return run_time(run.config, run.hf, run.topology, costs)


def _seconds(run: Run) -> Seconds:
    """What a search makes least: the mean step's time.

    Raises:
        BadRun: it is not said what GPUs there are.
    """
    if run.config.cluster.gpu is None:
        raise BadRun(
            ["cluster.gpu: was null; search=true looks for the fastest layout, so it must name a GPU"]
        )
    costs = token_costs(run.hf)

    def seconds(tried: Run) -> float:
        parts = run_time(tried.config, tried.hf, tried.topology, costs).parts
        steps = sum(part.steps or 1 for part in parts)
        return sum((part.steps or 1) * part.seconds for part in parts) / steps

    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="r1mega plan", description="Whether a run fits its GPUs, what it holds where, how long it takes."
    )
    parser.add_argument("overrides", nargs="*", help="as those of the run; search=true: the fastest layout")
    parser.add_argument("--json", action="store_true", help="print JSON; sizes in bytes, times in seconds")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with stacked bars as well")
    return parser
