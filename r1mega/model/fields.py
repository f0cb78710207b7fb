"""What a family's config.json may hold: which fields, of which types, and what they are when left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SAY_NOTHING = frozenset(
    {
        "_model_name_or_path",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "id2label",
        "label2id",
        "model_type",
        "num_labels",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "quantization_config",
        "rope_parameters",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    }
)
"""Fields of a published config.json that say nothing about the computation, or that are read apart."""


@dataclass(frozen=True)
class Fields:
    """The HF fields of one family.

    Attributes:
        family: its name, for messages.
        required: fields that must be given, with the type of each; numbers above 0.
        may_be_zero: those of them that may be 0.
        defaults: what a field is where it is not given.
        fixed: fields that have one value only; another is another model.
        least: the least value of those of the defaults that are numbers.
        ignored: further fields that say nothing about the computation.
    """

    family: str
    required: Mapping[str, type]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    least: Mapping[str, float]
    ignored: frozenset[str] = frozenset()
    may_be_zero: frozenset[str] = field(default=frozenset())

    def read(self, hf: dict[str, Any]) -> dict[str, Any]:
        """The fields with defaults filled in and transformers 5's `rope_parameters` taken apart."""
        rope = dict(hf.get("rope_parameters") or {})
        theta = rope.pop("rope_theta", None)
        if theta is not None:
            hf = hf | {"rope_theta": theta}
            if rope.get("rope_type", "default") != "default":
                hf = hf | {"rope_scaling": rope}
        return {**self.defaults, **self.fixed, **hf}

    def faults(self, hf: dict[str, Any], where: str) -> list[str]:
        """What is wrong with each field by itself."""
        found = [
            f"{where}.{name}: missing; a {kind.__name__} is needed"
            for name, kind in self.required.items()
            if name not in hf
        ]
        found += [
            f"{where}.{name}: was {hf[name]!r}; must be a positive {kind.__name__}"
            for name, kind in self.required.items()
            if name in hf and (type(hf[name]) is not kind or hf[name] < (name not in self.may_be_zero))
        ]
        found += [
            f"{where}.{name}: was {hf[name]!r}; must be a number of at least {least}"
            for name, least in self.least.items()
            if name in hf and (type(hf[name]) not in (int, float) or hf[name] < least)
        ]
        known = {*self.required, *self.defaults, *self.fixed, *self.ignored, *SAY_NOTHING}
        found += [f"{where}.{name}: no field of the {self.family} family" for name in hf if name not in known]
        found += [
            f"{where}.{name}: was {hf[name]!r}; the family has {value!r}"
            for name, value in self.fixed.items()
            if hf.get(name, value) != value
        ]
        return found
