"""How many parameters published models have, as their makers' files count them."""

from __future__ import annotations

PARAMETERS = {
    "DeepSeek-V3-Base": 671_026_419_200,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-Math-1.5B": 1_543_714_304,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-Math-7B": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen3-30B-A3B-Base": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "Llama-3.3-70B-Instruct": 70_553_706_496,
    "SmolLM2-135M-Instruct": 134_515_008,
}
"""As the Hugging Face Hub totals the safetensors of each (`safetensors.total` of its API, under
https://huggingface.co/api/models/). DeepSeek's is without draft layer and scales: see `DEEPSEEK_V3`."""

DEEPSEEK_V3 = {"BF16": 3_918_786_560, "F8_E4M3": 680_571_043_840, "F32": 41_555_600}
"""Elements by dtype of https://huggingface.co/deepseek-ai/DeepSeek-V3, 684,531,386,000 together: projections
in FP8 codes, their scales and the routers' biases in fp32, the rest in bf16. The draft layer is among them,
with an embedding and a head of its own, which are copies of the model's."""
