"""Benchmarks in their published schema become questions that are graded right; broken rows are named."""

import base64
import json
import pickle
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from r1mega.data.benchmarks import BENCHMARKS, benchmark_faults, write_predictions
from r1mega.data.benchmarks.livecodebench import NotTests, unpacked
from r1mega.data.benchmarks.swe_bench import patch_in
from r1mega.data.files import DataFileError
from r1mega.rewards.accuracy import verify

STDIN = [{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]
CALLS = [{"input": '[1, 2]\n"a"', "output": "true", "testtype": "functional"}]


def packed(tests):
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


AIME = {"id": 60, "problem": "How many?", "solution": "...", "answer": "073", "url": "-", "year": "2024"}
AIME_OLD = {"ID": "2024-I-4", "Problem": "How many?", "Solution": "...", "Answer": 116}
MATH = {
    "problem": "Where?",
    "solution": "...",
    "answer": r"\left( 3, \frac{\pi}{2} \right)",
    "subject": "Precalculus",
    "level": 2,
    "unique_id": "test/precalculus/807.json",
}
GPQA = {
    "Record ID": "rec1",
    "Question": "Which?",
    "Correct Answer": "right ",
    "Incorrect Answer 1": "one",
    "Incorrect Answer 2": "two",
    "Incorrect Answer 3": "three",
    "High-level domain": "Physics",
}
MMLU = {"question": "Which?", "subject": "anatomy", "choices": ["w", "x", "y", "both w and x"], "answer": 2}
LCB = {
    "question_title": "Sum",
    "question_content": "Add two numbers.",
    "platform": "atcoder",
    "question_id": "abc1",
    "contest_date": "2024-09-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps(STDIN),
    "private_test_cases": packed(STDIN * 2),
    "metadata": "{}",
}
LCB_CALL = LCB | {
    "question_id": "3001",
    "starter_code": "class Solution:\n    def has(self, xs, x):\n        ",
    "public_test_cases": json.dumps(CALLS),
    "private_test_cases": packed(CALLS),
    "metadata": json.dumps({"func_name": "has"}),
}
CF = {
    "id": "1/A",
    "title": "Theatre",
    "description": "Pave it.",
    "input_format": "n m a",
    "output_format": "a number",
    "interaction_format": None,
    "note": "",
    "examples": [{"input": "6 6 4\n", "output": "4\n"}],
    "rating": 1000,
    "time_limit": 1.0,
    "official_tests": [{"input": "6 6 4\n", "output": "4\n"}],
    "official_tests_complete": True,
    "input_mode": "stdio",
    "generated_checker": None,
}
SWE = {
    "instance_id": "a__b-1",
    "repo": "a/b",
    "base_commit": "c0ffee",
    "problem_statement": "It breaks.",
    "patch": "diff",
    "version": "1.0",
}
ROWS = {
    "aime_2024": [AIME, AIME_OLD],
    "math_500": [MATH],
    "gpqa_diamond": [GPQA],
    "mmlu": [MMLU],
    "livecodebench": [LCB, LCB_CALL],
    "codeforces": [CF],
    "swe_bench_verified": [SWE],
}


@pytest.fixture
def write(tmp_path):
    def writer(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return path

    return writer


def faults(name, path):
    with pytest.raises(DataFileError) as caught:
        BENCHMARKS[name].read(path)
    return [fault.removeprefix(f"{path}:") for fault in caught.value.faults]


def test_every_benchmark_has_a_sample_here():
    assert set(ROWS) == set(BENCHMARKS)


@pytest.mark.parametrize("name", ROWS)
def test_rows_become_questions_with_ids_of_their_own(name, write):
    path = write(*ROWS[name])
    questions = BENCHMARKS[name].read(path)
    assert len(questions) == len({question.id for question in questions}) == len(ROWS[name])
    for question in questions:
        assert question.id.startswith(f"{name}/")
        assert (question.task, question.language, question.kind) == (name, "en", "reasoning")
    assert questions == BENCHMARKS[name].read(path)


@pytest.mark.parametrize("name", ["math_500", "gpqa_diamond", "mmlu", "livecodebench", "codeforces"])
def test_parquet_gives_what_jsonl_gives(name, write, tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS[name]), tmp_path / "rows.parquet")
    ours, theirs = (BENCHMARKS[name].read(path) for path in (write(*ROWS[name]), tmp_path / "rows.parquet"))
    assert ours == theirs
    assert [question.entry for question in ours] == [question.entry for question in theirs]


def test_mathematics_is_graded_by_value(write):
    aime, old = BENCHMARKS["aime_2024"].read(write(AIME, AIME_OLD))
    assert (aime.answer, aime.id, old.id) == ("73", "aime_2024/60", "aime_2024/2024-I-4")
    assert verify(aime, r"\boxed{73}")
    assert verify(old, "116")
    assert not verify(old, "11")
    (math,) = BENCHMARKS["math_500"].read(write(MATH))
    assert verify(math, r"\boxed{(3, \pi/2)}")
    assert not verify(math, r"(3, \pi)")
    assert r"\boxed{}" in math.text
    assert math.parameters == {"subject": "Precalculus", "level": 2}


def test_gpqas_options_are_mixed_by_seed_and_id(write):
    path = write(*(GPQA | {"Record ID": f"rec{i}"} for i in range(100)))
    questions = BENCHMARKS["gpqa_diamond"].read(path)
    letters = [question.answer for question in questions]
    assert {letter: 10 < letters.count(letter) < 40 for letter in "ABCD"} == dict.fromkeys("ABCD", True)
    assert letters != [question.answer for question in BENCHMARKS["gpqa_diamond"].read(path, seed=1)]
    for question in questions:
        assert f"\n{question.answer}) right\n" in question.text + "\n"
        assert all(f") {option}\n" in question.text for option in ("right", "one", "two", "three"))
        assert verify(question, question.answer)
        assert not verify(question, "right")


def test_a_gpqa_file_as_published(tmp_path):
    path = tmp_path / "gpqa_diamond.csv"
    path.write_text(
        "Question,Record ID,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"
        '"Which,\nof these?",rec1,right,one,two,three\nq,rec2,a,b,c\nq,rec3,a,b,c,d,e\n'
    )
    with pytest.raises(DataFileError) as caught:
        BENCHMARKS["gpqa_diamond"].read(path)
    assert [fault.split(": ")[0] for fault in caught.value.faults] == [f"{path}:4", f"{path}:5"]
    path.write_text("\n".join(path.read_text().split("\n")[:3]))
    (question,) = BENCHMARKS["gpqa_diamond"].read(path)
    assert "Which,\nof these?" in question.text


def test_mmlus_options_stay_where_they_are(write):
    first, again, letter = BENCHMARKS["mmlu"].read(
        write(MMLU, MMLU, MMLU | {"answer": "D", "question": "And?"})
    )
    assert "A) w\nB) x\nC) y\nD) both w and x" in first.text
    assert first.entry == {"kind": "choice", "letter": "C"}
    assert letter.answer == "D"
    assert again.id == f"{first.id}#2"  # asked twice, as published


def test_livecodebenchs_tests_are_the_code_rewards(write):
    run, call = BENCHMARKS["livecodebench"].read(write(LCB, LCB_CALL))
    test = {"input": "1 2\n", "output": "3\n"}
    assert run.entry == {"kind": "stdin", "tests": [test] * 3, "time_limit_s": 6}
    assert "standard input" in run.text
    tests = [{"input": [[1, 2], "a"], "output": True}] * 2
    assert call.entry == {"kind": "call", "function": "has", "tests": tests, "time_limit_s": 6}
    assert "class Solution" in call.text
    assert call.parameters["contest_date"].startswith("2024-09")


def test_plain_private_tests_are_read_too(write):
    (run,) = BENCHMARKS["livecodebench"].read(write(LCB | {"private_test_cases": json.dumps(STDIN)}))
    assert len(run.entry["tests"]) == 2


class Touch:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_is_loaded(protocol, tmp_path):
    for hostile in (Touch(tmp_path / "made"), ["a"], {"a": "b"}, b"bytes", 1, None):
        pickled = pickle.dumps(hostile, protocol)
        with pytest.raises(NotTests):
            unpacked(base64.b64encode(zlib.compress(pickled)).decode())
    assert not (tmp_path / "made").exists()
    if protocol:  # the oldest writes text otherwise, and nothing published has it
        text = "[1]" + "é" * 300
        assert unpacked(base64.b64encode(zlib.compress(pickle.dumps(text, protocol))).decode()) == text


def test_damaged_packing_is_refused(monkeypatch):
    whole = packed(STDIN)
    cut = base64.b64encode(base64.b64decode(whole)[:-5]).decode()
    for text in ("!", "", "AAAA", whole[:-8], cut, base64.b64encode(zlib.compress(b"junk")).decode()):
        with pytest.raises(NotTests):
            unpacked(text)
    monkeypatch.setattr("r1mega.data.benchmarks.livecodebench._UNPACKED_BYTES", 10)
    with pytest.raises(NotTests, match="more than 10 bytes"):
        unpacked(whole)


def test_codeforces_asks_only_what_it_can_grade(write, caplog):
    unfit = [
        {"rating": None},
        {"official_tests": []},
        {"official_tests_complete": False},
        {"interaction_format": "ask"},
        {"input_mode": "file"},
        {"generated_checker": "def check"},
    ]
    questions = BENCHMARKS["codeforces"].read(
        write(CF, *(CF | {"id": str(i)} | u for i, u in enumerate(unfit)))
    )
    assert [question.id for question in questions] == ["codeforces/1/A"]
    assert len(caplog.records) == len(unfit)
    assert [question.parameters["rating"] for question in questions] == [1000.0]
    tests = [{"input": "6 6 4\n", "output": "4\n"}]
    assert questions[0].entry == {"kind": "stdin", "tests": tests, "time_limit_s": 1.0}
    assert "Example input\n6 6 4\n\nExample output\n4" in questions[0].text


def test_predictions_are_as_the_harness_takes_them(write, tmp_path):
    first, second = BENCHMARKS["swe_bench_verified"].read(write(SWE, SWE | {"instance_id": "a__b-2"}))
    path = tmp_path / "predictions.jsonl"
    assert (
        write_predictions(
            path, "r1", [(first, "Fix:\n```diff\n--- a/x\n+++ b/x\n```\nDone."), (second, None)]
        )
        == 2
    )
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"instance_id": "a__b-1", "model_name_or_path": "r1", "model_patch": "--- a/x\n+++ b/x\n"},
        {"instance_id": "a__b-2", "model_name_or_path": "r1", "model_patch": ""},
    ]
    assert not verify(first, "--- a/x")
    (other,) = BENCHMARKS["mmlu"].read(write(MMLU))
    for answers in ([(first, ""), (first, "")], [(other, "")]):
        with pytest.raises(ValueError, match=r"two answers|no question"):
            write_predictions(tmp_path / "none.jsonl", "r1", answers)
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("answer", "patch"),
    [
        ("--- a/x\n+++ b/x", "--- a/x\n+++ b/x\n"),
        ("```diff\nold\n```\n```diff\r\nnew\r\n```", "new\n"),
        ("```patch\n\n context\n", " context\n"),
        (" \n ", ""),
        ("```diff\n```", ""),
    ],
)
def test_the_last_fenced_patch_is_taken(answer, patch):
    assert patch_in(answer) == patch


