"""Pre-training: a base from scratch on synthetic chains of thought, good ones and bad ones.

What it is for: reinforcement learning selects among what a base already does now and then. The mixture
therefore holds right, wrong, guessed and unformatted answers on purpose.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from r1mega.config import Config
from r1mega.data.corpus import Corpus
from r1mega.model.rows import Sample
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.stages.parts import Text, copy_tokenizer, load_model_fields, load_questions, load_text
from r1mega.stages.recorder import Recorder


def run(config: Config, plan: Plan) -> None:
    """The stage alone: leaves the base, as an HF folder, in the run's `base/`."""
    questions = load_questions(config)
    with Recorder(config) as recorder:
        text = load_text(config, questions)
        policy = Policy(config, load_model_fields(config), plan)
        pretrain(config, text, policy, recorder)
        recorder.finish({})


def pretrain(config: Config, text: Text, policy: Policy, recorder: Recorder) -> None:
    """Train the policy's fresh weights, and export them."""
    plan = config.pretrain
    corpus = Corpus(text.questions.train, plan.mixture, text.template, config.seed, plan.language_use)
    policy.start_training(plan.optimizer, plan.updates)
    progress = recorder.progress("update", plan.updates)
    for update in range(plan.updates):
        began = time.monotonic()
        samples = _samples(text, corpus, update * plan.samples_per_update, plan.samples_per_update)
        weights = token_weights(samples)
        figures = policy.update(samples, {"weights": weights}, cross_entropy, config.model.mtp_loss_weight)
        tokens = sum(len(sample.tokens) for sample in samples)
        row = figures | {"update": update + 1, "tokens_per_s": tokens / (time.monotonic() - began)}
        recorder.update(row, progress, every=max(1, plan.updates // 10))
    folder = config.folder / "base"
    policy.export(folder)
    if recorder.writes:
        copy_tokenizer(text.folder, folder)


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
