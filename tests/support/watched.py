"""A rank that adds numbers up with the others, again and again: `python -m support.watched HOW FOLDER`.

HOW is how it is a rank: `bare` (it is prepared, meets the others and is watched, without Megatron; `early` is
the same, but rank 1 is watched no longer from the start on), or as r1mega's own of a stage that this file
stands in for (`whole`; `stuck` is the same, but rank 1 does something else for too long).
Once all have met, each writes its pid below FOLDER.
"""

from __future__ import annotations

import os
import sys
import time
import types
from datetime import timedelta
from pathlib import Path

from r1mega import stopping, watch
from r1mega.__main__ import configurations
from r1mega.compose import compose
from r1mega.config import Config
from support.ranks import plan_of

SILENT_S = 2.0


def add(config: Config, plan: object) -> None:
    import torch
    import torch.distributed as dist

    from r1mega.stages.timing import Timing

    how, folder, rank = sys.argv[1], Path(sys.argv[2]), os.environ["RANK"]
    dist.barrier()
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new" / rank).write_text(str(os.getpid()))
    (folder / "new" / rank).rename(folder / rank)
    timing = Timing()
    if how == "stuck" and rank == "1":
        with timing("dreaming"):
            time.sleep(60)
    if how == "early" and rank == "1":
        watch.stop()
    for _ in range(1 if how == "early" else 10_000):
        with timing("adding"):
            asked = torch.tensor(float(stopping.asked() is not None))
            dist.all_reduce(asked)
            if asked:
                raise stopping.Stop(stopping.asked() or "another rank")
        time.sleep(0.02)
    if how == "early":
        time.sleep(2 * SILENT_S)


def bare(config: Config) -> None:
    from r1mega.rank import prepare_process

    prepare_process(config)
    import torch.distributed as dist

    watch.start(SILENT_S)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    add(config, None)
    watch.stop()


def whole(config: Config) -> None:
    stage = types.ModuleType("r1mega.stages.grpo")
    stage.run = add  # type: ignore[attr-defined]
    sys.modules[stage.__name__] = stage
    config.launch.silent_s = 20.0
    config.cluster.timeout_s = 5.0 if sys.argv[1] == "stuck" else 60.0
    from r1mega.rank import run_rank

    sys.exit(run_rank(config, plan_of(dp=int(os.environ["WORLD_SIZE"]))))


if __name__ == "__main__":
    {"bare": bare, "early": bare, "whole": whole, "stuck": whole}[sys.argv[1]](
        compose(configurations(), ["run=cpu_zero"])
    )
