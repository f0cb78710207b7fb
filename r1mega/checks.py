"""What is wrong with a run, found before anything is built: keys that do not fit each other, and files.

Every fault is said at once, each with its key, what it was, what it may be.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from r1mega.config import Backend, BadRun, Config, Dtype, Stage
from r1mega.model.family import family_faults, family_of
from r1mega.parallel.plan import (
    Plan,
    Topology,
    faults_for,
    make_plan,
    make_rollout_plan,
    rollout_faults_for,
)

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""What vLLM 0.32's attention on a CPU is compiled for."""


def check(config: Config, ranks: int | None) -> Plan:
    """The layout of the run's ranks, if nothing is wrong with the run; see `topology`."""
    return topology(config, ranks).training


def topology(config: Config, ranks: int | None) -> Topology:
    """The layout of both sides, if nothing is wrong with the run.

    Args:
        ranks: how many an outer launcher started; None where the run starts its own.

    Raises:
        BadRun: with every fault found.
    """
    hf, faults = model_fields(config)
    faults += _stage_faults(config)
    plan, layout_faults = make_plan(
        tp=config.parallel.tp,
        pp=config.parallel.pp,
        vpp=config.parallel.vpp,
        ep=config.parallel.ep,
        etp=config.parallel.etp,
        cp=config.parallel.cp,
        dp=config.parallel.dp,
        ranks=ranks,
    )
    faults += layout_faults
    # Pipeline and expert parallelism of the engines are no keys yet: where runs compute, both are 1.
    rollout, rollout_faults = make_rollout_plan(
        replicas=config.rollout.replicas, tp=config.rollout.tensor_parallel, pp=1, ep=1
    )
    faults += rollout_faults
    on_cpu = config.cluster.backend is Backend.cpu
    if plan is not None:
        faults += _row_faults(config, plan)
    if plan is not None and hf is not None:
        faults += faults_for(plan, family_of(hf).shape(hf))
    if rollout is not None and hf is not None:
        faults += rollout_faults_for(rollout, family_of(hf).shape(hf), on_cpu)
    longest = config.rollout.max_context_tokens
    if hf is not None and longest > hf["max_position_embeddings"]:
        faults.append(
            f"rollout.max_context_tokens: was {longest}; the model's max_position_embeddings ="
            f" {hf['max_position_embeddings']} must hold it"
        )
    if hf is not None and on_cpu:
        faults += _head_faults(hf)
    faults += _number_faults(config) + _machine_faults(config) + _data_faults(config) + _folder_faults(config)
    if config.stage is Stage.grpo:
        faults += _batch_faults(config)
    if faults or plan is None or rollout is None:
        raise BadRun(faults)
    return Topology(plan, rollout)


def model_fields(config: Config) -> tuple[dict[str, Any] | None, list[str]]:
    """The model's HF fields, from its folder or the run; None where they are at fault."""
    faults: list[str] = []
    if config.model.init_from is None:
        hf, where = config.model.hf, "model.hf"
    else:
        hf, faults = _read_folder(Path(config.model.init_from), config.model.made_by)
        where = str(Path(config.model.init_from) / "config.json")
    faults = faults or family_faults(hf, where) or family_of(hf).faults(hf, where)
    return (None if faults else hf), faults


def _read_folder(folder: Path, made_by: str | None) -> tuple[dict[str, Any], list[str]]:
    wanted = f"model.init_from: was {folder}; "
    if not folder.is_dir() and made_by is not None:
        return {}, [f"{wanted}no such folder yet; make it with: {made_by}"]
    if not folder.is_dir():
        return {}, [wanted + "no such folder; give one with config.json, tokenizer.json and *.safetensors"]
    faults = [
        wanted + f"it has no {name}"
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json")
        if not (folder / name).is_file()
    ]
    if not any(folder.glob("*.safetensors")):
        faults.append(wanted + "it has no *.safetensors")
    if faults:
        return {}, faults
    try:
        hf = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        return {}, [f"{folder / 'config.json'}: not JSON ({error})"]
    return hf, []


