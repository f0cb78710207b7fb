"""The report: whole runs, half runs, hostile text, and nothing loaded from anywhere."""

import math
import re
from html.parser import HTMLParser

import pytest

from r1mega.track import environment, jsonl
from r1mega.track.charts import curves_svg, panel_svg
from r1mega.track.figure import result_figure
from r1mega.track.palette import DARK, LIGHT, SERIES
from r1mega.track.panels import Panel, phases, sections, series
from r1mega.track.report import write_report
from r1mega.track.samples import pairs
from r1mega.track.summary import write_summary

HOSTILE = "</pre><script>alert('1')</script><img src=x onerror=alert(2)> {{ 7*7 }} \ud800 \u202e"

SUMMARY = {
    "name": "<b>zero</b>",
    "seed": 0,
    "wall_s": 61.0,
    "eval": {
        "questions": 64,
        "samples_per_question": 8,
        "pass_at_1": {
            "base": 0.4,
            "base_ci95": [0.3, 0.5],
            "final": 0.9,
            "final_ci95": [0.85, 0.95],
            "gain": 0.5,
            "gain_ci95": [0.4, 0.6],
        },
        "cons_at_k": {"base": 0.9, "final": 0.95},
    },
    "handover": {"count": 4, "max_abs_dlogp": 3e-6, "limit": 1e-4},
    "environment": {"torch": "2.13.0<script>"},
}


def grpo_rows(count=4):
    return [
        {
            "rollout": r,
            "update": 4 * r,
            "policy_version": r,
            "critic/score/mean": 1.0 + r / 10,
            "reward/accuracy": 0.4 + r / 10,
            "reward/format <b>$x$": 0.6,
            "response_length/mean": 20.0,
            "actor/grad_norm": math.nan if r == 2 else 0.3,
            "handover/max_abs_dlogp": 0.0 if r == 1 else 2e-6,
            "mismatch/mean_abs_dlogp": 1e-7,
            "mismatch/max_abs_dlogp": 1e-6,
            "timing_s/gen": 2.0,
            "timing_s/ref": 0.5,
            "timing_s/step": 3.0,
            "made/<i>up</i>": 5,
            "note": "text is carried, not drawn",
        }
        for r in range(1, count + 1)
    ]


