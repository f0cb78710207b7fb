"""The arithmetic of tools/parity: what counts as apart, where, and how much of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from support.ranks import REPOSITORY

sys.path.append(str(REPOSITORY / "tools"))

from parity_parts import job
from parity_parts.compare import apart, figures, pair, rerouted
from parity_parts.job import Seen

NAMES = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm")


def seen(seed: int = 0) -> Seen:
    """Two texts of five and three tokens through a model of two layers, both with experts."""
    draw = np.random.default_rng(seed)
    lengths = (5, 3)
    return Seen(
        logps=[draw.normal(size=length - 1).astype(np.float32) for length in lengths],
        hidden={name: [draw.normal(size=(n, 6)).astype(np.float32) for n in lengths] for name in NAMES},
        experts={name: [np.eye(4, dtype=bool)[[0] * n] for n in lengths] for name in NAMES[1:3]},
    )


def test_equal_sides_are_alike() -> None:
    found = figures(seen(), seen(), seen().logps, 1e-4)
    assert found["alike"]
    assert found["parts_at"] is None
    assert set(found["layers"].values()) == {0.0}
    assert found["rerouted"] == {"model.layers.0": 0.0, "model.layers.1": 0.0, "any": 0.0}


def test_the_furthest_token_is_found() -> None:
    ours, theirs = seen(), seen()
    ours.logps[1][1] += 0.25
    assert pair(ours.logps, theirs.logps) == {
        "mean": pytest.approx(0.25 / 6),
        "max": pytest.approx(0.25),
        "text": 1,
        "token": 2,
    }
    found = figures(theirs, ours, theirs.logps, 1e-4)
    assert not found["alike"]
    assert found["pairs"]["vLLM - transformers"]["max"] == 0


def test_the_first_layer_that_parts_is_named() -> None:
    ours = seen()
    for name in NAMES[2:]:
        ours.hidden[name][0][4, 0] += 1
    assert figures(seen(), ours, seen().logps, 1e-4)["parts_at"] == "model.layers.1"


def test_a_state_is_held_against_its_own_tokens_largest() -> None:
    """A token of a trained model whose states are a thousand times the others' hides nothing."""
    theirs = [np.array([[1000.0, 0.0], [1.0, 0.5]])]
    ours = [theirs[0] + np.array([[1.0, 0.0], [0.0, 0.1]])]
    assert apart(ours, theirs) == pytest.approx(0.1)


@pytest.mark.parametrize("side", ["logps", "hidden"])
def test_not_a_number_is_different(side: str) -> None:
    ours = seen()
    if side == "logps":
        ours.logps[0][0] = np.nan
        assert not figures(seen(), ours, seen().logps, 1e-4)["alike"]
    else:
        ours.hidden[NAMES[1]][0][0, 0] = np.nan
        assert figures(seen(), ours, seen().logps, 1e-4)["parts_at"] == NAMES[1]


def test_an_unproven_hand_over_is_different_whatever_the_scores() -> None:
    assert not figures(seen(), seen(), seen().logps, 1e-4, unproven="a tensor is missing")["alike"]


def test_tokens_are_counted_once_in_any_layer() -> None:
    ours = seen()
    for name in ours.experts:
        ours.experts[name][0][1] = [False, True, False, False]
    ours.experts["model.layers.1"][1][2] = [True, True, False, False]
    assert rerouted(ours, seen()) == {"model.layers.0": 1 / 8, "model.layers.1": 2 / 8, "any": 2 / 8}


def test_stretches_of_tensor_parallel_ranks_are_put_together() -> None:
    rows = np.arange(12).reshape(6, 2)
    assert np.array_equal(job._join([rows[:3], rows[3:]], 5), rows[:5])  # padded to six tokens
    assert np.array_equal(job._join([rows, rows], 5), rows[:5])  # no sequence parallelism
