"""The terminal's lines, their pace, and no escape codes where nobody asked for them."""

import io

import pytest

from r1mega.track.durations import clock, words
from r1mega.track.progress import Progress

ROW = {
    "rollout": 12,
    "critic/score/mean": 1.43,
    "reward/accuracy": 0.714,
    "response_length/mean": 24.13,
    "perf/throughput": 2310.4,
    "timing_s/step": 3.14,
    "other": 7,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(stream, times, **options):
    ticks = iter(times)
    return Progress("rollout", 30, stream=stream, now=lambda: next(ticks), **options)


def test_the_line_of_a_rollout():
    stream = io.StringIO()
    progress(stream, [0.0, 36.0]).show(12, ROW)
    assert stream.getvalue() == (
        "rollout 12/30  reward  1.43  accuracy 0.71  length  24.1    2,310 tok/s    3.1 s  left 0:54\n"
    )


def test_mixed_languages_are_shown_where_they_are_measured_and_the_line_stays_short():
    stream = io.StringIO()
    progress(stream, [0.0, 36.0]).show(12, ROW | {"reward/mixed_language": 0.124})
    line = stream.getvalue()
    assert "  accuracy 0.71  mixed 0.12  length  24.1  " in line
    assert len(line) <= 110


def test_the_line_of_pre_training():
    stream = io.StringIO()
    bar = Progress("update", 300, stream=stream, now=iter([0.0, 8.0]).__next__)
    bar.show(120, {"update": 120, "loss": 0.9123, "lr": 1e-3, "tokens_per_s": 24300.0})
    assert stream.getvalue() == "update 120/300  loss 0.912   24,300 tok/s  left 0:12\n"


def test_time_left_follows_the_latest_pace_smoothly():
    stream = io.StringIO()
    bar = progress(stream, [0.0, 10.0, 30.0, 30.0])
    bar.show(10, {})  # 1 s each
    bar.show(20, {})  # 2 s each: 0.7 * 1 + 0.3 * 2 = 1.3 s
    bar.show(30, {})
    assert [line.split("left ")[1] for line in stream.getvalue().splitlines()] == [
        "0:20",
        "0:13",
        "0:00",
    ]


def test_a_resumed_run_does_not_count_what_it_did_not_do():
    stream = io.StringIO()
    progress(stream, [100.0, 104.0], done=26).show(28, {})
    assert "left 0:04" in stream.getvalue()


def test_a_figure_that_is_not_finite_is_shown():
    stream = io.StringIO()
    progress(stream, [0.0, 1.0]).show(1, {"loss": None})
    assert "loss nan" in stream.getvalue()


def test_escape_codes_only_on_a_terminal_that_allows_them(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    progress(terminal, [0.0, 1.0]).show(1, ROW)
    assert terminal.getvalue().startswith("\x1b[1mrollout  1/30\x1b[0m  reward")
    monkeypatch.setenv("NO_COLOR", "")
    plain = Terminal()
    progress(plain, [0.0, 1.0]).show(1, ROW)
    assert "\x1b" not in plain.getvalue()


@pytest.mark.parametrize(
    ("seconds", "as_clock", "as_words"),
    [
        (0, "0:00", "0.0 s"),
        (59.4, "0:59", "59.4 s"),
        (59.97, "1:00", "1 min 0 s"),
        (298.4, "4:58", "4 min 58 s"),
        (3599.6, "1:00:00", "1 h 0 min"),
        (7505, "2:05:05", "2 h 5 min"),
    ],
)
def test_durations(seconds, as_clock, as_words):
    assert (clock(seconds), words(seconds)) == (as_clock, as_words)
