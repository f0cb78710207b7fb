"""What an evaluation measures, on answers worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from r1mega.config import Config, Stage
from r1mega.data.question import Question
from r1mega.model.rows import Sample
from r1mega.rewards.registry import score
from r1mega.rollout.host import Completion
from r1mega.stages.judging import rewards
from r1mega.stages.measures import measure
from r1mega.stages.reject import _reviewed
from r1mega.stages.sampling import Batch


def question(text: str, answer: str, kind: str = "reasoning", language: str = "en") -> Question:
    return Question(text, text, answer, "t", language=language, kind=kind)


def right(question: Question, given: str | None) -> bool:
    return given == question.answer


def batch_of(
    *asked: tuple[Question, Sequence[str]], cut: str = "CUT"
) -> tuple[Batch, list[dict[str, float]]]:
    """A batch of these answers; one that ends in `cut` met the length limit."""
    questions = [one for one, answers in asked for _ in answers]
    texts = [text for _, answers in asked for text in answers]
    truncated = [text.endswith(cut) for text in texts]
    lengths = [len(text.split()) for text in texts]
    batch = Batch(
        questions=questions,
        samples=[Sample([0] * (1 + length), 1) for length in lengths],
        completions=[
            Completion(np.zeros(length, np.int64), np.zeros(length), was_cut, 0)
            for length, was_cut in zip(lengths, truncated, strict=True)
        ],
        texts=texts,
    )
    components = [
        score(one, text, was_cut, right)
        for one, text, was_cut in zip(questions, texts, truncated, strict=True)
    ]
    return batch, components


def said(answer: str, thought: str = "so it is") -> str:
    return f"<think> {thought} </think> <answer> {answer} </answer>"


def test_shares_votes_and_lengths() -> None:
    first = (question("a", "4"), [said("4"), said("5"), said("4"), said("3")])
    second = (question("b", "7"), [said("8"), said("8"), "7", said("7") + " CUT"])
    rates = measure(*batch_of(first, second), 4)
    assert rates["pass_at_1"] == [0.5, 0.0]
    assert rates["pass_at_1_any_format"] == [0.5, 0.25]
    assert rates["cons_at_k"] == [1.0, 0.0]
    assert rates["format"] == [1.0, 0.5]
    assert rates["truncated"] == [0.0, 0.25]
    assert rates["answer_tokens"][0] == len(said("4").split())
    assert "language" not in rates  # all questions are in one


def test_a_truncated_answer_has_no_vote_and_no_answer_is_none() -> None:
    votes = [said("4"), said("5") + " CUT", said("5") + " CUT", "no tags"]
    silent = (question("b", "5"), ["x", "y", "z", "5"])
    assert measure(*batch_of((question("a", "5"), votes), silent), 4)["cons_at_k"] == [0.0, 0.0]


def test_the_first_given_wins_a_tie() -> None:
    answers = [said("1"), said("2")]
    rates = measure(*batch_of((question("a", "1"), answers), (question("b", "2"), answers)), 2)
    assert rates["cons_at_k"] == [1.0, 0.0]


def test_a_measure_of_one_question_has_no_interval_and_is_left_out() -> None:
    one, two = (question("a", "1"), [said("1")]), (question("b", "2"), [said("2")])
    assert measure(*batch_of(one), 1) == {}
    assert "pass_at_1" in measure(*batch_of(one, two), 1)


def test_kinds_are_measured_apart_and_languages_where_there_are_several() -> None:
    asked = (
        (question("a", "1"), [said("1", "first 先 then"), said("1", "first then")]),
        (question("甲", "2", language="zh"), [said("2", "先算"), said("2", "then")]),
        *[(question(f"g{i}", "hi", kind="general"), [said("hi"), said("no")]) for i in range(2)],
        *[(question(f"s{i}", "sorry", kind="safety"), [said("sorry"), said("sorry")]) for i in range(2)],
    )
    rates = measure(*batch_of(*asked), 2)
    assert rates["mixed_language"] == [0.5, 0.0]
    assert rates["language"] == [pytest.approx((2 / 3 + 1) / 2), 0.5]
    assert rates["general"] == [0.5, 0.5]
    assert rates["safety"] == [1.0, 1.0]
    assert rates["pass_at_1"] == [1.0, 1.0]


def test_rewards_follow_the_kind_of_question() -> None:
    questions = [question("a", "1"), question("g", "x", kind="general")]
    components = [{"accuracy": 1.0, "format": 1.0}, {"accuracy": 1.0, "format": 1.0, "helpful": 0.25}]
    weights = {"reasoning": {"accuracy": 1.0, "format": 0.5}, "general": {"helpful": 2.0}}
    assert rewards(components, questions, weights, 1).tolist() == [[1.5], [0.5]]
    del components[1]["helpful"]  # the reward models have no say yet
    assert rewards(components, questions, weights, 1).tolist() == [[1.5], [0.0]]


def test_rejection_keeps_right_and_readable_answers_and_says_why_not() -> None:
    config = Config(stage=Stage.reject, name="r")
    config.reject.kept_per_question = 1
    answers = [said("4", "first 先 then"), said("4", "so it is"), said("5"), said("4", "so it is")]
    rows = _reviewed(config, *batch_of((question("a", "4"), answers)), range(4))
    assert [(row["keep"], row["against"]) for row in rows] == [(False, ["mixed_language"]), (True, [])]
    assert rows[1]["answer"] == said("4", "so it is")


def test_of_many_good_answers_so_many_are_kept_always_the_same() -> None:
    config = Config(stage=Stage.reject, name="r")
    config.reject.kept_per_question = 2
    answers = [said("4", f"so it is {word}") for word in ("now", "then", "again", "here", "there")]
    batch, components = batch_of((question("a", "4"), answers))
    rows = _reviewed(config, batch, components, range(5))
    assert [len(rows), sum(row["keep"] for row in rows)] == [5, 2]
    assert rows == _reviewed(config, batch, components, range(5))
