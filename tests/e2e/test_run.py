"""The demo, shortened: it ends well, leaves everything that it says, and repeats bit by bit.

One run by our own launcher; the same again under torchrun; the base alone; and the evaluation of what
the run exported. Each must give the same figures as the first where it does the same work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.runs import ROLLOUTS, SHORT, TORCHRUN, but_for_time, rows, run, weights

FIGURES = """
    actor/pg_loss actor/kl_loss actor/pg_clipfrac actor/grad_norm actor/lr actor/entropy
    critic/score/mean critic/groups_without_variance reward/accuracy reward/format
    response_length/mean response_length/clip_ratio mismatch/mean_abs_dlogp handover/max_abs_dlogp
    timing_s/gen timing_s/update_actor timing_s/handover timing_s/step perf/throughput
"""
RUN = ("run=cpu_zero", "name=short", *SHORT)
WEIGHTS = {"config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def first(home: Path) -> Any:
    """The run, as it ended."""
    done = run(home, *RUN)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(first: Any, home: Path) -> Path:
    return home / "runs" / "short"


@pytest.fixture(scope="module")
def left(folder: Path) -> dict[str, Any]:
    """What the first run left, read before any other run takes its place."""
    return read(folder)


def read(folder: Path) -> dict[str, Any]:
    return {
        "files": {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()},
        "metrics": rows(folder / "metrics.jsonl"),
        "pretrain": rows(folder / "pretrain.jsonl"),
        "samples": rows(folder / "samples.jsonl"),
        "summary": json.loads((folder / "summary.json").read_text()),
        "config": (folder / "config.yaml").read_text(),
        "report": (folder / "report.html").read_text(),
        "base": weights(folder / "base"),
        "final": weights(folder / "final"),
    }


def figure(summary: dict[str, Any], dotted: str) -> Any:
    for part in dotted.split("."):
        summary = summary[part]
    return summary


def test_it_says_what_it_does_and_nothing_that_looks_like_a_fault(first: Any) -> None:
    lines = first.stdout.splitlines()
    for rollout in range(1, ROLLOUTS + 1):
        assert any(line.startswith(f"rollout {rollout}/{ROLLOUTS}  reward") for line in lines)
    assert any(line.startswith("update ") for line in lines)
    assert "pass@1" in first.stdout
    assert "report.html" in first.stdout
    for word in ("Traceback", "Warning", "Error"):
        assert word not in first.stdout + first.stderr


def test_the_folder_holds_all_that_a_run_leaves(left: Any) -> None:
    files = left["files"]
    assert {"config.yaml", "metrics.jsonl", "samples.jsonl", "summary.json", "report.html"} <= files
    for model in ("base", "final"):
        assert {f"{model}/{name}" for name in WEIGHTS | TOKENIZER} <= files
    assert any(name.startswith("wandb/offline-run-") and name.endswith(".wandb") for name in files)
    assert "engine/engine.0.log" in files
    assert "samples_kept: 3" in left["config"]
    assert "<html" in left["report"]


def test_a_row_a_rollout_with_every_figure(left: Any) -> None:
    assert [row["rollout"] for row in left["metrics"]] == list(range(1, ROLLOUTS + 1))
    assert [row["update"] for row in left["metrics"]] == [2, 4]
    for row in left["metrics"]:
        assert set(FIGURES.split()) <= row.keys()
        assert all(isinstance(value, int | float) for value in row.values())
        assert row["mismatch/mean_abs_dlogp"] <= 1e-5
        assert row["handover/max_abs_dlogp"] <= 1e-4
    # Each rollout is sampled by the weights that all updates before it made.
    assert [row["policy_version"] - left["metrics"][0]["policy_version"] for row in left["metrics"]] == [0, 2]
    assert [row["update"] for row in left["pretrain"]] == list(range(1, 9))


def test_answers_are_kept_with_all_that_was_made_of_them(left: Any) -> None:
    # Of each rollout, and of the evaluations before the first and after the last.
    assert [row["rollout"] for row in left["samples"]] == [0] * 3 + [1] * 3 + [2] * 6
    for row in left["samples"]:
        assert {"prompt", "answer", "reference", "rewards", "truncated", "policy_version"} <= row.keys()
        assert row["rewards"]["accuracy"] in (0.0, 1.0)


def test_the_summary_has_the_figures_that_are_promised(left: Any) -> None:
    summary = left["summary"]
    for name in ("eval.pass_at_1", "eval.pass_at_1_any_format", "eval.cons_at_k"):
        assert 0 <= figure(summary, f"{name}.base") <= 1
        assert 0 <= figure(summary, f"{name}.final") <= 1
    assert figure(summary, "handover.count") == ROLLOUTS + 1
    assert figure(summary, "handover.max_abs_dlogp") <= 1e-4
    assert figure(summary, "mismatch.mean_abs_dlogp") <= 1e-5
    assert figure(summary, "wall_s") > 0
    assert figure(summary, "eval.questions") == 8
    assert summary["seed"] == 0


def test_wandb_holds_the_same_rows(left: Any, folder: Path) -> None:
    [file] = folder.glob("wandb/offline-run-*/*.wandb")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    output = subprocess.run(inspect, env=environment, capture_output=True, text=True, check=True, timeout=60)
    records = [json.loads(line) for line in output.stdout.splitlines()]
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert len(history) == ROLLOUTS
    for logged, row in zip(history, left["metrics"], strict=True):
        assert row == {name: logged[name] for name in row}


def test_a_finished_run_is_shown_and_not_repeated(left: Any, home: Path, folder: Path) -> None:
    done = run(home, *RUN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "This run was finished before; fresh=true repeats it." in done.stdout
    assert "pass@1" in done.stdout
    assert "rollout 1/" not in done.stdout
    assert read(folder) == left


LOADING = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
chat = [{"role": "user", "content": "1 + 2 + 3 = ?"}]
asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**asked, max_new_tokens=4, do_sample=False)
assert torch.isfinite(model(answer).logits).all()
print(tokenizer.decode(asked["input_ids"][0]))
"""


