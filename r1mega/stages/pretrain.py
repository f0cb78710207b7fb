"""Pre-training: a base from scratch on synthetic chains of thought, good ones and bad ones.

What it is for: reinforcement learning selects among what a base already does now and then. The mixture
therefore holds right, wrong, guessed and unformatted answers on purpose.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from r1mega import watch
from r1mega.checkpoint.store import Saved
from r1mega.config import Config
from r1mega.data.corpus import Corpus
from r1mega.model.rows import Sample
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.stages.parts import Text, load_model_fields, load_questions, load_text, tokenizer_files
from r1mega.stages.recorder import Recorder
from r1mega.stages.states import States

UNIT = "pretrain"
"""States of pre-training are named by it, since a run may go on to rollouts."""


def run(config: Config, plan: Plan) -> None:
    """The stage alone: leaves the base, as an HF folder, in the run's `base/`."""
    questions = load_questions(config)
    with Recorder(config) as recorder:
        text = load_text(config, questions)
        policy = Policy(config, load_model_fields(config), plan)
        with States(config, policy, recorder) as states:
            pretrain(config, text, policy, recorder, states)
        recorder.finish({})


def pretrain(config: Config, text: Text, policy: Policy, recorder: Recorder, states: States) -> None:
    """Train the policy's fresh weights, and export them; what an earlier start did is not done again."""
    folder = config.folder / "base"
    if (folder / "config.json").exists():
        policy.load(folder)
    else:
        train(config, text, policy, recorder, states)
        policy.export(folder, beside=tokenizer_files(text.folder))
    states.forget(UNIT)
    policy.version = config.pretrain.updates


def train(config: Config, text: Text, policy: Policy, recorder: Recorder, states: States) -> None:
    """All updates, from the newest state on."""
    plan = config.pretrain
    corpus = Corpus(text.questions.train, plan.mixture, text.template, config.seed, plan.language_use)
    policy.start_training(plan.optimizer, plan.updates)
    kept = states.take_up(UNIT)
    done = kept[0]["updates"] if kept else 0
    progress = recorder.progress("update", plan.updates, done)
    watch.phase("pre-training")
    states.start_clock()
    for update in range(done, plan.updates):
        began = time.monotonic()
        samples = _samples(text, corpus, update * plan.samples_per_update, plan.samples_per_update)
        weights = token_weights(samples)
        figures = policy.update(samples, {"weights": weights}, cross_entropy, config.model.mtp_loss_weight)
        tokens = sum(len(sample.tokens) for sample in samples)
        row = figures | {"update": update + 1, "tokens_per_s": tokens / (time.monotonic() - began)}
        recorder.update(row, progress, every=max(1, plan.updates // 10))
        course = {"updates": update + 1}
        states.after(Saved(UNIT, update + 1), course, last=update + 1 == plan.updates)


def cross_entropy(logps_T: Tensor, values_T: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean negative log-prob of the mini-batch's tokens; a sum of this row's share of it."""
    loss = -(logps_T * values_T["weights"]).sum()
    return loss, {"loss": loss.detach()}


def _samples(text: Text, corpus: Corpus, start: int, count: int) -> list[Sample]:
    """Texts number `start` on; the whole text is learnt, question included, as a base learns text."""
    written = [corpus.text(start + number) for number in range(count)]
    encoded = text.tokenizer.encode_batch([one.prompt + one.answer for one in written])
    return [Sample([*one.ids, text.end_token], 1) for one in encoded]


def token_weights(samples: Sequence[Sample]) -> list[Tensor]:
    """Of each answer token its share in the mean over the mini-batch's answer tokens."""
    tokens = sum(sample.answer_tokens for sample in samples)
    return [torch.full((sample.answer_tokens,), 1.0 / tokens) for sample in samples]