def _stage_faults(config: Config) -> list[str]:
    given = config.model.init_from
    if config.stage is Stage.evaluate and given is None:
        return ["model.init_from: was null; must be the folder of the model to evaluate"]
    if config.stage is Stage.pretrain and given is not None:
        return [f"model.init_from: was {given}; must be null, pre-training starts from fresh weights"]
    return []


def _head_faults(hf: dict[str, Any]) -> list[str]:
    size = family_of(hf).shape(hf).head_size
    if size in CPU_HEAD_SIZES:
        return []
    return [
        f"model.hf: its attention heads are {size} wide;"
        f" vLLM's attention on a CPU serves {', '.join(map(str, CPU_HEAD_SIZES))}"
        " (head_dim, or qk_nope_head_dim and qk_rope_head_dim together)"
    ]


def _number_faults(config: Config) -> list[str]:
    positive = {
        "rollout.max_answer_tokens": config.rollout.max_answer_tokens,
        "rollout.concurrent_sequences": config.rollout.concurrent_sequences,
        "rollout.threads_per_worker": config.rollout.threads_per_worker,
        "rollout.kv_cache_bytes": config.rollout.kv_cache_bytes,
        "rollout.temperature": config.rollout.temperature,
        "train.tokens_per_microbatch": config.train.tokens_per_microbatch,
        "pretrain.updates": config.pretrain.updates,
        "pretrain.samples_per_update": config.pretrain.samples_per_update,
        "grpo.rollouts": config.grpo.rollouts,
        "grpo.prompts_per_rollout": config.grpo.prompts_per_rollout,
        "grpo.samples_per_prompt": config.grpo.samples_per_prompt,
        "grpo.updates_per_rollout": config.grpo.updates_per_rollout,
        "grpo.reference_refresh_updates": config.grpo.reference_refresh_updates,
        "reward.workers": config.reward.workers,
        "reward.time_limit_s": config.reward.time_limit_s,
        "eval.questions": config.eval.questions,
        "eval.samples_per_question": config.eval.samples_per_question,
        "cluster.threads_per_rank": config.cluster.threads_per_rank,
        "handover.probe_samples": config.handover.probe_samples,
        "data.train_questions": config.data.train_questions,
        "pretrain.optimizer.lr": config.pretrain.optimizer.lr,
        "grpo.optimizer.lr": config.grpo.optimizer.lr,
    }
    faults = [f"{key}: was {value}; must be above 0" for key, value in positive.items() if value <= 0]
    not_negative = {
        "seed": config.seed,
        "eval.temperature": config.eval.temperature,
        "track.samples_kept": config.track.samples_kept,
        "grpo.kl_coefficient": config.grpo.kl_coefficient,
    }
    faults += [f"{key}: was {value}; must be at least 0" for key, value in not_negative.items() if value < 0]
    if config.eval.questions == 1:
        faults.append("eval.questions: was 1; an interval needs at least 2")
    for key, value in {"rollout.top_p": config.rollout.top_p, "eval.top_p": config.eval.top_p}.items():
        if not 0 < value <= 1:
            faults.append(f"{key}: was {value}; must be above 0 and at most 1")
    if config.rollout.max_context_tokens <= config.rollout.max_answer_tokens:
        faults.append(
            f"rollout.max_context_tokens: was {config.rollout.max_context_tokens};"
            " must leave room for a prompt"
            f" beside rollout.max_answer_tokens = {config.rollout.max_answer_tokens}"
        )
    if config.train.tokens_per_microbatch < config.rollout.max_context_tokens:
        faults.append(
            f"train.tokens_per_microbatch: was {config.train.tokens_per_microbatch}; must hold one sample of"
            f" rollout.max_context_tokens = {config.rollout.max_context_tokens}"
        )
    return faults


