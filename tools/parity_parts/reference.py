"""transformers' side: the folder as AutoModelForCausalLM reads it, fp32, eager attention, text by text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity_parts.job import Job, Seen, Trouble


def score(folder: Path, job: Job) -> Seen:
    """What transformers computes for the job's texts.

    Raises:
        Trouble: the folder holds no such model.
    """
    model = _load(folder)
    hidden: dict[str, list[np.ndarray]] = {}
    experts: dict[str, list[np.ndarray]] = {}
    _watch(model.model, hidden, experts)
    logps = []
    for tokens in job.texts:
        with torch.no_grad():
            scores_TV = model(torch.tensor([tokens]), use_cache=False).logits[0].log_softmax(-1)
        logps.append(scores_TV[:-1].gather(1, torch.tensor(tokens[1:])[:, None])[:, 0].numpy())
    return Seen(logps, hidden, experts)


def _load(folder: Path) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation="eager",
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise Trouble(f"{folder}: transformers cannot load it ({str(error).splitlines()[0]})") from None
    model, found = loaded
    if found["missing_keys"]:
        raise Trouble(f"{folder}: it lacks {', '.join(sorted(found['missing_keys']))}")
    return model.eval()


def _watch(model: Any, hidden: dict[str, list[np.ndarray]], experts: dict[str, list[np.ndarray]]) -> None:
    """Keep what the embedding, each layer, each router and the last norm put out, from now on."""
    _keep(model.embed_tokens, hidden.setdefault("model.embed_tokens", []), _states)
    for number, layer in enumerate(model.layers):
        _keep(layer, hidden.setdefault(f"model.layers.{number}", []), _states)
        if hasattr(layer.mlp, "gate"):
            _keep(layer.mlp.gate, experts.setdefault(f"model.layers.{number}", []), _chosen)
    _keep(model.norm, hidden.setdefault("model.norm", []), _states)


def _keep(module: Any, into: list[np.ndarray], read: Callable[[Any], np.ndarray]) -> None:
    module.register_forward_hook(lambda module, inputs, output: into.append(read(output)))


def _states(output: Any) -> np.ndarray:
    """[1, tokens, width], alone or first of several, to [tokens, width]."""
    states = output if torch.is_tensor(output) else output[0]
    return states[0].float().numpy().copy()


def _chosen(output: Any) -> np.ndarray:
    """A router's (logits [T, E], weights [T, k], indices [T, k]) to [T, E] of bool."""
    logits_TE, _, indices_Tk = output
    chosen_TE = torch.zeros(logits_TE.shape, dtype=torch.bool)
    return chosen_TE.scatter_(1, indices_Tk, True).numpy()
