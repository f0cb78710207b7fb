"""GPUs as their makers describe them: what they multiply, read and send in a second at the most.

Dense peaks, without the sparsity that data sheets count in; bandwidths of one direction. Sources:

- H100 SXM, H200: NVIDIA's data sheets "H100 Tensor Core GPU" and "H200 Tensor Core GPU" (in bf16 989 TFLOPS,
  in FP8 1,979, both half of the sheet's with sparsity; 3.35 and 4.8 TB/s; NVLink 900 GB/s both ways).
- H800: the same chip with NVLink of 400 GB/s both ways (DeepSeek-V3's hardware paper, arXiv 2505.09343).
- H20: 148 TFLOPS in bf16, 296 in FP8, 4.0 TB/s, 96 GB, NVLink 900 GB/s both ways, as resellers list it;
  NVIDIA publishes no data sheet.
- B200, GB200: NVIDIA's data sheets "DGX B200" and "GB200 NVL72" (2,250 and 2,500 TFLOPS in bf16, twice that
  in FP8; 8 TB/s; NVLink 1,800 GB/s both ways).
- Network: 400 Gb/s a GPU, as in NVIDIA's reference clusters of DGX H100, B200 and GB200, and in DeepSeek's of
  H800; of H20 nothing is published, and the same is taken.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chip:
    """One GPU; all rates are a second's."""

    bf16_flops: float
    fp8_flops: float
    memory_bandwidth: float
    """Bytes of its own memory."""
    nvlink_bandwidth: float
    """Bytes sent to the others of its NVLink domain."""
    network_bandwidth: float
    """Bytes sent to other machines."""
    memory_gb: int
    """What its name says; what CUDA reports is less (`cluster.gpu_memory_gib`)."""


_HOPPER = {
    "bf16_flops": 989.4e12,
    "fp8_flops": 1978.9e12,
    "nvlink_bandwidth": 450e9,
    "network_bandwidth": 50e9,
}

CHIPS: dict[str, Chip] = {
    "H100": Chip(**_HOPPER, memory_bandwidth=3.35e12, memory_gb=80),
    "H200": Chip(**_HOPPER, memory_bandwidth=4.8e12, memory_gb=141),
    "H800": Chip(**_HOPPER | {"nvlink_bandwidth": 200e9}, memory_bandwidth=3.35e12, memory_gb=80),
    "H20": Chip(
        **_HOPPER | {"bf16_flops": 148e12, "fp8_flops": 296e12}, memory_bandwidth=4.0e12, memory_gb=96
    ),
    "B200": Chip(2250e12, 4500e12, 8e12, 900e9, 50e9, 180),
    "GB200": Chip(2500e12, 5000e12, 8e12, 900e9, 50e9, 186),
}
