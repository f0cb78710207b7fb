"""Layouts as integers: what fits is laid out, what does not is said in words, at any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.parallel.plan import (
    ModelShape,
    Plan,
    RolloutPlan,
    Topology,
    faults_for,
    make_plan,
    make_rollout_plan,
    rollout_faults_for,
    stage_of_last_norm,
    stage_of_layer,
    stages,
)

DEGREES = {"tp": 1, "pp": 1, "vpp": 1, "ep": 1, "etp": None, "cp": 1, "dp": None, "ranks": None}
powers = st.integers(0, 4).map(lambda exponent: 2**exponent)
small = st.integers(1, 12)
V3_671B = ModelShape(
    layers=61,
    draft_layers=1,
    attention_heads=128,
    head_size=192,
    vocabulary=129280,
    experts=256,
    feed_forward_sizes=(18432, 2048),
    expert_size=2048,
)


def plan_of(**degrees: int | None) -> tuple[Plan | None, list[str]]:
    return make_plan(**(DEGREES | degrees))  # type: ignore[arg-type]


@given(tp=small, pp=small, ep=small, cp=small)
def test_a_layout_without_ranks_is_the_smallest_that_its_experts_fit(tp, pp, ep, cp):
    plan, faults = plan_of(tp=tp, pp=pp, ep=ep, cp=cp)
    assert faults == []
    assert plan.world_size == tp * pp * cp * plan.dp
    assert plan.etp * plan.ep * plan.expert_dp == tp * cp * plan.dp
    smaller = (plan_of(tp=tp, pp=pp, ep=ep, cp=cp, dp=dp) for dp in range(1, plan.dp))
    assert all(faults for _, faults in smaller)


@given(tp=powers, pp=powers, cp=powers, dp=powers)
def test_ranks_that_were_started_decide_data_parallelism(tp, pp, cp, dp):
    ranks = tp * pp * cp * dp
    assert plan_of(tp=tp, pp=pp, cp=cp, ranks=ranks) == plan_of(tp=tp, pp=pp, cp=cp, dp=dp)


@given(tp=small, pp=small, cp=small, ranks=st.integers(1, 4096))
def test_ranks_are_used_whole_or_refused(tp, pp, cp, ranks):
    plan, faults = plan_of(tp=tp, pp=pp, cp=cp, ranks=ranks)
    if ranks % (tp * pp * cp):
        assert plan is None
        [fault] = faults
        assert (
            f"tp {tp} x pp {pp} x cp {cp} = {tp * pp * cp} does not divide the run's {ranks} ranks" in fault
        )
    else:
        assert plan.world_size == ranks


@given(tp=small, ep=small, etp=small, cp=small, dp=small)
def test_experts_are_laid_over_the_same_ranks_or_refused(tp, ep, etp, cp, dp):
    plan, faults = plan_of(tp=tp, ep=ep, etp=etp, cp=cp, dp=dp)
    if (tp * cp * dp) % (etp * ep):
        assert plan is None
        assert f"etp {etp} x ep {ep} = {etp * ep} must divide" in faults[0]
    else:
        assert plan.expert_dp * etp * ep == tp * cp * dp


names = st.sampled_from(["tp", "pp", "vpp", "ep", "etp", "cp", "dp"])


@given(st.dictionaries(names, st.integers(-3, 0), min_size=1))
def test_every_degree_below_one_is_named_with_its_key(degrees):
    plan, faults = plan_of(**degrees)
    assert plan is None
    assert sorted(faults) == sorted(
        f"parallel.{name}: was {value}; must be at least 1" for name, value in degrees.items()
    )


@given(tp=small, cp=small, tokens=st.integers(1, 10_000))
def test_a_padded_sample_and_a_padded_row_can_be_cut_for_every_rank(tp, cp, tokens):
    plan, _ = plan_of(tp=tp, cp=cp)
    sample = plan.padded(tokens)
    assert 0 <= sample - tokens < plan.sample_multiple
    assert sample % (2 * cp) == 0 or cp == 1
    # What pads the row is a sample too; and each context-parallel rank's part is split by tp again.
    assert plan.row_multiple % plan.sample_multiple == plan.row_multiple % (cp * tp) == 0


@given(pp=small, vpp=small)
def test_only_an_interleaved_pipeline_wants_rows_by_the_stage(pp, vpp):
    plan, _ = plan_of(pp=pp, vpp=vpp)
    assert plan.rows_multiple == (pp if vpp > 1 else 1)


def test_data_parallelism_that_contradicts_the_ranks_is_refused():
    plan, [fault] = plan_of(tp=2, dp=3, ranks=8)
    assert plan is None
    assert fault.startswith("parallel.dp: was 3;")
    assert "but the run has 8 ranks" in fault


@given(tp=small, ep=small)
def test_an_expert_is_split_as_the_rest_is_only_where_experts_are_not_dealt_out(tp, ep):
    plan, _ = plan_of(tp=tp, ep=ep)
    assert plan.etp == (tp if ep == 1 else 1)


def test_the_layout_of_2048_ranks_that_trained_v3_is_checked_here():
    """DeepSeek-V3's own: 16 pipeline stages, 64 expert-parallel ranks, no tensor parallelism."""
    plan, faults = plan_of(pp=16, ep=64, ranks=2048)
    assert faults == []
    assert (plan.dp, plan.expert_dp) == (128, 2)
    assert str(plan) == ("tp 1 x cp 1 x dp 128 x pp 16 = 2048 ranks (experts: etp 1 x ep 64 x dp 2; vpp 1)")
    assert faults_for(plan, V3_671B) == []
    held = stages(plan, V3_671B.layers, draft_layers=1)
    assert [stage.count("decoder") for stage in held] == [4] * 13 + [3] * 3
    assert held[0][0] == "embedding"
    assert held[-1] == ["decoder"] * 3 + ["mtp", "loss"]


