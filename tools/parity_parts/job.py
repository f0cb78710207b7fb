"""What is compared: a folder, a layout and texts, checked before anything slow is imported.

The job goes to the ranks as a JSON file of a scratch folder, and their figures come back beside it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from r1mega.__main__ import configurations
from r1mega.checks import topology
from r1mega.compose import compose
from r1mega.config import Config
from r1mega.model.family import family_faults, family_of
from r1mega.parallel.plan import Plan, Topology
from r1mega.weights.table import Row

if TYPE_CHECKING:
    import tokenizers

SETTINGS = {
    # Any run on this machine will do: only its layout and its engines are used.
    "run": "cpu_pretrain",
    "parallel": "single",
    "name": "parity",
    "rollout.max_answer_tokens": "1",
    "rollout.replicas": "1",
}
"""What is set where the user's overrides do not."""
LONGEST_CONTEXT = 512
"""Room for a text in the engine, where the model has it and the user does not say otherwise."""
RANDOM_TEXTS, RANDOM_TOKENS = 8, 48
SENTENCES = (
    "What is 17 + 25? Let us add the tens first: 10 + 20 = 30, then 7 + 5 = 12, so it is 42.",
    "The quick brown fox jumps over the lazy dog, and the dog does not even look up.",
    "def area(radius: float) -> float:\n    return 3.14159 * radius**2\n",
    "北京是中国的首都。水在一百度沸腾。",
)


class Trouble(Exception):
    """Why nothing can be compared; the message is one for the user."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one side computed.

    Attributes:
        logps: of each text's tokens but the first.
        hidden: by a module's HF name, what it put out for each text, [tokens, width].
        experts: by a layer's HF name, each text's chosen experts, [tokens, experts] of bool.
    """

    logps: Sequence[np.ndarray]
    hidden: Mapping[str, Sequence[np.ndarray]]
    experts: Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True, slots=True)
class Job:
    """One comparison; plain values, so that it travels as JSON."""

    folder: str
    scratch: str
    overrides: list[str]
    texts: list[list[int]]

    def config(self) -> Config:
        """The run that the overrides describe, of the folder's model."""
        config = compose(configurations(), self.overrides)
        config.model.init_from, config.model.hf = None, _read_fields(Path(self.folder))
        return config

    def topology(self, ranks: int | None) -> Topology:
        """The layout of both sides; raises BadRun with what is wrong with it."""
        return topology(self.config(), ranks)

    @property
    def limit(self) -> float:
        """How far two sides' log-probs may lie apart."""
        return self.config().handover.max_abs_dlogp


def prepare(folder: Path, reference: Path, text: Path | None, overrides: Sequence[str], scratch: Path) -> Job:
    """The checked job, written into the scratch folder for the ranks.

    Args:
        reference: the folder that transformers is to read.

    Raises:
        BadRun: the overrides or the layout.
        Trouble: a folder or the texts.
    """
    hf = _read_fields(folder)
    if _tensors(_read_fields(reference)) != _tensors(hf):
        raise Trouble(f"--reference: {reference} is of other tensors, by its config.json, than {folder}")
    room = min(LONGEST_CONTEXT, hf["max_position_embeddings"])
    settings = SETTINGS | {"rollout.max_context_tokens": str(room), "runs_dir": str(scratch)}
    given = {override.split("=", 1)[0] for override in overrides}
    chosen = [f"{key}={value}" for key, value in settings.items() if key not in given]
    job = Job(str(folder.resolve()), str(scratch), [*chosen, *overrides], [])
    config = job.config()
    longest = config.rollout.max_context_tokens - 1  # the engine samples one token after a text
    job.texts.extend(_texts(folder, text, hf["vocab_size"], longest, config.seed))
    config.folder.mkdir(parents=True)
    (scratch / "job.json").write_text(json.dumps(asdict(job)))
    return job


def read(scratch: Path) -> Job:
    """The job that `prepare` wrote."""
    return Job(**json.loads((scratch / "job.json").read_text()))


def _read_fields(folder: Path) -> dict[str, Any]:
    """The HF fields of the folder's model, faultless."""
    if not folder.is_dir():
        raise Trouble(f"{folder}: no such folder; give one with config.json and *.safetensors")
    file = folder / "config.json"
    if not file.is_file() or not any(folder.glob("*.safetensors")):
        raise Trouble(f"{folder}: a model's folder has config.json and *.safetensors")
    try:
        hf = json.loads(file.read_text())
    except ValueError as error:
        raise Trouble(f"{file}: not JSON ({error})") from None
    if not isinstance(hf, dict):
        raise Trouble(f"{file}: must be an object")
    faults = family_faults(hf, str(file)) or family_of(hf).faults(hf, str(file))
    if faults:
        raise Trouble("\n  ".join(faults))
    return hf


