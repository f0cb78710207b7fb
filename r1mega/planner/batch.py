"""A run's batch arithmetic, in words: prompts, samples, updates, and what of them a rank gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from r1mega.config import GENERATING, Config, Stage
from r1mega.grpo.packing import pack
from r1mega.parallel.plan import Plan
from r1mega.planner.engines import bytes_of_a_token

if TYPE_CHECKING:
    from r1mega.planner.phases import Memory


def words(config: Config, memory: Memory) -> list[str]:
    """One sentence a line."""
    lines = _BY_STAGE[config.stage](config)
    samples = samples_per_update(config)
    if samples:
        lines += _update_words(config, memory.plan, samples)
    return lines + (_engine_words(config, memory) if config.stage in GENERATING else [])


def samples_per_update(config: Config) -> int:
    """Texts that an update learns from; 0 where nothing is learnt. A pair of preferences is two."""
    match config.stage:
        case Stage.grpo:
            return samples_per_rollout(config) // config.grpo.updates_per_rollout
        case Stage.sft:
            return config.sft.samples_per_update
        case Stage.pretrain:
            return config.pretrain.samples_per_update
        case Stage.reward_model:
            return config.reward_model.samples_per_update * (
                2 if config.reward_model.kind == "helpfulness" else 1
            )
    return 0


def samples_per_rollout(config: Config) -> int:
    """Answers that a rollout samples."""
    return config.grpo.prompts_per_rollout * config.grpo.samples_per_prompt


def _grpo_words(config: Config) -> list[str]:
    grpo = config.grpo
    samples = samples_per_rollout(config)
    return [
        f"A rollout asks {grpo.prompts_per_rollout:,} prompts {grpo.samples_per_prompt} times each:"
        f" {samples:,} samples.",
        f"It is cut into {grpo.updates_per_rollout} updates of"
        f" {samples // grpo.updates_per_rollout:,} samples.",
        f"{grpo.rollouts:,} rollouts make {grpo.rollouts * grpo.updates_per_rollout:,} updates and"
        f" {grpo.rollouts * samples:,} samples.",
    ]


def _sft_words(config: Config) -> list[str]:
    sft = config.sft
    return [f"{_epochs(sft.epochs)} over the dialogues, {sft.samples_per_update:,} of them an update."]


def _epochs(number: int) -> str:
    return "1 epoch" if number == 1 else f"{number} epochs"


def _pretrain_words(config: Config) -> list[str]:
    plan = config.pretrain
    texts = plan.updates * plan.samples_per_update
    return [f"{plan.updates:,} updates of {plan.samples_per_update:,} texts: {texts:,} texts."]


def _reward_model_words(config: Config) -> list[str]:
    plan = config.reward_model
    pairs = plan.kind == "helpfulness"
    what = "pairs, two texts each" if pairs else "labelled answers"
    return [f"{_epochs(plan.epochs)}; an update takes {plan.samples_per_update:,} {what}."]


def _reject_words(config: Config) -> list[str]:
    plan = config.reject
    return [
        f"{plan.questions:,} questions, {plan.samples_per_question} answers each:"
        f" {plan.questions * plan.samples_per_question:,} answers; at most"
        f" {plan.questions * plan.kept_per_question:,} are kept."
    ]


def _evaluate_words(config: Config) -> list[str]:
    asked = "all" if config.eval.questions is None else f"{config.eval.questions:,}"
    return [f"{asked} questions, {config.eval.samples_per_question} answers each."]


_BY_STAGE = {
    Stage.grpo: _grpo_words,
    Stage.sft: _sft_words,
    Stage.pretrain: _pretrain_words,
    Stage.reward_model: _reward_model_words,
    Stage.reject: _reject_words,
    Stage.evaluate: _evaluate_words,
}


def rows_per_update(config: Config, plan: Plan) -> int:
    """Micro-batches of an update on a data-parallel rank, if every sample were of the longest allowed."""
    longest, row = plan.padded(config.rollout.max_context_tokens), config.train.tokens_per_microbatch
    samples = samples_per_update(config)
    return len(pack([longest] * samples, row, plan.dp, plan.row_multiple, plan.rows_multiple)[0])


def _update_words(config: Config, plan: Plan, samples: int) -> list[str]:
    """Samples, rows and tokens of a data-parallel rank; rows as if every sample were the longest."""
    longest, row = config.rollout.max_context_tokens, config.train.tokens_per_microbatch
    most, fewest, rows = -(-samples // plan.dp), samples // plan.dp, rows_per_update(config, plan)
    share = f"{most:,}" if most == fewest else f"{fewest:,} or {most:,}"
    return [
        f"Of an update, each of the {plan.dp} data-parallel ranks takes {share} samples, packed into rows of"
        f" at most {row:,} tokens.",
        f"A row is a micro-batch. If every sample were of {longest:,} tokens, the longest allowed,"
        f" there would be {rows:,} rows a rank, and {samples * longest:,} tokens an update,"
        f" {most * longest:,} a data-parallel rank.",
        f"Of a row, a GPU computes at most {-(-row // plan.cp):,} tokens in attention"
        f" and {-(-row // (plan.cp * plan.tp)):,} between layers (cp {plan.cp}, tp {plan.tp}).",
    ]


def _engine_words(config: Config, memory: Memory) -> list[str]:
    rollout, plan = config.rollout, memory.rollout
    token = bytes_of_a_token(memory.hf, plan, config)
    tokens = rollout.kv_cache_bytes // token
    lines = [
        f"The cache of an engine's worker keeps {token:,} bytes of a token, so it holds {tokens:,} tokens:"
        f" {tokens // rollout.max_context_tokens:,} sequences of {rollout.max_context_tokens:,};"
        f" {rollout.concurrent_sequences} may be decoded at once."
    ]
    if config.stage is Stage.grpo:
        each = -(-samples_per_rollout(config) // plan.replicas)
        lines.insert(0, f"Each of {plan.replicas} engines answers about {each:,} of a rollout's samples.")
    return lines
