"""Megatron's and vLLM's side, on every rank: the policy under its layout, an engine, a real hand-over."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity_parts import job as jobs
from parity_parts.job import Job, Seen
from r1mega.config import Backend, Config
from r1mega.parallel.groups import close_groups, open_groups
from r1mega.parallel.plan import Plan


def run(scratch: Path) -> int:
    """Score the job's texts on both sides and leave what was seen in the scratch folder."""
    warnings.filterwarnings("ignore")
    job = jobs.read(scratch)
    config, plan = job.config(), job.topology(int(os.environ["WORLD_SIZE"])).training
    torch.set_num_threads(config.cluster.threads_per_rank)
    gpu = config.cluster.backend is Backend.cuda
    open_groups(plan, gpu=gpu, seed=config.seed, timeout_s=config.cluster.timeout_s)
    from r1mega.rollout.engines import EngineError
    from r1mega.weights.whole import FolderError

    rank = int(os.environ["RANK"])
    try:
        seen, engine, unproven = _score(job, config, plan)
        jobs.write_rank(scratch, rank, seen, engine, unproven)
    except (FolderError, EngineError) as error:
        # Raised on every rank; one says so.
        if rank == 0:
            jobs.refuse(scratch, str(error))
    close_groups()
    return 0


def _score(job: Job, config: Config, plan: Plan) -> tuple[Seen, list[np.ndarray], str]:
    from r1mega.policy import Policy
    from r1mega.stages.handover import Handover
    from r1mega.stages.serving import open_engines
    from r1mega.weights.proof import HandoverError

    policy, unproven = Policy(config, config.model.hf, plan), ""
    policy.load(Path(job.folder))
    with open_engines(config, policy) as engines:
        seen = watch(policy, plan, job.texts)
        engines.wait()
        try:
            Handover(config, policy, engines, job.texts).run()
        except HandoverError as error:
            unproven = str(error)
        logps = list(seen.logps)
        for engine, theirs in engines.score(job.texts).items():
            logps[engine :: engines.replicas] = theirs
        return seen, logps, unproven


def watch(policy: Any, plan: Plan, texts: Sequence[Sequence[int]]) -> Seen:
    """What Megatron computes for the texts: log-probs of all of them packed, the rest one by one.

    One by one, so that a row's positions are those of its only text, whatever the packing.
    """
    from r1mega.model.rows import Sample

    samples = [Sample(text, 1) for text in texts]
    hidden: dict[str, list[np.ndarray]] = {}
    experts: dict[str, list[np.ndarray]] = {}
    logps = [of.numpy() for of in policy.score(samples, 1.0)]
    # Context parallelism deals a text's tokens out in an order of its own; layers are not compared then.
    for sample in samples if plan.cp == 1 else []:
        with _watching(policy) as (states, routes):
            policy.score([sample] * plan.dp, 1.0)
        for found, into in ((states, hidden), (routes, experts)):
            for name, array in found.items():
                into.setdefault(name, []).append(array)
    return Seen(logps, hidden, experts)


@contextmanager
def _watching(policy: Any) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    """By HF name: what this rank's modules put out first, and its routers' choices."""
    states: dict[str, np.ndarray] = {}
    routes: dict[str, np.ndarray] = {}
    hooks = []

    def keep(module: Any, name: str, into: dict[str, np.ndarray], read: Callable[[Any], np.ndarray]) -> None:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            # The draft layers embed once more, after the model has.
            into.setdefault(name, read(output))

        hooks.append(module.register_forward_hook(hook))

    for model in (chunk.module for chunk in policy.chunks):
        if model.pre_process:
            keep(model.embedding, "model.embed_tokens", states, _states)
        for layer in model.decoder.layers:
            name = f"model.layers.{layer.layer_number - 1}"
            keep(layer, name, states, _states)
            if hasattr(layer.mlp, "router"):
                keep(layer.mlp.router, name, routes, _chosen)
        if model.decoder.final_layernorm is not None:
            keep(model.decoder.final_layernorm, "model.norm", states, _states)
    try:
        yield states, routes
    finally:
        for hook in hooks:
            hook.remove()


def _states(output: Any) -> np.ndarray:
    """[tokens, 1, width], alone or first of several, to [tokens, width]."""
    states = output if torch.is_tensor(output) else output[0]
    return states[:, 0].detach().float().cpu().numpy().copy()


def _chosen(output: Any) -> np.ndarray:
    """A router's (probabilities, choices), both [tokens, experts], to the choices."""
    return output[1].cpu().numpy().copy()
