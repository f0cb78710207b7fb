"""FP8 as configuration: what each recipe says to Megatron, and what is refused before anything is built."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core.transformer import TransformerConfig

from r1mega.__main__ import configurations
from r1mega.checks import check
from r1mega.compose import compose
from r1mega.config import BadRun, Config, Dtype, Fp8, PrecisionConfig
from r1mega.model.precision import RECIPES, machine_fault, megatron_fields, tokens_multiple
from r1mega.parallel.plan import Plan, make_plan

FILES = sorted((configurations() / "precision").glob("fp8_*.yaml"))
ON_GPU = ("run=cpu_zero", "cluster=h100")
# Widths that are whole blocks, and latents that end within one, as DeepSeek-V3's do.
WIDE = (
    *("model.hf.hidden_size=256", "model.hf.intermediate_size=512", "model.hf.moe_intermediate_size=256"),
    *("model.hf.q_lora_rank=64", "model.hf.kv_lora_rank=64", "model.hf.qk_rope_head_dim=32"),
)


def composed(*overrides: str) -> Config:
    return compose(configurations(), [*ON_GPU, *overrides])


def faults(*overrides: str) -> list[str]:
    with pytest.raises(BadRun) as raised:
        check(composed(*overrides), ranks=None)
    return raised.value.faults


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_chooses_its_recipe_and_says_where_it_runs_and_what_it_leaves(file: Any) -> None:
    config = composed(f"precision={file.stem}")
    assert (config.precision.dtype, f"fp8_{config.precision.fp8}") == (Dtype.bf16, file.stem)
    comment = "".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    for said in ("Hopper", "Blackwell"), ("router",), ("0.25 %",), ("Not measured on GPU",):
        assert any(word in comment for word in said)


def test_there_is_a_file_for_each_recipe() -> None:
    assert {f"fp8_{recipe}" for recipe in RECIPES} == {file.stem for file in FILES}
    assert set(RECIPES) == set(Fp8) - {Fp8.none}


@pytest.mark.parametrize("fp8", RECIPES)
def test_wide_models_are_let_pass_and_rows_are_whole_tiles(fp8: Fp8) -> None:
    plan = check(composed(f"precision=fp8_{fp8}", *WIDE), ranks=None)
    assert plan.row_multiple % RECIPES[fp8].tokens == 0


@pytest.mark.parametrize("fp8", RECIPES)
@pytest.mark.parametrize("experts", [True, False])
def test_megatron_knows_every_field(fp8: Fp8, experts: bool) -> None:
    chosen = megatron_fields(PrecisionConfig(dtype=Dtype.bf16, fp8=fp8), experts)
    assert chosen.keys() <= TransformerConfig.__dataclass_fields__.keys()
    assert chosen["fp8_recipe"] == fp8.value
    assert chosen["moe_router_padding_for_quantization"] is experts
    # Weights stay in bf16, and so does attention: what reads weights reads what it read without FP8.
    assert not any(
        value for name, value in chosen.items() if name in ("fp8_param", "fp8_dot_product_attention")
    )


def test_without_fp8_megatron_is_told_nothing() -> None:
    assert megatron_fields(PrecisionConfig(), experts=True) == {}
    assert check(compose(configurations(), ["run=cpu_zero", "parallel=tp2"]), ranks=None).row_multiple == 2


def test_layers_kept_in_bf16_are_counted_from_both_ends() -> None:
    kept = PrecisionConfig(dtype=Dtype.bf16, fp8=Fp8.blockwise, bf16_first_layers=1)
    chosen = megatron_fields(kept, experts=False)
    assert chosen["first_last_layers_bf16"]
    assert (chosen["num_layers_at_start_in_bf16"], chosen["num_layers_at_end_in_bf16"]) == (1, 0)


degrees = st.sampled_from([1, 2, 4, 8])


@given(st.sampled_from(list(RECIPES)), degrees, degrees)
def test_every_layer_and_router_sees_whole_tiles(fp8: Fp8, tp: int, cp: int) -> None:
    plan = Plan(tp=tp, cp=cp, dp=1, pp=1, vpp=1, etp=1, ep=1, linear_multiple=tokens_multiple(fp8, tp))
    recipe = RECIPES[fp8]
    assert plan.row_multiple % plan.sample_multiple == 0
    part = plan.row_multiple // cp
    assert part % recipe.tokens == 0
    assert part % tp == part // tp % recipe.expert_tokens == 0


def test_a_row_is_filled_up_to_whole_tiles_with_padding_of_its_own() -> None:
    import torch

    from r1mega.model.rows import Sample, make_row

    plan, _ = make_plan(tp=1, pp=1, vpp=1, ep=1, etp=None, cp=1, dp=None, ranks=None)
    assert plan is not None
    tiled = Plan(
        tp=1, pp=1, vpp=1, ep=1, etp=1, cp=1, dp=1, linear_multiple=tokens_multiple(Fp8.blockwise, 1)
    )
    samples = [Sample([1, 2, 3], 1), Sample([4, 5], 1)]
    row, ours = (make_row(samples, [0, 1], {}, of, 0, torch.device("cpu")) for of in (tiled, plan))
    assert (row.whole_tokens, ours.whole_tokens) == (128, 5)
    assert row.packed.cu_seqlens_q.tolist() == [0, 3, 5, 128]
    assert row.padding_1T is not None
    assert row.padding_1T.sum() == 123


def test_all_faults_are_said_at_once() -> None:
    on_cpu = compose(configurations(), ["run=cpu_zero", "precision=fp8_tensorwise"])
    with pytest.raises(BadRun) as raised:
        check(on_cpu, ranks=None)
    assert raised.value.faults == [
        "precision.dtype: was bf16; on cpu it must be fp32",
        "precision.fp8: was tensorwise; it is about GPUs, so with cluster.backend = cpu it must be none",
    ]
    found = faults("precision=fp8_blockwise", "precision.dtype=fp32", "precision.bf16_first_layers=-1")
    assert len(found) == 4
    assert found[0] == "precision.bf16_first_layers: was -1; must be at least 0"
    assert "is 64, which must be a multiple of 128 (model.hf, parallel.tp, parallel.etp)" in found[1]
    assert found[3].startswith("precision.dtype: was fp32; with precision.fp8 = blockwise it must be bf16")


def test_the_share_of_a_rank_counts_and_not_the_whole_width() -> None:
    recipe = ("precision=fp8_blockwise", *WIDE)
    check(composed(*recipe, "parallel.tp=2", "parallel.ep=2", "parallel.etp=1"), ranks=None)
    [fault] = faults(*recipe, "parallel.dp=4", "parallel.ep=1", "parallel.etp=4")
    assert "is 64, which must be a multiple of 128" in fault


def test_what_mxfp8_cannot_multiply_is_named_with_its_sides() -> None:
    found = faults("precision=fp8_mxfp8", *WIDE, "model.hf.q_lora_rank=48")
    assert found[0].endswith(
        "self_attn.q_a_proj.weight is 48 x 256 on a rank, and both must be multiples of 32"
    )
    assert len(found) == 4  # it and what follows it, in the layers and in the draft layer


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["precision.bf16_last_layers=1"], "last_layers: was 1; without precision.fp8 no layer is below"),
        (
            ["precision=fp8_delayed", "precision.bf16_first_layers=1"],
            "with precision.fp8 = delayed all layers",
        ),
        (["precision=fp8_tensorwise", "precision.bf16_first_layers=9"], "Megatron takes at most"),
    ],
)
def test_layers_that_cannot_be_kept_are_refused(overrides: list[str], said: str) -> None:
    assert any(said in fault for fault in faults(*overrides))


def test_a_query_without_a_rank_is_refused_on_gpus_alone() -> None:
    [fault] = faults("precision=bf16", "model.hf.q_lora_rank=null")
    assert fault.startswith("model.hf.q_lora_rank: was null; on GPUs it must be given")
    check(compose(configurations(), ["run=cpu_zero", "model.hf.q_lora_rank=null"]), ranks=None)


def test_more_layers_than_there_are_cannot_be_kept() -> None:
    layers = composed().model.hf["num_hidden_layers"]
    most = [f"precision.bf16_{end}_layers={layers}" for end in ("first", "last")]
    [fault] = faults("precision=fp8_tensorwise", *most)
    assert f"more than the {layers} layers there are" in fault


def test_a_rank_without_transformer_engine_says_what_it_lacks() -> None:
    assert machine_fault(Fp8.none) is None
    assert "needs the package transformer-engine" in str(machine_fault(Fp8.mxfp8))
