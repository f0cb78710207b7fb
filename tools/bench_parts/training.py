"""The second ratio: an update by `Policy.update` and by raw Megatron, on the same mini-batch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from bench_parts import raw_megatron
from bench_parts.timing import Turn, line, timed
from r1mega.config import Config
from r1mega.grpo.loss import sample_weights
from r1mega.grpo.minibatch import split
from r1mega.model.rows import Sample
from r1mega.policy import Policy
from r1mega.stages import grpo, sampling
from r1mega.stages.recorder import Recorder

WARM_UP = 2


def run(
    config: Config, policy: Policy, batch: sampling.Batch, repetitions: int, recorder: Recorder
) -> list[Turn]:
    """Seconds an update by side."""
    policy.start_training(config.grpo.optimizer, repetitions + WARM_UP)
    samples, values = _minibatch(config, batch)
    loss = partial(grpo.token_loss, config.grpo)
    packed = raw_megatron.rows(policy, samples)
    turns: list[Turn] = []
    for _ in range(repetitions + WARM_UP):
        ours, _ = timed(lambda: policy.update(samples, values, loss, 0.0, config.rollout.temperature))
        raw, _ = timed(lambda: raw_megatron.update(policy, packed))
        turns.append({"r1mega": ours, "raw Megatron": raw})
    tokens = sum(len(sample.tokens) for sample in samples)
    recorder.say(f"training, {tokens:,} tokens an update  {line(turns[-1], '{:.3f} s')}")
    return turns[WARM_UP:]


def _minibatch(config: Config, batch: sampling.Batch) -> tuple[list[Sample], dict[str, list[Tensor]]]:
    """One of a rollout's mini-batches, with advantages of both signs."""
    updates = config.grpo.updates_per_rollout
    chosen = split(len(batch.samples), updates, seed=config.seed, rollout=0)[0]
    samples = [batch.samples[i] for i in chosen]
    lengths = [sample.answer_tokens for sample in samples]
    logps = [batch.sampler_logps[i] for i in chosen]
    weights = zip(sample_weights(lengths), lengths, strict=True)
    return samples, {
        "old_logps": logps,
        "ref_logps": logps,
        "advantages": [torch.full((n,), float((-1) ** i)) for i, n in enumerate(lengths)],
        "weights": [weight.expand(tokens) for weight, tokens in weights],
    }
