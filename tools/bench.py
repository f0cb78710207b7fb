"""What r1mega costs: rollout, training and a whole cycle, each over the raw parts it is made of.

    python tools/bench.py [--json FILE] [--repetitions N] [key=value ...]
    python tools/bench.py handover [--json FILE] [--repetitions N] [key=value ...]

Three ratios, measured in one run on the demo's model, layout and sizes (`run=cpu_zero`, or what the
overrides make of it), the two sides by turns so that a busy machine slows both. It prints them
beside their bars and judges nothing: it fails only where something breaks. docs/benchmarks.md says
what counts as a raw part. `handover` measures the way of the weights to the engines instead, on any
model and layouts (`model=deepseek_v3_200m parallel=ep2 rollout.tensor_parallel=2`).

Importing this module is cheap: every engine's process does it again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

SETTINGS = (
    "run=cpu_zero",
    # A short course is enough: what counts is that answers have the length of a base's.
    "pretrain.updates=60",
    "pretrain.samples_per_update=128",
    # The weights stay where they are, so that every repetition and both sides do the same work.
    "grpo.optimizer.lr=1e-12",
    "name=bench",
    "fresh=true",
)
"""What is set where the user's overrides do not."""


HANDOVER = "handover"


def main() -> int:
    """Start the ranks, or be one."""
    arguments = _arguments()
    if "RANK" in os.environ:
        return _rank(arguments)
    with tempfile.TemporaryDirectory(prefix="r1mega-bench-") as folder:
        # One cycle more than counts, to warm up.
        settings = [*SETTINGS, f"grpo.rollouts={arguments.repetitions + 1}", f"runs_dir={folder}"]
        given = {_key(override) for override in arguments.overrides}
        defaults = [setting for setting in settings if _key(setting) not in given]
        return _launch(arguments, [*defaults, *arguments.overrides])


def _key(override: str) -> str:
    return override.split("=", 1)[0]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="of each side")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as r1mega takes them")
    arguments = parser.parse_intermixed_args()
    arguments.handover = HANDOVER in arguments.overrides
    arguments.overrides = [override for override in arguments.overrides if override != HANDOVER]
    return arguments


def _launch(arguments: argparse.Namespace, overrides: list[str]) -> int:
    from r1mega.__main__ import configurations
    from r1mega.checks import check
    from r1mega.compose import compose
    from r1mega.config import BadRun

    try:
        config = compose(configurations(), overrides)
        plan = check(config, None)
    except BadRun as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={plan.world_size}"]
    options = [*([HANDOVER] if arguments.handover else []), "--repetitions", str(arguments.repetitions)]
    if arguments.json:
        options += ["--json", str(arguments.json)]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(config.cluster.threads_per_rank),
        # Raw engines are killed, and what they held is then freed, with a warning, by Python's tracker.
        "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",
    }
    command = [sys.executable, *torchrun, __file__, *options, *overrides]
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 130


def _rank(arguments: argparse.Namespace) -> int:
    from r1mega.__main__ import configurations
    from r1mega.checks import check
    from r1mega.compose import compose
    from r1mega.config import Backend

    config = compose(configurations(), arguments.overrides)
    plan = check(config, int(os.environ["WORLD_SIZE"]))
    warnings.filterwarnings("ignore")
    import torch

    from r1mega.parallel.groups import close_groups, open_groups

    torch.set_num_threads(config.cluster.threads_per_rank)
    gpu = config.cluster.backend is Backend.cuda
    open_groups(plan, gpu=gpu, seed=config.seed, timeout_s=config.cluster.timeout_s)
    from bench_parts import handover, measure, table

    part = handover if arguments.handover else measure
    figures = part.run(config, plan, arguments.repetitions)
    if os.environ["RANK"] == "0":
        (handover if arguments.handover else table).show(figures)
        if arguments.json:
            table.write(figures, arguments.json, arguments.overrides)
    close_groups()
    return 0


if __name__ == "__main__":
    sys.exit(main())
