"""Activations on paper: what is in flight, what recomputation frees, and what a plan advises of it."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.__main__ import configurations
from r1mega.config import FULL_RECOMPUTE, RECOMPUTE_MODULES, Dtype
from r1mega.parallel.plan import Plan, make_plan
from r1mega.planner.activations import Layers, RowSize, chunks, in_flight, sizes
from r1mega.planner.command import main
from r1mega.planner.published import PUBLISHED


def a_plan(**degrees: int) -> Plan:
    """These degrees; others are 1."""
    plan, faults = make_plan(
        **({"tp": 1, "pp": 1, "vpp": 1, "ep": 1, "etp": 1, "cp": 1} | degrees), dp=None, ranks=None
    )
    assert plan is not None, faults
    return plan


@given(pp=st.integers(1, 8), microbatches=st.integers(1, 20))
def test_a_plain_pipeline_keeps_one_more_on_each_stage_before(pp: int, microbatches: int) -> None:
    plan = a_plan(pp=pp)
    kept = [in_flight(plan, stage, microbatches, [1]) for stage in range(pp)]
    assert kept == [[min(pp - stage, microbatches)] for stage in range(pp)]


@given(pp=st.integers(2, 6), vpp=st.integers(2, 4), turns=st.integers(1, 5))
def test_an_interleaved_one_keeps_those_of_its_warm_up_and_one(pp: int, vpp: int, turns: int) -> None:
    plan, microbatches = a_plan(pp=pp, vpp=vpp), turns * pp
    for stage in range(pp):
        warmup = 2 * (pp - stage - 1) + (vpp - 1) * pp
        assert sum(in_flight(plan, stage, microbatches, [1] * vpp)) == min(warmup + 1, microbatches * vpp)


def kept(name: str, recompute: tuple[str, ...], layers: Layers) -> int:
    """What all stages of a published model keep of a row of 8,192 tokens."""
    plan, row = a_plan(tp=4, pp=2), RowSize(tokens=8192, samples=2, longest=4096)
    z = sizes(PUBLISHED[name], plan, row, Dtype.bf16)
    return sum(
        chunk.bytes for of_rank in chunks(PUBLISHED[name], plan, z, layers, recompute) for chunk in of_rank
    )


@pytest.mark.parametrize("name", ["DeepSeek-V3-Base", "Qwen3-30B-A3B", "Llama-3.1-8B"])
def test_the_more_is_computed_again_the_less_is_kept(name: str) -> None:
    for one, other in combinations(RECOMPUTE_MODULES, 2):
        both = kept(name, (one, other), Layers.te)
        assert both <= min(kept(name, (one,), Layers.te), kept(name, (other,), Layers.te))
    nothing, everything = kept(name, (), Layers.te), kept(name, RECOMPUTE_MODULES, Layers.te)
    assert kept(name, (FULL_RECOMPUTE,), Layers.te) < everything < nothing < kept(name, (), Layers.torch)


def planned(capsys: pytest.CaptureFixture[str], *overrides: str) -> dict[str, Any]:
    main([*overrides, "--json"], configurations())
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    return plan


def test_where_activations_are_too_many_recomputation_is_advised(capsys: pytest.CaptureFixture[str]) -> None:
    short = (
        "run=r1_distill_llama_8b",
        "parallel.tp=8",
        "cluster.gpu_memory_gib=40",
        "train.recompute=[]",
        "train.tokens_per_microbatch=65536",
    )
    plan = planned(capsys, *short)
    tried = {one["overrides"][0]: one["lacking"] for one in plan["tried"]}
    assert tried["train.recompute=[full]"] == 0
    assert "train.tokens_per_microbatch=32768" in tried
    assert plan["change"]["overrides"] == ["train.recompute=[full]"]
    assert planned(capsys, *short, "train.recompute=[full]")["fits"]


def test_on_gpus_activations_are_marked_and_on_a_cpu_they_are_torchs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for run, mark in (
        ("r1_distill_llama_8b", "activations (TE, unvalidated): "),
        ("cpu_zero", "activations: "),
    ):
        [update] = [one for one in planned(capsys, f"run={run}")["phases"] if one["phase"] == "update"]
        named = [cause for cause in update["causes"] if cause.startswith("activations")]
        assert named
        assert all(cause.startswith(mark) for cause in named)
