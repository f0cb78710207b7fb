"""A prompts file is read whole or refused with every bad line named."""

import json

import pytest

from r1mega.data.files import DataFileError
from r1mega.data.prompts import read_prompts, split
from r1mega.data.tasks import TooFewQuestionsError


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "prompts.jsonl"

    def writer(*lines):
        path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
        return path

    return writer


def row(question, answer="4", **more):
    return json.dumps({"question": question, "answer": answer, **more})


def test_rows_become_questions_in_order(write):
    path = write(row("2 + 2?"), "", row("Größe?", "groß", id="q7", source="x"), "")
    first, second = read_prompts(path)
    assert (first.text, first.answer, first.task, first.entry) == (
        "2 + 2?",
        "4",
        "prompts_file",
        {},
    )
    assert (second.id, second.text) == ("q7", "Größe?")
    assert read_prompts(path) == [first, second]


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(write):
    assert len(read_prompts(write(b"\xef\xbb\xbf" + row("a?").encode() + b"\r", row("b?")))) == 2


def test_every_bad_line_is_reported_at_once(write):
    path = write(
        row("fine?"),
        "{",
        "[1]",
        json.dumps({"question": "q?"}),
        row("q?", 4),
        row("  ", ""),
        b'{"question": "\xff", "answer": "4"}',
        row("half \ud800?"),
        "[" * 100_000,
        row("fine?", "5"),
        row("x?", id="a"),
        row("y?", id="a"),
        row("z?", id=7),
        '{"question": "q?", "answer": ' + "9" * 5_000 + "}",
    )
    with pytest.raises(DataFileError) as caught:
        read_prompts(path)
    expected = {
        2: "not JSON: Expecting property name",
        3: "must be an object, is a list",
        4: "answer is missing",
        5: "answer must be a text, is a number",
        6: "question is empty; answer is empty",
        7: "not UTF-8 (byte 15 of the line)",
        8: "question holds half of a surrogate pair",
        9: "not usable JSON",
        10: "the question of line 1 again, with another answer",
        12: "id 'a' is that of line 11",
        13: "id must be a text, is a number",
        14: "not usable JSON",
    }
    assert str(caught.value).count("\n") == len(expected) - 1
    for fault, (line, text) in zip(caught.value.faults, expected.items(), strict=True):
        assert fault.startswith(f"{path}:{line}: {text}")


def test_a_message_of_many_faults_stays_readable(write):
    with pytest.raises(DataFileError) as caught:
        read_prompts(write(*["{"] * 500))
    assert len(caught.value.faults) == 500
    assert str(caught.value).endswith("... and 450 more")


def test_missing_and_empty_files_are_refused(write, tmp_path):
    with pytest.raises(DataFileError, match=r"nowhere\.jsonl: cannot be read \(No such file"):
        read_prompts(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataFileError, match="holds no question"):
        read_prompts(write("", "  "))
    with pytest.raises(DataFileError, match="cannot be read"):
        read_prompts(tmp_path)


def test_a_repeated_question_is_kept_once_and_warned_of(write, caplog):
    assert len(read_prompts(write(row("a?"), row("b?"), row("a?")))) == 2
    assert "1 repeated" in caplog.text


def test_the_split_is_seeded_disjoint_and_whole(write):
    questions = read_prompts(write(*[row(f"{i}?") for i in range(50)]))
    halves = split(questions, train=1_000, held_out=10, seed=3)
    assert halves == split(questions, train=1_000, held_out=10, seed=3)
    assert sorted(q.text for q in halves.train + halves.held_out) == sorted(q.text for q in questions)
    assert split(questions, train=5, held_out=10, seed=3).held_out == halves.held_out
    assert split(questions, train=5, held_out=10, seed=4).held_out != halves.held_out


def test_a_split_leaves_something_to_train_on(write):
    questions = read_prompts(write(row("a?"), row("b?")))
    with pytest.raises(TooFewQuestionsError, match=r"data\.held_out_questions: was 2"):
        split(questions, train=10, held_out=2, seed=0)