def _tensors(hf: dict[str, Any]) -> list[Row]:
    """Names and shapes of every tensor that a folder of this model holds."""
    return family_of(hf).weight_table(hf)


def _texts(folder: Path, text: Path | None, vocabulary: int, longest: int, seed: int) -> list[list[int]]:
    if longest < 2:
        raise Trouble(f"rollout.max_context_tokens: was {longest + 1}; must be at least 3 to score a text in")
    tokenizer = _tokenizer(folder)
    if text is not None:
        if tokenizer is None:
            raise Trouble(f"--text: {folder} has no tokenizer.json to read {text} with")
        return _from_file(text, tokenizer, vocabulary, longest)
    draw = random.Random(seed)
    sizes = [draw.randint(2, min(longest, RANDOM_TOKENS)) for _ in range(RANDOM_TEXTS)]
    drawn = [[draw.randrange(vocabulary) for _ in range(size)] for size in sizes]
    spoken = [list(tokenizer.encode(sentence).ids)[:longest] for sentence in SENTENCES] if tokenizer else []
    known = [tokens for tokens in spoken if len(tokens) > 1 and max(tokens) < vocabulary]
    return [*known, *drawn]


def _tokenizer(folder: Path) -> tokenizers.Tokenizer | None:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    return Tokenizer.from_file(str(file)) if file.is_file() else None


def _from_file(text: Path, tokenizer: tokenizers.Tokenizer, vocabulary: int, longest: int) -> list[list[int]]:
    try:
        lines = text.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"--text: {text} cannot be read ({error})") from None
    texts = [list(tokenizer.encode(line).ids) for line in lines]
    faults = [
        f"{text}:{number}: has {len(tokens)} tokens; must be 2 to {longest} (rollout.max_context_tokens - 1)"
        for number, tokens in enumerate(texts, start=1)
        if not 2 <= len(tokens) <= longest
    ]
    faults += [
        f"{text}:{number}: token {max(tokens)} is beyond the model's vocabulary of {vocabulary}"
        for number, tokens in enumerate(texts, start=1)
        if max(tokens, default=0) >= vocabulary
    ]
    if faults or not texts:
        raise Trouble("\n  ".join(faults) or f"{text}: is empty")
    return texts


def write_rank(scratch: Path, rank: int, seen: Seen, engine: Sequence[np.ndarray], unproven: str) -> None:
    """What one rank saw; the ranks' files together are `read_ranks`'s answer."""
    arrays = {f"logps/{text}": logps for text, logps in enumerate(seen.logps)}
    arrays |= {f"engine/{text}": logps for text, logps in enumerate(engine)}
    for kind, of in (("hidden", seen.hidden), ("experts", seen.experts)):
        arrays |= {f"{kind}/{name}/{text}": x for name, texts in of.items() for text, x in enumerate(texts)}
    np.savez(scratch / f"rank-{rank}.npz", unproven=np.array(unproven), **arrays)  # type: ignore[arg-type]


def refuse(scratch: Path, message: str) -> None:
    """Say, from a rank, why nothing can be compared."""
    (scratch / "trouble").write_text(message)


def read_ranks(work: Job, plan: Plan) -> tuple[Seen, list[np.ndarray], str]:
    """What Megatron saw, its ranks' parts put together; vLLM's log-probs; why the hand-over is unproven.

    Raises:
        Trouble: what a rank said of it.
    """
    trouble = Path(work.scratch) / "trouble"
    if trouble.exists():
        raise Trouble(trouble.read_text())
    files = [np.load(Path(work.scratch) / f"rank-{rank}.npz") for rank in range(plan.world_size)]
    first, numbers = files[0], range(len(work.texts))
    hidden: dict[str, list[np.ndarray]] = {}
    experts: dict[str, list[np.ndarray]] = {}
    # Tensor-parallel ranks hold a stretch of the tokens each; other replicas hold the same again.
    for group in plan.groups("tp"):
        parts = [files[rank] for rank in group]
        for key in (key for key in parts[0].files if key.count("/") == 2 and key.endswith("/0")):
            kind, name, _ = key.split("/")
            joined = [
                _join([part[f"{kind}/{name}/{n}"] for part in parts], len(work.texts[n])) for n in numbers
            ]
            (hidden if kind == "hidden" else experts).setdefault(name, joined)
    seen = Seen([first[f"logps/{n}"] for n in numbers], hidden, experts)
    return seen, [first[f"engine/{n}"] for n in numbers], str(first["unproven"])


def _join(parts: Sequence[np.ndarray], tokens: int) -> np.ndarray:
    """One text's rows; each part is a stretch of them, or, without sequence parallelism, all of them."""
    whole = parts[0] if len(parts[0]) >= tokens else np.concatenate(parts)
    return whole[:tokens]
