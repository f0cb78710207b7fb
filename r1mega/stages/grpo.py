"""GRPO, in each of the recipe's three places (DeepSeek-R1, arXiv 2501.12948).

R1-Zero begins from the base and is rewarded by rules; reasoning RL begins from the cold start and is also
rewarded for keeping to one language; all-scenario RL asks general and safety questions too, whose
answers reward models judge. What differs is the questions and their rewards, which the config gives.

One rollout: ask questions, sample a group of answers to each, grade them, score them under the policy
and the reference, and update on random mini-batches; then hand the new weights to the engines.

Departures from the paper:
- The old log-probs are the trainer's own, at the rollout's version, not the sampler's; how far the two
  differ is measured every rollout (`mismatch/*`).
- Where no base is given, a small one is pre-trained first, on text made for the purpose.
- Sizes are those of the run's config; the paper's are in `GrpoConfig`'s defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from r1mega.checkpoint.store import Saved
from r1mega.config import Config, GrpoConfig
from r1mega.data.question import Question
from r1mega.data.stream import QuestionStream
from r1mega.grpo.advantage import group_advantages
from r1mega.grpo.loss import grpo_loss, sample_weights
from r1mega.grpo.minibatch import split
from r1mega.grpo.mismatch import mismatch
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.rewards.grader import Grader
from r1mega.stages import judging, sampling
from r1mega.stages.evaluate import evaluate, size
from r1mega.stages.handover import Handover, probe_texts
from r1mega.stages.judges import Judges
from r1mega.stages.measures import Rates
from r1mega.stages.parts import Text, load_model_fields, load_questions, load_text, tokenizer_files
from r1mega.stages.pretrain import pretrain
from r1mega.stages.recorder import Recorder
from r1mega.stages.serving import open_engines
from r1mega.stages.states import States
from r1mega.stages.timing import Timing
from r1mega.track.stats import before_after


@dataclass(slots=True)
class Course:
    """How far training has come."""

    rollouts: int = 0
    updates: int = 0
    tokens: int = 0
    """Trained on so far, prompts included."""
    mismatch: float = 0.0
    """The largest of the rollouts' mean |trainer - sampler| log-probs."""
    base: Rates = field(default_factory=dict)
    """What the evaluation before the first rollout found."""
    stream: dict[str, int | str] = field(default_factory=dict)
    """How far the questions are dealt out."""
    handovers: dict[str, float] = field(default_factory=dict)
    """The summary of the hand-overs."""
    reference: list[Tensor] | None = None
    """The weights that the policy is held near to, on this rank; None: the run has no penalty."""

    def add(self, rollout: int, batch: sampling.Batch, mismatch: float) -> None:
        """A rollout is done."""
        self.rollouts = rollout
        self.tokens += batch.tokens
        self.mismatch = max(self.mismatch, mismatch)

    def as_json(self) -> dict[str, Any]:
        """All but the reference, which a state keeps with the other weights."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "reference"}


def run(config: Config, plan: Plan) -> None:
    """The whole stage, on every rank."""
    questions = load_questions(config)
    with Recorder(config) as recorder:
        text = load_text(config, questions)
        policy = Policy(config, load_model_fields(config), plan)
        with (
            open_engines(config, policy) as engines,
            Grader(config.reward.workers, config.reward.time_limit_s) as grader,
            States(config, policy, recorder) as states,
        ):
            if config.model.init_from is None:
                pretrain(config, text, policy, recorder, states)
            else:
                policy.load(Path(config.model.init_from))
            course = begin(config, policy, states)
            handover = Handover(config, policy, engines, probe_texts(config, text), course.handovers)
            handover.run()
            if not course.base:
                course.base = evaluate(config, text, handover, grader, recorder, rollout=0)
            judges = Judges(config, plan, text)
            train(config, text, policy, handover, grader, judges, recorder, states, course)
            final = evaluate(config, text, handover, grader, recorder, rollout=course.rollouts)
        policy.export(config.folder / "final", beside=tokenizer_files(text.folder))
        recorder.finish(
            {
                "eval": _compared(course.base, final) | size(config, text),
                "train": {"rollouts": course.rollouts, "updates": course.updates, "tokens": course.tokens},
                "handover": handover.summary(),
                "mismatch": {"mean_abs_dlogp": course.mismatch},
            }
        )


def begin(config: Config, policy: Policy, states: States) -> Course:
    """The course from the newest state on, or a fresh one from the policy as it is."""
    grpo = config.grpo
    policy.start_training(grpo.optimizer, grpo.rollouts * grpo.updates_per_rollout)
    kept = states.take_up("rollout")
    if kept is not None:
        course, reference = kept
        return Course(**course, reference=reference)
    return Course(reference=policy.snapshot() if grpo.kl_coefficient else None)


def train(
    config: Config,
    text: Text,
    policy: Policy,
    handover: Handover,
    grader: Grader,
    judges: Judges,
    recorder: Recorder,
    states: States,
    course: Course,
) -> None:
    """The rollouts that are left, or as many as the token budget lets."""
    grpo, weights = config.grpo, config.reward.weights
    stream = _stream(config, text, course)
    progress = recorder.progress("rollout", grpo.rollouts, course.rollouts)
    states.start_clock()
    while not _is_done(config, course):
        rollout = course.rollouts + 1
        timing = Timing()
        questions = stream.take(grpo.prompts_per_rollout)
        with timing("gen"):
            batch = _sample(config, text, handover, questions, rollout, course.updates)
        grading = judging.submit(grader, batch)
        states.poll()
        with timing("old_log_prob"):
            old_logps = policy.score(batch.samples, config.rollout.temperature)
        with timing("ref"):
            # Without a penalty there is no reference; `actor/kl_loss` is then from the rollout's policy.
            ref_logps = _score_under(policy, course.reference, batch, config) or old_logps
        with timing("reward"):
            components = judging.collect(grading, len(batch.texts))
            judges.judge(batch, components, course.updates)
        rewards_PG = judging.rewards(components, batch.questions, weights, grpo.samples_per_prompt)
        advantages_PG, no_variance_P = group_advantages(rewards_PG)
        values = _token_values(batch, old_logps, ref_logps, advantages_PG)
        with timing("update_actor"):
            learning = _learn(policy, config, batch, values, course)
        handed = handover.run()
        differs = mismatch(torch.cat(old_logps), torch.cat(batch.sampler_logps))
        course.add(rollout, batch, differs["mean_abs_dlogp"])
        row = {
            "rollout": rollout,
            "update": course.updates,
            "policy_version": batch.completions[0].version,
            **judging.figures(components),
            "critic/score/mean": rewards_PG.mean().item(),
            "critic/groups_without_variance": int(no_variance_P.sum()),
            **_learning_figures(learning, old_logps, differs),
            **handed,
            "reliability/skipped_updates": policy.guard.skipped,
        }
        measured = timing.figures() | states.figures() | batch.figures(timing.seconds["gen"])
        recorder.rollout(row | measured, progress)
        kept = range(len(batch.texts))[: config.track.samples_kept]
        recorder.samples(batch, components, kept, rollout=rollout)
        course.stream, course.handovers = stream.state(), handover.summary()
        done, saved = _is_done(config, course), Saved("rollout", rollout)
        states.after(saved, course.as_json(), last=done, reference=course.reference)


def _is_done(config: Config, course: Course) -> bool:
    tokens = inf if config.grpo.token_budget is None else config.grpo.token_budget
    return course.rollouts >= config.grpo.rollouts or course.tokens >= tokens


def _stream(config: Config, text: Text, course: Course) -> QuestionStream:
    """The training questions, from where the course has come to."""
    if course.stream:
        return QuestionStream.from_state(text.questions.train, course.stream)
    return QuestionStream(text.questions.train, seed=config.seed)


def _sample(
    config: Config, text: Text, handover: Handover, questions: list[Question], rollout: int, updates: int
) -> sampling.Batch:
    return sampling.sample(
        handover,
        "the rollout",
        text,
        questions,
        config.grpo.samples_per_prompt,
        seed=(config.seed, sampling.ROLLOUT, rollout),
        temperature=config.rollout.temperature,
        top_p=config.rollout.top_p,
        max_answer_tokens=longest_answer(config, updates),
    )


def longest_answer(config: Config, updates: int) -> int:
    """How many tokens an answer may have after so many updates."""
    longer, tokens = config.grpo.longer_after_update, config.grpo.longer_answer_tokens
    if longer is None or tokens is None or updates < longer:
        return config.rollout.max_answer_tokens
    return tokens


def _score_under(
    policy: Policy, reference: list[Tensor] | None, batch: sampling.Batch, config: Config
) -> list[Tensor]:
    """The answers' log-probs under the reference; none where there is none."""
    if reference is None:
        return []
    with policy.using(reference):
        return policy.score(batch.samples, config.rollout.temperature)