@given(
    tp=powers,
    pp=powers,
    vpp=powers,
    ep=powers,
    etp=st.none() | powers,
    cp=powers,
    layers=st.integers(1, 64),
    heads=st.integers(1, 64),
    experts=st.integers(0, 64),
)
def test_all_that_a_model_cannot_be_laid_out_for_is_named_at_once(
    tp, pp, vpp, ep, etp, cp, layers, heads, experts
):
    plan, _ = plan_of(tp=tp, pp=pp, vpp=vpp, ep=ep, etp=etp, cp=cp)
    shape = ModelShape(
        layers=layers,
        draft_layers=0,
        attention_heads=heads,
        head_size=32,
        vocabulary=64,
        experts=experts,
        feed_forward_sizes=(64,),
        expert_size=64,
    )
    wanted = {
        f"{layers} layers cannot fill pp x vpp = {pp * vpp} stages": layers < pp * vpp,
        f"{heads} attention heads cannot be divided by tp = {tp}": heads % tp > 0,
        f"{experts} experts cannot be divided by ep = {ep}": experts % ep > 0,
        f"parallel.ep: was {ep}; a dense model": ep > 1 and not experts,
        f"parallel.vpp: was {vpp}; virtual stages need": vpp > 1 and pp == 1,
    }
    faults = faults_for(plan, shape)
    assert len(faults) == sum(map(bool, wanted.values()))
    for words, wrong in wanted.items():
        assert any(words in fault for fault in faults) == bool(wrong)


@given(tp=st.sampled_from([3, 5, 7]), ep=st.integers(2, 4), pp=small)
def test_every_size_that_does_not_divide_is_its_own_fault(tp, ep, pp):
    plan, _ = plan_of(tp=tp, ep=ep, etp=tp, pp=pp)
    sizes = ModelShape(
        layers=13,
        draft_layers=0,
        attention_heads=8,
        head_size=32,
        vocabulary=128,
        experts=4 * ep,
        feed_forward_sizes=(256, 64),
        expert_size=32,
    )
    faults = [fault for fault in faults_for(plan, sizes) if "layers" not in fault]
    assert [int(fault.split("model's ")[1].split()[0]) for fault in faults] == [8, 128, 256, 64, 32]


@pytest.mark.parametrize("along", [("tp", "ep"), ("etp", "dp"), ("vpp",)])
def test_a_group_is_of_one_grid(along):
    plan, _ = plan_of(tp=2, ep=2, dp=2)
    with pytest.raises(ValueError, match=f"groups along {', '.join(along)}: this grid has etp, ep, edp, pp"):
        plan.groups(*along)


def rollout_of(**degrees: int) -> RolloutPlan:
    plan, faults = make_rollout_plan(**({"replicas": 1, "tp": 1, "pp": 1, "ep": 1} | degrees))
    assert plan is not None, faults
    return plan


