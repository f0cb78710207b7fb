"""Everything is set up once, then the three ratios are measured one after another.

Every rank runs this in step; the figures are rank 0's, and barriers make them those of the slowest
rank. While an engine generates, the ranks wait in a gloo collective or on a pipe, as in a real run.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch.distributed as dist

from bench_parts import training
from bench_parts.cycle import Cycles
from bench_parts.raw_vllm import RawVllm, Settings
from bench_parts.rollout import Overheard, Rollouts
from bench_parts.timing import Turn
from r1mega.config import Config
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.rewards.grader import Grader
from r1mega.rollout.engines import Engines
from r1mega.stages import grpo
from r1mega.stages.handover import Handover, probe_texts
from r1mega.stages.judges import Judges
from r1mega.stages.parts import Text, load_model_fields, load_questions, load_text
from r1mega.stages.pretrain import pretrain
from r1mega.stages.serving import open_engines
from r1mega.stages.states import States

IN_PROCESS, OWN_PROCESS = "vLLM in process", "vLLM, own process"
REPLICAS = "vLLM in process, replicas"
NAMED_BY_THE_BAR = (IN_PROCESS, OWN_PROCESS)
TRAINING_TURNS_A_REPETITION = 4


def run(config: Config, plan: Plan, repetitions: int) -> dict[str, Any]:
    """All figures; `table` reads them."""
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        recorder = Cycles(config)
        stack.enter_context(recorder)
        recorder.say("building the model and a base to measure with ...")
        text = load_text(config, load_questions(config))
        policy = Policy(config, load_model_fields(config), plan)
        engines = stack.enter_context(open_engines(config, policy))
        grader = stack.enter_context(Grader(config.reward.workers, config.reward.time_limit_s))
        states = stack.enter_context(States(config, policy, recorder))
        base = _base(config, text, policy, recorder, states)
        handover = Handover(config, policy, engines, probe_texts(config, text))
        handover.run()
        recorder.say("starting raw vLLM in three ways ...")
        raws = stack.enter_context(_raw_engines(config, base, text.end_token))
        rollouts = Rollouts(config, text, engines, raws)
        speeds = rollouts.run(repetitions, recorder)
        turns = repetitions * TRAINING_TURNS_A_REPETITION
        updates = training.run(config, policy, rollouts.batch, turns, recorder)
        overheard = Overheard(engines)
        recorder.begin(policy, handover.probe, _faster(raws, speeds), lambda: overheard.requests)
        handover.engines = cast(Engines, overheard)
        course = grpo.begin(config, policy, states)
        judges = Judges(config, plan, text)
        grpo.train(config, text, policy, handover, grader, judges, recorder, states, course)
    return {
        "load_before": load,
        "same_answers": rollouts.same_answers,
        "rollout": speeds,
        "training": updates,
        "cycle": recorder.turns[1:],
    }


def _base(config: Config, text: Text, policy: Policy, recorder: Cycles, states: States) -> Path:
    """Weights to measure with: in the policy, and as the HF folder that is returned."""
    if config.model.init_from is None:
        pretrain(config, text, policy, recorder, states)
    else:
        policy.load(Path(config.model.init_from))
    # As the learning rate, so the router's bias: were it to move, so would the work.
    policy.megatron_config.moe_router_bias_update_rate = 0.0
    folder = config.folder / "weights"
    policy.export(folder)
    return folder


@contextmanager
def _raw_engines(config: Config, folder: Path, stop_token: int) -> Iterator[Sequence[RawVllm]]:
    """Raw vLLM on rank 0, each way with as many threads as r1mega's engines have together."""
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[config.precision.dtype]
    each = config.rollout.threads_per_worker
    cores = sorted(os.sched_getaffinity(0))[: config.rollout.replicas * each]

    def settings(own_process: bool, cores: Sequence[int]) -> Settings:
        log = str(config.folder / f"raw-{'own' if own_process else 'in'}-{len(cores)}.log")
        rollout = config.rollout
        return Settings(str(folder), dtype, own_process, tuple(cores), rollout, stop_token, log)

    ways = {
        IN_PROCESS: [settings(False, cores)],
        OWN_PROCESS: [settings(True, cores)],
        REPLICAS: [settings(False, cores[i : i + each]) for i in range(0, len(cores), each)],
    }
    with ExitStack() as stack:
        raws = []
        if dist.get_rank() == 0:
            raws = [stack.enter_context(RawVllm(name, parts)) for name, parts in ways.items()]
            for raw in raws:
                raw.wait()
        dist.barrier()
        yield raws


def _faster(raws: Sequence[RawVllm], speeds: Sequence[Turn]) -> RawVllm | None:
    """The faster of the raw ways that the bar names; None on the ranks that have none."""
    named = [raw for raw in raws if raw.name in NAMED_BY_THE_BAR]
    if not named:
        return None
    return max(named, key=lambda raw: statistics.median(turn[raw.name] for turn in speeds))
