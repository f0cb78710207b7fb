"""Which node the preflight names, and why: each check's logic, without Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from support.command import environment

from r1mega.node_faults import Report, compare, disk_faults, file_faults
from r1mega.preflight import Place, unreachable

SAME = {"python": "3.11.9", "torch": "2.13.0", "r1mega": "0.1.0+abcd"}


def reports(*versions: dict[str, str]) -> dict[str, Report]:
    return {f"n{i}": Report(f"n{i}", of) for i, of in enumerate(versions, 1)}


def place(nodes: int, rank: int = 0) -> Place:
    names = tuple(f"n{i + 1}" for i in range(nodes))
    return Place(rank=rank, names=names, address="10.0.0.1", port=20_001, answer_s=9.0)


def test_nodes_that_are_alike_have_no_faults() -> None:
    assert compare(reports(SAME, SAME, SAME), {"n1": 0.0, "n2": 0.01, "n3": -4.0}) == {}


def test_the_node_that_differs_from_most_is_named() -> None:
    found = compare(reports(SAME, SAME, SAME | {"torch": "2.12.1"}), {})
    assert found == {"n3": ["torch 2.12.1, the others have 2.13.0"]}


def test_a_package_that_one_node_lacks_or_alone_has_is_a_fault_of_that_node() -> None:
    lacks = {name: number for name, number in SAME.items() if name != "torch"}
    assert compare(reports(SAME, lacks, SAME), {}) == {"n2": ["torch none, the others have 2.13.0"]}
    assert compare(reports(SAME, SAME | {"vllm": "1"}, SAME), {}) == {"n2": ["vllm 1, the others have none"]}


def test_where_there_is_no_majority_all_are_named() -> None:
    found = compare(reports(SAME, SAME | {"python": "3.12.1"}), {})
    assert found == {
        "n1": ["python 3.11.9, the others have 3.12.1"],
        "n2": ["python 3.12.1, the others have 3.11.9"],
    }


def test_a_clock_is_measured_against_the_middle_of_all_not_against_the_first() -> None:
    three = reports(SAME, SAME, SAME)
    assert compare(three, {"n1": 0.0, "n2": 0.1, "n3": 61.0}) == {
        "n3": ["clock +60.9 s from the others', may be 5 s"]
    }
    assert list(compare(three, {"n1": 0.0, "n2": 60.0, "n3": 60.0})) == ["n1"]


def test_a_nodes_own_faults_are_kept() -> None:
    full = Report("n2", SAME, ["free disk 0.4 GiB in runs, needs 5.0 GiB"])
    assert compare(reports(SAME) | {"n2": full}, {}) == {"n2": full.faults}


def test_a_silent_node_is_named_and_the_first_one_where_all_others_are_silent() -> None:
    assert unreachable(place(3), []) == {}
    assert unreachable(place(3), ["n3"]) == {"n3": ["no answer within 9 s (R1MEGA_PREFLIGHT_S)"]}
    assert list(unreachable(place(2), ["n2"])) == ["n2"]
    assert unreachable(place(3), ["n2", "n3"]) == {
        "n1": ["no other node reached it at 10.0.0.1:20001 within 9 s"]
    }


def test_a_disk_must_take_files_and_have_room(tmp_path: Path) -> None:
    assert disk_faults(tmp_path / "runs", 1) == []
    [full] = disk_faults(tmp_path / "runs", 1 << 60)
    assert full.startswith("free disk ")
    assert full.endswith(f" GiB in {tmp_path}/runs, needs 1073741824.0 GiB (R1MEGA_FREE_GIB)")
    (tmp_path / "file").touch()
    [cannot] = disk_faults(tmp_path / "file" / "runs", 1)
    assert cannot == f"cannot write in {tmp_path}/file/runs: Not a directory"
    assert not list((tmp_path / "runs").iterdir())


def test_what_the_run_reads_must_be_readable_to_the_last_file(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").touch()
    there = {"model.init_from": str(tmp_path / "model"), "sft.data_files[0]": str(tmp_path / "rows.jsonl")}
    assert file_faults(there) == []
    (tmp_path / "model" / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    [fault] = file_faults(there | {"data.prompts_file": str(tmp_path / "no")})[:1]
    gone = tmp_path / "model" / "gone.safetensors"
    assert fault == f"model.init_from: cannot read {gone}: No such file or directory"
    assert len(file_faults({"data.prompts_file": str(tmp_path / "no")})) == 1


def test_place_is_read_from_what_srun_and_the_script_set() -> None:
    slurm = {"SLURM_PROCID": "1", "R1MEGA_NODES": "n3\nn7", "SLURM_JOB_ID": "70001"}
    first, second = Place.of(slurm | {"SLURM_PROCID": "0"}), Place.of(slurm)
    assert (second.rank, second.names) == (1, ("n3", "n7"))
    assert first.port == second.port
    assert 20_000 <= first.port < 32_768  # where the kernel's own begin


def tasks(folder: Path, count: int, started: int, *overrides: str, **more: str) -> list[tuple[int, str, str]]:
    """Exit code and output of the tasks that are started, of `count` that srun would start."""
    names = " ".join(f"n{i + 1}" for i in range(count))
    slurm = {"R1MEGA_NODES": names, "SLURM_JOB_ID": str(os.getpid()), "R1MEGA_FREE_GIB": "0.001"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "r1mega.preflight", "run=cpu_zero", *overrides],
            cwd=folder,
            env=environment(**slurm, SLURM_PROCID=str(i), **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(started)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *of) for process, of in zip(processes, said, strict=True)]


def test_tasks_meet_add_up_and_agree(tmp_path: Path) -> None:
    first, second = tasks(tmp_path, 2, 2)
    assert first == (0, "", "r1mega: preflight of 2 nodes: all well\n")
    assert second == (0, "", "")


def test_a_task_that_never_comes_is_named_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    [first] = tasks(tmp_path, 2, 1, R1MEGA_PREFLIGHT_S="1")
    assert first[:2] == (1, "n2: no answer within 1 s (R1MEGA_PREFLIGHT_S)\n")
    assert time.monotonic() - began < 60


def test_a_bad_run_is_not_a_nodes_fault(tmp_path: Path) -> None:
    [(code, out, said)] = tasks(tmp_path, 1, 1, "grpo.no_such_key=1")
    assert (code, out) == (2, "")
    assert "grpo.no_such_key" in said