HALF = "\ud800"
BROKEN = [
    ("aime_2024", "{\n", "not JSON"),
    ("aime_2024", "[1]\n", "must be an object"),
    ("aime_2024", AIME | {"problem": " "}, "problem is empty"),
    ("aime_2024", AIME | {"problem": 5}, "problem must be a text"),
    ("aime_2024", AIME | {"problem": HALF}, "surrogate"),
    ("aime_2024", AIME | {"answer": "1000"}, "0 to 999"),
    ("aime_2024", AIME | {"answer": "-1"}, "0 to 999"),
    ("aime_2024", AIME | {"answer": 1.5}, "answer must be a text"),
    ("aime_2024", AIME | {"answer": True}, "answer must be a text"),
    ("aime_2024", {"problem": "p"}, "answer is missing"),
    ("math_500", MATH | {"answer": None}, "answer is null"),
    ("math_500", MATH | {"unique_id": []}, "unique_id must be a text"),
    ("gpqa_diamond", GPQA | {"Incorrect Answer 2": "right"}, "Incorrect Answer 2 is the same"),
    ("gpqa_diamond", GPQA | {"Incorrect Answer 3": ""}, "Incorrect Answer 3 is empty"),
    ("gpqa_diamond", {"question": "q"}, "Question is missing"),
    ("mmlu", MMLU | {"answer": 4}, "answer must be an option's number"),
    ("mmlu", MMLU | {"answer": -1}, "answer must be an option's number"),
    ("mmlu", MMLU | {"answer": True}, "answer must be an option's number"),
    ("mmlu", MMLU | {"answer": "E"}, "answer must be an option's number"),
    ("mmlu", MMLU | {"choices": ["a"]}, "2 to 10 texts"),
    ("mmlu", MMLU | {"choices": "abcd"}, "2 to 10 texts"),
    ("mmlu", MMLU | {"choices": ["a", 1, "c", "d"]}, "choices[1] must be a text"),
    ("mmlu", MMLU | {"choices": ["a", "b", " ", "d"]}, "empty right option"),
    ("mmlu", MMLU | {"choices": ["a", "b", "c", HALF]}, "surrogate"),
    ("livecodebench", LCB | {"private_test_cases": "nonsense"}, "private_test_cases is no packed text"),
    ("livecodebench", LCB | {"private_test_cases": packed([])}, "holds none"),
    ("livecodebench", LCB | {"public_test_cases": "[{}]"}, "public_test_cases[0]"),
    ("livecodebench", LCB | {"public_test_cases": None}, "public_test_cases must be a text"),
    ("livecodebench", LCB | {"public_test_cases": json.dumps(CALLS)}, "one testtype"),
    ("livecodebench", LCB | {"public_test_cases": "[" * 100_000}, "is not JSON"),
    ("livecodebench", LCB_CALL | {"metadata": "{}"}, "func_name"),
    ("livecodebench", LCB_CALL | {"metadata": ""}, "metadata is not JSON"),
    (
        "livecodebench",
        LCB_CALL | {"public_test_cases": json.dumps([CALLS[0] | {"input": "x"}])},
        "functional",
    ),
    ("codeforces", CF | {"title": None}, "title is null"),
    ("codeforces", CF | {"rating": "1000"}, "rating must be a number"),
    ("codeforces", CF | {"time_limit": 0}, "more than 0 seconds"),
    ("codeforces", CF | {"official_tests": [{"input": "1"}]}, "official_tests[0]"),
    ("codeforces", CF | {"official_tests": "1"}, "official_tests must be a list"),
    ("codeforces", CF | {"examples": [1]}, "examples[0]"),
    ("swe_bench_verified", SWE | {"instance_id": ""}, "instance_id is empty"),
    ("swe_bench_verified", {}, "repo is missing"),
]


