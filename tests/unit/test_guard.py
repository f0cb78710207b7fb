"""Which gradients are let pass, as a function of the norms so far."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.guard import FEWEST_NORMS, DivergedError, Guard


def guard(**fields: float) -> Guard:
    given = {"spike_ratio": 10.0, "stop_after": 3, "clip_grad_norm": 1.0, **fields}
    return Guard(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_passes(norm: float) -> None:
    fresh = guard()
    assert fresh.against(norm) == f"the gradient's norm is {norm}"
    assert fresh.skipped == 1


def test_a_spike_is_held_against_the_usual_norm_and_the_clipping() -> None:
    one = guard()
    assert one.against(500.0) is None  # the first norms say what is usual
    for _ in range(FEWEST_NORMS - 1):
        assert one.against(0.01) is None
    assert one.against(9.9) is None  # clipped to 1, it moves the weights no further than 1 does
    assert "above guard.spike_ratio = 10 times the usual 1" in (one.against(10.1) or "")
    big = guard()
    for _ in range(FEWEST_NORMS):
        assert big.against(40.0) is None
    assert big.against(399.0) is None
    assert big.against(401.0)


def test_too_many_in_a_row_stop_the_run_and_a_good_one_in_between_does_not() -> None:
    one = guard()
    for _ in range(4):
        assert one.against(math.nan)
        assert one.against(math.inf)
        assert one.against(0.5) is None
    assert one.against(math.nan)
    assert one.against(math.nan)
    with pytest.raises(DivergedError, match=r"3 updates in a row .*guard.stop_after.* norm is nan"):
        one.against(math.nan)
    assert one.skipped == 11


norms = st.lists(st.one_of(st.floats(0, 1e6), st.sampled_from([math.nan, math.inf, 1e9])), max_size=120)


@given(norms, st.integers(0, 120))
def test_going_on_from_a_state_judges_as_the_undisturbed(given_norms: list[float], cut: int) -> None:
    whole = guard(stop_after=1000)
    verdicts = [whole.against(norm) for norm in given_norms]
    first = guard(stop_after=1000)
    told = [first.against(norm) for norm in given_norms[:cut]]
    second = guard(stop_after=1000)
    second.take(json.loads(json.dumps(first.state())))
    told += [second.against(norm) for norm in given_norms[cut:]]
    assert told == verdicts
    assert second.state() == whole.state()
