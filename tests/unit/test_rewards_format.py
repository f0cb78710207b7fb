"""Form is judged tag by tag, answers are found where they stand, and length costs only time."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.rewards import format as form

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
GOOD = "<think> 3 + 5 = 8 </think> <answer> 8 </answer>"


@pytest.mark.parametrize(
    "text", [GOOD, f" \n{GOOD}\n ", GOOD.replace(" ", ""), "<think>a</think>\n\n<answer>b</answer>"]
)
def test_good_form_scores_one(text):
    assert form.score(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8",
        f"So: {GOOD}",
        f"{GOOD} Done.",
        "<think> a </think> thus <answer> 8 </answer>",
        "<answer> 8 </answer> <think> a </think>",
        "<think> a <answer> 8 </answer> </think>",
        "<think> a </think> <answer> 8",
        "<think> a <answer> 8 </answer>",
        "a </think> <answer> 8 </answer>",
        "<think></think> <answer> 8 </answer>",
        "<think> a </think> <answer> </answer>",
        "</think> a <think> <answer> 8 </answer>",
        "<think> <think> a </think> </think> <answer> 8 </answer>",
        GOOD + GOOD,
        GOOD.upper(),
        GOOD.replace("<think>", "<think >"),
    ],
)
def test_any_other_form_scores_zero(text):
    assert form.score(text) == 0.0


@settings(deadline=None)
@given(st.lists(st.sampled_from([*TAGS, " ", "8", "a"]), max_size=9).map("".join))
def test_form_implies_an_answer_that_both_readers_find(text):
    if form.score(text):
        assert form.answer_of(text) is not None
    if form.answer_of(text) is not None:
        assert form.answer_any_format(text) == form.answer_of(text)


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        (GOOD, "8", "8"),
        ("<answer> 1/2 </answer>", "1/2", "1/2"),
        ("<answer>a</answer> <answer>b</answer>", None, "b"),
        ("8 - 2 = 6 <answer> 6", None, "6"),
        ("</answer> 5 <answer>", None, None),
        ("3 + 5 = 8, 8 - 2 = 6", None, "6"),
        ("it is 6.", None, "6"),
        ("it is 1,000.50, or so", None, "1,000.50"),
        ("it is -6", None, "-6"),
        ("1, 2, 3,", None, "3"),
        (r"so \boxed{\frac{1}{2}} (page 3)", None, r"\frac{1}{2}"),
        (r"so \boxed{\frac{1}{2 (page 3)", None, "3"),
        ("I do not know", None, None),
        ("٣", None, None),
        ("", None, None),
    ],
)
def test_readers(text, strict, lenient):
    assert form.answer_of(text) == strict
    assert form.answer_any_format(text) == lenient


@pytest.mark.parametrize(
    "part",
    ["<think>", "<answer>", "</answer>", "1,", "9", r"\boxed{", "{", "<", "1/", " ", "+-", "a"],
)
def test_a_million_characters_take_no_time(part):
    text = part * (10**6 // len(part))
    begin = time.perf_counter()
    for read in (form.score, form.answer_of, form.answer_any_format):
        read(text)
    assert time.perf_counter() - begin < 2.0