@pytest.mark.parametrize(("name", "row", "fault"), BROKEN)
def test_a_broken_row_is_named_by_line(name, row, fault, write):
    if isinstance(row, dict) and name != "mmlu":
        row = {key: value for key, value in row.items() if key not in ("id", "question_id")}
    found = faults(name, write(ROWS[name][0], row, "\n"))
    assert len(found) == 1
    assert found[0].startswith("2: ")
    assert fault in found[0]


def test_all_broken_rows_are_named_at_once(write, tmp_path):
    path = write(MATH, MATH | {"unique_id": "x", "answer": ""}, "{\n", MATH)
    assert [fault.split(": ")[0] for fault in faults("math_500", path)] == ["2", "3", "4"]
    assert "has the id of" in faults("math_500", path)[-1]
    (tmp_path / "zip.parquet").write_bytes(b"PAR1 and no more")
    assert len(faults("math_500", tmp_path)) == 4


def test_files_that_cannot_be_read(tmp_path, write):
    assert "holds no file of .csv" in faults("mmlu", tmp_path)[0]
    assert "cannot be read" in faults("mmlu", tmp_path / "absent.jsonl")[0]
    assert "cannot be read" in faults("gpqa_diamond", tmp_path / "absent.csv")[0]
    assert "holds no question" in faults("mmlu", write("\n"))[0]
    assert "holds no question" in faults("codeforces", write(CF | {"rating": None}))[0]


def test_what_a_run_says_of_its_benchmark_is_checked(write, tmp_path):
    path = str(write(MMLU))
    assert benchmark_faults("mmlu", path) == benchmark_faults(None, None) == []
    assert benchmark_faults("mmmlu", path) == [
        "eval.benchmark: was mmmlu; must be a benchmark, did you mean mmlu?"
    ]
    for name, file in ((None, path), ("mmlu", None), ("mmlu", str(tmp_path / "absent")), ("math_500", path)):
        (fault,) = benchmark_faults(name, file)
        assert (fault.split(":")[0] == "eval.benchmark_file") == (name is None or file is None)


def test_rows_of_many_megabytes_are_read(write):
    """LiveCodeBench's tests are longer than any row of training data may be."""
    long = [{"input": "1" * 17 * 2**20, "output": "", "testtype": "stdin"}]
    (question,) = BENCHMARKS["livecodebench"].read(write(LCB | {"private_test_cases": json.dumps(long)}))
    assert len(question.entry["tests"][1]["input"]) == 17 * 2**20
