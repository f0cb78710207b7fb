"""DeepSeek's FP8 blocks: how close they come, that they are stable, and that a part is read as the whole."""

from __future__ import annotations

import pytest
import torch

from r1mega.weights import fp8, fp8_names

SHAPES = [(1, 1), (128, 128), (127, 129), (300, 64), (256, 513), (1, 400)]


def weight_of(shape: tuple[int, int], spread: float = 3.0) -> torch.Tensor:
    """Numbers whose blocks differ in size by orders of magnitude."""
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = torch.randn(shape, generator=generator) * spread
    return torch.randn(shape, generator=generator) * sizes.exp()


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_dtypes(shape: tuple[int, int]) -> None:
    codes, scales = fp8.quantise(weight_of(shape))
    assert codes.shape == shape
    assert codes.dtype == torch.float8_e4m3fn
    assert scales.shape == (-(-shape[0] // 128), -(-shape[1] // 128))
    assert scales.dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_is_within_half_a_step_of_its_block(shape: tuple[int, int]) -> None:
    weight = weight_of(shape)
    codes, scales = fp8.quantise(weight)
    error = (fp8.dequantise(codes, scales) - weight).abs()
    largest = fp8.dequantise(torch.full(shape, 448.0).to(fp8.DTYPE), scales)
    # Three bits after the leading one; below 2^-6 of a scale the steps are 2^-9 of it.
    bound = torch.maximum(weight.abs() * 2**-4, largest / 448 * 2**-10)
    assert (error <= bound * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_scale_is_a_448th_of_the_blocks_largest_number(shape: tuple[int, int]) -> None:
    weight = weight_of(shape)
    _, scales = fp8.quantise(weight)
    for row, of_row in enumerate(scales):
        for column, scale in enumerate(of_row):
            block = weight[128 * row :, 128 * column :][:128, :128]
            torch.testing.assert_close(scale, block.abs().max() / 448, rtol=2**-23, atol=0)


def test_what_was_quantised_is_quantised_to_the_same_bits() -> None:
    for seed in range(40):
        weight = torch.randn((256, 384), generator=torch.Generator().manual_seed(seed)) * 10.0 ** (seed - 20)
        codes, scales = fp8.quantise(weight)
        again, scales_again = fp8.quantise(fp8.dequantise(codes, scales))
        assert torch.equal(codes.view(torch.uint8), again.view(torch.uint8))
        assert torch.equal(scales, scales_again)


def test_codes_survive_bf16() -> None:
    codes, scales = fp8.quantise(weight_of((256, 256)))
    again, _ = fp8.quantise(fp8.dequantise(codes, scales).bfloat16())
    assert torch.equal(codes.view(torch.uint8), again.view(torch.uint8))


@pytest.mark.parametrize("start", [(0, 0), (100, 0), (0, 200), (127, 129), (128, 256), (250, 383)])
def test_a_box_has_the_numbers_of_the_whole(start: tuple[int, int]) -> None:
    codes, scales = fp8.quantise(weight_of((300, 500)))
    size = (min(130, 300 - start[0]), min(117, 500 - start[1]))
    box = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    part = fp8.dequantise(codes[box], scales[fp8.blocks(start, size)], start)
    assert torch.equal(part, fp8.dequantise(codes, scales)[box])


def test_zeros_and_tiny_numbers_stay_finite() -> None:
    weight = torch.zeros(128, 256)
    weight[0, 128] = 1e-41
    codes, scales = fp8.quantise(weight)
    assert torch.equal(fp8.dequantise(codes, scales), torch.zeros(128, 256))


def test_a_block_that_is_not_finite_does_not_pass_for_numbers() -> None:
    weight = torch.ones(128, 256)
    weight[3, 3] = torch.inf
    back = fp8.dequantise(*fp8.quantise(weight))
    assert not back[3, 3].isfinite()
    assert torch.equal(back[:, 128:], weight[:, 128:])


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.self_attn.q_a_proj.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.0.self_attn.kv_b_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.61.mlp.experts.255.gate_proj.weight",
        "model.layers.3.mlp.shared_experts.up_proj.weight",
    ],
)
def test_projections_are_quantised(name: str) -> None:
    assert fp8_names.is_quantised(name)


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.3.mlp.gate.weight",
        "model.layers.3.mlp.gate.e_score_correction_bias",
        "model.layers.0.self_attn.q_a_layernorm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.61.eh_proj.weight",
        "model.layers.61.shared_head.head.weight",
    ],
)
def test_others_are_not(name: str) -> None:
    assert not fp8_names.is_quantised(name)
