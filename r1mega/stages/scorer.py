"""A frozen reward model, asked by a stage that trains another model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from r1mega.config import BadRun, Config
from r1mega.model.rows import Sample
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.reward_folder import read_card, read_fields, reward_model_faults
from r1mega.stages.parts import Text
from r1mega.stages.reward_rows import scored_text


class RewardModel:
    """Scores answers; it lies on the policy's ranks, in their layout, and has no room for gradients."""

    def __init__(self, config: Config, folder: Path, plan: Plan, text: Text) -> None:
        """Build it from the `final/` of a run of stage `reward_model`; every rank does.

        Args:
            text: the policy's, whose tokenizer must be this model's too.

        Raises:
            BadRun: the folder is none of a reward model, of another tokenizer, or does not fit the layout.
            FolderError: its weights are not those that its config.json describes.
        """
        faults = reward_model_faults(str(folder), folder, tokenizer=text.folder, plan=plan)
        if faults:
            raise BadRun(faults)
        self.card = read_card(folder)
        self.text = replace(text, template=self.card.template, folder=folder)
        self.longest = config.rollout.max_context_tokens
        self.policy = Policy(config, read_fields(folder), plan, fresh=False, trainable=False)
        self.policy.load(folder)

    def score(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """The value of each answer to its prompt; the same on every rank.

        Its sigmoid is, of a harmlessness model, the probability that the answer is safe; of a helpfulness
        model, which knows differences only, that it wins against an answer of value 0. Of a text longer
        than `rollout.max_context_tokens` the end is read.
        """
        samples = [self._read(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        if not samples:
            return []
        return torch.cat(self.policy.score(samples, temperature=1.0)).tolist()

    def _read(self, prompt: str, answer: str) -> Sample:
        tokens = scored_text(self.text, [("user", prompt)], answer, self.card.reads).tokens[-self.longest :]
        return Sample(tokens, len(tokens) - 1)
