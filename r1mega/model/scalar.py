"""Models with a scalar head: causal models whose last layer gives each position one number.

Such a model scores texts: its value at a text's last token is the text's score. In HF's words it is a
`...ForSequenceClassification` with one label, and its head is `score.weight` of [1, hidden], which is
never tied. It predicts no tokens, so it has no multi-token-prediction layers.

Importing this module needs no torch.
"""

from __future__ import annotations

from typing import Any

from r1mega.weights.table import Row, Served

HEAD = "score.weight"
_CAUSAL, _SCALAR = "ForCausalLM", "ForSequenceClassification"


def architectures(*causal: str) -> tuple[str, ...]:
    """These causal architectures, and those with a scalar head in place of the vocabulary's."""
    return (*causal, *(name.replace(_CAUSAL, _SCALAR) for name in causal))


def is_scalar(hf: dict[str, Any]) -> bool:
    """Whether the fields are of a model with a scalar head."""
    return any(name.endswith(_SCALAR) for name in hf.get("architectures") or ())


def named(hf: dict[str, Any], causal: str) -> dict[str, Any]:
    """The fields of an export's config.json that say which head the model has.

    Args:
        causal: the architecture's name with the vocabulary's head.
    """
    if not is_scalar(hf):
        return {"architectures": [causal]}
    return {"architectures": [causal.replace(_CAUSAL, _SCALAR)], "num_labels": 1}


def over(hf: dict[str, Any], causal: str) -> dict[str, Any]:
    """The fields of the model that has a scalar head over a causal model's layers.

    Args:
        causal: the causal model's architecture.
    """
    scalar = hf | {"architectures": [causal.replace(_CAUSAL, _SCALAR)], "num_labels": 1}
    return scalar | ({"num_nextn_predict_layers": 0} if "num_nextn_predict_layers" in hf else {})


def faults(hf: dict[str, Any], where: str) -> list[str]:
    """What is wrong with the fields of a model with a scalar head; nothing with those of another."""
    if not is_scalar(hf):
        return []
    found = []
    # transformers writes the labels' names instead of their number, and nothing where there are two.
    labels = hf.get("num_labels", len(hf.get("id2label") or ("no", "yes")))
    if labels != 1:
        found.append(f"{where}.num_labels: was {labels}; a text has one score, so it must be 1")
    drafts = hf.get("num_nextn_predict_layers", 0)
    if drafts != 0:
        found.append(f"{where}.num_nextn_predict_layers: was {drafts}; must be 0: a score drafts no tokens")
    return found


def head_row(hidden: int) -> Row:
    """The head, whole on every rank; no engine has it."""
    return Row("output_layer.weight", (HEAD,), ((1, hidden),), served=Served.trainer)
