"""What a user gets wrong costs a second: one clear message, an exit code, no traceback and no torch."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import command

GOOD_LINE = '{"question": "1 + 1?", "answer": "2"}\n'


def refused(folder: Path, *arguments: str, **environment: str) -> str:
    """What the command says of it, on a line each."""
    done, imported = command(*arguments, folder=folder, **environment)
    assert done.returncode == 2
    assert imported == []
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert list(folder.glob("runs*")) == []
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run=cpu_zero", "grpo.rolouts=3"], ["grpo.rolouts=3", "did you mean grpo.rollouts?"]),
        (["run=cpu_zero", "+grpo.extra=3"], ["+grpo.extra=3", "'extra' not in 'GrpoConfig'"]),
        (["run=cpu_zero", "grpo.rollouts=many"], ["grpo.rollouts=many", "could not be converted to Integer"]),
        (["run=cpu_zero", "parallel.ep=3"], ["parallel: ", "8 experts cannot be divided by ep = 3"]),
        (["run=cpu_zero", "parallel.tp=0"], ["parallel.tp: was 0"]),
        (["run=cpu_zero", "model.init_from=no/where"], ["model.init_from: was no/where; no such folder"]),
        (["run=smollm2_zero"], ["no such folder yet; make it with: make smollm2"]),
        (["run=nowhere"], ["run=nowhere", "choices: cpu_evaluate, cpu_pretrain, "]),
        ([], ["run: must be given", "choices: cpu_evaluate, cpu_pretrain, "]),
        (["run=cpu_zero", "seed=["], ["seed=["]),
    ],
)
def test_one_fault_is_one_line(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    said = refused(tmp_path, *arguments)
    assert said.count("\n") == 1
    for word in words:
        assert word in said


def test_a_prompts_file_is_said_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(GOOD_LINE + '{"question": "2 + 2?"}\n' + GOOD_LINE.replace("1 +", "3 +") + "{broken\n")
    said = refused(tmp_path, "run=cpu_zero", "model.init_from=nowhere", f"data.prompts_file={file}")
    assert said.startswith("error: 3 faults:\n")
    assert f"{file}:2: answer is missing" in said
    assert f"{file}:4: not JSON" in said
    assert "model.init_from: was nowhere; no such folder" in said


def test_a_prompts_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    said = refused(tmp_path, "run=cpu_zero", "model.init_from=nowhere", "data.prompts_file=no.jsonl")
    assert "no.jsonl: cannot be read" in said


def test_faults_of_all_parts_come_at_once(tmp_path: Path) -> None:
    said = refused(tmp_path, "run=cpu_zero", "parallel.tp=3", "grpo.rollouts=0", "data.template=shrt")
    for words in ("tp = 3", "grpo.rollouts: was 0", "data.template: was shrt"):
        assert words in said


def test_wrong_overrides_come_at_once(tmp_path: Path) -> None:
    said = refused(tmp_path, "run=cpu_zero", "grpo.rolouts=3", "parallel.tp=two", "parallel=tp3")
    assert said.startswith("error: 3 faults:\n")
    assert said.count("\n") == 4


def test_under_an_outer_launcher_one_rank_says_so_for_all(tmp_path: Path) -> None:
    arguments = ["run=cpu_zero", "parallel=tp2"]
    said = refused(tmp_path, *arguments, RANK="0", WORLD_SIZE="3", LOCAL_WORLD_SIZE="3")
    assert "does not divide the run's 3 ranks" in said
    done, imported = command(*arguments, folder=tmp_path, RANK="1", WORLD_SIZE="3", LOCAL_WORLD_SIZE="3")
    assert (done.returncode, done.stdout, done.stderr, imported) == (2, "", "", [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["r1mega run=RUN", "cpu_zero", "Every key is described"]),
        (["run=cpu_zero", "--cfg", "job"], ["stage: grpo", "prompts_per_rollout: 32"]),
        (["run=cpu_zero", "--info", "defaults-tree"], ["parallel: ep2", "run: cpu_zero"]),
    ],
)
def test_questions_are_answered_without_torch(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    done, imported = command(*arguments, folder=tmp_path)
    assert (done.returncode, done.stderr, imported) == (0, "", [])
    for word in words:
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_is_none_of_hydras_is_refused(tmp_path: Path) -> None:
    done, imported = command("run=cpu_zero", "--fast", folder=tmp_path)
    assert done.returncode == 2
    assert "--fast" in done.stderr
    assert "Traceback" not in done.stderr
    assert imported == []
