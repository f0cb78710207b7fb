"""A weight table ties each Megatron name to its HF names once, and says so where it does not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1mega.model.deepseek_v3 import weight_table
from r1mega.weights.table import Row, Served, find

FIELDS = {
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "first_k_dense_replace": 3,
    "num_nextn_predict_layers": 1,
}
TABLE = weight_table(FIELDS)
layers, experts = st.integers(3, 60), st.integers(0, 255)


@given(layer=layers, expert=experts)
def test_an_expert_of_either_spec_is_gate_and_up_on_top_of_each_other(layer, expert):
    hf = f"model.layers.{layer}.mlp.experts.{expert}."
    for ours in (f"local_experts.{expert}.linear_fc1.weight", f"linear_fc1.weight{expert}"):
        row, names = find(TABLE, f"decoder.layers.{layer}.mlp.experts.{ours}")
        assert names == [hf + "gate_proj.weight", hf + "up_proj.weight"]
        assert row.served is Served.engine


def test_draft_layers_are_counted_on_after_the_last_layer():
    layer = 0
    row, names = find(TABLE, f"mtp.layers.{layer}.eh_proj.weight")
    assert names == [f"model.layers.{61 + layer}.eh_proj.weight"]
    assert row.served is Served.draft
    row, names = find(
        TABLE, f"mtp.layers.{layer}.transformer_layer.mlp.experts.local_experts.7.linear_fc2.weight"
    )
    assert names == [f"model.layers.{61 + layer}.mlp.experts.7.down_proj.weight"]
    assert row.served is Served.draft


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("embedding.word_embeddings.weight", ["model.embed_tokens.weight"]),
        ("decoder.final_layernorm.weight", ["model.norm.weight"]),
        ("output_layer.weight", ["lm_head.weight"]),
        (
            "decoder.layers.3.self_attention.linear_kv_down_proj.weight",
            ["model.layers.3.self_attn.kv_a_proj_with_mqa.weight"],
        ),
        ("decoder.layers.3.mlp.router.expert_bias", ["model.layers.3.mlp.gate.e_score_correction_bias"]),
    ],
)
def test_names_as_deepseek_publishes_them(ours, theirs):
    assert find(TABLE, ours)[1] == theirs


def test_no_two_weights_of_a_model_share_an_hf_name():
    """But for those that Transformer Engine's layers name otherwise, and those of other layers."""
    kinds = [
        (name, layer) for row in TABLE if not row.fused for name in row.hf for layer in row.layers or (0,)
    ]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize(
    "unknown",
    [
        "decoder.layers.0.mlp.linear_fc3.weight",
        "decoder.layers.x.mlp.linear_fc1.weight",
        "decoder.layers.0.mlp.linear_fc1.weight2",
        "module.decoder.layers.0.mlp.linear_fc1.weight",
        "decoder.layers.0.self_attentionXlinear_proj.weight",
    ],
)
def test_a_weight_without_a_row_is_named(unknown):
    with pytest.raises(KeyError, match=f"0 rows for '{unknown}'"):
        find(TABLE, unknown)


def test_a_weight_with_two_rows_is_named():
    rows = [Row("a.{l}.weight", ("x.{l}",), ((4,),)), Row("a.1.weight", ("y",), ((4,),))]
    with pytest.raises(KeyError, match=r"2 rows for 'a\.1\.weight'"):
        find(rows, "a.1.weight")
    assert find(rows, "a.2.weight")[1] == ["x.2"]
