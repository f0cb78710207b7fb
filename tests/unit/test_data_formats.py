"""Each format that users have becomes the same items, from JSONL and from parquet alike."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.broken_rows import (
    ALPACA,
    CHAT,
    ENTRY,
    LABEL,
    OWN,
    PAIR,
    SFT,
    TRL,
    TRL_SFT,
    VERL,
    assistant,
    calls,
    coded,
    ground_truth,
    user,
    verl,
)

from r1mega.data.dialogues import read_dialogues
from r1mega.data.preferences import read_preferences
from r1mega.data.prompts import read_prompts
from r1mega.data.question import Question, question_id
from r1mega.data.safety import read_safety_labels

ASKED = (("user", "1 + 1?"),)
SYSTEM = {"role": "system", "content": "Be brief."}

Write = Callable[..., Path]


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def parquet(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "rows.bin"  # known by its beginning, whatever its name
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.fixture(params=[jsonl, parquet], ids=lambda write: write.__name__)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Write:
    return lambda *rows: request.param(tmp_path, *rows)


@pytest.mark.parametrize(
    "row", [OWN, VERL, TRL, TRL | {"prompt": "1 + 1?"}, CHAT, {"prompt": "1 + 1?", "ground_truth": "2"}]
)
def test_a_question_is_the_same_in_every_format(write: Write, row: dict[str, Any]) -> None:
    (question,) = read_prompts(write(row))
    assert question == Question(id=question_id("1 + 1?"), text="1 + 1?", answer="2", task="prompts_file")
    assert question.entry == {}


def test_what_a_question_may_have_besides(write: Write) -> None:
    row = OWN | {"id": "q7", "language": "zh", "kind": "safety"}
    (question,) = read_prompts(write(row))
    assert (question.id, question.language, question.kind) == ("q7", "zh", "safety")
    (question,) = read_prompts(write(OWN | {"id": None, "language": None, "kind": None}))
    assert (question.id, question.language, question.kind) == (question_id("1 + 1?"), "en", "reasoning")


def test_a_language_that_is_not_said_is_the_callers_to_find(write: Write) -> None:
    said = ((OWN["question"], None), ("一加一？", None), ("eins?", "en"))
    rows = [OWN | {"question": text, "language": language} for text, language in said]
    found = read_prompts(write(*rows), language_of=lambda text: "zh" if "加" in text else "xx")
    assert [question.language for question in found] == ["xx", "zh", "en"]


@pytest.mark.parametrize(
    ("ability", "kind"),
    [
        ("math", "reasoning"),
        ("MATH", "reasoning"),
        ("logical-reasoning", "reasoning"),
        ("stem/physics", "reasoning"),
        (None, "reasoning"),
        ("alignment", "general"),
        ("creative writing", "general"),
        ("mathew", "general"),
        ("safety", "safety"),
    ],
)
def test_verls_ability_is_a_kind(write: Write, ability: str | None, kind: str) -> None:
    (question,) = read_prompts(write(verl(ability=ability)))
    assert question.kind == kind


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Tell me a joke.", "kind": "general"},
        {"prompt": "Tell me a joke.", "kind": "safety"},
        {"messages": [user("Tell me a joke.")], "kind": "general"},
        verl(prompt=[user("Tell me a joke.")], ability="chat", reward_model={"style": "model"}),
        {"question": "Tell me a joke.", "entry": ENTRY},
    ],
)
def test_what_reward_models_or_tests_judge_needs_no_answer(write: Write, row: dict[str, Any]) -> None:
    (question,) = read_prompts(write(row))
    assert (question.text, question.answer) == ("Tell me a joke.", "")


def test_a_system_turn_stands_before_the_question(write: Write) -> None:
    (question,) = read_prompts(write(verl(prompt=[SYSTEM, user("1 + 1?")])))
    assert question.text == "Be brief.\n\n1 + 1?"
    (question,) = read_prompts(write(verl(prompt=[{**SYSTEM, "content": ""}, user("1 + 1?")])))
    assert question.text == "1 + 1?"


CALL = {"kind": "call", "function": "add", "tests": [{"input": [1, [2]], "output": 3}]}


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        (coded(ENTRY | {"time_limit_s": 2, "more": "x"}), ENTRY | {"time_limit_s": 2.0}),
        (coded(json.dumps(CALL)), CALL),
        (verl(ability="code", extra_info={"entry": ENTRY}), ENTRY),
        (verl(ability="code", extra_info=ENTRY), ENTRY),
        (ground_truth(json.dumps({"inputs": ["1"], "outputs": ["2"]})), ENTRY),
        (ground_truth(calls(["1\n[2]"], ["3"])), CALL),
        (ground_truth(calls([[1, [2]]], [3])), CALL),
    ],
)
def test_tests_of_programs_come_in_one_form(write: Write, row: dict[str, Any], entry: dict[str, Any]) -> None:
    (question,) = read_prompts(write(row))
    assert question.entry == entry
    assert (question.kind, question.answer) == ("reasoning", "")


@pytest.mark.parametrize(
    "row",
    [
        SFT,
        TRL_SFT,
        {"prompt": [user("1 + 1?")], "completion": [assistant("2")]},
        CHAT,
        CHAT | {"prompt": "1 + 1?", "prompt_id": "7"},  # UltraChat's columns
        ALPACA,
        ALPACA | {"input": ""},
    ],
)
def test_a_sample_is_the_same_in_every_format(write: Write, row: dict[str, Any]) -> None:
    path = write(row)
    (one,) = read_dialogues(path)
    assert (one.messages, one.answer, one.language, one.where) == (ASKED, "2", None, f"{path}:1")
    assert one.prompt == "1 + 1?"


def test_the_last_answer_is_learnt_and_turns_before_it_kept(write: Write) -> None:
    turns = [SYSTEM, user("a"), assistant("b"), user("c"), assistant("d")]
    (one,) = read_dialogues(write({"messages": turns, "language": "en"}))
    assert one.messages == (("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert (one.answer, one.language, one.prompt) == ("d", "en", "Be brief.\n\na\n\nb\n\nc")


def test_alpacas_input_follows_its_instruction(write: Write) -> None:
    (one,) = read_dialogues(write({"instruction": "Add.", "input": "1 and 2", "output": "3"}))
    assert one.messages == (("user", "Add.\n\n1 and 2"),)


def test_a_conversation_may_have_several_answers_and_each_once(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    found = read_dialogues(write(SFT, SFT | {"answer": "two"}, SFT))
    assert [one.answer for one in found] == ["2", "two"]
    assert "1 repeated samples were kept once each" in caplog.text


WHOLE = {"chosen": [user("1 + 1?"), assistant("2")], "rejected": [user("1 + 1?"), assistant("3")]}


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": [user("1 + 1?")], "chosen": [assistant("2")], "rejected": [assistant("3")]},
        {"prompt": "1 + 1?", "chosen": [assistant("2")], "rejected": [assistant("3")]},
        WHOLE,
        WHOLE | {"prompt": "1 + 1?"},
        WHOLE | {"prompt": [user("1 + 1?")], "messages": WHOLE["chosen"]},
    ],
)
def test_a_pair_is_the_same_in_every_form(write: Write, row: dict[str, Any]) -> None:
    (one,) = read_preferences(write(row))
    assert (one.messages, one.chosen, one.rejected, one.gap) == (ASKED, "2", "3", None)


def test_scores_give_the_gap_which_may_be_none_at_all(write: Write) -> None:
    rows = [PAIR | {"prompt": str(low), "score_chosen": 4.5, "score_rejected": low} for low in (2.0, 4.5)]
    assert [one.gap for one in read_preferences(write(*rows))] == [2.5, 0.0]


@pytest.mark.parametrize("row", [LABEL, LABEL | {"label": True}, TRL_SFT | {"label": True}])
def test_a_safe_answer_is_safe_in_every_format(write: Write, row: dict[str, Any]) -> None:
    (one,) = read_safety_labels(write(row))
    assert (one.messages, one.answer, one.safe) == (ASKED, "2", True)


@pytest.mark.parametrize("label", ["unsafe", False])
def test_an_unsafe_answer_is_not(write: Write, label: str | bool) -> None:
    (one,) = read_safety_labels(write({"prompt": "1 + 1?", "response": "2", "label": label}))
    assert one.safe is False


def test_the_format_found_is_named(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = write(VERL)
    read_prompts(path)
    assert f"{path}: questions as in verl (prompt, reward_model)" in caplog.text


READERS = {
    "Prompts": read_prompts,
    "SFT": read_dialogues,
    "Pairs": read_preferences,
    "Safety labels": read_safety_labels,
}


def test_each_row_in_the_docs_is_read_as_the_format_it_is_said_to_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    shown = 0
    for title, read in READERS.items():
        section = text.split(f"## {title}\n")[1].split("\n## ")[0]
        for name, row in re.findall(r"^\| (.+?) \| `(\{.*?\})`(?: \||:)", section, re.MULTILINE):
            caplog.clear()
            assert len(read(jsonl(tmp_path, json.loads(row)))) == 1
            assert name.split(",")[0] in caplog.text
            shown += 1
    assert shown == text.count("| `{")


def test_a_long_line_of_many_brackets_in_text_is_not_deep(write: Write) -> None:
    (one,) = read_dialogues(write(SFT | {"answer": '["' * 1_000 + "\\"}))
    assert one.answer == '["' * 1_000 + "\\"
