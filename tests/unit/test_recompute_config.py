"""`train.recompute`: what cannot be computed again is said, all of it at once, before any model is built."""

from __future__ import annotations

import pytest

from r1mega.__main__ import configurations
from r1mega.checks import topology
from r1mega.compose import compose
from r1mega.config import BadRun


def faults(*overrides: str, ranks: int | None = None) -> list[str]:
    """What is wrong with the demo under these overrides."""
    config = compose(configurations(), ["run=cpu_zero", *overrides])
    try:
        topology(config, ranks)
    except BadRun as error:
        return list(error.faults)
    return []


@pytest.mark.parametrize(
    "modules", ["[]", "[full]", "[core_attn,mla_up_proj]", "[moe,mlp]", "[shared_experts,core_attn]"]
)
def test_what_torchs_layers_can_do_is_taken(modules: str) -> None:
    assert faults(f"train.recompute={modules}") == []


def test_everything_that_cannot_be_is_said_at_once() -> None:
    was = "train.recompute: was ['full', 'attention', 'layernorm', 'moe_act'];"
    assert faults("train.recompute=[full,attention,layernorm,moe_act]") == [
        f"{was} no attention is known; it may be [full], or some of core_attn, layernorm, mla_up_proj, mlp,"
        " moe, moe_act, shared_experts",
        f"{was} full is of whole layers, so it must stand alone",
        f"{was} layernorm cannot be, it needs Transformer Engine, which is not installed here",
        f"{was} moe_act cannot be, it needs Transformer Engine, which is not installed here",
    ]


def test_what_the_model_does_not_have_cannot_be_computed_again() -> None:
    modules = "[mla_up_proj,mlp,moe,shared_experts]"
    said = faults("model=qwen2_student_s", "parallel=dp2", f"train.recompute={modules}")
    assert [fault.split(";")[1] for fault in said] == [
        " mla_up_proj cannot be, the model has no latent attention",
        " moe cannot be, the model has no experts",
        " shared_experts cannot be, the model has no shared experts",
    ]
    [said] = faults("model.hf.first_k_dense_replace=0", "train.recompute=[mlp]")
    assert "mlp cannot be, the model has no layer without experts" in said


def test_a_plan_for_gpus_takes_what_is_not_installed_here_and_a_start_does_not() -> None:
    on_gpus = ("cluster=h100", "precision=bf16", "train.recompute=[layernorm]")
    assert faults(*on_gpus) == []
    [said] = faults(*on_gpus, ranks=2)
    assert "layernorm cannot be, it needs Transformer Engine, which is not installed here" in said
