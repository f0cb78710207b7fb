"""Supervised fine-tuning on dialogues: cold start, rejection-sampled data, distillation.

Dialogues are read, put into the template's words and packed; the loss is on the answers' tokens alone,
a mean over those of the whole mini-batch. The order of epochs is a function of the seed.

Departures from the paper: none but sizes, which are those of the run's config.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice
from math import inf
from pathlib import Path

from r1mega import watch
from r1mega.checkpoint.store import Saved
from r1mega.config import BadRun, Config
from r1mega.data import order
from r1mega.data.dialogues import Dialogue, read_dialogues
from r1mega.model.rows import Sample
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.stages.parts import Text, load_model_fields, load_tokenizer, tokenizer_files
from r1mega.stages.pretrain import cross_entropy, token_weights
from r1mega.stages.recorder import Recorder
from r1mega.stages.states import States


def run(config: Config, plan: Plan) -> None:
    """The whole stage, on every rank; leaves the model in the run's `final/`."""
    dialogues = [one for file in config.sft.data_files for one in read_dialogues(file)]
    with Recorder(config) as recorder:
        text = load_tokenizer(config)
        samples = encode(config, text, dialogues)
        policy = Policy(config, load_model_fields(config), plan)
        policy.load(text.folder)
        with States(config, policy, recorder) as states:
            tokens = fine_tune(config, samples, policy, recorder, states)
        policy.export(config.folder / "final", beside=tokenizer_files(text.folder))
        recorder.finish({"train": {"dialogues": len(samples), "updates": policy.version, "tokens": tokens}})


def fine_tune(
    config: Config, samples: Sequence[Sample], policy: Policy, recorder: Recorder, states: States
) -> int:
    """All updates, from the newest state on; returns how many tokens they were of, prompts included."""
    plan = config.sft
    updates = order.updates(len(samples), plan.samples_per_update, plan.epochs)
    policy.start_training(plan.optimizer, updates)
    kept = states.take_up("update")
    done, tokens = (kept[0]["updates"], kept[0]["tokens"]) if kept else (0, 0)
    budget = inf if plan.token_budget is None else plan.token_budget
    progress = recorder.progress("update", updates, done)
    batches = order.minibatches(len(samples), plan.samples_per_update, epochs=plan.epochs, seed=config.seed)
    watch.phase("fine-tuning")
    states.start_clock()
    for update, indices in enumerate(islice(batches, done, None), done + 1):
        if tokens >= budget:
            break
        began = time.monotonic()
        minibatch = [samples[i] for i in indices]
        figures = policy.update(
            minibatch, {"weights": token_weights(minibatch)}, cross_entropy, config.model.mtp_loss_weight
        )
        learnt = sum(len(sample.tokens) for sample in minibatch)
        tokens += learnt
        row = figures | {"update": update, "tokens": tokens}
        row["tokens_per_s"] = learnt / (time.monotonic() - began)
        recorder.update(row, progress, every=max(1, updates // 10))
        course = {"updates": update, "tokens": tokens}
        states.after(Saved("update", update), course, last=update == updates or tokens >= budget)
    return tokens


def encode(config: Config, text: Text, dialogues: Sequence[Dialogue]) -> list[Sample]:
    """The dialogues as tokens, each answer closed by the end token.

    Raises:
        BadRun: naming by file and line the dialogues that are too long, or say what the tokenizer cannot.
    """
    samples, faults = [], []
    for one in dialogues:
        sample = text.dialogue(one.messages, one.answer)
        fault = _fault(config, text, sample)
        if fault:
            faults.append(f"{one.where}: {fault}")
        samples.append(sample)
    if faults:
        shown = faults[:50]
        raise BadRun(shown + ([f"... and {len(faults) - 50} more"] if len(faults) > 50 else []))
    return samples


def _fault(config: Config, text: Text, sample: Sample) -> str | None:
    longest = config.rollout.max_context_tokens
    if len(sample.tokens) > longest:
        return f"is {len(sample.tokens)} tokens long; rollout.max_context_tokens = {longest} must hold it"
    if text.unknown_token is not None and text.unknown_token in sample.tokens:
        return f"has words that the tokenizer of {Path(text.folder)} does not know"
    return None
