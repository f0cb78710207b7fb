"""The DeepSeek-V3 family (V3, R1): HF config fields to Megatron's, and the table of its weights.

Multi-latent attention, fine-grained experts beside shared ones, a sigmoid router with group-limited
top-k and an aux-loss-free bias, first layers dense, optional multi-token-prediction layers.

The HF fields are those of DeepSeek-V3's own config.json. Its sequence-wise balance loss (`aux_loss_alpha`)
takes a packed row for one sequence, as Megatron takes it. Importing this module needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from r1mega.model import decoder, scalar
from r1mega.model.fields import Fields
from r1mega.parallel.plan import ModelShape
from r1mega.weights.table import Row, Served, under

if TYPE_CHECKING:
    from megatron.core.transformer import MLATransformerConfig

MODEL_TYPE = "deepseek_v3"
CAUSAL = "DeepseekV3ForCausalLM"
ARCHITECTURES = scalar.architectures(CAUSAL)

FIELDS = Fields(
    family="DeepSeek-V3",
    required={
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
    },
    may_be_zero=frozenset({"first_k_dense_replace"}),
    # As in transformers' DeepseekV3Config.
    defaults={
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
    },
    # What makes the router the family's own; another value is another model.
    fixed={
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "moe_layer_freq": 1,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": False,
    },
    least={
        **dict.fromkeys(("n_group", "topk_group"), 1),
        **dict.fromkeys(("n_shared_experts", "num_nextn_predict_layers", "aux_loss_alpha"), 0),
        **dict.fromkeys(("routed_scaling_factor", "rms_norm_eps", "rope_theta", "initializer_range"), 0),
    },
    ignored=frozenset(
        {
            "ep_size",
            "head_dim",
            "num_key_value_heads",
            "seq_aux",
            "qk_head_dim",
            "rope_interleave",
            "output_router_logits",
            "router_aux_loss_coef",
        }
    ),
)


def read(hf: dict[str, Any]) -> dict[str, Any]:
    """The HF fields with defaults filled in."""
    return FIELDS.read(hf)


def faults(hf: dict[str, Any], where: str = "model.hf") -> list[str]:
    """What is wrong with the HF fields, all at once; empty where nothing is."""
    return FIELDS.faults(hf, where) or _cross_faults(read(hf), where)


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
        draft_layers=hf["num_nextn_predict_layers"],
        attention_heads=hf["num_attention_heads"],
        vocabulary=hf["vocab_size"],
        experts=hf["n_routed_experts"],
        feed_forward_sizes=(hf["intermediate_size"], hf["moe_intermediate_size"] * hf["n_shared_experts"]),
        expert_size=hf["moe_intermediate_size"],
        head_size=hf["qk_nope_head_dim"] + hf["qk_rope_head_dim"],
    )


def checkpoint_config(hf: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The config.json of an export: every field that transformers and vLLM each look for."""
    return read(hf) | {
        **scalar.named(hf, CAUSAL),
        "model_type": MODEL_TYPE,
        "num_key_value_heads": hf["num_attention_heads"],
        "torch_dtype": dtype,
    }


