"""`r1mega plan`: published sizes, Megatron's buffers, what is refused, and that its advice is sound."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from functools import partial
from itertools import pairwise
from math import lcm, prod
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape
from support.models import random_dense_fields, random_fields
from support.published import DEEPSEEK_V3, PARAMETERS

from r1mega.__main__ import configurations
from r1mega.checks import check
from r1mega.compose import compose
from r1mega.config import BadRun, Config, Dtype, PrecisionConfig, RolloutConfig, Stage
from r1mega.model.family import family_of
from r1mega.parallel.plan import RolloutPlan, make_plan
from r1mega.planner.before import require_fit
from r1mega.planner.buffers import lay_out
from r1mega.planner.command import main
from r1mega.planner.engines import (
    bytes_of_a_token,
    gathered_bytes,
    largest_tensor,
    worker_weights,
)
from r1mega.planner.phases import staged_by_rank, staged_bytes
from r1mega.planner.published import PUBLISHED
from r1mega.planner.training import Trainer
from r1mega.planner.weights import Weight, model_parameters
from r1mega.weights.fp8_names import is_quantised, scale_shape
from r1mega.weights.paper import needed_on_paper

GIB = 1024**3


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_whole_models_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert model_parameters(PUBLISHED[name])[0] == parameters


def test_every_published_model_is_one_of_a_family_and_of_a_known_size() -> None:
    for fields in PUBLISHED.values():
        assert family_of(fields).faults(fields) == []
        assert model_parameters(fields)[0] in PARAMETERS.values()


def test_deepseek_v3_has_as_many_elements_of_each_dtype_as_its_published_files() -> None:
    """Codes, scales and the rest, counted weight by weight; its draft layer has an embedding and a head."""
    fields = PUBLISHED["DeepSeek-V3"]
    found = {"F8_E4M3": 0, "F32": 0, "BF16": 2 * fields["vocab_size"] * fields["hidden_size"]}
    for row in family_of(fields).weight_table(fields):
        layers = (1 if row.layers is None else len(row.layers)) * (row.experts or 1) * (not row.fused)
        for name, shape in zip(row.hf, row.shapes, strict=True):
            bias = name.endswith("e_score_correction_bias")
            found["F8_E4M3" if is_quantised(name) else "F32" if bias else "BF16"] += layers * prod(shape)
            found["F32"] += layers * prod(scale_shape(shape)) if is_quantised(name) else 0
    assert found == DEEPSEEK_V3


def weights(sizes: list[int], shared: int | None) -> list[Weight]:
    return [
        Weight(size, split=True, expert=False, draft=False, shared=number == shared)
        for number, size in enumerate(sizes)
    ]


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    ranks=st.integers(1, 9),
    shared=st.one_of(st.none(), st.integers(0, 11)),
)
def test_of_a_buffer_every_element_is_owned_once_and_each_rank_has_an_equal_part(
    sizes: list[int], ranks: int, shared: int | None
) -> None:
    buffer = lay_out(weights(sizes, shared), ranks)
    assert buffer is not None
    assert buffer.elements % lcm(ranks, 128) == 0
    assert sum(sizes) <= buffer.unpadded <= buffer.elements
    owned = [buffer.owned(rank) for rank in range(ranks)]
    assert sum(owned) == sum(sizes)
    assert max(owned) <= buffer.elements // ranks
    assert sum(bucket.end - bucket.start for bucket in buffer.buckets) == buffer.elements


def test_the_671b_on_2048_ranks_is_there_once_for_each_copy() -> None:
    """Of a layout, what all ranks own of the optimizer is the model, once; with its second embedding."""
    fields = PUBLISHED["DeepSeek-V3-Base"]
    plan, _ = make_plan(tp=8, pp=16, vpp=1, ep=64, etp=1, cp=1, dp=16, ranks=2048)
    assert plan is not None
    trainer = Trainer(fields, plan, Dtype.bf16)
    shards = [sum(w.elements for w in stage.weights if w.expert) * 64 for stage in trainer.stages]
    biases = 59 * 256
    split = sum(w.elements for stage in trainer.stages for w in stage.weights if w.split and not w.expert) * 8
    whole = sum(w.elements for stage in trainer.stages for w in stage.weights if not w.split)
    embedding = fields["vocab_size"] * fields["hidden_size"]
    assert sum(shards) + split + whole + biases == sum(model_parameters(fields)) + embedding
    owned = sum(trainer.owned(rank) for rank in range(2048))
    assert owned == sum(shards) + split + 8 * whole


def test_every_rank_that_saves_is_counted() -> None:
    plan, _ = make_plan(tp=2, pp=2, vpp=1, ep=2, etp=1, cp=1, dp=3, ranks=None)
    assert plan is not None
    trainer = Trainer(SMALL["deepseek_v3"], plan, Dtype.bf16)
    each = [staged_bytes(trainer, rank, True) for rank in range(plan.world_size)]
    assert staged_by_rank(trainer, True) == each
    assert len(set(each)) > 2


def a_run(dtype: Dtype = Dtype.bf16, **rollout: Any) -> Config:
    return Config(
        stage=Stage.grpo,
        name="test",
        precision=PrecisionConfig(dtype=dtype),
        rollout=RolloutConfig(**rollout),
    )


SMALL = {
    kind: random_dense_fields(random.Random(kind), kind, divisible_by=2)
    for kind in ("qwen2", "qwen3", "qwen3_moe", "llama")
} | {"deepseek_v3": random_fields(random.Random(2), divisible_by=2)}


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize(("tp", "pp", "ep"), [(1, 1, 1), (2, 1, 1), (2, 1, 2), (1, 2, 1), (2, 2, 2)])
def test_a_worker_holds_what_is_sent_to_it(kind: str, tp: int, pp: int, ep: int) -> None:
    fields = SMALL[kind]
    table, shape = family_of(fields).weight_table(fields), family_of(fields).shape(fields)
    if ep > 1 and not shape.experts:
        return
    rollout = RolloutPlan(replicas=3, tp=tp, pp=pp, ep=ep)
    boxes = needed_on_paper(table, rollout, shape.key_value_heads)[: tp * pp]
    sizes = [
        sum(prod(box.size) * (4 if box.name.endswith("e_score_correction_bias") else 2) for box in of_worker)
        for of_worker in boxes
    ]
    assert worker_weights(fields, rollout, a_run()) == sizes


@pytest.mark.parametrize("kind", SMALL)
def test_the_stages_of_an_engine_hold_the_model_once(kind: str) -> None:
    """But for a tied embedding, which the last stage has too; every stage has its layers and no other."""
    fields = SMALL[kind]
    table, layers = family_of(fields).weight_table(fields), fields["num_hidden_layers"]
    [whole] = needed_on_paper(table, RolloutPlan(replicas=1, tp=1, pp=1, ep=1), None)
    rollout = RolloutPlan(replicas=1, tp=1, pp=2, ep=1)
    parts = needed_on_paper(table, rollout, None)
    assert set(parts[0]) | set(parts[1]) == set(whole)
    twice = {box.name for box in set(parts[0]) & set(parts[1])}
    assert twice == ({"model.embed_tokens.weight"} if fields.get("tie_word_embeddings") else set())
    for stage, boxes in enumerate(parts):
        held = {int(box.name.split(".")[2]) for box in boxes if box.name.startswith("model.layers.")}
        assert held == set(rollout.layers_of(stage, layers))


def test_fp8_engines_take_half_of_what_bf16_ones_do_and_their_scales() -> None:
    fields = PUBLISHED["DeepSeek-V3-Base"]
    rollout = RolloutPlan(replicas=1, tp=1, pp=1, ep=1)
    [codes], [plain] = (
        worker_weights(fields, rollout, a_run(fp8_weights=fp8_weights)) for fp8_weights in (True, False)
    )
    assert 0.5 < codes / plain < 0.51


@pytest.mark.parametrize("kind", SMALL)
def test_a_hand_over_gathers_two_groups_at_a_time(kind: str) -> None:
    """By hand, from the names of the weights: of two groups that follow each other, the largest sum."""
    fields = SMALL[kind]
    sizes: dict[str, int] = {}
    table = family_of(fields).weight_table(fields)
    for box in needed_on_paper(table, RolloutPlan(replicas=1, tp=1, pp=1, ep=1), None)[0]:
        bias = box.name.endswith("e_score_correction_bias")
        sizes[box.name] = prod(box.size) * (4 if bias else 2)
    groups: dict[int, int] = {}
    for name, size in sizes.items():
        parts = name.split(".")
        group = int(parts[2]) if parts[1] == "layers" else 10**6 if name == "model.norm.weight" else -1
        groups[group] = groups.get(group, 0) + size
    ordered = [groups[number] for number in sorted(groups)]
    assert gathered_bytes(fields, a_run()) == max(map(sum, pairwise(ordered)))
    assert largest_tensor(fields, a_run()) == max(sizes.values())
    # In parts of the buffer's size, a layer is no longer held whole.
    small = a_run()
    small.handover.buffer_bytes = max(sizes.values())
    assert max(sizes.values()) < gathered_bytes(fields, small) <= 2 * max(sizes.values())
    assert gathered_bytes(fields, small) < gathered_bytes(fields, a_run())


def test_a_token_of_the_671b_takes_its_latent_in_every_layer() -> None:
    plan = RolloutPlan(replicas=1, tp=8, pp=1, ep=1)
    assert bytes_of_a_token(PUBLISHED["DeepSeek-V3"], plan, a_run()) == 61 * (512 + 64) * 2
    stages = RolloutPlan(replicas=1, tp=8, pp=4, ep=8)
    assert bytes_of_a_token(PUBLISHED["DeepSeek-V3"], stages, a_run()) == 16 * (512 + 64) * 2
    assert bytes_of_a_token(PUBLISHED["Llama-3.3-70B-Instruct"], plan, a_run()) == 80 * 2 * 128 * 2


def planned(capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[int, dict[str, Any]]:
    code = main([*overrides, "--json"], configurations())
    said = capsys.readouterr()
    assert said.err == ""
    return code, json.loads(said.out)


LLAMA = ("run=r1_distill_llama_70b", "parallel=qwen2_5_14b")  # 8 tensor-parallel ranks, which are too few
ZERO_SMALL = (
    "run=r1_zero",
    "model.init_from=models/Qwen2.5-7B",
    "parallel=qwen2_5_7b",
    "parallel.dp=8",
    "cluster=h100",
    "rollout=gpu",
)


@pytest.mark.parametrize(
    "overrides",
    [LLAMA, (*ZERO_SMALL, "cluster.gpu_memory_gib=40"), (*ZERO_SMALL, "rollout.kv_cache_bytes=1000000000")],
)
def test_what_is_advised_fits(capsys: pytest.CaptureFixture[str], overrides: tuple[str, ...]) -> None:
    code, plan = planned(capsys, *overrides)
    assert code == 2
    assert plan["shortages"]
    assert plan["change"] is not None
    code, better = planned(capsys, *overrides, *plan["change"]["overrides"])
    assert code == 0
    assert better["fits"]
    assert better["layout"]["ranks"] == plan["change"]["ranks"]


def test_what_is_over_is_said_with_its_phase_its_rank_and_its_causes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, plan = planned(capsys, *LLAMA)
    assert code == 2
    short = plan["shortages"][0]
    assert short["what"] == "save: rank 0"
    assert short["bytes"] == sum(short["causes"].values()) - plan["gpu_memory_bytes"]
    [save] = [phase for phase in plan["phases"] if phase["phase"] == "save"]
    assert save["causes"] == short["causes"]
    assert main(list(LLAMA), configurations()) == 2
    said = capsys.readouterr().out
    for phrase in (
        "save: rank 0: 52.33 GiB over",
        "would be over with parallel.pp=2, on 64 ranks",
        "activations",
    ):
        assert phrase in said


def test_a_cache_that_holds_no_sequence_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, plan = planned(capsys, *ZERO_SMALL, "rollout.kv_cache_bytes=1000000000")
    assert code == 2
    assert [one["of_cache"] for one in plan["shortages"]] == [True]


def test_engines_of_their_own_leave_the_trainer_their_room(capsys: pytest.CaptureFixture[str]) -> None:
    _, shared = planned(capsys, *ZERO_SMALL)
    _, apart = planned(capsys, *ZERO_SMALL, "rollout.placement=apart")
    rollout, elsewhere = (plan["phases"][0] for plan in (shared, apart))
    engine = {cause: size for cause, size in rollout["causes"].items() if cause.startswith("engine")}
    assert set(engine) == {"engine: weights", "engine: KV cache"}
    assert rollout["bytes"] - elsewhere["bytes"] == sum(engine.values())
    last = apart["phases"][-1]
    assert last["phase"] == "rollout, engines"
    assert last["causes"].items() >= engine.items()


@pytest.mark.parametrize("cluster", ["h100", "h200", "b200"])
def test_the_chain_of_the_papers_runs_is_planned_from_its_base(
    capsys: pytest.CaptureFixture[str], cluster: str
) -> None:
    """No folder of it is there: the base is the published one, and each stage makes as large a model."""
    code, plan = planned(capsys, "run=r1_all_scenario_rl", f"cluster={cluster}", "cluster.machines=256")
    assert code == 0
    assert plan["layout"]["ranks"] == 2048
    assert plan["model"]["parameters"] == PARAMETERS["DeepSeek-V3-Base"]
    assert {"reward model: helpful", "reward model: harmless"} <= plan["phases"][0]["causes"].keys()
    assert any("r1mega run=r1_rejection_sft" in note for note in plan["notes"])
    assert any(
        "planned only: rollout.pipeline_parallel: was 4; this version starts" in note
        for note in plan["notes"]
    )


def test_of_a_model_its_config_is_enough(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["Llama-3.1-8B"]))
    given = ("run=r1_distill_llama_8b", f"model.init_from={tmp_path}")
    code, plan = planned(capsys, *given)
    assert (code, plan["model"]["parameters"]) == (0, PARAMETERS["Llama-3.1-8B"])
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert main(given, configurations()) == 2
    assert "hidden_size: missing" in capsys.readouterr().err


def test_a_run_on_a_cpu_is_held_to_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    code, plan = planned(capsys, "run=cpu_zero")
    assert code == 0
    assert plan["gpu_memory_bytes"] is None
    assert plan["batch"][0] == "A rollout asks 32 prompts 16 times each: 512 samples."
    assert plan["batch"][1] == "It is cut into 4 updates of 128 samples."


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["run=cpu_r1"], "plan a run of its stages"),
        (["run=r1_distill_llama_70b", "cluster=h100", "parallel.tp=3"], "cannot be divided by tp = 3"),
        (["run=r1_zero", "model.init_from=nowhere", "model.made_by=null"], "no published model of that name"),
        (
            ["run=zero_llama_70b", "rollout.replicas=8", "rollout.tensor_parallel=16"],
            "must divide the 8 GPUs of a machine",
        ),
        (["run=r1_zero", "grpo.nothing=1"], "grpo.nothing"),
    ],
)
def test_what_cannot_be_planned_is_said(
    capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    assert main(overrides, configurations()) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_option_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run=r1_zero", "--yaml"], configurations())
    assert ended.value.code == 2
    assert "unrecognized arguments: --yaml" in capsys.readouterr().err


def test_the_page_shows_what_the_json_holds(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    code, plan = planned(capsys, *ZERO_SMALL, "name='<script>'", "--html", str(page))
    text = page.read_text()
    assert "<script>" not in text
    assert f"{plan['model']['parameters']:,}" in text
    for phase in plan["phases"]:
        assert f"<th>{phase['phase']}</th>" in text
        assert f"<td>{phase['bytes'] / 1024**3:,.2f}</td>" in text
        assert all(f"<td>{escape(cause)}</td>" in text for cause in phase["causes"])
    assert text.count("<svg") == 1 + len(plan["times"]["parts"])
    assert code == 0


def test_a_run_that_cannot_fit_is_refused_before_it_starts() -> None:
    composed = partial(compose, configurations())
    small = ["run=cpu_pretrain", "cluster=h100", "cluster.gpu_memory_gib=0.001"]

    def tried(*others: str) -> None:
        config = composed([*small, *others])
        require_fit(config, check(config, None), composed)

    with pytest.raises(
        BadRun, match=r"does not fit: \w+: rank \d: 0\.\d\d GiB over \(.*launch\.must_fit=false"
    ):
        tried()
    tried("launch.must_fit=false")
    tried("cluster.gpu_memory_gib=1")
    tried("cluster.gpu_memory_gib=null")
    tried("cluster.backend=cpu")


HEAVY = """
import sys, time
from r1mega.__main__ import main
sys.argv = ["r1mega", "plan", "run=r1_zero"]
try:
    main()
except SystemExit as error:
    print("code", error.code, "heavy", sorted({"torch", "megatron", "vllm"} & set(sys.modules)))
    print("seconds", time.process_time())
"""


def test_the_verb_plans_the_671b_in_a_moment_and_without_a_framework() -> None:
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    *_, heavy, seconds = done.stdout.splitlines()
    assert heavy == "code 0 heavy []"
    assert float(seconds.split()[1]) < 5  # about one where nothing else runs
