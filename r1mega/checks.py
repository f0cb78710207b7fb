"""What is wrong with a run, found before anything is built: keys that do not fit each other, and files.

Every fault is said at once, each with its key, what it was, what it may be.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from r1mega.config import GENERATING, Backend, BadRun, Config, Dtype, Fp8, Placement, RewardKind, Stage
from r1mega.data_checks import data_faults
from r1mega.model import extras, precision, recompute
from r1mega.model.family import family_faults, family_of
from r1mega.model.scalar import is_scalar
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


Coming = Mapping[str, dict[str, Any] | None]
"""Paths that an earlier stage of a pipeline will make: the HF fields of a model, None for anything else."""


def check(config: Config, ranks: int | None, coming: Coming = MappingProxyType({})) -> Plan:
    """The layout of the run's ranks, if nothing is wrong with the run and this version can start it.

    Args:
        ranks: how many an outer launcher started; None where the run starts its own.
        coming: what need not be there yet; the stage that reads it is checked again when it starts.

    Raises:
        BadRun: with every fault found.
    """
    found, faults = _look(config, ranks, coming)
    faults += start_faults(config)
    if faults or found is None:
        raise BadRun(faults)
    return found.training


def topology(config: Config, ranks: int | None, coming: Coming = MappingProxyType({})) -> Topology:
    """The layout of both sides, if nothing is wrong with the run, startable or not; see `check`.

    Raises:
        BadRun: with every fault found.
    """
    found, faults = _look(config, ranks, coming)
    if faults or found is None:
        raise BadRun(faults)
    return found


def start_faults(config: Config) -> list[str]:
    """Why this version cannot start a run that could otherwise be, and that `r1mega plan` plans."""
    stages = config.rollout.pipeline_parallel
    if config.stage not in GENERATING or stages <= 1:
        return []
    return [
        f"rollout.pipeline_parallel: was {stages}; this version starts engines of one stage, on one machine:"
        " must be 1 (`r1mega plan` plans any)"
    ]


def _look(config: Config, ranks: int | None, coming: Coming) -> tuple[Topology | None, list[str]]:
    """The layout of both sides, None where there is none, and every fault of the run."""
    hf, faults = model_fields(config, coming)
    faults += _stage_faults(config)
    found, layout_faults = layouts(config, hf, ranks)
    faults += layout_faults
    longest = config.rollout.max_context_tokens
    if hf is not None and longest > hf["max_position_embeddings"]:
        faults.append(
            f"rollout.max_context_tokens: was {longest}; the model's max_position_embeddings ="
            f" {hf['max_position_embeddings']} must hold it"
            + (", or model.max_position_embeddings raise it" if config.model.init_from else "")
        )
    if hf is not None and is_scalar(hf) and config.stage is not Stage.reward_model:
        faults.append(
            f"model.init_from: was {config.model.init_from}; it is a reward model ({hf['architectures'][0]}),"
            " which predicts no tokens; give a causal model's folder"
        )
    if hf is not None and config.cluster.backend is Backend.cpu:
        faults += _head_faults(hf)
    # What starts its own ranks may plan for other machines; where ranks are started the model is built.
    on_gpus = config.cluster.backend is Backend.cuda
    engine = on_gpus and (ranks is None or extras.is_there("transformer_engine"))
    faults += recompute.faults(config.train.recompute, hf, has_transformer_engine=engine)
    faults += _number_faults(config) + _machine_faults(config) + data_faults(config) + _folder_faults(config)
    if config.stage is Stage.grpo:
        faults += _batch_faults(config) + _judge_faults(config)
        faults += _judge_folder_faults(config, found.training) if found is not None else []
    # Of what is not there yet, a fault can say nothing else.
    return found, [fault for fault in faults if not any(path in fault for path in coming)]


def layouts(
    config: Config, hf: dict[str, Any] | None, ranks: int | None
) -> tuple[Topology | None, list[str]]:
    """Both sides' layouts, None where either cannot be, and every fault of theirs.

    Args:
        hf: the model's HF fields, which they must divide; None where these are not known.
        ranks: how many an outer launcher started; None where the run starts its own.
    """
    degrees = {item.name: getattr(config.parallel, item.name) for item in fields(config.parallel)}
    rollout, faults = make_rollout_plan(
        replicas=config.rollout.replicas,
        tp=config.rollout.tensor_parallel,
        pp=config.rollout.pipeline_parallel,
        ep=config.rollout.expert_parallel,
    )
    plan, plan_faults = make_plan(**degrees, ranks=_ranks_to_come(config) if ranks is None else ranks)
    faults += plan_faults
    shape = None if hf is None else family_of(hf).shape(hf)
    if plan is not None:
        multiple = precision.tokens_multiple(config.precision.fp8, plan.tp)
        plan = replace(plan, linear_multiple=multiple)
        faults += _row_faults(config, plan) + _placement_faults(config, plan)
        faults += [] if hf is None else _model_layout_faults(config, hf, plan) + _latent_faults(config, hf)
    if rollout is not None and shape is not None:
        faults += rollout_faults_for(rollout, shape, config.cluster.backend is Backend.cpu)
    return (None if plan is None or rollout is None else Topology(plan, rollout)), faults


def _model_layout_faults(config: Config, hf: dict[str, Any], plan: Plan) -> list[str]:
    """Why the model cannot be divided so, or what a rank has of it cannot be multiplied in FP8."""
    family = family_of(hf)
    shape = family.shape(hf)
    faults = faults_for(plan, shape)
    kept = list(precision.layer_faults(config.precision, plan, shape.layers))
    if faults or config.precision.fp8 is Fp8.none:
        return faults + kept
    widths = [hf["hidden_size"], *(size // plan.tp for size in shape.feed_forward_sizes)]
    widths += [shape.expert_size // plan.etp] if shape.experts else []
    return kept + list(precision.size_faults(config.precision.fp8, plan, widths, family.weight_table(hf)))


def _ranks_to_come(config: Config) -> int | None:
    """One for each GPU of the cluster, but for those that engines have to themselves; None: not known."""
    cluster, rollout = config.cluster, config.rollout
    if cluster.machines is None or cluster.gpus_per_machine is None:
        return None
    apart = config.stage in GENERATING and rollout.placement is Placement.apart
    workers = rollout.replicas * rollout.tensor_parallel * rollout.pipeline_parallel
    return cluster.machines * cluster.gpus_per_machine - (workers if apart else 0)


def _latent_faults(config: Config, hf: dict[str, Any]) -> list[str]:
    """A query that is not projected down has no norm of its own, and Megatron-Core 0.19.2 gives it one."""
    if config.cluster.backend is Backend.cpu or "kv_lora_rank" not in hf or hf.get("q_lora_rank") is not None:
        return []
    return [
        "model.hf.q_lora_rank: was null; on GPUs it must be given: Megatron-Core 0.19.2, which runs there,"
        " puts a norm before the queries that the family does not have"
    ]


def inputs(config: Config) -> dict[str, str]:
    """Every path that the run reads, by its key."""
    named = {
        "model.init_from": config.model.init_from,
        "data.prompts_file": config.data.prompts_file,
        "reject.review_file": config.reject.review_file,
        "reward_model.data_file": config.reward_model.data_file,
        "reward.helpful_model": config.reward.helpful_model,
        "reward.harmless_model": config.reward.harmless_model,
        "eval.benchmark_file": config.eval.benchmark_file,
        "eval.population_file": config.eval.population_file,
        **{f"eval.models.{name}": folder for name, folder in config.eval.models.items()},
        **{f"sft.data_files[{i}]": file for i, file in enumerate(config.sft.data_files)},
    }
    return {key: path for key, path in named.items() if path is not None}


def model_fields(
    config: Config, coming: Coming = MappingProxyType({})
) -> tuple[dict[str, Any] | None, list[str]]:
    """The model's HF fields, from its folder or the run; None where they are at fault or unknown."""
    faults: list[str] = []
    if config.model.init_from is not None and config.model.init_from in coming:
        return coming[config.model.init_from], []
    if config.model.init_from is None:
        hf, where = config.model.hf, "model.hf"
    else:
        hf, faults = _read_folder(Path(config.model.init_from), config.model.made_by)
        where = str(Path(config.model.init_from) / "config.json")
    faults = faults or family_faults(hf, where) or family_of(hf).faults(hf, where)
    faults = faults or position_faults(config, hf)
    return (None if faults else with_positions(config, hf)), faults


