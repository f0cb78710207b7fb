"""The families that r1mega trains, and which one a model is of.

A family is a module of functions; all that reads an HF config or names a weight goes through it. To
add one, write its module beside the others (a table of rows, a config each way) and name it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from r1mega.model import deepseek_v3, llama, qwen, scalar
from r1mega.parallel.plan import ModelShape
from r1mega.weights.table import Row

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig


class Family(Protocol):
    """What a family's module has."""

    ARCHITECTURES: tuple[str, ...]
    """As `architectures` in a config.json names its models."""

    def read(self, hf: dict[str, Any]) -> dict[str, Any]:
        """The HF fields with defaults filled in."""

    def faults(self, hf: dict[str, Any], where: str = "model.hf") -> list[str]:
        """What is wrong with the HF fields, all at once; empty where nothing is."""

    def shape(self, hf: dict[str, Any]) -> ModelShape:
        """The numbers that a layout must divide."""

    def checkpoint_config(self, hf: dict[str, Any], dtype: str) -> dict[str, Any]:
        """The config.json of an export: every field that transformers and vLLM each look for."""

    def megatron_config(self, hf: dict[str, Any], **run_fields: Any) -> TransformerConfig:
        """Megatron's config of the model; `run_fields` come from the run."""

    def gpt_fields(self, hf: dict[str, Any]) -> dict[str, Any]:
        """What Megatron's GPTModel is told besides its config."""

    def weight_table(self, hf: dict[str, Any]) -> list[Row]:
        """Every weight of the family."""

    def copies(self, hf: dict[str, Any]) -> dict[str, str]:
        """HF's names under which a checkpoint may repeat a weight, and the name of the weight repeated."""


_FAMILIES = {
    "deepseek_v3": deepseek_v3,
    "llama": llama,
    **dict.fromkeys(qwen.MODEL_TYPES, qwen),
}


def family_of(hf: dict[str, Any]) -> Family:
    """The family of a model with these HF fields; `family_faults` found none."""
    return cast(Family, _by_name(hf))


def with_scalar_head(hf: dict[str, Any]) -> dict[str, Any]:
    """The HF fields of the model that has a scalar head over the layers of a causal one."""
    [causal] = family_of(hf).checkpoint_config(hf, "float32")["architectures"]
    return scalar.over(hf, causal)


def family_faults(hf: dict[str, Any], where: str = "model.hf") -> list[str]:
    """Why the HF fields name no model of a family; empty where they do."""
    if _by_name(hf) is not None:
        return scalar.faults(hf, where)
    architectures = ", ".join(name for module in (deepseek_v3, qwen, llama) for name in module.ARCHITECTURES)
    return [
        f"{where}.model_type: was {hf.get('model_type')!r}; must be one of {', '.join(_FAMILIES)}"
        f" (architectures: {architectures})"
    ]


def _by_name(hf: dict[str, Any]) -> object:
    """By the architecture, which a checkpoint must have; else by `model_type`."""
    for name in hf.get("architectures") or ():
        for module in (deepseek_v3, qwen, llama):
            if name in module.ARCHITECTURES:
                return module
    return None if hf.get("architectures") else _FAMILIES.get(str(hf.get("model_type")))
