"""An update whose gradient is not finite leaves all as it was, on every rank; too many stop the run."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.models import new_policy, random_texts, samples_of, small_moe
from support.ranks import free_ports, layout, run_ranks
from support.replay import policy_loss, whole

Found = dict[tuple[str, str], Any]

POISONS = {"loss": math.nan, "gradient": math.inf}


def fields() -> dict[str, Any]:
    return small_moe(random.Random(5), num_nextn_predict_layers=1)


def update(policy: Any, number: int, poison: float = 0.0) -> dict[str, float]:
    """The update of this number; a poison is added to one token's log-prob, as NaN or infinity would come."""
    import torch

    texts = random_texts(random.Random(number), fields()["vocab_size"], 12)
    samples = samples_of(texts)
    ones = [torch.ones(one.answer_tokens) for one in samples]
    values = {name: [one.clone() for one in ones] for name in ("old_logps", "ref_logps", "advantages")}
    values["old_logps"] = [-4 * one for one in ones]
    values["ref_logps"] = [-4 * one for one in ones]
    values["weights"] = [one / 100 for one in ones]
    values["weights"][3][0] += poison
    loss = partial(policy_loss, clip_eps=5.0, kl_coefficient=0.01)
    return policy.update(samples, values, loss, 0.3)


def state(policy: Any) -> dict[str, np.ndarray]:
    """Weights with the router's bias, by HF name, and what Adam keeps, by its place."""
    moments = {
        f"{o}/{p}/{name}": value.numpy().copy()
        for o, optimizer in enumerate(policy.optimizer.chained_optimizers)
        for p, kept in enumerate(optimizer.optimizer.state.values())
        for name, value in kept.items()
    }
    return whole(policy) | moments


def train(port: int, degrees: dict[str, int]) -> Found:
    from r1mega.config import OptimizerConfig
    from r1mega.guard import DivergedError

    found: Found = {}
    with layout(port, **degrees) as plan:
        for name in ("undisturbed", *POISONS):
            policy = new_policy(fields(), plan)
            policy.guard_config.stop_after = 3
            policy.start_training(OptimizerConfig(lr=1e-3, warmup_updates=4), updates=10)
            update(policy, 0)
            before, training = state(policy), policy.training_state()
            if name in POISONS:
                poisoned = [update(policy, 9, POISONS[name]) for _ in range(2)]
                found[name, "figures"] = poisoned
                found[name, "unmoved"] = {
                    key: np.array_equal(value, before[key]) for key, value in state(policy).items()
                }
                found[name, "training"] = training, policy.training_state()
            update(policy, 1)
            found[name, "after"] = state(policy)
            if name in POISONS:
                for _ in range(2):
                    update(policy, 9, POISONS[name])
                with pytest.raises(DivergedError) as stopped:
                    update(policy, 9, POISONS[name])
                found[name, "said"] = str(stopped.value)
    return found


@pytest.fixture(scope="module", params=[{"tp": 2}, {"pp": 2}, {"ep": 2}], ids=["tp2", "pp2", "ep2"])
def ranks(request: pytest.FixtureRequest) -> list[Found]:
    return run_ranks(2, train, free_ports(1)[0], request.param)


@pytest.mark.parametrize("poison", POISONS)
def test_nothing_moves(ranks: list[Found], poison: str) -> None:
    for found in ranks:
        assert [one["skipped"] for one in found[poison, "figures"]] == [1.0, 1.0]
        assert not any(math.isfinite(one["grad_norm"]) for one in found[poison, "figures"])
        assert all(found[poison, "unmoved"].values())
        before, after = found[poison, "training"]
        assert (after["version"], after["steps"]) == (before["version"], before["steps"])
        assert after["guard"]["skipped"] == 2


@pytest.mark.parametrize("poison", POISONS)
def test_the_next_update_is_as_if_nothing_had_been(ranks: list[Found], poison: str) -> None:
    for found in ranks:
        wanted = found["undisturbed", "after"]
        assert found[poison, "after"].keys() == wanted.keys()
        for name, value in found[poison, "after"].items():
            assert np.array_equal(value, wanted[name]), name


def test_too_many_in_a_row_stop_every_rank_alike(ranks: list[Found]) -> None:
    for poison in POISONS:
        said = {found[poison, "said"] for found in ranks}
        assert len(said) == 1
        assert "3 updates in a row were skipped (guard.stop_after)" in said.pop()