def with_positions(config: Config, hf: dict[str, Any]) -> dict[str, Any]:
    """The fields of the folder's model, with the positions that the run gives it."""
    given = config.model.max_position_embeddings
    return hf if given is None else hf | {"max_position_embeddings": given}


def position_faults(config: Config, hf: dict[str, Any]) -> list[str]:
    """Why the run cannot give the model, whose own fields these are, the positions that it says."""
    given, held = config.model.max_position_embeddings, hf["max_position_embeddings"]
    key = f"model.max_position_embeddings: was {given};"
    if given is None:
        return []
    if config.model.init_from is None:
        return [f"{key} without model.init_from it must be null, and model.hf.max_position_embeddings given"]
    return [f"{key} must be at least the {held} of {config.model.init_from}"] if given < held else []


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
    given, stage = config.model.init_from, config.stage
    if stage is Stage.pretrain and given is not None:
        return [f"model.init_from: was {given}; must be null, pre-training starts from fresh weights"]
    if stage in _FROM_A_MODEL and given is None:
        return [f"model.init_from: was null; must be the folder of the model to {_FROM_A_MODEL[stage]}"]
    return []


_FROM_A_MODEL = {
    Stage.sft: "fine-tune",
    Stage.reject: "sample from",
    Stage.reward_model: "make a reward model of",
    Stage.evaluate: "evaluate",
}


