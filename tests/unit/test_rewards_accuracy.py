"""Right is right by the task's own verifier at full score, or by mathematics; all else is wrong."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data.question import Question
from r1mega.data.tasks import generate
from r1mega.rewards.accuracy import verify, worth_verifying


@pytest.fixture(scope="module")
def twelve():
    entry = {"question": "7 + 5 =", "answer": "12", "metadata": {"source_dataset": "chain_sum"}}
    return Question("s", "7 + 5 =", "12", "chain_sum", entry, {"max_terms": 4})


@pytest.mark.parametrize("given", ["12", "+12", "12.0", "012", "12.", "1.2e1", " 12 "])
def test_the_same_number_is_right(twelve, given):
    assert verify(twelve, given)


@pytest.mark.parametrize(
    "given",
    [
        *("13", "-12", "1 2", "120", "12 apples", "the answer is 12", "12 12", "7 + 5", "12/1"),
        *("", " ", "-0", "nan", "inf", "sNaN", "1e999999999", "<answer>", "\x00", None),
    ],
)
def test_anything_else_is_wrong_with_no_partial_credit(twelve, given):
    assert not verify(twelve, given)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_no_text_raises(twelve, text):
    assert verify(twelve, text) in (True, False)


def test_a_verifier_reads_its_own_tasks_parameters():
    questions = generate([("puzzle24", {"min_value": 1, "max_value": 5}, 1.0)], 3, 0, 0).train
    for question in questions:
        assert verify(question, question.answer)
        assert not verify(question, "1 + 1")


@pytest.mark.parametrize(
    ("reference", "given", "right"),
    [
        ("12", "12.0", True),
        ("0.5", "1/2", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", r"$\frac{2}{4}$", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("x^2 - 1", "(x-1)(x+1)", True),
        ("12", "13", False),
        ("12", "-12", False),
        ("Paris", " paris ", True),
        ("Paris", "London", False),
        ("B", "C", False),
        ("12", "", False),
        ("12", "}{", False),
    ],
)
def test_prompt_files_are_graded_by_mathematics_or_by_text(reference, given, right):
    assert verify(Question("m", "?", reference, "prompts_file"), given) is right


def test_nothing_and_too_much_are_not_worth_a_workers_time():
    question = Question("m", "?", "1", "prompts_file")
    program = Question("c", "?", "", "code", {"kind": "stdin", "tests": []})
    assert worth_verifying(question, "1" * 1_000)
    assert not any(worth_verifying(question, given) for given in (None, "", "1" * 1_001))
    assert worth_verifying(program, "1" * 65_536)
    assert not worth_verifying(program, "1" * 65_537)
