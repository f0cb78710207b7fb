"""The plan's word before a run starts: what cannot fit its GPUs is refused while it costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from r1mega.config import BadRun, Config
from r1mega.parallel.plan import Plan
from r1mega.planner.fits import search, shortages
from r1mega.planner.run import read_run
from r1mega.planner.table import gib


def require_fit(config: Config, plan: Plan, composed: Callable[[list[str]], Config]) -> None:
    """Pass a run whose counted memory fits, and any that says nothing of its GPUs or wants no such check.

    Args:
        plan: the layout of its ranks.
        composed: the run that overrides describe.

    Raises:
        BadRun: it does not fit: the phases in which it does not, and the smallest change that would do.
    """
    if config.cluster.gpu_memory_gib is None or not config.launch.must_fit:
        return
    run = read_run(replace(config, parallel=replace(config.parallel, dp=plan.dp)), composed)
    over = shortages(run.config, run.memory())
    if not over:
        return
    change, _ = search(run)
    would = (
        f"it would with {' '.join(change.overrides)}, on {change.ranks:,} ranks"
        if change is not None
        else "no small change was found that would do"
    )
    worst = over[0]
    causes = sorted(worst.causes.items(), key=lambda one: -one[1])[:4]
    raise BadRun(
        [
            f"it does not fit: {worst.what}: {gib(worst.bytes)} GiB over"
            f" ({', '.join(f'{cause} {gib(size)}' for cause, size in causes)}); {would};"
            " `r1mega plan` with the same overrides tells all; launch.must_fit=false starts it all the same"
        ]
    )
