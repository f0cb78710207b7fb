"""What an engine's receipt may lack, and that each lack has words and a name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.weights.proof import check_receipt, largest_difference

SENT = [("a[0:4]", 1), ("a[4:8]", 2), ("b[0:2]", 3)]
RIGHT = {"version": 3, "checksums": [1, 2, 3]}


def test_a_right_receipt_has_no_fault():
    assert check_receipt(3, SENT, RIGHT, "engine 0") == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"version": 2}, "engine 0 holds version 2; the policy is at 3"),
        ({"checksums": [1, 2]}, "engine 0 answers for 2 boxes; it was sent 3"),
        ({"checksums": [1, 9, 3]}, "engine 0 holds other bytes of a[4:8] than were sent"),
    ],
)
def test_each_fault_has_its_words(change, fault):
    assert check_receipt(3, SENT, RIGHT | change, "engine 0") == [fault]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2))))
def test_every_box_that_differs_is_named_once_and_no_other(pairs):
    sent = [(f"w{i}[0:1]", ours) for i, (ours, _) in enumerate(pairs)]
    faults = check_receipt(0, sent, {"version": 0, "checksums": [theirs for _, theirs in pairs]}, "it")
    different = [f"w{i}[" for i, (ours, theirs) in enumerate(pairs) if ours != theirs]
    assert len(faults) == len(different)
    assert all(name in fault for name, fault in zip(different, faults, strict=True))


def test_the_largest_difference_is_of_any_token():
    ours = [np.array([0.0, -1.0]), np.array([-2.0])]
    assert largest_difference(ours, ours) == 0.0
    assert largest_difference(ours, [ours[0], np.array([-2.5])]) == 0.5
    assert largest_difference(ours, [np.array([0.0, -0.25]), ours[1]]) == 0.75


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 1])
def test_what_is_no_number_is_beyond_any_limit(value, at):
    ours = [np.array([0.0, -1.0]), np.array([-2.0, -3.0])]
    theirs = [part.copy() for part in ours]
    theirs[at][0] = value
    assert largest_difference(ours, theirs) > 1e300
    assert largest_difference(theirs, ours) > 1e300