def _head_faults(hf: dict[str, Any]) -> list[str]:
    size = family_of(hf).shape(hf).head_size
    if size in CPU_HEAD_SIZES:
        return []
    return [
        f"model.hf: its attention heads are {size} wide;"
        f" vLLM's attention on a CPU serves {', '.join(map(str, CPU_HEAD_SIZES))}"
        " (head_dim, or qk_nope_head_dim and qk_rope_head_dim together)"
    ]


def _above_0(config: Config) -> dict[str, float]:
    """By key, the numbers that must be; those that may be null, where they are not."""
    always = {
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
        "sft.epochs": config.sft.epochs,
        "sft.samples_per_update": config.sft.samples_per_update,
        "sft.optimizer.lr": config.sft.optimizer.lr,
        "reward_model.epochs": config.reward_model.epochs,
        "reward_model.samples_per_update": config.reward_model.samples_per_update,
        "reward_model.optimizer.lr": config.reward_model.optimizer.lr,
        "reject.questions": config.reject.questions,
        "reject.samples_per_question": config.reject.samples_per_question,
        "reject.kept_per_question": config.reject.kept_per_question,
        "reject.paragraph_words": config.reject.paragraph_words,
        "eval.samples_per_question": config.eval.samples_per_question,
        "cluster.threads_per_rank": config.cluster.threads_per_rank,
        "handover.probe_samples": config.handover.probe_samples,
        "handover.buffer_bytes": config.handover.buffer_bytes,
        "data.train_questions": config.data.train_questions,
        "checkpoint.save_every_rollouts": config.checkpoint.save_every_rollouts,
        "checkpoint.save_every_updates": config.checkpoint.save_every_updates,
        "guard.stop_after": config.guard.stop_after,
        "handover.max_abs_dlogp": config.handover.max_abs_dlogp,
        "rollout.start_timeout_s": config.rollout.start_timeout_s,
        "rollout.answer_timeout_s": config.rollout.answer_timeout_s,
        "pretrain.optimizer.lr": config.pretrain.optimizer.lr,
        "grpo.optimizer.lr": config.grpo.optimizer.lr,
    }
    may_be_null = {
        "sft.token_budget": config.sft.token_budget,
        "grpo.token_budget": config.grpo.token_budget,
        "eval.questions": config.eval.questions,
        "checkpoint.keep_every": config.checkpoint.keep_every,
        "launch.max_time_s": config.launch.max_time_s,
        "cluster.gpu_memory_gib": config.cluster.gpu_memory_gib,
        "cluster.gpus_per_machine": config.cluster.gpus_per_machine,
        "cluster.machines": config.cluster.machines,
    }
    return always | {key: value for key, value in may_be_null.items() if value is not None}


