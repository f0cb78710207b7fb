"""The DeepSeek-V3 family (V3, R1): HF config fields to Megatron's, and the table of its weights.

Multi-latent attention, fine-grained experts beside shared ones, a sigmoid router with group-limited
top-k and an aux-loss-free bias, first layers dense, optional multi-token-prediction layers.

The HF fields are those of DeepSeek-V3's own config.json. Importing this module needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r1mega.parallel.plan import ModelShape

if TYPE_CHECKING:
    from megatron.core.transformer import MLATransformerConfig

    from r1mega.weights.table import Row

ARCHITECTURE = "DeepseekV3ForCausalLM"

# Each field with the type its value must have; these must be given.
REQUIRED: dict[str, type] = {
    "vocab_size": int,
    "hidden_size": int,
    "intermediate_size": int,
    "moe_intermediate_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "kv_lora_rank": int,
    "qk_nope_head_dim": int,
    "qk_rope_head_dim": int,
    "v_head_dim": int,
    "n_routed_experts": int,
    "num_experts_per_tok": int,
    "first_k_dense_replace": int,
    "max_position_embeddings": int,
}
# What a field is where it is not given, as in transformers' DeepseekV3Config.
DEFAULTS: dict[str, Any] = {
    "q_lora_rank": None,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "norm_topk_prob": True,
    "num_nextn_predict_layers": 0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "initializer_range": 0.02,
    "aux_loss_alpha": 0.0,
    # What makes the router the family's own; another value is another model.
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "moe_layer_freq": 1,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
}
FIXED = (
    "topk_method",
    "scoring_func",
    "moe_layer_freq",
    "hidden_act",
    "attention_bias",
    "tie_word_embeddings",
)
# The least value of those of them that are numbers.
LEAST: dict[str, float] = {
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("n_shared_experts", "num_nextn_predict_layers", "aux_loss_alpha"), 0),
    **dict.fromkeys(("routed_scaling_factor", "rms_norm_eps", "rope_theta", "initializer_range"), 0),
}
# Fields of a published config.json that say nothing about the computation.
IGNORED = frozenset(
    {
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "ep_size",
        "head_dim",
        "model_type",
        "num_key_value_heads",
        "pretraining_tp",
        "quantization_config",
        "seq_aux",
        "torch_dtype",
        "dtype",
        "transformers_version",
        "use_cache",
        "qk_head_dim",
        "rope_parameters",
        "rope_interleave",
        "output_router_logits",
        "router_aux_loss_coef",
    }
)


def read(hf: dict[str, Any]) -> dict[str, Any]:
    """The HF fields with defaults filled in and transformers 5's `rope_parameters` taken apart."""
    rope = dict(hf.get("rope_parameters") or {})
    theta = rope.pop("rope_theta", None)
    if theta is not None:
        hf = hf | {"rope_theta": theta}
        if rope.get("rope_type", "default") != "default":
            hf = hf | {"rope_scaling": rope}
    return DEFAULTS | hf


def faults(hf: dict[str, Any], where: str = "model.hf") -> list[str]:
    """What is wrong with the HF fields, all at once; empty where nothing is."""
    found = [
        f"{where}.{name}: missing; a {kind.__name__} is needed"
        for name, kind in REQUIRED.items()
        if name not in hf
    ]
    found += [
        f"{where}.{name}: was {hf[name]!r}; must be a positive {kind.__name__}"
        for name, kind in REQUIRED.items()
        if name in hf and (type(hf[name]) is not kind or hf[name] < (name != "first_k_dense_replace"))
    ]
    found += [
        f"{where}.{name}: was {hf[name]!r}; must be a number of at least {least}"
        for name, least in LEAST.items()
        if name in hf and (type(hf[name]) not in (int, float) or hf[name] < least)
    ]
    known = REQUIRED.keys() | DEFAULTS.keys() | IGNORED
    found += [f"{where}.{name}: no field of the DeepSeek-V3 family" for name in hf if name not in known]
    found += [
        f"{where}.{name}: was {hf[name]!r}; the family has {DEFAULTS[name]!r}"
        for name in FIXED
        if hf.get(name, DEFAULTS[name]) != DEFAULTS[name]
    ]
    return found or _cross_faults(read(hf), where)


