"""Packages that make a run faster where they are installed, and that no run needs.

Each is looked for and not imported, so this answers in a moment. What is there is used, and the banner of a
run on GPUs and `r1mega doctor` name each, there or not. Not measured on GPU.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from r1mega.parallel.plan import Plan

EXTRAS = {
    "Transformer Engine": ("transformer_engine", "layers, FP8, experts as one grouped product, Adam"),
    "Apex": ("apex", "Megatron's norm and clipping of gradients, and Adam, where Transformer Engine is not"),
    "grouped_gemm": ("grouped_gemm", "nothing here: Transformer Engine multiplies all experts in one"),
    "DeepEP": ("deep_ep", "the tokens' way to their experts, where parallel.ep is above 1"),
}
"""By name, what is imported, and what r1mega has of it."""


def is_there(module: str) -> bool:
    """Whether it can be imported."""
    return importlib.util.find_spec(module) is not None


def installed() -> dict[str, str | None]:
    """The version of each; None: it is not there, `unknown`: it does not say."""
    return {name: _version(module) if is_there(module) else None for name, (module, _) in EXTRAS.items()}


def _version(module: str) -> str:
    try:
        return version(module)
    except PackageNotFoundError:
        return "unknown"


def banner() -> str:
    """The line that a run on GPUs begins with."""
    found = installed()
    return "Extras: " + ", ".join(f"{name} {number or 'not there'}" for name, number in found.items())


def dispatch_fields(plan: Plan, *, on_gpu: bool) -> dict[str, Any]:
    """Megatron's fields of the way that tokens take to their experts.

    Of Megatron's two that take rows of unequal length: DeepEP's, for GPUs, or the plain all-to-all.
    """
    if on_gpu and plan.ep > 1 and is_there(EXTRAS["DeepEP"][0]):
        return {"moe_token_dispatcher_type": "flex", "moe_flex_dispatcher_backend": "deepep"}
    # Megatron asks it of dense models too.
    return {"moe_token_dispatcher_type": "alltoall"}