def _number_faults(config: Config) -> list[str]:
    faults = [f"{key}: was {value}; must be above 0" for key, value in _above_0(config).items() if value <= 0]
    not_negative = {
        "seed": config.seed,
        "eval.temperature": config.eval.temperature,
        "track.samples_kept": config.track.samples_kept,
        "grpo.kl_coefficient": config.grpo.kl_coefficient,
        "rollout.engine_restarts": config.rollout.engine_restarts,
    }
    faults += [f"{key}: was {value}; must be at least 0" for key, value in not_negative.items() if value < 0]
    if config.checkpoint.keep_last < 2:
        faults.append(
            f"checkpoint.keep_last: was {config.checkpoint.keep_last}; must be at least 2, so that a damaged"
            " state has one before it"
        )
    if config.launch.silent_s < 10:
        faults.append(
            f"launch.silent_s: was {config.launch.silent_s}; must be at least 10: a busy rank may be silent"
            " for seconds"
        )
    if config.guard.spike_ratio <= 1:
        faults.append(f"guard.spike_ratio: was {config.guard.spike_ratio}; must be above 1")
    if config.eval.questions == 1:
        faults.append("eval.questions: was 1; an interval needs at least 2")
    for key, value in {"rollout.top_p": config.rollout.top_p, "eval.top_p": config.eval.top_p}.items():
        if not 0 < value <= 1:
            faults.append(f"{key}: was {value}; must be above 0 and at most 1")
    faults += _answer_length_faults(config)
    faults += _probe_faults(config)
    if config.train.tokens_per_microbatch < config.rollout.max_context_tokens:
        faults.append(
            f"train.tokens_per_microbatch: was {config.train.tokens_per_microbatch}; must hold one sample of"
            f" rollout.max_context_tokens = {config.rollout.max_context_tokens}"
        )
    return faults


def _answer_length_faults(config: Config) -> list[str]:
    lengths = {"rollout.max_answer_tokens": config.rollout.max_answer_tokens}
    update, longer = config.grpo.longer_after_update, config.grpo.longer_answer_tokens
    faults = []
    if (update is None) != (longer is None):
        faults.append(
            f"grpo.longer_after_update: was {update}, and grpo.longer_answer_tokens {longer};"
            " both must be given, or neither"
        )
    elif longer is not None:
        lengths["grpo.longer_answer_tokens"] = longer
    return faults + [
        f"rollout.max_context_tokens: was {config.rollout.max_context_tokens};"
        f" must leave room for a prompt beside {key} = {tokens}"
        for key, tokens in lengths.items()
        if config.rollout.max_context_tokens <= tokens
    ]


def _probe_faults(config: Config) -> list[str]:
    """Every engine scores at least one text of the probe, which is of held-out questions."""
    replicas = config.rollout.replicas
    texts = {
        "handover.probe_samples": config.handover.probe_samples,
        "data.held_out_questions": config.data.held_out_questions,
    }
    if config.stage not in GENERATING:
        return []
    return [
        f"{key}: was {count}; must be at least rollout.replicas = {replicas}:"
        " a hand-over is proven by a text for every engine to score"
        for key, count in texts.items()
        if 0 < count < replicas
    ]


