"""One rank of a run: join the others, run the stage, leave."""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import signal
import sys
import warnings

from r1mega import stopping, watch
from r1mega.config import Backend, BadRun, Config, Fp8
from r1mega.model import extras
from r1mega.model.precision import machine_fault
from r1mega.parallel.plan import Plan


def run_rank(config: Config, plan: Plan) -> int:
    """Run the config's stage on this rank; returns the exit code."""
    prepare_process(config)
    import torch

    torch.set_num_threads(config.cluster.threads_per_rank)
    watch.start(config.launch.silent_s)
    try:
        return _take_part(config, plan)
    except stopping.Stop as stop:
        _say(f"Saved and stopped ({stop}); the same command{' without fresh=true' * config.fresh} goes on.")
        return stopping.SAVED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error.filename or config.folder}: {error.strerror}", file=sys.stderr, flush=True)
        return 1
    except Exception as error:
        if not watch.is_lost_peer(error):
            raise
        # The launcher tells the cause; this rank tells where it was.
        print(f"error: {watch.last_words(error)}", file=sys.stderr, flush=True)
        return 1
    finally:
        watch.stop()


def _take_part(config: Config, plan: Plan) -> int:
    import torch.distributed as dist

    from r1mega.parallel.groups import close_groups, open_groups

    open_groups(
        plan, gpu=config.cluster.backend is Backend.cuda, seed=config.seed, timeout_s=config.cluster.timeout_s
    )
    from r1mega.guard import DivergedError
    from r1mega.rewards.grader import GraderError
    from r1mega.rollout.engines import EngineError
    from r1mega.weights.proof import HandoverError
    from r1mega.weights.whole import FolderError

    if config.cluster.backend is Backend.cuda:
        _say(extras.banner())
    try:
        _refuse_without_fp8(config)
        importlib.import_module(f"r1mega.stages.{config.stage.value}").run(config, plan)
    except (BadRun, FolderError, EngineError, HandoverError, GraderError, DivergedError) as error:
        # Raised on every rank or on the first; one says so.
        _say(f"error: {error}")
        return 2 if isinstance(error, BadRun | FolderError) else 1
    watch.phase("the end")
    dist.barrier()  # the store ends with rank 0: all stop watching before it does
    watch.stop()
    close_groups()
    return 0


def _refuse_without_fp8(config: Config) -> None:
    """Stop every rank where any of them cannot run the run's FP8 recipe.

    Raises:
        BadRun: on every rank.
    """
    if config.precision.fp8 is Fp8.none:
        return
    import torch.distributed as dist

    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, machine_fault(config.precision.fp8))
    if faults := sorted({fault for fault in found if fault is not None}):
        raise BadRun(faults)


def _say(line: str) -> None:
    if os.environ["RANK"] == "0":
        print(line, file=sys.stderr, flush=True)


def prepare_process(config: Config) -> None:
    """Quiet what no user can act on, stop when told to and end when the launcher does; before torch."""
    # What Megatron and torch warn of (optional parts that are absent, names to come) is nothing a user
    # of the run can act on; the run's folder records the versions.
    for module in ("megatron", "torch"):
        warnings.filterwarnings("ignore", module=rf"{module}\..*")
    # An engine that is ended while it starts leaves a lock to multiprocessing's tracker, which says so.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    os.environ.setdefault("OMP_NUM_THREADS", str(config.cluster.threads_per_rank))
    # A store that is gone would come with a trace through C++; what is wrong is said once, in words.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    stopping.listen(config.launch.max_time_s)
    stopping.spare_children()
    if "R1MEGA_LAUNCHED" in os.environ:
        # Ranks do not outlive their launcher.
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.environ["R1MEGA_LAUNCHED"] != str(os.getppid()):
            raise SystemExit(1)  # the launcher died before the kernel was told
