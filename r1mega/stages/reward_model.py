"""A reward model: people's or a judge's preferences taught to a scalar head over a trained model's layers.

One update: score a mini-batch's texts, turn the scores into each text's share of the loss's derivative, and
update under the loss that is linear in the scores with those shares (`r1mega/preference/loss.py` shows why
that is the exact gradient in any layout).

Departures from the paper:
- The order in which a judge saw two answers is swapped where the pairs are made, not here.
- Each mini-batch is read twice, forwards only the first time: the price of exactness in any layout.
- Sizes are those of the run's config; the paper's are in `RewardModelConfig`'s defaults.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from statistics import fmean
from typing import Any

import torch

from r1mega import watch
from r1mega.checkpoint.store import Saved
from r1mega.config import BadRun, Config
from r1mega.data import order
from r1mega.model.family import with_scalar_head
from r1mega.model.scalar import is_scalar
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.preference.held_out import set_apart
from r1mega.preference.loss import linear
from r1mega.reward_folder import CARD, Card
from r1mega.stages.parts import Text, load_model_fields, load_tokenizer, tokenizer_files
from r1mega.stages.recorder import Recorder
from r1mega.stages.reward_rows import Rows, read_rows
from r1mega.stages.states import States
from r1mega.track.stats import before_after


def run(config: Config, plan: Plan) -> None:
    """The whole stage, on every rank; leaves the reward model in the run's `final/`."""
    with Recorder(config) as recorder:
        text = load_tokenizer(config)
        rows, left_out = read_rows(config, text)
        learnt, held_out = _set_apart(config, rows)
        policy = _load(config, text, plan)
        base = told_rightly(policy, rows, held_out)
        with States(config, policy, recorder) as states:
            train(config, policy, rows, learnt, recorder, states)
        final = told_rightly(policy, rows, held_out)
        _export(config, policy, text, recorder)
        recorder.finish(
            {
                "eval": {"told_rightly": before_after(base, final)},
                "data": {"learnt": len(learnt), "held_out": len(held_out), "left_out": left_out},
            }
        )


def train(
    config: Config, policy: Policy, rows: Rows, learnt: Sequence[int], recorder: Recorder, states: States
) -> None:
    """All updates, from the newest state on; the rows' order is a function of the seed and the epoch."""
    plan = config.reward_model
    updates = order.updates(len(learnt), plan.samples_per_update, plan.epochs)
    policy.start_training(plan.optimizer, updates)
    kept = states.take_up("update")
    done = kept[0]["updates"] if kept else 0
    progress = recorder.progress("update", updates, done)
    batches = order.minibatches(len(learnt), plan.samples_per_update, epochs=plan.epochs, seed=config.seed)
    watch.phase("training")
    states.start_clock()
    for number, batch in enumerate(islice(batches, done, None), done + 1):
        began = time.monotonic()
        minibatch = [learnt[i] for i in batch]
        row: dict[str, Any] = {"update": number, **update(policy, rows, minibatch)}
        tokens = sum(len(sample.tokens) for sample in rows.samples(minibatch))
        row["tokens_per_s"] = tokens / (time.monotonic() - began)
        recorder.update(row, progress, every=max(1, updates // 10))
        states.after(Saved("update", number), {"updates": number}, last=number == updates)


def update(policy: Policy, rows: Rows, minibatch: Sequence[int]) -> dict[str, float]:
    """One optimizer step on the mean loss of these rows; its figures are from before the step."""
    samples = rows.samples(minibatch)
    scores = policy.score(samples, temperature=1.0)
    judged = rows.judge(minibatch, scores)
    coefficients_B = judged.coefficients_RK.flatten() / len(minibatch)
    learning = policy.update(samples, {"coefficients": coefficients_B.split(1)}, linear, mtp_loss_weight=0.0)
    return {
        "loss": judged.losses_R.mean().item(),
        "accuracy": (judged.margins_R > 0).float().mean().item(),
        "margin": judged.margins_R.mean().item(),
        # Where the two passes do not score alike, the gradient is not the loss's.
        "passes_differ": abs(learning.pop("linear") - (coefficients_B @ torch.cat(scores)).item()),
        **learning,
    }


def told_rightly(policy: Policy, rows: Rows, held_out: Sequence[int]) -> list[float]:
    """Of each prompt, the share of its rows that the scores tell rightly: the better one, or safe or not."""
    margins_R = rows.judge(held_out, policy.score(rows.samples(held_out), temperature=1.0)).margins_R
    by_prompt = defaultdict(list)
    for row, right in zip(held_out, (margins_R > 0).tolist(), strict=True):
        by_prompt[rows.prompts[row]].append(right)
    return [fmean(of) for of in by_prompt.values()]


def _set_apart(config: Config, rows: Rows) -> tuple[list[int], list[int]]:
    try:
        return set_apart(rows.prompts, config.reward_model.held_out, seed=0)
    except ValueError as error:
        raise BadRun([f"reward_model.held_out: {error}"]) from None


def _load(config: Config, text: Text, plan: Plan) -> Policy:
    """The model of `model.init_from`; over a causal model's layers the scalar head is fresh."""
    hf = load_model_fields(config)
    # transformers looks for the end of each text by it.
    padding = _padding_token(text)
    if is_scalar(hf):
        policy = Policy(config, padding | hf, plan, fresh=False)
        policy.load(text.folder)
    else:
        policy = Policy(config, with_scalar_head(padding | hf), plan)
        policy.load_trunk(text.folder, hf)
    return policy


def _padding_token(text: Text) -> dict[str, int]:
    named = json.loads((text.folder / "tokenizer_config.json").read_text()).get("pad_token")
    number = text.tokenizer.token_to_id(named["content"] if isinstance(named, dict) else named or "")
    return {} if number is None else {"pad_token_id": number}


def _export(config: Config, policy: Policy, text: Text, recorder: Recorder) -> None:
    card = config.folder / CARD
    if recorder.writes:
        Card(config.reward_model.kind, text.template).write(card)
    policy.export(config.folder / "final", beside=[*tokenizer_files(text.folder), card])
