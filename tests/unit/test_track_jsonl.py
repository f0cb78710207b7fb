"""Rows survive kills, resumption and hostile text."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.track import jsonl

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(), plain, max_size=4), max_size=4))
def test_what_is_written_is_read(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "metrics.jsonl"
    for row in rows:
        jsonl.append(path, row)
    assert jsonl.read(path) == rows


def test_unknown_keys_and_order_are_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"rollout": 1, "made/up": 2.5}, {"rollout": 2, "nested": {"a": [1]}})
    assert [list(row) for row in jsonl.read(path)] == [
        ["rollout", "made/up"],
        ["rollout", "nested"],
    ]


def test_a_lone_surrogate_and_line_separators_stay_one_row(tmp_path):
    path = tmp_path / "samples.jsonl"
    row = {"answer": "a\ud800b\u2028c\r\nd\x00然后"}
    jsonl.append(path, row)
    assert jsonl.read(path) == [row]
    assert path.read_bytes().count(b"\n") == 1
    assert "然后".encode() in path.read_bytes()


def test_not_finite_becomes_null_at_any_depth(tmp_path):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": 1e-300})
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict == {"a": None, "b": [None, {"c": None}], "d": 1e-300}


@pytest.mark.parametrize("torn", ['{"rollout": 3, "answ', '{"answer": "然'])
def test_a_torn_line_is_not_read_and_makes_way(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"rollout": 1}, {"rollout": 2})
    with path.open("ab") as file:
        file.write(torn.encode()[:-1])  # in the second case inside a character
    assert jsonl.read(path) == [{"rollout": 1}, {"rollout": 2}]
    jsonl.append(path, {"rollout": 3})
    assert jsonl.read(path) == [{"rollout": 1}, {"rollout": 2}, {"rollout": 3}]


@pytest.mark.parametrize("length", [10, 4095, 4096, 4097, 20_000])
def test_a_torn_line_of_any_length_makes_way(tmp_path, length):
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"a":1}\n' + b"x" * length)
    jsonl.append(path, {"a": 2})
    assert path.read_bytes() == b'{"a":1}\n{"a": 2}\n'
    path.write_bytes(b"x" * length)
    jsonl.append(path, {"a": 2})
    assert path.read_bytes() == b'{"a": 2}\n'


def test_resuming_drops_what_will_be_done_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, *({"rollout": r, "x": r / 3} for r in range(1, 4)))
    before = path.read_bytes()
    jsonl.append(path, *({"rollout": r, "x": r / 3} for r in range(4, 6)))
    jsonl.cut(path, len(before))
    assert path.read_bytes() == before
    jsonl.cut(path, len(before))
    assert path.read_bytes() == before
    jsonl.append(path, {"rollout": 4})
    assert [row["rollout"] for row in jsonl.read(path)] == [1, 2, 3, 4]


def test_a_file_that_lost_rows_is_no_file_to_go_on_with(tmp_path):
    path = tmp_path / "metrics.jsonl"
    jsonl.append(path, {"rollout": 1})
    with pytest.raises(ValueError, match=r"metrics\.jsonl: has 15 bytes; .* saved at 30"):
        jsonl.cut(path, 30)
    with pytest.raises(ValueError, match="has 0 bytes"):
        jsonl.cut(tmp_path / "none.jsonl", 1)
    jsonl.cut(tmp_path / "none.jsonl", 0)


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff", b""])
def test_a_damaged_line_is_refused_by_file_and_number(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2:"):
        jsonl.read(path)


def test_a_value_that_is_not_plain_is_refused_and_nothing_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(TypeError):
        jsonl.append(path, {"a": 1}, {"a": object()})
    assert not path.exists()