def _row_faults(config: Config, plan: Plan) -> list[str]:
    tokens, longest = config.train.tokens_per_microbatch, config.rollout.max_context_tokens
    needed = longest + -longest % plan.row_multiple
    if not longest <= tokens < needed:
        return []
    return [
        f"train.tokens_per_microbatch: was {tokens}; must be at least {needed}: a sample of"
        f" rollout.max_context_tokens = {longest} is padded for tp {plan.tp} x cp {plan.cp}"
    ]


def _batch_faults(config: Config) -> list[str]:
    samples = config.grpo.prompts_per_rollout * config.grpo.samples_per_prompt
    updates = config.grpo.updates_per_rollout
    faults = []
    if updates > 0 and samples % updates:
        faults.append(
            f"grpo.updates_per_rollout: was {updates};"
            f" must divide prompts_per_rollout x samples_per_prompt = {samples}"
        )
    if config.rollout.top_p != 1:
        faults.append(
            f"rollout.top_p: was {config.rollout.top_p}; the trainer's log-probs are of all tokens,"
            " so what it learns from must be sampled from all: 1.0"
        )
    if config.grpo.samples_per_prompt == 1:
        faults.append(
            "grpo.samples_per_prompt: was 1; an advantage compares samples of one prompt, so at least 2"
        )
    return faults


def _machine_faults(config: Config) -> list[str]:
    faults = []
    ranks, here = os.environ.get("WORLD_SIZE"), os.environ.get("LOCAL_WORLD_SIZE")
    if config.cluster.backend is Backend.cpu and here is not None and ranks != here:
        faults.append(
            f"cluster.backend: was cpu, with {here} of {ranks} ranks on this machine; weights reach the"
            " engines through one machine's memory, so all ranks must be on one"
        )
    slowest_s = max(config.rollout.answer_timeout_s, config.rollout.start_timeout_s)
    if config.cluster.timeout_s <= slowest_s:
        faults.append(
            f"cluster.timeout_s: was {config.cluster.timeout_s:g}; must be above the engines' timeouts,"
            f" {slowest_s:g}: ranks wait for an engine in a collective"
        )
    if config.cluster.backend is Backend.cuda:
        faults.append(
            "cluster.backend: was cuda; this version hands weights over on CPU only"
            " (vLLM's ipc and nccl engines come next), so it must be cpu"
        )
    if config.cluster.backend is Backend.cpu and config.precision.dtype is not Dtype.fp32:
        faults.append(f"precision.dtype: was {config.precision.dtype}; on cpu it must be fp32")
    return faults


def _folder_faults(config: Config) -> list[str]:
    """What a run reads may not lie in its own folder, which it empties first."""
    paths = {"model.init_from": config.model.init_from, "data.prompts_file": config.data.prompts_file}
    return [
        f"{key}: was {path}; must be outside {config.folder}, which this run empties, or name another run"
        for key, path in paths.items()
        if path is not None and Path(path).resolve().is_relative_to(config.folder.resolve())
    ]


def _data_faults(config: Config) -> list[str]:
    from r1mega.data.faults import data_faults
    from r1mega.rewards.registry import check_weights

    data, mixture = config.data, config.pretrain.mixture
    pretrains = config.model.init_from is None
    tasks = [(task.name, task.parameters, task.weight) for task in data.tasks]
    faults = check_weights(config.reward.weights)
    faults += data_faults(tasks, data.prompts_file, data.template, mixture if pretrains else {})
    if pretrains and not mixture:
        faults.append("pretrain.mixture: was empty; a base trained from scratch needs texts to learn")
    if data.prompts_file is not None and not faults:
        faults += _split_faults(config, data.prompts_file)
    if config.eval.questions > data.held_out_questions:
        faults.append(
            f"eval.questions: was {config.eval.questions};"
            f" data.held_out_questions holds {data.held_out_questions}"
        )
    return faults


def _split_faults(config: Config, prompts_file: str) -> list[str]:
    from r1mega.data import prompts, tasks

    data = config.data
    try:
        prompts.split(
            prompts.read_prompts(prompts_file), data.train_questions, data.held_out_questions, seed=0
        )
    except tasks.TooFewQuestionsError as error:
        return [str(error)]
    return []