def test_the_exported_model_loads_as_any_hf_model_does(folder: Path) -> None:
    program = [sys.executable, "-W", "ignore", "-c", LOADING, str(folder / "final")]
    output = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert output.returncode == 0, output.stderr
    assert "1 + 2 + 3" in output.stdout


def test_the_base_alone_is_the_runs_base(left: Any, home: Path) -> None:
    done = run(home, "run=cpu_pretrain", "name=base_alone", *SHORT)
    assert done.returncode == 0, done.stderr
    alone = home / "runs" / "base_alone"
    assert weights(alone / "base") == left["base"]
    ours, theirs = rows(alone / "metrics.jsonl"), left["pretrain"]
    assert [but_for_time(row) for row in ours] == [but_for_time(row) for row in theirs]


def test_the_exported_model_evaluates_as_the_run_did(left: Any, home: Path, folder: Path) -> None:
    """By its own stage, in another layout, from its folder: the same questions, seeds and answers."""
    asked = [override for override in SHORT if override.startswith(("data.", "eval.", "rollout.", "track."))]
    asked += ["eval.temperature=1.0", "eval.top_p=1.0", "parallel=single"]
    done = run(home, "run=cpu_evaluate", "name=again", f"model.init_from={folder / 'final'}", *asked)
    assert done.returncode == 0, done.stderr
    again = json.loads((home / "runs" / "again" / "summary.json").read_text())
    for name in ("pass_at_1", "pass_at_1_any_format", "cons_at_k", "format", "answer_tokens"):
        assert figure(again, f"models.model.{name}.mean") == figure(left["summary"], f"eval.{name}.final")
    answers = [row["answer"] for row in rows(home / "runs" / "again" / "samples.jsonl")]
    assert answers == [row["answer"] for row in left["samples"][-3:]]


def test_repeated_under_torchrun_it_gives_the_same_bits(left: Any, home: Path, folder: Path) -> None:
    """The last test: it takes the first run's place."""
    done = run(home, *RUN, "fresh=true", program=TORCHRUN)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    again = read(folder)
    for name in ("metrics", "pretrain"):
        assert [but_for_time(row) for row in again[name]] == [but_for_time(row) for row in left[name]]
    for name in ("samples", "base", "final"):
        assert again[name] == left[name]
    assert but_for_time(again["summary"]) == but_for_time(left["summary"])
