"""The first ratio: answers sampled by r1mega's engines and by raw vLLM, from the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch.distributed as dist

from bench_parts.raw_vllm import RawVllm
from bench_parts.timing import Turn, line, timed
from r1mega.config import Config
from r1mega.data.stream import QuestionStream
from r1mega.rollout.engines import Engines, Ticket
from r1mega.rollout.host import Completion, Request
from r1mega.stages import sampling
from r1mega.stages.parts import Text
from r1mega.stages.recorder import Recorder


class Overheard:
    """Engines, with the requests that went to them last."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self.requests: Sequence[Request] = ()

    def submit(self, requests: Sequence[Request], **how: Any) -> Ticket:
        self.requests = requests
        return self._engines.submit(requests, **how)

    def collect(self, ticket: Ticket) -> list[Completion]:
        return self._engines.collect(ticket)


class Rollouts:
    """Takes the turns.

    Attributes:
        batch: the answers of the last turn.
        same_answers: of each raw way, the share of them that it gave too, token for token.
    """

    batch: sampling.Batch

    def __init__(self, config: Config, text: Text, engines: Engines, raws: Sequence[RawVllm]) -> None:
        self._config, self._text, self._raws = config, text, raws
        self._engines = Overheard(engines)
        # Not the loop's order: no engine shall know a prompt by the third ratio.
        self._stream = QuestionStream(text.questions.train, seed=config.seed + 1)
        self.same_answers: dict[str, float] = {}

    def run(self, repetitions: int, recorder: Recorder) -> list[Turn]:
        """Tokens a second by side; the first turn, a warm-up, does not count."""
        turns = []
        for number in range(repetitions + 1):
            turns.append(self._turn(number))
            recorder.say(f"rollout {number}/{repetitions}  {line(turns[-1], '{:,.0f} tok/s')}")
        return turns[1:]

    def _turn(self, number: int) -> Turn:
        questions = self._stream.take(self._config.grpo.prompts_per_rollout)
        seconds, self.batch = timed(lambda: self._sample(questions, number))
        speeds = {"r1mega": sum(self.batch.answer_tokens) / seconds}
        for raw in self._raws:
            seconds, answers = raw.generate(self._engines.requests)
            speeds[raw.name] = sum(map(len, answers)) / seconds
            self.same_answers[raw.name] = _share_of_same(answers, self.batch.completions)
        # The other ranks wait here while rank 0 has the raw engines work.
        dist.barrier()
        return speeds

    def _sample(self, questions: Any, number: int) -> sampling.Batch:
        config, engines = self._config, cast(Engines, self._engines)
        ticket, requests = sampling.submit(
            engines,
            self._text,
            questions,
            config.grpo.samples_per_prompt,
            seed=(config.seed, sampling.EVALUATION, number),
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            max_answer_tokens=config.rollout.max_answer_tokens,
        )
        return sampling.collect(engines, self._text, questions, ticket, requests)


def _share_of_same(answers: Sequence[list[int]], completions: Sequence[Completion]) -> float:
    pairs = zip(answers, completions, strict=True)
    return sum(answer == one.tokens.tolist() for answer, one in pairs) / len(answers)
