"""Who stands where: the plan's ranks, groups and stages are those that Megatron-Core makes itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.parallel.plan import Plan, stage_of_layer, stages

LAYOUTS = 3000
MOST_RANKS = 2048
ORDER = "tp-cp-ep-dp-pp"
# As Megatron opens them in parallel_state.initialize_model_parallel.
GROUPS = ("tp", "cp", "dp", "pp", "dp-cp", "tp-pp", "tp-dp-cp", "tp-dp", "tp-cp")
EXPERT_GROUPS = ("ep", "tp", "tp-ep", "tp-ep-pp", "dp")
EXPERT_NAMES = {"tp": "etp", "dp": "edp"}


def random_plan(draw: random.Random, most_ranks: int) -> Plan:
    """Any degrees whose product is at most `most_ranks`, experts laid anyhow over the same ranks."""
    left, degrees = most_ranks, []
    for _ in range(4):
        degrees.append(draw.randint(1, max(1, min(left, draw.choice([1, 2, 4, 8, 64])))))
        left //= degrees[-1]
    draw.shuffle(degrees)
    tp, cp, dp, pp = degrees
    over = tp * cp * dp
    etp = draw.choice(divisors(over))
    ep = draw.choice(divisors(over // etp))
    return Plan(tp=tp, cp=cp, dp=dp, pp=pp, etp=etp, ep=ep, vpp=draw.randint(1, 3))


def divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def plans() -> Iterator[Plan]:
    """Most of them small, so that all of it takes seconds; and some as large as may be."""
    draw = random.Random(0)
    for number in range(LAYOUTS):
        yield random_plan(draw, MOST_RANKS if number % 100 == 0 else 64)
    yield Plan(tp=1, cp=1, dp=128, pp=16, etp=1, ep=64, vpp=1)
    yield Plan(tp=8, cp=2, dp=8, pp=16, etp=2, ep=32, vpp=2)


@pytest.fixture(scope="module")
def parallel_state() -> Any:
    return pytest.importorskip("megatron.core.parallel_state")


def test_groups_and_coordinates_are_megatrons(parallel_state: Any) -> None:
    rank_generator, sizes = parallel_state.RankGenerator, []
    for plan in plans():
        sizes.append(plan.world_size)
        ours = rank_generator(tp=plan.tp, ep=1, dp=plan.dp, pp=plan.pp, cp=plan.cp, order=ORDER)
        experts = rank_generator(tp=plan.etp, ep=plan.ep, dp=plan.expert_dp, pp=plan.pp, cp=1, order=ORDER)
        for token in GROUPS:
            assert plan.groups(*token.split("-")) == ours.get_ranks(token), (plan, token)
        for token in EXPERT_GROUPS:
            along = [EXPERT_NAMES.get(name, name) for name in token.split("-")]
            assert plan.groups(*along) == experts.get_ranks(token), (plan, token)
        # A rank's coordinate on an axis is its place in its group along it.
        places = [plan.coordinates(rank) for rank in range(plan.world_size)]
        for axis in ("tp", "cp", "dp", "pp", "etp", "ep", "edp"):
            for group in plan.groups(axis):
                assert [places[rank][axis] for rank in group] == list(range(len(group)))
    assert len(sizes) >= LAYOUTS
    assert max(sizes) == MOST_RANKS


def test_what_lies_on_each_stage_is_megatrons(parallel_state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from megatron.core.transformer.enums import LayerType
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

    draw = random.Random(1)
    for _ in range(300):
        plan = random_plan(draw, 64)
        if plan.pp == 1:
            continue  # no pipeline, no layout
        monkeypatch.setattr(parallel_state, "_VIRTUAL_PIPELINE_MODEL_PARALLEL_WORLD_SIZE", plan.vpp)
        layers = plan.pp * plan.vpp + draw.randint(0, 60)
        theirs = PipelineParallelLayerLayout(stages(plan, layers, draw.randint(0, 2)), plan.pp)
        for layer in range(layers):
            rank, virtual = stage_of_layer(plan, layers, layer)
            held = theirs.get_layer_id_list(vp_stage=virtual, pp_rank=rank)
            assert layer in held, (plan, layers)
            assert theirs.layout[rank][virtual].count(LayerType.decoder) == len(held)


degrees = st.integers(1, 6)


@given(pp=degrees, vpp=degrees, more=st.integers(0, 60))
def test_layers_go_down_the_stages_in_order(pp: int, vpp: int, more: int) -> None:
    plan = Plan(tp=1, cp=1, dp=1, pp=pp, etp=1, ep=1, vpp=vpp)
    layers = pp * vpp + more
    found = [stage_of_layer(plan, layers, layer) for layer in range(layers)]
    numbers = [virtual * pp + rank for rank, virtual in found]
    assert numbers == sorted(numbers)
    held = [stage.count("decoder") for stage in stages(plan, layers, draft_layers=0)]
    assert [numbers.count(stage) for stage in range(pp * vpp)] == held
    assert max(held) - min(held) <= 1
