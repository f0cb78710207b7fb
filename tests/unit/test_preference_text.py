"""What a reward model reads of an answer, and which rows are set apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.preference.held_out import set_apart
from r1mega.preference.text import Reads, part_read

PROMPTS = st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=40).filter(lambda p: len(set(p)) > 3)


@pytest.mark.parametrize(
    ("answer", "summary"),
    [
        ("<think> hm </think> Four.", "Four."),
        ("<think> hm </think> <answer> 4 </answer>", "4"),
        ("hm </think> Four.", "Four."),  # the prompt may have opened the thought
        ("Four.", "Four."),
        ("", ""),
        ("<think> hm", ""),
        ("Four. <think> or", ""),
        ("<think></think>", ""),
        # What stands between two ends of a thought is shown to the user, and so it is read.
        ("<think> a </think> insult </think> Four.", "insult </think> Four."),
        ("<think> a </think> b <think> c", "b <think> c"),
    ],
)
def test_the_summary_is_what_a_user_is_shown(answer: str, summary: str) -> None:
    assert part_read(answer, Reads.summary) == summary
    assert part_read(answer, Reads.whole) == answer


@given(PROMPTS, st.floats(0.3, 0.5), st.integers(0, 5))
def test_no_prompt_is_on_both_sides(prompts: list[str], share: float, seed: int) -> None:
    try:
        learnt, apart = set_apart(prompts, share, seed=seed)
    except ValueError:
        return  # a prompt that has most rows may be drawn first
    assert sorted(learnt + apart) == list(range(len(prompts)))
    assert {prompts[row] for row in learnt}.isdisjoint(prompts[row] for row in apart)
    assert len(apart) >= share * len(prompts)
    assert (learnt, apart) == set_apart(prompts, share, seed=seed)


def test_the_share_that_was_asked_for_and_another_for_each_seed() -> None:
    prompts = [f"question {number // 2}" for number in range(200)]
    cuts = [set_apart(prompts, 0.1, seed=seed) for seed in range(5)]
    assert all(len(apart) == 20 and len(learnt) == 180 for learnt, apart in cuts)
    assert len({tuple(apart) for _, apart in cuts}) == 5


@pytest.mark.parametrize(("prompts", "share"), [("ab", 0.5), ("abc", 0.0), ("abc", 1.0), ("aaaa", 0.5)])
def test_too_few_prompts_are_refused(prompts: str, share: float) -> None:
    with pytest.raises(ValueError, match="distinct prompts apart"):
        set_apart(list(prompts), share, seed=0)
