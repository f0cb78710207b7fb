"""What tests/gpu does without a GPU: its runs compose, its models are what they say, its rank computes."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from support.gpu import (
    ALL_EXPERTS,
    ON_ONE_GPU,
    ONE_BILLION_RUN,
    SMALL_MOE,
    TINY_RUN,
    fields_of,
    furthest,
    learn,
    one_backward,
    training_flops,
    weights_at_work,
)
from support.models import random_fields
from support.ranks import free_ports, plan_of, run_ranks

from r1mega.__main__ import configurations
from r1mega.checks import check
from r1mega.compose import compose
from r1mega.config import PrecisionConfig
from r1mega.model.deepseek_v3 import weight_table
from r1mega.model.precision import RECIPES, size_faults
from r1mega.planner.published import PUBLISHED
from r1mega.planner.weights import model_parameters

SMALL = {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128, "num_attention_heads": 1}
V3 = PUBLISHED["DeepSeek-V3"]


@pytest.mark.parametrize("run", [TINY_RUN, ONE_BILLION_RUN], ids=["tiny", "one_billion"])
def test_the_runs_compose_and_nothing_is_wrong_with_them(run: tuple[str, ...]) -> None:
    assert check(compose(configurations(), [*run, *ON_ONE_GPU]), ranks=None).world_size == 1


@pytest.mark.parametrize("fp8", RECIPES)
def test_the_models_have_the_widths_of_every_recipe(fp8: str) -> None:
    one_billion = compose(configurations(), ["run=cpu_zero", "model=deepseek_v3_1b"]).model.hf
    for fields in (fields_of(SMALL_MOE), fields_of(ALL_EXPERTS), one_billion):
        widths = [fields["hidden_size"], fields["intermediate_size"], fields["moe_intermediate_size"]]
        assert list(size_faults(fp8, plan_of(), widths, weight_table(fields))) == []
    assert PrecisionConfig().fp8 == "none"


def test_the_one_billion_has_a_billion() -> None:
    fields = compose(configurations(), ["run=cpu_zero", "model=deepseek_v3_1b"]).model.hf
    model, draft = model_parameters(fields)
    assert 1.05e9 < model < 1.15e9
    assert draft == 0
    assert 0.25e9 < weights_at_work(fields) < 0.26e9


def test_model_flops_are_those_of_the_published_model() -> None:
    fields = random_fields(random.Random(0), **V3)
    assert 36e9 < weights_at_work(fields) < 37e9  # 37 B activated, its embedding of 0.9 B among them
    # At 4,096 tokens: 6 x 36.6 G, and 6 x 61 x 128 x 320 x 4,096 / 2 of attention, a token.
    assert math.isclose(
        training_flops(fields, [4096]) / 4096, 6 * weights_at_work(fields) + 30.7e9, rel_tol=1e-3
    )


def test_a_rank_of_torchs_layers_gives_the_reference() -> None:
    fields = fields_of(ALL_EXPERTS | SMALL)
    [found] = run_ranks(1, one_backward, free_ports(1)[0], fields, False)
    assert 0 < found["loss"] < 2 * math.log(fields["vocab_size"])
    assert furthest(found["gradients"], found["gradients"])[0] == 0.0
    moved = {name: gradient * 1.5 for name, gradient in found["gradients"].items()}
    assert math.isclose(furthest(moved, found["gradients"])[0], 0.5, rel_tol=1e-3)
    assert {name for name, gradient in found["gradients"].items() if not gradient.any()} == set()


def test_the_texts_of_the_comparison_can_be_learnt() -> None:
    small = SMALL_MOE | SMALL | {"vocab_size": 16, "num_hidden_layers": 2, "n_routed_experts": 2}
    [losses] = run_ranks(1, learn, free_ports(1)[0], fields_of(small), "none", 30, False)
    assert losses[-1] < 0.8 * losses[0]


def test_every_gpu_test_says_that_it_did_not_run(pytestconfig: pytest.Config) -> None:
    for file in (Path(__file__).parents[1] / "gpu").glob("test_*.py"):
        assert "pytestmark = ON_GPU" in file.read_text()
