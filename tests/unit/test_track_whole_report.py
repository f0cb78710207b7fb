"""The report of a whole recipe: what the stages left is in it, what they did not leave is left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from r1mega.track import jsonl
from r1mega.track.palette import SERIES
from r1mega.track.summary import format_result, read_summary, write_summary
from r1mega.track.tables import for_page
from r1mega.track.whole_report import format_whole_result, write_whole_report

HOSTILE = "</pre><script>alert(1)</script>"


def figures(**means: float) -> dict[str, Any]:
    return {name: {"mean": mean, "ci95": [mean / 2, mean * 1.5]} for name, mean in means.items()}


MODELS = {
    "base": figures(pass_at_1=0.25, cons_at_k=0.5, mixed_language=0.25, answer_tokens=30.25),
    "zero": figures(pass_at_1=0.875, cons_at_k=0.9, mixed_language=0.5, answer_tokens=40.5, general=0.125),
}


def whole(**stages: Any) -> dict[str, Any]:
    return {"name": "r1", "stage": "pipeline", "seed": 0, "wall_s": 600.0, "stages": stages}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rl = {"stage": "grpo", "seconds": 200.0}
    table = {
        "stage": "evaluate",
        "seconds": 60.0,
        "models": MODELS,
        "eval": {"questions": 64, "samples_per_question": 8},
    }
    write_summary(tmp_path / "summary.json", whole(zero=rl, reasoning_rl=rl, table=table))
    for name, rollouts in (("zero", 3), ("reasoning_rl", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").touch()
        rows = [
            {"rollout": i, "reward/accuracy": i / 4, "response_length/mean": 20 + i} for i in range(rollouts)
        ]
        jsonl.write(tmp_path / name / "metrics.jsonl", rows)
    (tmp_path / "table").mkdir()
    answers = [
        {"of": of, "prompt": f"q{i}", "answer": HOSTILE, "rewards": {"accuracy": 1.0}, "truncated": False}
        for of in MODELS
        for i in range(3)
    ]
    jsonl.write(tmp_path / "table" / "samples.jsonl", answers)
    return tmp_path


def test_everything_that_the_stages_left_is_in_it(folder: Path) -> None:
    page = write_whole_report(folder).read_text()
    for text in ("0.875", "0.438 to 1.312", "cons@8", "40.5", "R1-Zero learns far above its base", "q2"):
        assert text in page
    assert page.count("<svg") == 3  # accuracy, length, and the stages' times
    assert 'href="./zero/report.html"' in page
    assert "Helpfulness" not in page


def test_what_a_model_wrote_is_shown_and_not_obeyed(folder: Path) -> None:
    page = write_whole_report(folder).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 6
    assert "default-src 'none'" in page
    links = re.findall(r'(?:src|href)="([^"#][^"]*)"', page)
    assert links == ["./zero/report.html", "./reasoning_rl/report.html"]  # the table has none of its own


def test_a_run_half_done_has_a_report_too(tmp_path: Path) -> None:
    write_summary(tmp_path / "summary.json", whole(base={"stage": "pretrain", "seconds": 5.0}))
    page = write_whole_report(tmp_path).read_text()
    assert page.count("not measured") == 4
    assert "held-out questions" not in page
    assert "its report" not in page
    assert format_whole_result(read_summary(tmp_path / "summary.json")).endswith("time          10 min 0 s")


def test_a_folder_without_a_stage_done_has_a_report_too(tmp_path: Path) -> None:
    page = write_whole_report(tmp_path).read_text()
    assert f"<h1>{tmp_path.name}: the whole recipe</h1>" in page
    assert "<svg" not in page
    assert format_whole_result({}).count("not measured") == 4


def test_a_run_that_goes_on_says_so(folder: Path) -> None:
    summary = read_summary(folder / "summary.json")
    write_summary(folder / "summary.json", summary | {"finished": False})
    assert "<dd>3, more to come</dd>" in write_whole_report(folder).read_text()


def test_a_stage_cannot_name_itself_into_the_page(folder: Path) -> None:
    name = 'a"><b onclick=x>'
    (folder / name).mkdir()
    (folder / name / "report.html").touch()
    write_summary(folder / "summary.json", whole(**{name: {"stage": "grpo", "seconds": 1.0}}))
    page = write_whole_report(folder).read_text()
    assert "<b onclick" not in page
    assert 'href="./a%22%3E%3Cb%20onclick%3Dx%3E/report.html"' in page


def test_curves_have_gaps_where_a_rollout_lacks_a_figure(folder: Path) -> None:
    """The first rollouts and the last may have no reflection; one stage of two has none at all."""
    rows = [{"rollout": i, "emergence/reflection_rate": 0.1 if i == 1 else None} for i in range(3)]
    (folder / "zero" / "metrics.jsonl").unlink()
    jsonl.write(folder / "zero" / "metrics.jsonl", rows)
    page = write_whole_report(folder).read_text()
    assert ">Reflection<" in page
    assert ">Answer length<" in page  # of the other stage


def test_a_stage_has_one_colour_in_all_charts(folder: Path) -> None:
    """The second stage alone has helpfulness, and is drawn in the second colour there as elsewhere."""
    with (folder / "reasoning_rl" / "metrics.jsonl").open("a") as file:
        file.write('{"rollout": 2, "reward/helpful": 0.5}\n')
    page = write_whole_report(folder).read_text()
    accuracy, _, helpful, _ = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert f"var(--{SERIES[0]})" in accuracy
    assert f"var(--{SERIES[1]})" in accuracy
    assert f"var(--{SERIES[1]})" in helpful
    assert f"var(--{SERIES[0]})" not in helpful
    assert ">zero<" not in helpful


def test_a_damaged_row_is_named(folder: Path) -> None:
    with (folder / "table" / "samples.jsonl").open("a") as file:
        file.write("{broken}\n{}\n")
    with pytest.raises(ValueError, match=r"samples\.jsonl"):
        write_whole_report(folder)


def test_the_terminal_has_tables_claims_and_time(folder: Path) -> None:
    text = format_whole_result(read_summary(folder / "summary.json"), folder / "report.html")
    lines = text.splitlines()
    assert lines[0] == "table: 64 held-out questions, 8 samples each"
    [zero] = [line for line in lines if line.startswith("  zero")]
    assert zero.split()[:5] == ["zero", "0.875", "0.900", "0.500", "40.5"]
    [base] = [line for line in lines if line.startswith("  base")]
    assert len(base.split("pass@1")[0]) == len(zero.split("pass@1")[0])  # where general is not measured
    assert any(line.startswith("  shown         R1-Zero learns") for line in lines)
    assert max(map(len, lines)) <= 110
    assert any("10 min" in line for line in lines)


def test_an_evaluation_of_several_models_ends_with_their_table() -> None:
    summary = {"name": "t", "models": MODELS, "eval": {"questions": 64, "samples_per_question": 8}}
    text = format_result(summary)
    assert "64 held-out questions, 8 samples each" in text
    assert "0.875" in text
    assert "pass@1 0.438 to 1.312" in text


def test_a_page_has_a_row_a_measure_and_a_column_a_model() -> None:
    found = for_page(MODELS, 8)
    assert found["models"] == ["base", "zero"]
    rows = dict(found["rows"])
    assert list(rows) == ["pass@1", "cons@8", "mixed", "tokens", "general"]
    assert rows["tokens"] == [("30.2", "15.1 to 45.4"), ("40.5", "20.2 to 60.8")]
    assert rows["general"] == [("", ""), ("0.125", "0.062 to 0.188")]
