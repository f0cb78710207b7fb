"""Answers to questions: requests with a seed of their own each, and what came back of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r1mega.data.question import Question
from r1mega.model.rows import Sample
from r1mega.rollout.engines import Engines, Ticket
from r1mega.rollout.host import Completion, Request
from r1mega.stages.handover import Handover
from r1mega.stages.parts import Text

ROLLOUT, EVALUATION, REJECTION = 0, 1, 2
"""What samples are drawn for; part of each one's seed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Sampled answers, those to one question side by side: B = P questions x G samples."""

    questions: Sequence[Question]
    """Of each answer, B of them."""
    samples: Sequence[Sample]
    completions: Sequence[Completion]
    texts: Sequence[str]

    @property
    def truncated(self) -> list[bool]:
        """Whether each answer met the length limit."""
        return [completion.truncated for completion in self.completions]

    @property
    def sampler_logps(self) -> list[Tensor]:
        """The sampler's log-probs, one tensor of [answer tokens] a sample."""
        return [torch.from_numpy(completion.logps) for completion in self.completions]

    @property
    def answer_tokens(self) -> list[int]:
        """Length of each answer."""
        return [sample.answer_tokens for sample in self.samples]

    @property
    def tokens(self) -> int:
        """Tokens of all samples, prompts included."""
        return sum(len(sample.tokens) for sample in self.samples)

    def figures(self, seconds: float) -> dict[str, float]:
        """`response_length/*`: mean and longest in tokens, and the share that met the limit; `perf/*`.

        Args:
            seconds: what generating them took.
        """
        tokens = self.answer_tokens
        return {
            "response_length/mean": sum(tokens) / len(tokens),
            "response_length/max": max(tokens),
            "response_length/clip_ratio": sum(self.truncated) / len(tokens),
            "perf/throughput": sum(tokens) / seconds,
            "perf/total_num_tokens": self.tokens,
        }


def sample(
    handover: Handover, what: str, text: Text, questions: Sequence[Question], samples: int, **settings: Any
) -> Batch:
    """Answers to each question, so many; drawn again where an engine is lost on the way.

    Args:
        what: is sampled, to be said where it is redone.
        settings: as `submit` takes them.
    """
    engines = handover.engines

    def draw() -> Batch:
        ticket, requests = submit(engines, text, questions, samples, **settings)
        return collect(engines, text, questions, ticket, requests)

    return handover.ask(what, draw)


def submit(
    engines: Engines,
    text: Text,
    questions: Sequence[Question],
    samples_per_question: int,
    *,
    seed: tuple[int, ...],
    temperature: float,
    top_p: float,
    max_answer_tokens: int,
) -> tuple[Ticket, list[Request]]:
    """Begin to sample answers; `collect` ends it.

    Args:
        seed: numbers that tell this draw from every other of the run.
    """
    requests = [
        Request(tuple(prompt), _seed(*seed, number, sample))
        for number, prompt in enumerate(text.prompt(question) for question in questions)
        for sample in range(samples_per_question)
    ]
    ticket = engines.submit(
        requests,
        temperature=temperature,
        top_p=top_p,
        max_answer_tokens=max_answer_tokens,
        stop_token=text.end_token,
    )
    return ticket, requests


def collect(
    engines: Engines, text: Text, questions: Sequence[Question], ticket: Ticket, requests: Sequence[Request]
) -> Batch:
    """The answers of a draw, in the order of its questions."""
    completions = engines.collect(ticket)
    answers = [completion.tokens.tolist() for completion in completions]
    repeated = len(requests) // len(questions)
    return Batch(
        questions=[question for question in questions for _ in range(repeated)],
        samples=[
            Sample([*request.prompt, *answer], len(request.prompt))
            for request, answer in zip(requests, answers, strict=True)
        ],
        completions=completions,
        texts=text.decode(answers),
    )


def _seed(*numbers: int) -> int:
    # torch takes 64 bits; the highest is left clear for vLLM's signed field.
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
