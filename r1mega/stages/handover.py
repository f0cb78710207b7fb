"""The hand-over of a policy's weights to the engines, with its proof."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from r1mega.config import Config
from r1mega.model.rows import Sample
from r1mega.policy import Policy
from r1mega.rollout.engines import Engines
from r1mega.stages.parts import Text
from r1mega.weights.proof import HandoverError, Sent, check_receipt, largest_difference
from r1mega.weights.shared_memory import SharedMemorySender


class Handover:
    """One policy, its engines, and the way between them; `run` is called on every rank."""

    def __init__(
        self, config: Config, policy: Policy, engines: Engines, probe: Sequence[Sequence[int]]
    ) -> None:
        """Connect the engines.

        Args:
            probe: texts, as tokens, that both sides score after every hand-over.
        """
        self.policy, self.engines = policy, engines
        self.tolerance = config.handover.max_abs_dlogp
        self.sender = SharedMemorySender(policy.source)
        self.probe = probe
        self.count = 0
        self.worst = 0.0
        engines.connect(self.sender.init_info())

    def run(self) -> dict[str, float]:
        """Hand the weights over and prove it.

        Returns:
            `handover/*` figures and the seconds it took.

        Raises:
            HandoverError: on every rank, naming what differs.
        """
        began = time.monotonic()
        receipts, sent = self._send()
        sent_at = time.monotonic()
        difference = self._prove(receipts, sent)
        self.count += 1
        self.worst = max(self.worst, difference)
        return {
            "handover/max_abs_dlogp": difference,
            "handover/bytes": float(sum(place.bytes for place in self.sender.places)),
            "timing_s/handover": sent_at - began,
            "timing_s/proof": time.monotonic() - sent_at,
        }

    def summary(self) -> dict[str, float]:
        """How many hand-overs were proven, and the worst difference among them."""
        return {"count": self.count, "max_abs_dlogp": self.worst, "limit": self.tolerance}

    def _send(self) -> tuple[dict[int, list[dict[str, Any]]], Sent]:
        checksums: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(checksums, self.sender.write())
        sent = Sent(
            self.policy.version, {place: value for part in checksums for place, value in part.items()}
        )
        return self.engines.update_weights({"version": self.policy.version}), sent

    def _prove(self, receipts: dict[int, list[dict[str, Any]]], sent: Sent) -> float:
        faults = [
            fault
            for engine, workers in receipts.items()
            for number, receipt in enumerate(workers)
            for fault in check_receipt(sent, receipt, f"engine {engine} worker {number}")
        ]
        ours = [logps.numpy() for logps in self.policy.score([Sample(text, 1) for text in self.probe], 1.0)]
        differences = {
            engine: largest_difference(ours, theirs)
            for engine, theirs in self.engines.score(self.probe).items()
        }
        faults += [
            f"engine {engine} scores the probe otherwise than the trainer: max |dlogp| {difference:.2e},"
            f" above handover.max_abs_dlogp = {self.tolerance:.0e}"
            for engine, difference in differences.items()
            if difference > self.tolerance
        ]
        if faults:
            raise HandoverError(
                f"the hand-over of policy version {self.policy.version} is not proven:\n  "
                + "\n  ".join(faults)
            )
        return max(differences.values())


def probe_texts(config: Config, text: Text) -> list[list[int]]:
    """Held-out questions with their answers, in the form asked for, as tokens: what both sides score.

    Texts as the policy meets them, not random tokens: of those a trained model gives log-probs of -50,
    in which fp32 alone makes the two sides differ by nearly the limit.
    """
    chosen = text.questions.held_out[: config.handover.probe_samples]
    longest = config.rollout.max_context_tokens - 1  # the engine samples one token after a text
    answers = [f" <think> {one.answer} </think> <answer> {one.answer} </answer>" for one in chosen]
    return [
        [*text.prompt(question), *text.tokenizer.encode(answer).ids, text.end_token][:longest]
        for question, answer in zip(chosen, answers, strict=True)
    ]
