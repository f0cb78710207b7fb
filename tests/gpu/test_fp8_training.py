"""On one GPU: Transformer Engine's layers against torch's, FP8 against bf16, and how fast an update is.

`make gpu-test`, in an environment of locks/cu13.txt. Nobody has run it yet. Each test prints its figures as
one line of JSON, for docs/fp8.md.
"""

from __future__ import annotations

import pytest
import torch
from support.gpu import (
    ALL_EXPERTS,
    ON_GPU,
    PEAK_TFLOPS,
    SMALL_MOE,
    fields_of,
    furthest,
    learn,
    one_backward,
    report,
    time_updates,
)
from support.ranks import free_ports, run_ranks

from r1mega.__main__ import configurations
from r1mega.compose import compose
from r1mega.config import Fp8
from r1mega.model.precision import LOSS_TOLERANCE, RECIPES, machine_fault

pytestmark = ON_GPU

# bf16 keeps 8 bits of a number: a loss of some 6 differs in its third place, a gradient by some hundredths.
LOSS_LIMIT, GRADIENT_LIMIT = 0.005, 0.06
UPDATES, LAST = 200, 20


def test_transformer_engines_layers_compute_what_torchs_do() -> None:
    fields = fields_of(ALL_EXPERTS)
    [torch_layers] = run_ranks(1, one_backward, free_ports(1)[0], fields, False)
    [engine] = run_ranks(1, one_backward, free_ports(1)[0], fields, True)
    loss = abs(engine["loss"] / torch_layers["loss"] - 1)
    gradient, name = furthest(engine["gradients"], torch_layers["gradients"])
    report("te_against_torch", loss_relative=loss, gradient_relative=gradient, gradient_furthest=name)
    assert engine["gradients"].keys() == torch_layers["gradients"].keys()
    assert loss <= LOSS_LIMIT
    assert gradient <= GRADIENT_LIMIT


@pytest.fixture(scope="module")
def bf16_losses() -> list[float]:
    [losses] = run_ranks(1, learn, free_ports(1)[0], fields_of(SMALL_MOE), "none", UPDATES)
    return losses


@pytest.mark.parametrize("fp8", list(RECIPES))
def test_fp8_learns_as_bf16_does(bf16_losses: list[float], fp8: Fp8) -> None:
    if (fault := machine_fault(fp8)) is not None:
        pytest.skip(f"NOT RUN: {fault}")
    [losses] = run_ranks(1, learn, free_ports(1)[0], fields_of(SMALL_MOE), fp8.value, UPDATES)
    ours, theirs = (sum(of[-LAST:]) / LAST for of in (losses, bf16_losses))
    furthest_update = max(abs(a / b - 1) for a, b in zip(losses, bf16_losses, strict=True))
    report(
        "fp8_against_bf16",
        recipe=fp8.value,
        updates=UPDATES,
        loss=ours,
        loss_bf16=theirs,
        relative=ours / theirs - 1,
        furthest_update=furthest_update,
    )
    assert losses[0] > 2 * ours  # it was learnt, so there is something to compare
    assert abs(ours / theirs - 1) <= LOSS_TOLERANCE


@pytest.mark.parametrize("fp8", list(Fp8))
def test_how_much_of_the_gpu_an_update_uses(fp8: Fp8) -> None:
    if (fault := machine_fault(fp8)) is not None:
        pytest.skip(f"NOT RUN: {fault}")
    fields = compose(configurations(), ["run=cpu_zero", "model=deepseek_v3_1b"]).model.hf
    [found] = run_ranks(1, time_updates, free_ports(1)[0], fields, fp8.value, 4096, 8)
    peaks = [peak for name, peak in PEAK_TFLOPS.items() if name in torch.cuda.get_device_name()]
    mfu = found["tflops"] / peaks[0] if peaks else None
    report("mfu", precision=f"fp8_{fp8}" if fp8 is not Fp8.none else "bf16", mfu_of_bf16_peak=mfu, **found)
    assert found["seconds"] > 0
    assert mfu is None or mfu < 2  # above it, FLOPs are counted that are not done
