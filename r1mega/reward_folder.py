"""The folder of a reward model: an HF folder of a model with a scalar head, and a card beside it.

The card, `reward_model.json`, says what the model was taught to read and how prompts were put to it, so
that nobody can have it score another part of an answer than it knows. Importing this module needs no torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1mega.config import RewardKind
from r1mega.data.templates import check_template
from r1mega.model.family import family_faults, family_of
from r1mega.model.scalar import is_scalar
from r1mega.parallel.plan import Plan, faults_for
from r1mega.preference.text import Reads

CARD = "reward_model.json"
_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", CARD)


@dataclass(frozen=True, slots=True)
class Card:
    """What a reward model is of."""

    kind: RewardKind
    template: str
    """A name in `r1mega/data/templates.py`."""

    @property
    def reads(self) -> Reads:
        """The part of an answer that it was taught to read, as the paper has it."""
        return Reads.summary if self.kind is RewardKind.helpfulness else Reads.whole

    def write(self, path: Path) -> None:
        """Leave the card at `path`."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_card(folder: Path) -> Card:
    """The folder's card; `reward_model_faults` found nothing wrong with it."""
    card = json.loads((folder / CARD).read_text())
    return Card(RewardKind(card["kind"]), card["template"])


def read_fields(folder: Path) -> dict[str, Any]:
    """The HF fields of the folder's model."""
    fields = json.loads((folder / "config.json").read_text())
    assert isinstance(fields, dict)
    return fields


def reward_model_faults(
    key: str, folder: Path, *, kind: RewardKind | None = None, tokenizer: Path | None = None, plan: Plan
) -> list[str]:
    """Why the folder is none of a reward model that this run can ask; empty where it is one.

    Args:
        key: the run's key that names the folder, for the messages.
        kind: what it must judge; None: either.
        tokenizer: the folder of the policy's tokenizer, which must be the same; None: not known yet.
        plan: the layout of the policy's ranks, which the reward model shares.
    """
    was = f"{key}: was {folder}; "
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        return [was + f"it has no {', '.join(missing)}: give the final/ of a run of stage reward_model"]
    try:
        hf, card = read_fields(folder), json.loads((folder / CARD).read_text())
    except (ValueError, AssertionError) as error:
        return [was + f"its config.json or {CARD} cannot be read ({error})"]
    faults = _model_faults(hf, was, str(folder / "config.json"), plan) + _card_faults(card, was, kind)
    if tokenizer is not None and not _same_json(folder / "tokenizer.json", tokenizer / "tokenizer.json"):
        faults.append(was + f"its tokenizer is another than the policy's, in {tokenizer}")
    return faults


def _model_faults(hf: dict[str, Any], was: str, where: str, plan: Plan) -> list[str]:
    if not is_scalar(hf):
        return [was + f"its architectures are {hf.get('architectures')}, of no model with a scalar head"]
    faults = family_faults(hf, where) or family_of(hf).faults(hf, where)
    return faults or [was + fault for fault in faults_for(plan, family_of(hf).shape(hf))]


def _card_faults(card: Any, was: str, kind: RewardKind | None) -> list[str]:
    if not isinstance(card, dict) or card.get("kind") not in list(RewardKind):
        return [was + f"its {CARD} was {card}; kind must be one of {', '.join(RewardKind)}"]
    faults = [was + f"its {CARD}: {fault}" for fault in check_template(str(card.get("template")))]
    if kind is not None and card["kind"] != kind:
        faults.append(was + f"it judges {card['kind']}; it must judge {kind}")
    return faults


def _same_json(one: Path, other: Path) -> bool:
    """Whether both files say the same; how they are laid out does not matter."""
    return other.is_file() and json.loads(one.read_text()) == json.loads(other.read_text())