@given(
    tp=small,
    pp=small,
    ep=small,
    heads=st.integers(1, 16),
    kv_heads=st.none() | st.integers(1, 16),
    vocabulary=st.integers(1, 512),
    experts=st.integers(0, 16),
    on_cpu=st.booleans(),
)
def test_all_that_an_engine_cannot_be_split_for_is_named_at_once(
    tp, pp, ep, heads, kv_heads, vocabulary, experts, on_cpu
):
    shape = ModelShape(
        layers=6,
        draft_layers=0,
        attention_heads=heads,
        key_value_heads=kv_heads,
        head_size=32,
        vocabulary=vocabulary,
        experts=experts,
        feed_forward_sizes=(96,),
        expert_size=40 if experts else 0,
    )
    tensor, expert = f"rollout.tensor_parallel: was {tp}; must divide", f"rollout.expert_parallel: was {ep};"
    dealt = ep > 1 and experts and not on_cpu
    padded = -(-vocabulary // 64) * 64
    wanted = {
        f"{tensor} the model's {heads} attention heads": heads % tp,
        f"{tensor} the model's 96 feed-forward units": 96 % tp,
        f"{tensor} the model's {padded} words": padded % tp,
        f"{tensor} the model's 40 units of an expert": experts and ep == 1 and 40 % tp,
        f"{tensor} the model's {kv_heads} key-value heads, or": kv_heads and kv_heads % tp and tp % kv_heads,
        f"{expert} a dense model has no experts, so it must be 1": ep > 1 and not experts,
        f"{expert} must be 1 on a CPU": ep > 1 and experts and on_cpu,
        f"{expert} vLLM deals experts out over its tensor-parallel workers: 1 or {tp}": dealt and ep != tp,
        f"{expert} must divide the model's {experts} experts": dealt and experts % ep,
        f"rollout.pipeline_parallel: was {pp}; must be 1 on a CPU": on_cpu and pp > 1,
        f"rollout.pipeline_parallel: was {pp}; must be at most the model's 6": not on_cpu and pp > 6,
    }
    faults = rollout_faults_for(rollout_of(tp=tp, pp=pp, ep=ep), shape, on_cpu=on_cpu)
    assert len(faults) == sum(map(bool, wanted.values()))
    for words, wrong in wanted.items():
        assert any(words in fault for fault in faults) == bool(wrong)


@given(st.lists(st.integers(-2, 1), min_size=4, max_size=4))
def test_a_rollout_degree_below_one_is_named_with_its_key(degrees):
    plan, faults = make_rollout_plan(**dict(zip(("replicas", "tp", "pp", "ep"), degrees, strict=True)))
    keys = ("replicas", "tensor_parallel", "pipeline_parallel", "expert_parallel")
    assert faults == [
        f"rollout.{key}: was {value}; must be at least 1"
        for key, value in zip(keys, degrees, strict=True)
        if value < 1
    ]
    assert (plan is None) == bool(faults)


def test_both_sides_are_said_in_full():
    """V3's training layout beside engines of 32 workers, whose experts are dealt out."""
    training, _ = plan_of(pp=16, ep=64, ranks=2048)
    rollout = rollout_of(replicas=64, tp=32, ep=32)
    assert rollout_faults_for(rollout, V3_671B, on_cpu=False) == []
    assert str(Topology(training, rollout)).splitlines() == [
        "training: tp 1 x cp 1 x dp 128 x pp 16 = 2048 ranks (experts: etp 1 x ep 64 x dp 2; vpp 1)",
        "rollout:  64 replicas x tp 32 x pp 1 = 2048 workers (experts: etp 1 x ep 32)",
    ]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 3), st.booleans())
def test_layers_given_stage_by_stage_are_held_so(layers, vpp, alone):
    layers = (layers * vpp) if len(layers) > 1 else layers
    pp = len(layers) // vpp if len(layers) > 1 else 1
    if alone and len(layers) > 1:
        layers = [0, *layers[1:-1], 0]
    plan, faults = plan_of(pp=pp, vpp=len(layers) // pp, layers_by_stage=layers)
    assert faults == []
    held = stages(plan, sum(layers), draft_layers=1)
    assert [stage.count("decoder") for stage in held] == layers
    found = [stage_of_layer(plan, sum(layers), layer) for layer in range(sum(layers))]
    numbers = [virtual * pp + rank for rank, virtual in found]
    assert [numbers.count(stage) for stage in range(len(layers))] == layers
    if sum(layers):
        assert stage_of_last_norm(plan, sum(layers), 1) == found[-1]
        assert stage_of_last_norm(plan, sum(layers), 0) == (pp - 1, plan.vpp - 1)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([30, 31], "was 30, 31; must be 4 numbers, one for each of pp 2 x vpp 2 stages"),
        ([20, -1, 21, 21], "must be at least 1; 0 where the embedding or the loss is"),
        ([20, 0, 20, 21], "must be at least 1; 0 where the embedding or the loss is"),
    ],
)
def test_layers_that_no_stages_can_hold_are_refused(layers, said):
    plan, [fault] = plan_of(pp=2, vpp=2, layers_by_stage=layers)
    assert plan is None
    assert fault.startswith("parallel.layers_by_stage: ")
    assert said in fault


def test_layers_by_stage_are_the_models():
    plan, _ = plan_of(pp=2, ep=2, layers_by_stage=[31, 31])
    [fault] = faults_for(plan, V3_671B)
    assert fault == "parallel.layers_by_stage: was 31, 31, 62 together; must be the model's 61 layers"
    plan, _ = plan_of(pp=2, ep=2, layers_by_stage=[61, 0])
    assert faults_for(plan, V3_671B) == []
    assert str(plan).endswith("vpp 1), layers 61 0")