def _row_faults(config: Config, plan: Plan) -> list[str]:
    """A row must hold the longest sample, with the padding of this layout."""
    tokens, longest = config.train.tokens_per_microbatch, config.rollout.max_context_tokens
    needed = longest + -longest % plan.row_multiple
    if not longest <= tokens < needed:
        return []
    return [
        f"train.tokens_per_microbatch: was {tokens}; must be at least {needed}: a sample of"
        f" rollout.max_context_tokens = {longest} is padded to a multiple of {plan.row_multiple}"
        f" (tp {plan.tp} x cp {plan.cp}, precision.fp8 {config.precision.fp8})"
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
    if config.cluster.backend is Backend.cpu and config.precision.dtype is not Dtype.fp32:
        faults.append(f"precision.dtype: was {config.precision.dtype}; on cpu it must be fp32")
    elif config.precision.fp8 is not Fp8.none and config.precision.dtype is not Dtype.bf16:
        faults.append(
            f"precision.dtype: was {config.precision.dtype}; with precision.fp8 = {config.precision.fp8} it"
            " must be bf16, in which Transformer Engine keeps what is not in 8 bits"
        )
    if config.cluster.backend is Backend.cpu:
        set_for_gpus = {
            "precision.fp8": (config.precision.fp8, Fp8.none),
            "rollout.placement": (config.rollout.placement, Placement.shared),
            "rollout.fp8_weights": (config.rollout.fp8_weights, False),
        }
        faults += [
            f"{key}: was {was}; it is about GPUs, so with cluster.backend = cpu it must be {only}"
            for key, (was, only) in set_for_gpus.items()
            if was != only
        ]
    return faults


def _placement_faults(config: Config, plan: Plan) -> list[str]:
    """Engines that share the trainer's GPUs take the weights from the rank on each, so each must have one."""
    rollout, here = config.rollout, int(os.environ.get("LOCAL_WORLD_SIZE", plan.world_size))
    each = rollout.tensor_parallel * rollout.pipeline_parallel
    workers = rollout.replicas * each
    on_gpus = config.cluster.backend is Backend.cuda and config.stage in GENERATING
    if not on_gpus or rollout.placement is Placement.apart:
        return []
    faults = []
    if workers > plan.world_size:
        faults.append(
            f"rollout.replicas: was {rollout.replicas}; x {each} workers each = {workers} workers, which"
            f" need a rank's GPU each, and there are {plan.world_size} ranks; or rollout.placement=apart"
        )
    if rollout.tensor_parallel > 0 and here % rollout.tensor_parallel:
        faults.append(
            f"rollout.tensor_parallel: was {rollout.tensor_parallel}; must divide the {here} ranks of a"
            " machine, whose GPUs an engine shares"
        )
    return faults


def _folder_faults(config: Config) -> list[str]:
    """What a run reads may not lie in its own folder, which it empties first."""
    return [
        f"{key}: was {path}; must be outside {config.folder}, which this run empties, or name another run"
        for key, path in inputs(config).items()
        if Path(path).resolve().is_relative_to(config.folder.resolve())
    ]


def _judge_faults(config: Config) -> list[str]:
    """A component of a reward model needs the model, and a model its component."""
    folders = {"helpful": config.reward.helpful_model, "harmless": config.reward.harmless_model}
    weighed = {name for weights in config.reward.weights.values() for name in weights if weights[name]}
    faults = [
        f"reward.{name}_model: was null; reward.weights has {name}, so it must be a reward model's folder"
        for name, folder in folders.items()
        if name in weighed and folder is None
    ]
    return faults + [
        f"reward.{name}_model: was {folder}; no kind of question in reward.weights has {name}"
        for name, folder in folders.items()
        if folder is not None and name not in weighed
    ]


def _judge_folder_faults(config: Config, plan: Plan) -> list[str]:
    from r1mega.reward_folder import reward_model_faults

    given = config.model.init_from
    named = {
        "reward.helpful_model": (config.reward.helpful_model, RewardKind.helpfulness),
        "reward.harmless_model": (config.reward.harmless_model, RewardKind.harmlessness),
    }
    return [
        fault
        for key, (folder, kind) in named.items()
        if folder is not None
        for fault in reward_model_faults(
            key, Path(folder), kind=kind, tokenizer=Path(given) if given else None, plan=plan
        )
    ]
