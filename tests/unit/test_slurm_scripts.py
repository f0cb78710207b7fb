"""The job scripts' headers fit the runs that they start."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from r1mega.__main__ import configurations
from r1mega.checks import layouts
from r1mega.compose import compose
from r1mega.config import Stage

SLURM = Path(__file__).resolve().parents[2] / "slurm"


@pytest.mark.parametrize(("script", "stage"), [("r1_grpo.sh", Stage.grpo), ("r1_sft.sh", Stage.sft)])
def test_the_size_that_a_script_asks_for_is_its_runs(script: str, stage: Stage) -> None:
    text = (SLURM / script).read_text()
    asked = {key: int(value) for key, value in re.findall(r"^#SBATCH --([a-z-]+)=(\d+)$", text, re.MULTILINE)}
    [run] = re.findall(r"set -- (run=\w+)", text)
    config = compose(configurations(), [run])
    assert config.stage is stage
    found, faults = layouts(config, None, None)
    assert found is not None, faults
    assert found.training.world_size == asked["nodes"] * asked["ntasks-per-node"]
    assert asked["gpus-per-node"] == asked["ntasks-per-node"]


@pytest.mark.parametrize("script", ["r1_grpo.sh", "r1_sft.sh", "r1_stage.sh"])
def test_jobs_are_warned_requeued_and_keep_their_log(script: str) -> None:
    lines = (SLURM / script).read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert options >= {"--signal=B:USR1@300", "--requeue", "--open-mode=append"}


@pytest.mark.parametrize("script", ["r1_grpo.sh", "r1_sft.sh"])
def test_the_runs_named_in_a_header_are_there(script: str) -> None:
    for run in re.findall(r"run=(\w+)(?!\w|\*)", (SLURM / script).read_text()):
        assert (configurations() / "run" / f"{run}.yaml").is_file(), run
