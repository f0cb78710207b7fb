"""Fine-tuning's loss and gradient are those of transformers, on the answers' tokens alone, in any layout."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from support.models import Text, new_policy, random_dense_fields, random_fields, random_texts, samples_of
from support.ranks import free_ports, layout, run_ranks

LAYOUTS = ({"tp": 2}, {"dp": 2}, {"pp": 2})


def drawn() -> list[dict[str, Any]]:
    draw = random.Random(11)
    moe = random_fields(draw, divisible_by=2, num_nextn_predict_layers=0)
    return [moe, random_dense_fields(draw, "qwen2", divisible_by=2)]


def texts_of(number: int, fields: dict[str, Any]) -> list[Text]:
    return random_texts(random.Random(number), fields["vocab_size"], 12)


def learn(ports: list[int], configs: list[dict[str, Any]], folder: Path) -> list[list[dict[str, float]]]:
    """On two ranks: by layout and config, the figures of one update from the same weights."""
    found = []
    for port, degrees in zip(ports, LAYOUTS, strict=True):
        with layout(port, **degrees) as plan:
            # After the layout's opening, which patches what Megatron reads at import.
            from r1mega.config import OptimizerConfig
            from r1mega.stages.pretrain import cross_entropy, token_weights

            figures = []
            for number, fields in enumerate(configs):
                policy = new_policy(fields, plan)
                where = folder / str(number)
                if not where.exists():
                    policy.export(where)
                policy.load(where)
                policy.start_training(OptimizerConfig(lr=1e-3, clip_grad_norm=1e9), 2)
                samples = samples_of(texts_of(number, fields))
                weights = {"weights": token_weights(samples)}
                figures.append(policy.update(samples, weights, cross_entropy, mtp_loss_weight=0.0))
            found.append(figures)
    return found


def by_transformers(folder: Path, texts: list[Text]) -> tuple[float, float]:
    """The mean loss over all answer tokens, and its gradient's norm."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    losses = []
    for tokens, start in texts:
        labels = torch.tensor([[-100] * start + tokens[start:]])
        logits = model(torch.tensor([tokens])).logits[:, :-1]
        losses.append(
            torch.nn.functional.cross_entropy(logits[0], labels[0, 1:], ignore_index=-100, reduction="sum")
        )
    loss = sum(losses) / sum(len(tokens) - start for tokens, start in texts)
    loss.backward()
    # The router's bias is moved by its own rule; whatever gradient it has is not trained on.
    squares = [
        parameter.grad.square().sum()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "e_score_correction_bias" not in name
    ]
    return loss.item(), sum(squares).sqrt().item()


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("models")
    return folder, run_ranks(2, learn, free_ports(len(LAYOUTS)), drawn(), folder)[0]


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("degrees", range(len(LAYOUTS)))
def test_loss_and_gradient_are_those_of_transformers(learnt: Any, degrees: int, number: int) -> None:
    folder, found = learnt
    loss, norm = by_transformers(folder / str(number), texts_of(number, drawn()[number]))
    figures = found[degrees][number]
    assert figures["loss"] == pytest.approx(loss, abs=1e-5)
    assert figures["grad_norm"] == pytest.approx(norm, rel=1e-4)