def sample(version, prompt, answer):
    return {
        "rollout": version,
        "policy_version": version,
        "prompt": prompt,
        "answer": answer,
        "rewards": {"accuracy": 1.0},
        "truncated": False,
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    jsonl.append(folder / "metrics.jsonl", *grpo_rows())
    jsonl.append(folder / "samples.jsonl", sample(0, "q1", HOSTILE), sample(4, "q1", "better" + HOSTILE))
    write_summary(folder / "summary.json", SUMMARY)
    (folder / "config.yaml").write_text("stage: grpo # <script>\n")
    return write_report(folder).read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects every element and attribute of a page."""

    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag


def test_nothing_runs_and_nothing_is_loaded(page):
    for tag, attributes in Tags(page).seen:
        assert tag not in {"script", "img", "iframe", "link", "object", "base", "i", "b"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"href", "src", "xlink:href"}:
                assert value.startswith("#")
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page


def test_hostile_text_is_shown_as_it_is(page):
    assert "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert "\\ud800" in page
    assert "&lt;b&gt;zero&lt;/b&gt;" in page
    assert "2.13.0&lt;script&gt;" in page
    assert "grpo # &lt;script&gt;" in page


def test_the_figures_are_there(page):
    for text in ("0.400 → 0.900", "+0.400 to +0.600", "3.0e-06", "1 min 1 s", "cons@8"):
        assert text in page
    for title in ("Reward", "Accuracy", "Hand-over", "Where the time went", "Other figures"):
        assert f">{title}<" in page
    assert "text is carried" not in page


def test_every_colour_of_a_chart_follows_the_theme(page):
    charts = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert charts.count("<svg") >= 8
    assert not re.findall(r"#[0-9a-f]{6}\b", charts)
    assert set(re.findall(r"var\(--(\w+)\)", charts)) <= set(LIGHT)
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    assert list(SERIES) == [f"c{i}" for i in range(8)]


def test_writing_again_gives_the_same_page_and_touches_nothing_else(tmp_path):
    jsonl.append(tmp_path / "metrics.jsonl", *grpo_rows())
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "report.html"}


def test_pre_training_alone_has_a_report(tmp_path):
    rows = [{"update": u, "loss": 3 / u, "lr": 1e-3, "grad_norm": 1.0} for u in range(1, 100)]
    jsonl.append(tmp_path / "metrics.jsonl", *rows)
    page = write_report(tmp_path).read_text()
    assert ">Loss<" in page
    assert ">Gradient norm<" in page
    assert ">update<" in page
    assert ">Samples<" not in page
    assert ">Before and after<" not in page


def test_an_empty_folder_has_a_report_that_says_so(tmp_path):
    page = write_report(tmp_path).read_text()
    assert "rows of metrics</dt><dd>0</dd>" in page


def test_one_row_and_a_series_without_any_finite_value(tmp_path):
    jsonl.append(tmp_path / "metrics.jsonl", {**grpo_rows(1)[0], "actor/entropy": math.inf})
    page = write_report(tmp_path).read_text()
    assert ">Reward<" in page
    assert ">Entropy<" not in page


def test_an_evaluation_of_several_models_has_their_table_and_answers(tmp_path):
    figures = {"pass_at_1": {"mean": 0.5, "ci95": [0.4, 0.6]}}
    models = {"base": figures, "zero": figures | {"general": {"mean": 0.25, "ci95": [0.1, 0.4]}}}
    write_summary(tmp_path / "summary.json", {"models": models, "eval": {"questions": 9}})
    rows = [sample(version, q, HOSTILE) | {"of": of} for version, of in enumerate(models) for q in "pq"]
    jsonl.append(tmp_path / "samples.jsonl", *rows)
    page = write_report(tmp_path).read_text(encoding="utf-8")
    for text in (
        ">Models<",
        "0.400 to 0.600",
        "9 held-out questions",
        ">Answers side by side<",
        "<b>zero</b>",
    ):
        assert text in page
    assert page.count("&lt;script&gt;") == 4
    assert "<script" not in page
    assert ">before" not in page
    assert ">Before and after<" not in page


def test_a_reward_model_has_a_report_of_its_one_measure(tmp_path):
    told = {"base": 0.5, "base_ci95": [0.4, 0.6], "final": 0.9, "gain": 0.4, "gain_ci95": [0.3, 0.5]}
    write_summary(tmp_path / "summary.json", {"eval": {"told_rightly": told}})
    page = write_report(tmp_path).read_text()
    assert "0.500 → 0.900" in page
    assert page.count("<svg") == 1
    assert "held-out questions" not in page
    assert "whatever its form" not in page  # of pass@1 in any format, which is not there


def test_a_length_is_in_the_table_and_not_among_the_shares(tmp_path):
    lengths = {"base": 35.0, "final": 30.55, "gain": -4.45, "gain_ci95": [-6.0, -2.9]}
    write_summary(tmp_path / "summary.json", {"eval": {"answer_tokens": lengths}})
    page = write_report(tmp_path).read_text()
    assert "35.0 → 30.6" in page
    assert "-6.0 to -2.9" in page
    assert "<svg" not in page


@pytest.mark.filterwarnings("error")
def test_many_long_names_leave_their_lines_room(tmp_path):
    """A legend wider than its figure would leave the axes no room, and matplotlib would warn of it."""
    names = [f"reward/component_of_a_long_name_{i}" for i in range(8)]
    panel = Panel(title="t", meaning="", lines=tuple((name, name) for name in names))
    charts = panel_svg(panel, [dict.fromkeys(names, 0.5)]), curves_svg(dict.fromkeys(names, (0.5,)))
    for chart in charts:
        assert all(f">{name}<" in chart for name in names)


def test_every_numeric_metric_is_drawn():
    rows = grpo_rows()
    drawn = {m for s in sections(rows) for p in s.panels for m, _ in p.lines if m in rows[0]}
    assert drawn == {
        m
        for m, value in rows[0].items()
        if not m.startswith("timing_s/")
        and m not in {"rollout", "update", "policy_version"}
        and not isinstance(value, str)
    }


def test_phases_sum_to_the_whole():
    rows = [{"timing_s/gen": 2.0, "timing_s/step": 3.0}, {"timing_s/gen": 2.5}]
    assert phases(rows) == {"gen": [2.0, 2.5], "other": [1.0, 0.0]}
    assert phases([{"timing_s/gen": 2.0, "timing_s/step": 1.5}]) == {"gen": [2.0]}
    assert phases([{"timing_s/step": 1.5}]) == {"other": [1.5]}
    assert phases([{"loss": 1.0}]) == {}


def test_series_have_gaps_where_rows_have_none():
    values = series([{"a": 1}, {"a": None}, {}, {"a": True}], "a")
    assert values[0] == 1.0
    assert all(map(math.isnan, values[1:]))


def test_a_limit_is_drawn_where_it_is_asked_for():
    panel = next(p for s in sections(grpo_rows()) for p in s.panels if p.title == "Hand-over")
    assert ">limit<" in panel_svg(panel, grpo_rows(), limit=1e-4)
    assert ">limit<" not in panel_svg(panel, grpo_rows())


def test_pairs_are_the_same_prompts_in_file_order():
    rows = [sample(v, f"q{q}", f"{v}{q}{i}") for v in (0, 2, 5) for q in range(3) for i in (0, 1)]
    found = [(b["answer"], a["answer"]) for b, a in pairs(rows, 2)]
    assert found == [("000", "500"), ("010", "510")]


def test_pairs_without_a_common_prompt_or_a_second_version():
    before, after = sample(0, "a", "x"), [sample(1, p, "y") for p in "bc"]
    assert pairs([before, *after], 5) == [(before, after[0]), (None, after[1])]
    assert pairs(after, 1) == [(None, after[0])]
    assert pairs([], 3) == []


@pytest.mark.parametrize(("suffix", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_result_in_one_picture(tmp_path, suffix, magic):
    path = tmp_path / f"result.{suffix}"
    result_figure(grpo_rows(), SUMMARY, path)
    assert path.read_bytes().startswith(magic)
    again = tmp_path / f"again.{suffix}"
    result_figure(grpo_rows(), SUMMARY, again)
    assert again.read_bytes() == path.read_bytes()


def test_the_picture_of_a_run_without_evaluation_and_of_none(tmp_path):
    result_figure(grpo_rows(1), {}, tmp_path / "result.svg")
    with pytest.raises(ValueError, match="no rows"):
        result_figure([], SUMMARY, tmp_path / "result.svg")


def test_versions_name_packages_and_nobody():
    found = environment.versions()
    assert found["torch"].startswith("2.")
    assert set(found) <= {"python", "machine", "cpus", *environment.PACKAGES}
