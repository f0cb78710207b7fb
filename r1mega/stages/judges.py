"""The reward models of a run: what they say of general and safety answers, as components of the reward.

A model judges the answers to questions of the kinds whose weights name its component, and no others.
Its component is the sigmoid of its value, between 0 and 1; a truncated answer earns 0, as everywhere.
"""

from __future__ import annotations

import math
from pathlib import Path

from r1mega.config import Config
from r1mega.parallel.plan import Plan
from r1mega.stages.judging import Components
from r1mega.stages.parts import Text
from r1mega.stages.sampling import Batch
from r1mega.stages.scorer import RewardModel


class Judges:
    """The run's reward models by component; none where it names none."""

    def __init__(self, config: Config, plan: Plan, text: Text) -> None:
        folders = {"helpful": config.reward.helpful_model, "harmless": config.reward.harmless_model}
        self.models = {
            name: RewardModel(config, Path(folder), plan, text)
            for name, folder in folders.items()
            if folder is not None
        }
        self.after_update = config.grpo.model_rewards_after_update
        self.kinds = {
            name: {kind for kind, weights in config.reward.weights.items() if weights.get(name)}
            for name in self.models
        }

    def judge(self, batch: Batch, components: Components, updates: int) -> None:
        """Add each model's component to those of the answers that it judges; nothing before its time."""
        if updates < self.after_update:
            return
        for name, model in self.models.items():
            asked = [i for i, question in enumerate(batch.questions) if question.kind in self.kinds[name]]
            values = model.score(
                [batch.questions[i].text for i in asked], [batch.texts[i].strip() for i in asked]
            )
            for i, value in zip(asked, values, strict=True):
                # The sigmoid, by a function that no value overflows.
                components[i][name] = 0.0 if batch.truncated[i] else (1 + math.tanh(value / 2)) / 2
