"""The job scripts' headers fit the runs that they start."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

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


def documented() -> dict[str, list[str]]:
    """By run, the cells of its line in docs/configurations.md."""
    lines = (SLURM.parent / "docs" / "configurations.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "sbatch" in line]
    return {row[0].strip("`"): row[1:] for row in rows if len(row) == 9}


def test_the_documents_tables_have_every_run_on_gpus() -> None:
    configs = {path.stem: path for path in (configurations() / "run").glob("*.yaml")}
    on_gpus = {run for run in configs if compose(configurations(), [f"run={run}"]).cluster.machines}
    assert {*documented()} == on_gpus


@pytest.mark.parametrize("run", documented())
def test_a_run_is_what_the_documents_table_says(run: str) -> None:
    layout, ranks, engines, _, _, longest, _, command = documented()[run]
    config = compose(configurations(), [f"run={run}"])
    found, faults = layouts(config, None, None)
    assert found is not None, faults
    plan, rollout = found.training, found.rollout
    assert layout == named(plan, ("tp", "cp", "pp", "vpp", "ep", "dp"))
    assert int(ranks.replace(",", "")) == plan.world_size
    assert int(longest.replace(",", "")) == config.rollout.max_context_tokens
    if engines:
        fp8 = ", fp8" if config.rollout.fp8_weights else ""
        assert engines == f"{rollout.replicas} x {named(rollout, ('tp', 'pp', 'ep'))}{fp8}"
    [script, given] = re.findall(r"slurm/(\w+\.sh) run=(\w+)", command)[0]
    nodes = re.findall(r"--nodes=(\d+)", command) or re.findall(
        r"^#SBATCH --nodes=(\d+)", (SLURM / script).read_text(), re.MULTILINE
    )
    assert (given, int(nodes[0])) == (run, config.cluster.machines)


def named(of: Any, degrees: tuple[str, ...]) -> str:
    """Degrees in words, those of 1 left out but the first and the last of training's."""
    kept = [name for name in degrees if getattr(of, name) > 1 or name in ("tp", "dp")]
    return " ".join(f"{name} {getattr(of, name)}" for name in kept)


@pytest.mark.parametrize("script", ["r1_grpo.sh", "r1_sft.sh", "r1_stage.sh"])
def test_jobs_are_warned_requeued_and_keep_their_log(script: str) -> None:
    lines = (SLURM / script).read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert options >= {"--signal=B:USR1@300", "--requeue", "--open-mode=append"}


@pytest.mark.parametrize("script", ["r1_grpo.sh", "r1_sft.sh"])
def test_the_runs_named_in_a_header_are_there(script: str) -> None:
    for run in re.findall(r"run=(\w+)(?!\w|\*)", (SLURM / script).read_text()):
        assert (configurations() / "run" / f"{run}.yaml").is_file(), run
