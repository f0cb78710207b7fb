"""Every kind of broken row is named by file and line with what is wrong, and nothing of its file is used."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.broken_rows import (
    BROKEN,
    CHAT,
    ENTRY,
    IN_PARQUET,
    OWN,
    VERL,
    D,
    P,
    Q,
    Read,
    S,
    Values,
    calls,
    ground_truth,
    line,
)

from r1mega.data.files import DataFileError


def test_there_are_thirty_kinds_and_each_is_its_own() -> None:
    assert len(BROKEN) >= 30
    assert len({line(broken) for _, _, broken, _ in BROKEN.values()}) >= len(BROKEN) - 2


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_row_is_named_and_its_file_unused(tmp_path: Path, name: str) -> None:
    read, good, broken, said = BROKEN[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line(good) + b"\n" + line(broken) + b"\n" + line(good) + b"\n")
    with pytest.raises(DataFileError) as caught:
        read(path)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}:2: ")
    assert said in fault
    assert "\n" not in fault
    assert len(fault) < 400 + len(str(path))
    path.write_bytes(line(good) + b"\n" + line(good) + b"\n")
    assert len(read(path)) == 1


@pytest.mark.parametrize("read", [Q, D, P, S])
def test_a_file_with_all_of_them_shows_all(tmp_path: Path, read: Read) -> None:
    mine = [case for case in BROKEN.values() if case[0] is read]
    good = mine[0][1]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(map(line, [good, *[broken for _, _, broken, _ in mine]])))
    with pytest.raises(DataFileError) as caught:
        read(path)
    named = [fault.split(": ")[0] for fault in caught.value.faults]
    assert named == [f"{path}:{number}" for number in range(2, len(mine) + 2)]
    assert caught.value.shown[:50] == caught.value.faults[:50]
    assert (len(mine) > 50) == (caught.value.shown[-1] == f"... and {len(mine) - 50} more")


@pytest.mark.parametrize("name", IN_PARQUET)
def test_a_broken_row_of_parquet_is_named_by_its_number(tmp_path: Path, name: str) -> None:
    read, good, broken, said = IN_PARQUET[name]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([good, broken, good]), path)
    with pytest.raises(DataFileError) as caught:
        read(path)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}:2: ")
    assert said in fault


def test_columns_of_parquet_have_one_type_which_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"question": [b"a", b"b"], "answer": [1, 2]}), path)
    with pytest.raises(DataFileError) as caught:
        Q(path)
    said = "question must be a text, is of type bytes; answer must be a text, is a number"
    assert caught.value.faults == (f"{path}:1: {said}", f"{path}:2: {said}")


def test_parquet_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    text = pa.array([b"fine", b"gr\xfc\xdfe"]).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"question": text, "answer": ["1", "2"]}), path)
    with pytest.raises(DataFileError) as caught:
        Q(path)
    assert caught.value.faults == (f"{path}:2: question is not UTF-8",)


def test_damage_inside_parquet_is_named_where_it_begins(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"question": [f"{i}?" for i in range(600)], "answer": ["2"] * 600})
    pq.write_table(table, path, row_group_size=300, compression="none")
    groups = pq.ParquetFile(path).metadata
    start = groups.row_group(1).column(0).dictionary_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(DataFileError) as caught:
        Q(path)
    (fault,) = caught.value.faults
    number = int(fault.removeprefix(f"{path}:").split(":")[0])
    assert 1 < number <= 301
    assert "the file is damaged from here on" in fault


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"\xef\xbb\xbf\n \n", "holds no question"),
        ("a.jsonl", b"\x1f\x8b\x08\x00rest", "is gzip: unpack it first"),
        ("a.jsonl", b"\x28\xb5\x2f\xfdrest", "is compressed by zstd"),
        ("a.jsonl", b"PK\x03\x04rest", "is a zip archive"),
        ("a.jsonl", '{"question"'.encode("utf-16"), "is UTF-16: write it as UTF-8"),
        ("a.csv", b"question,answer\n1 + 1?,2\n", "looks like CSV (question,answer)"),
        ("a.jsonl", b'"question"\t"answer"\r\na\tb\n', "looks like CSV"),
        ("a.json", b'[{"question": "a", "answer": "b"}]', "is one JSON list"),
        ("a.json", b"[\n  {\n", "is one JSON list"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html>", "is a web page or XML"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid", "is no parquet file"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "is only Git LFS's pointer"),
        ("a.parquet", b'{"question": "a", "answer": "b"}\n', "is no parquet file: it begins with b'{\"qu'"),
        ("a.parquet", b"PAR1", "is no whole parquet file"),
        ("a.parquet", b"PAR1" + b"\x00" * 100 + b"PAR1", "is no whole parquet file"),
    ],
)
def test_another_kind_of_file_is_one_message(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataFileError) as caught:
        Q(path)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{path}: ")
    assert said in fault
    assert "\n" not in fault


@pytest.mark.parametrize("read", [Q, D, P, S])
def test_what_is_not_there_or_no_file_is_one_message(tmp_path: Path, read: Read) -> None:
    for path, said in ((tmp_path / "no.jsonl", "No such file"), (tmp_path, "it is a folder")):
        with pytest.raises(DataFileError) as caught:
            read(path)
        (fault,) = caught.value.faults
        assert fault.startswith(f"{path}: cannot be read ({said}")


def test_parquet_with_two_columns_of_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, ["question", "question"]), path)
    with pytest.raises(DataFileError, match="has two columns named 'question'"):
        Q(path)


def test_every_cut_of_a_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([VERL]), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataFileError):
            Q(path)


def outcome(read: Read, path: Path) -> tuple[int, tuple[str, ...]]:
    """How many items were read, or why none was."""
    try:
        return len(read(path)), ()
    except DataFileError as error:
        return 0, error.faults


KEYS = sorted({key for case in BROKEN.values() if isinstance(case[2], dict) for key in case[2]})
ODD = st.text(st.characters(), max_size=4)  # halves of surrogate pairs included
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | ODD
ANYTHING = st.recursive(
    LEAVES | st.sampled_from([OWN, VERL, CHAT["messages"], ENTRY, "user", "call"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*KEYS, "role", "content", "tests", "input"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(row=st.dictionaries(st.sampled_from(KEYS) | ODD, ANYTHING, max_size=6))
def test_no_row_crashes_a_reader(tmp_path_factory: pytest.TempPathFactory, row: Values) -> None:
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_bytes(line(row))
    for read in (Q, D, P, S):
        used, faults = outcome(read, path)
        assert used + len(faults) == 1
        assert all(fault.startswith(f"{path}:1: ") for fault in faults)
        assert "\n" not in "".join(faults).encode().decode()  # each can be printed, on its line


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 10_000), new=st.binary(max_size=3))
def test_no_damage_to_bytes_crashes_a_reader(
    tmp_path_factory: pytest.TempPathFactory, at: int, new: bytes
) -> None:
    whole = b"\n".join(line(row) for row in (VERL, ground_truth(calls(["1\n2"], ["3"]))))
    at %= len(whole)
    path = tmp_path_factory.mktemp("any") / "rows.jsonl"
    path.write_bytes(whole[:at] + new + whole[at + 1 :])
    used, faults = outcome(Q, path)
    assert 1 <= used + len(faults) <= 2 + new.count(b"\n")
    assert all(fault.startswith(f"{path}:") for fault in faults)