def _cross_faults(hf: dict[str, Any], where: str) -> list[str]:
    found = []
    experts, groups = hf["n_routed_experts"], hf["n_group"]
    if experts % groups:
        found.append(f"{where}.n_group: was {groups}; it must divide n_routed_experts = {experts}")
    elif groups > 1 and experts < 2 * groups:
        found.append(f"{where}.n_group: was {groups}; {experts} experts must make groups of at least two")
    elif hf["topk_group"] > groups:
        found.append(f"{where}.topk_group: was {hf['topk_group']}; there are n_group = {groups} groups")
    elif groups > 1 and hf["num_experts_per_tok"] != 2 * hf["topk_group"]:
        # Megatron rates a group by its best k / topk_group experts, DeepSeek (and vLLM) by its best two.
        found.append(
            f"{where}.num_experts_per_tok: was {hf['num_experts_per_tok']}; with groups it must be twice"
            f" topk_group = {hf['topk_group']}, where Megatron and vLLM rate a group alike"
        )
    elif hf["num_experts_per_tok"] > hf["topk_group"] * (experts // groups):
        found.append(
            f"{where}.num_experts_per_tok: was {hf['num_experts_per_tok']};"
            f" the topk_group = {hf['topk_group']}"
            f" groups of {experts // groups} experts hold fewer"
        )
    several = hf["num_experts_per_tok"] > 1
    if hf["norm_topk_prob"] is not several:
        found.append(
            f"{where}.norm_topk_prob: was {hf['norm_topk_prob']}; with num_experts_per_tok ="
            f" {hf['num_experts_per_tok']} it must be {several}: Megatron's sigmoid router normalises the"
            " weights of several experts, and never that of one"
        )
    if hf["first_k_dense_replace"] > hf["num_hidden_layers"]:
        found.append(
            f"{where}.first_k_dense_replace: was {hf['first_k_dense_replace']};"
            f" there are num_hidden_layers = {hf['num_hidden_layers']} layers"
        )
    if hf["qk_rope_head_dim"] % 2:
        found.append(f"{where}.qk_rope_head_dim: was {hf['qk_rope_head_dim']}; must be even")
    scaling = hf["rope_scaling"]
    if scaling and scaling.get("type", scaling.get("rope_type")) != "yarn":
        found.append(f"{where}.rope_scaling: was {scaling}; the family scales by yarn or not at all")
    return found


def shape(hf: dict[str, Any]) -> ModelShape:
    """The numbers that a layout must divide."""
    hf = read(hf)
    return ModelShape(
        layers=hf["num_hidden_layers"],
        attention_heads=hf["num_attention_heads"],
        vocabulary=hf["vocab_size"],
        experts=hf["n_routed_experts"],
        feed_forward_sizes=(hf["intermediate_size"], hf["moe_intermediate_size"] * hf["n_shared_experts"]),
        expert_size=hf["moe_intermediate_size"],
    )


def checkpoint_config(hf: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json of an export: every field that transformers and vLLM each look for."""
    return read(hf) | {
        "architectures": [ARCHITECTURE],
        "model_type": "deepseek_v3",
        "num_key_value_heads": hf["num_attention_heads"],
        "torch_dtype": dtype,
    }


def megatron_config(hf: dict[str, Any], **run_fields: Any) -> MLATransformerConfig:
    """Megatron's config of the model; `run_fields` (dtype, parallel sizes, ...) come from the run."""
    import torch
    from megatron.core.transformer import MLATransformerConfig

    hf = read(hf)
    layers, dense = hf["num_hidden_layers"], hf["first_k_dense_replace"]
    init = torch.nn.init.normal_
    return MLATransformerConfig(
        num_layers=layers,
        hidden_size=hf["hidden_size"],
        num_attention_heads=hf["num_attention_heads"],
        ffn_hidden_size=hf["intermediate_size"],
        init_method=lambda weight: init(weight, std=hf["initializer_range"]),
        output_layer_init_method=lambda weight: init(weight, std=hf["initializer_range"]),
        normalization="RMSNorm",
        layernorm_epsilon=hf["rms_norm_eps"],
        activation_func=torch.nn.functional.silu,
        gated_linear_unit=True,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        qk_layernorm=True,
        q_lora_rank=hf["q_lora_rank"],
        kv_lora_rank=hf["kv_lora_rank"],
        qk_head_dim=hf["qk_nope_head_dim"],
        qk_pos_emb_head_dim=hf["qk_rope_head_dim"],
        v_head_dim=hf["v_head_dim"],
        num_moe_experts=hf["n_routed_experts"],
        moe_ffn_hidden_size=hf["moe_intermediate_size"],
        moe_shared_expert_intermediate_size=hf["moe_intermediate_size"] * hf["n_shared_experts"] or None,
        moe_layer_freq=[0] * dense + [1] * (layers - dense),
        moe_router_topk=hf["num_experts_per_tok"],
        moe_router_num_groups=hf["n_group"] if hf["n_group"] > 1 else None,
        moe_router_group_topk=hf["topk_group"] if hf["n_group"] > 1 else None,
        moe_router_topk_scaling_factor=hf["routed_scaling_factor"],
        moe_router_score_function="sigmoid",
        moe_router_enable_expert_bias=True,
        moe_router_pre_softmax=True,
        moe_router_dtype="fp32",
        moe_router_load_balancing_type="seq_aux_loss" if hf["aux_loss_alpha"] else "none",
        moe_aux_loss_coeff=hf["aux_loss_alpha"],
        moe_token_dispatcher_type="alltoall",
        mtp_num_layers=hf["num_nextn_predict_layers"] or None,
        **_rope(hf),
        **run_fields,
    )


def _rope(hf: dict[str, Any]) -> dict[str, Any]:
    scaling = hf["rope_scaling"]
    if not scaling:
        return {"rope_type": "rope", "rotary_base": hf["rope_theta"], "rotary_scaling_factor": 1.0}
    return {
        "rope_type": "yarn",
        "rotary_base": hf["rope_theta"],
        "rotary_scaling_factor": scaling["factor"],
        "original_max_position_embeddings": scaling["original_max_position_embeddings"],
        "beta_fast": scaling.get("beta_fast", 32),
        "beta_slow": scaling.get("beta_slow", 1),
        "mscale": scaling.get("mscale", 1.0),
        "mscale_all_dim": scaling.get("mscale_all_dim", 0.0),
    }


def gpt_fields(hf: dict[str, Any]) -> dict[str, Any]:
    """What Megatron's GPTModel is told besides its config."""
    hf = read(hf)
    return {
        "vocab_size": hf["vocab_size"],
        "max_sequence_length": hf["max_position_embeddings"],
        "position_embedding_type": "rope",
        "share_embeddings_and_output_weights": False,
    }


def weight_table(hf: dict[str, Any]) -> list[Row]:
    """Every weight of the family: Megatron's name, HF's names, and how one becomes the other.

    `{l}` is a layer and `{e}` an expert, both counted over the whole model; `{m}` is a
    multi-token-prediction layer, which HF counts on after the last layer.
    """
    from r1mega.weights.table import Row, Served

    layers = hf["num_hidden_layers"]
    attention, experts = "self_attention.", "mlp.experts."
    layer_rows = [
        ("input_layernorm.weight", ["input_layernorm.weight"]),
        (attention + "linear_q_proj.weight", ["self_attn.q_proj.weight"]),
        (attention + "linear_q_down_proj.weight", ["self_attn.q_a_proj.weight"]),
        (attention + "q_layernorm.weight", ["self_attn.q_a_layernorm.weight"]),
        (attention + "linear_q_up_proj.weight", ["self_attn.q_b_proj.weight"]),
        (attention + "linear_kv_down_proj.weight", ["self_attn.kv_a_proj_with_mqa.weight"]),
        (attention + "kv_layernorm.weight", ["self_attn.kv_a_layernorm.weight"]),
        (attention + "linear_kv_up_proj.weight", ["self_attn.kv_b_proj.weight"]),
        (attention + "linear_proj.weight", ["self_attn.o_proj.weight"]),
        ("pre_mlp_layernorm.weight", ["post_attention_layernorm.weight"]),
        ("mlp.linear_fc1.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"]),
        ("mlp.linear_fc2.weight", ["mlp.down_proj.weight"]),
        ("mlp.router.weight", ["mlp.gate.weight"]),
        ("mlp.router.expert_bias", ["mlp.gate.e_score_correction_bias"]),
        (
            experts + "local_experts.{e}.linear_fc1.weight",
            [experts + "{e}.gate_proj.weight", experts + "{e}.up_proj.weight"],
        ),
        (experts + "local_experts.{e}.linear_fc2.weight", [experts + "{e}.down_proj.weight"]),
        (
            "mlp.shared_experts.linear_fc1.weight",
            ["mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight"],
        ),
        ("mlp.shared_experts.linear_fc2.weight", ["mlp.shared_experts.down_proj.weight"]),
        # Transformer Engine fuses a norm into the linear after it, and groups the experts.
        (attention + "linear_q_up_proj.layer_norm_weight", ["self_attn.q_a_layernorm.weight"]),
        (attention + "linear_kv_up_proj.layer_norm_weight", ["self_attn.kv_a_layernorm.weight"]),
        ("mlp.linear_fc1.layer_norm_weight", ["post_attention_layernorm.weight"]),
        (
            experts + "linear_fc1.weight{e}",
            [experts + "{e}.gate_proj.weight", experts + "{e}.up_proj.weight"],
        ),
        (experts + "linear_fc2.weight{e}", [experts + "{e}.down_proj.weight"]),
    ]
    mtp_rows = [
        ("enorm.weight", ["enorm.weight"]),
        ("hnorm.weight", ["hnorm.weight"]),
        ("eh_proj.weight", ["eh_proj.weight"]),
        ("final_layernorm.weight", ["shared_head.norm.weight"]),
        *[("transformer_layer." + ours, theirs) for ours, theirs in layer_rows],
    ]
    return [
        Row("embedding.word_embeddings.weight", ("model.embed_tokens.weight",)),
        *[
            Row("decoder.layers.{l}." + ours, tuple("model.layers.{l}." + name for name in theirs))
            for ours, theirs in layer_rows
        ],
        Row("decoder.final_layernorm.weight", ("model.norm.weight",)),
        Row("output_layer.weight", ("lm_head.weight",)),
        *[
            Row(
                "mtp.layers.{m}." + ours,
                tuple("model.layers.{m}." + name for name in theirs),
                Served.draft,
                layers,
            )
            for ours, theirs in mtp_rows
        ],
    ]
