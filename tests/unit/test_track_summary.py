"""The summary's file and the block that a run ends with."""

import json
import math

import pytest

from r1mega.track.files import write_atomic
from r1mega.track.summary import figure, format_result, measures, read_summary, write_summary

SUMMARY = {
    "name": "cpu_zero",
    "seed": 1,
    "config_hash": "9f2c",
    "wall_s": 298.4,
    "eval": {
        "questions": 256,
        "samples_per_question": 16,
        "pass_at_1": {"base": 0.431, "final": 0.928, "gain": 0.497, "gain_ci95": [0.455, 0.539]},
        "pass_at_1_any_format": {
            "base": 0.9,
            "final": 0.89,
            "gain": -0.01,
            "gain_ci95": [-0.03, 0.01],
        },
        "cons_at_k": {"base": 0.961, "final": 0.972},
    },
    "handover": {"count": 31, "max_abs_dlogp": 4.5e-6},
    "mismatch": {"mean_abs_dlogp": 3.1e-7},
}

BLOCK = """\
cpu_zero, seed 1: 256 held-out questions, 16 samples each

                        base   final    gain   95 % interval of the gain
  pass@1               0.431   0.928  +0.497   +0.455 to +0.539
  pass@1, any format   0.900   0.890  -0.010   -0.030 to +0.010 (no change shown)
  cons@16              0.961   0.972  +0.011

  hand-overs          31 proven, worst |dlogp| 4.5e-06
  trainer - sampler   mean |dlogp| 3.1e-07
  time                4 min 58 s
  report              runs/cpu_zero/report.html"""


def test_the_block_of_a_whole_run():
    assert format_result(SUMMARY, "runs/cpu_zero/report.html") == BLOCK


def test_what_was_not_measured_is_not_printed():
    assert format_result({"name": "base", "wall_s": 40}) == "base\n\n  time                40.0 s"
    assert format_result({}) == "run"


def test_a_length_is_told_to_a_tenth_and_what_has_no_base_has_no_gain():
    lengths = {"base": 35.12, "final": 30.55, "gain": -4.57, "gain_ci95": [-6.02, 0.04]}
    text = format_result({"eval": {"answer_tokens": lengths, "general": {"final": 0.5}, "reflection": 3}})
    assert "  answer tokens         35.1    30.6    -4.6   -6.0 to +0.0 (no change shown)" in text
    assert text.endswith("  general requests             0.500")


def test_further_measures_follow_the_main_ones():
    names = ["told_rightly", "safety", "general", "answer_tokens", "mixed_language", "format", "pass_at_1"]
    found = measures({"eval": {name: {"final": 0.5} for name in names}})
    assert [measure.name for measure in found] == [
        "pass@1",
        "format",
        "mixed languages",
        "answer tokens",
        "general requests",
        "safety requests",
        "told rightly",
    ]
    assert [measure.text("final") for measure in found].count("0.5") == 1


def test_it_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "summary.json"
    assert read_summary(path) == {}
    write_summary(path, {"old": 1})
    write_summary(path, SUMMARY)
    assert read_summary(path) == SUMMARY == json.loads(path.read_text())
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_that_is_not_a_number_is_refused_and_the_old_file_stays(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, SUMMARY)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_summary(path, {"wall_s": math.nan})
    assert read_summary(path) == SUMMARY


def test_figures_by_dotted_name():
    assert figure(SUMMARY, "eval.pass_at_1.gain_ci95") == [0.455, 0.539]
    assert figure(SUMMARY, "eval.pass_at_9.gain") is None
    assert figure(SUMMARY, "seed.deeper") is None


def test_a_write_that_fails_leaves_neither_half_a_file_nor_a_temporary_one(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full_disk(_):
        raise OSError("No space left on device")

    monkeypatch.setattr("r1mega.track.files.sync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