def _token_values(
    batch: sampling.Batch, old_logps: list[Tensor], ref_logps: list[Tensor], advantages_PG: Tensor
) -> dict[str, list[Tensor]]:
    """What the loss needs of each answer token, by sample."""
    advantages = zip(advantages_PG.flatten(), batch.answer_tokens, strict=True)
    return {
        "old_logps": old_logps,
        "ref_logps": ref_logps,
        "advantages": [advantage.expand(tokens) for advantage, tokens in advantages],
    }


def _learn(
    policy: Policy, config: Config, batch: sampling.Batch, values: Mapping[str, list[Tensor]], course: Course
) -> list[dict[str, float]]:
    """Every update of a rollout, on the way perhaps a new reference; the updates' figures."""
    grpo, learning = config.grpo, []
    cut = split(len(batch.samples), grpo.updates_per_rollout, seed=config.seed, rollout=course.rollouts + 1)
    for minibatch in cut:
        learning.append(_update(policy, config, batch, values, minibatch))
        course.updates += 1
        if course.reference is not None and course.updates % grpo.reference_refresh_updates == 0:
            course.reference = policy.snapshot()
    return learning


def _update(
    policy: Policy,
    config: Config,
    batch: sampling.Batch,
    values: Mapping[str, list[Tensor]],
    minibatch: list[int],
) -> dict[str, float]:
    samples = [batch.samples[i] for i in minibatch]
    lengths = [sample.answer_tokens for sample in samples]
    chosen = {name: [of[i] for i in minibatch] for name, of in values.items()}
    chosen["weights"] = [
        weight.expand(tokens) for weight, tokens in zip(sample_weights(lengths), lengths, strict=True)
    ]
    # The draft layers learn in pre-training only; here they stay as they are.
    return policy.update(
        samples,
        chosen,
        partial(token_loss, config.grpo),
        mtp_loss_weight=0.0,
        temperature=config.rollout.temperature,
    )


def token_loss(
    grpo: GrpoConfig, logps_T: Tensor, values_T: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """GRPO's loss of a row, as `Policy.update` takes it."""
    return grpo_loss(
        logps_T,
        values_T["old_logps"],
        values_T["ref_logps"],
        values_T["advantages"],
        values_T["weights"],
        clip_eps=grpo.clip_eps,
        kl_coefficient=grpo.kl_coefficient,
    )


def _learning_figures(
    learning: list[dict[str, float]], old_logps: list[Tensor], differs: Mapping[str, float]
) -> dict[str, float]:
    return {
        **{
            f"actor/{name}": fmean(figures[name] for figures in learning)
            for name in learning[0]
            if name != "skipped"  # the guard's own count is logged
        },
        "actor/entropy": -torch.cat(old_logps).mean().item(),
        **{f"mismatch/{name}": value for name, value in differs.items()},
    }


def _compared(base: Rates, final: Rates) -> dict[str, object]:
    return {
        name: before_after(values, final[name], high=max(1.0, *values, *final[name]))
        for name, values in base.items()
    }