def megatron_config(hf: dict[str, Any], **run_fields: Any) -> MLATransformerConfig:
    """Megatron's config of the model; `run_fields` (dtype, parallel sizes, ...) come from the run."""
    from megatron.core.transformer import MLATransformerConfig

    hf = read(hf)
    layers, dense = hf["num_hidden_layers"], hf["first_k_dense_replace"]
    return MLATransformerConfig(
        **decoder.decoder_config(hf),
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
    return decoder.model_fields(read(hf))


def weight_table(hf: dict[str, Any]) -> list[Row]:
    """Every weight of the family: Megatron's name, HF's names, their shapes, and how they are split.

    `{l}` is a layer and `{e}` an expert, both counted over the whole model; `{m}` is a
    multi-token-prediction layer, which HF counts on after the last layer.
    """
    hf = read(hf)
    hidden = hf["hidden_size"]
    layers, dense, draft = (
        hf["num_hidden_layers"],
        hf["first_k_dense_replace"],
        hf["num_nextn_predict_layers"],
    )
    every_layer = decoder.layer_rows(hidden, _attention_rows(hf))
    dense_mlp = decoder.dense_rows(hidden, hf["intermediate_size"])
    moe = _moe_rows(hf)
    mtp = [
        Row("enorm.weight", ("enorm.weight",), ((hidden,),)),
        Row("hnorm.weight", ("hnorm.weight",), ((hidden,),)),
        Row("eh_proj.weight", ("eh_proj.weight",), ((hidden, 2 * hidden),), split=0),
        Row("final_layernorm.weight", ("shared_head.norm.weight",), ((hidden,),)),
        *under([*every_layer, *(moe if dense < layers else dense_mlp)], "transformer_layer.", ""),
    ]
    ours, theirs = "decoder.layers.{l}.", "model.layers.{l}."
    return [
        *decoder.outer_rows(hf),
        *under(every_layer, ours, theirs, layers=tuple(range(layers))),
        *under(dense_mlp, ours, theirs, layers=tuple(range(dense))),
        *under(moe, ours, theirs, layers=tuple(range(dense, layers))),
        *under(
            mtp,
            "mtp.layers.{m}.",
            "model.layers.{m}.",
            layers=tuple(range(draft)),
            served=Served.draft,
            first_layer=layers,
        ),
    ]


def copies(hf: dict[str, Any]) -> dict[str, str]:
    """HF's names under which a checkpoint may repeat a weight, and the name of the weight repeated.

    A multi-token-prediction layer shares the model's embedding and head; published checkpoints repeat both.
    """
    hf = read(hf)
    first = hf["num_hidden_layers"]
    return {
        f"model.layers.{layer}.{copy}": repeated
        for layer in range(first, first + hf["num_nextn_predict_layers"])
        for copy, repeated in (
            ("embed_tokens.weight", "model.embed_tokens.weight"),
            ("shared_head.head.weight", "lm_head.weight"),
        )
    }


def _attention_rows(hf: dict[str, Any]) -> list[Row]:
    hidden, heads = hf["hidden_size"], hf["num_attention_heads"]
    nope, rope, value = hf["qk_nope_head_dim"], hf["qk_rope_head_dim"], hf["v_head_dim"]
    q_rank, kv_rank = hf["q_lora_rank"], hf["kv_lora_rank"]
    rows = [
        Row("linear_kv_down_proj.weight", ("kv_a_proj_with_mqa.weight",), ((kv_rank + rope, hidden),)),
        *decoder.norm_rows("kv_layernorm.weight", "linear_kv_up_proj.", "kv_a_layernorm.weight", kv_rank),
        Row("linear_kv_up_proj.weight", ("kv_b_proj.weight",), ((heads * (nope + value), kv_rank),), split=0),
        Row("linear_proj.weight", ("o_proj.weight",), ((hidden, heads * value),), split=1),
    ]
    width = heads * (nope + rope)
    if q_rank is None:
        return [Row("linear_q_proj.weight", ("q_proj.weight",), ((width, hidden),), split=0), *rows]
    return [
        Row("linear_q_down_proj.weight", ("q_a_proj.weight",), ((q_rank, hidden),)),
        *decoder.norm_rows("q_layernorm.weight", "linear_q_up_proj.", "q_a_layernorm.weight", q_rank),
        Row("linear_q_up_proj.weight", ("q_b_proj.weight",), ((width, q_rank),), split=0),
        *rows,
    ]


def _moe_rows(hf: dict[str, Any]) -> list[Row]:
    """The second norm, the router with its bias, the routed experts and those that all tokens share."""
    hidden, width, experts = hf["hidden_size"], hf["moe_intermediate_size"], hf["n_routed_experts"]
    shared = decoder.swiglu_rows(hidden, width * hf["n_shared_experts"]) if hf["n_shared_experts"] else []
    mlp = [
        Row("router.weight", ("gate.weight",), ((experts, hidden),)),
        Row("router.expert_bias", ("gate.e_score_correction_bias",), ((experts,),)),
        *decoder.expert_rows(hidden, width, experts),
        *under(shared, "shared_experts.", "shared_experts."),
    ]
    return [
        Row("pre_mlp_layernorm.weight", ("post_attention_layernorm.weight",), ((hidden,),)),
        *under(mlp, "mlp.", "mlp."),
    ]
