"""The command `r1mega`, also `python -m r1mega`: compose a run, check it, start its ranks.

    r1mega run=cpu_zero                          a whole run, described in conf/run/cpu_zero.yaml
    r1mega run=cpu_zero grpo.rollouts=10 seed=3  the same with other values
    r1mega run=cpu_zero --cfg job                print the composed run and stop
    torchrun --nproc-per-node 2 -m r1mega run=cpu_zero
    r1mega doctor                                what this machine has, and what it lacks; --json
    r1mega plan run=r1_zero                      what the run holds where, and whether it fits; --json

A run is composed and checked before anything slow is imported: what is wrong with it is said at once,
all of it, and the exit code is 2.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r1mega.config import Config
    from r1mega.parallel.plan import Plan


def main() -> None:
    """Entry point of the console script."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["doctor"]:
        from r1mega.doctor import main as doctor

        sys.exit(doctor(arguments[1:]))
    if arguments[:1] == ["plan"]:
        from r1mega.planner.command import main as plan

        sys.exit(plan(arguments[1:], configurations()))
    if any(argument.startswith("-") for argument in arguments):
        _show(arguments)
        return
    try:
        sys.exit(_run(arguments))
    except KeyboardInterrupt:
        sys.exit(130)


def configurations() -> Path:
    """The folder of configurations: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    return package / "conf" if (package / "conf").exists() else package.parent / "conf"


def _show(arguments: list[str]) -> None:
    """Hydra's own answers: --help, --cfg job, --info, ... No run is started."""
    import hydra

    from r1mega.compose import register

    register()

    def refuse(composed: object) -> None:
        raise SystemExit(
            "r1mega takes overrides such as seed=1, and --help, --cfg job or --info;"
            f" it got {' '.join(arguments)}"
        )

    hydra.main(version_base="1.3", config_path=str(configurations()), config_name="r1mega")(refuse)()


def _run(arguments: list[str]) -> int:
    from r1mega.checks import check
    from r1mega.compose import compose
    from r1mega.config import BadRun, Stage
    from r1mega.launch import ranks_started, start_ranks

    try:
        config = compose(configurations(), arguments)
        if config.stage is Stage.pipeline:
            return _run_pipeline(config, arguments)
        plan = check(config, ranks_started())
        _require_fit(config, plan)
    except BadRun as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return 2
    from r1mega.stages.finished import show_finished

    if show_finished(config):
        return 0
    if "RANK" not in os.environ:
        return start_ranks(arguments, plan.world_size)
    from r1mega.rank import run_rank

    return run_rank(config, plan)


def _require_fit(config: Config, plan: Plan) -> None:
    from r1mega.config import Backend

    if config.cluster.backend is Backend.cpu:
        return  # a CPU's memory is not planned, and the planner costs a moment to import
    from r1mega.compose import compose
    from r1mega.planner.before import require_fit

    require_fit(config, plan, partial(compose, configurations()))


def _run_pipeline(config: Config, arguments: list[str]) -> int:
    from r1mega.config import BadRun
    from r1mega.launch import ranks_started
    from r1mega.stages import pipeline

    if ranks_started() is not None:
        raise BadRun(["stage: was pipeline, which starts its stages' ranks itself; start it once, alone"])
    return pipeline.main(config, arguments, configurations())


if __name__ == "__main__":
    main()
