"""One letter chosen is read however it is written; two are none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data.question import Question
from r1mega.rewards.accuracy import verify
from r1mega.rewards.choice import choice_of

FORMS = [
    *("{}", " {} ", "({})", "{}.", "{})", "**{}**", "[{}]", "{}\n"),
    *("{}) Paris", "({}) Paris", "{}. Paris", "{}: Paris", "{}, because of the cold"),
    *(r"\boxed{{{}}}", r"$\boxed{{\text{{{}}}}}$", "Answer: {}", "The answer is {}.", "answer is ({})"),
    *("the correct answer is: **{}**", "Final answer: {}", "Option {}", "It must be {}", "{} is correct"),
    *("答案是{}", "答案：{}", "选{}", "选择 {} 项", "So\n\nAnswer: {}"),
]


@pytest.mark.parametrize("letter", "ABD")
@pytest.mark.parametrize("form", FORMS)
def test_a_letter_is_read(form, letter):
    assert choice_of(form.format(letter)) == letter


@pytest.mark.parametrize(
    ("text", "letter"), [("b", "B"), ("(c)", "C"), ("Ｂ", "B"), ("B) vitamin C deficiency", "B")]
)
def test_more_ways_to_write_it(text, letter):
    assert choice_of(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        *("A or B", "A, B", "A/B", "A and B", "A B", "ABCD", "A\nB", "A) Paris\nB) London", "Answer: A or B"),
        *("Both A and B", "选A或B", "A、B", "(A) (B)", "answer A, answer B", "A, B, C, D", "(B), not (C)"),
        *("", " ", "?", "7", "K", "a cat", "A cat sat", "banana", "the answer is a mystery"),
        *("not B", "It isn't B", "It isn’t B", "不是B"),
    ],
)
def test_hedging_and_nothing_choose_nothing(text):
    assert choice_of(text) is None


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ABab() .,:\n\\boxed{}$*or答案是", max_size=30))
def test_what_is_chosen_stands_in_the_text(text):
    chosen = choice_of(text)
    assert chosen is None or chosen in text.upper()


def test_a_choice_is_graded_by_its_letter():
    question = Question("q", "?", "B", "gpqa_diamond", {"kind": "choice", "letter": "B"})
    assert verify(question, "B")
    assert verify(question, "(B) Paris")
    assert not any(verify(question, given) for given in ("A", "A or B", "Paris", "", None, "ABCD"))
