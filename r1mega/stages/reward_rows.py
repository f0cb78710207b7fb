"""What a reward model learns from: pairs of answers, or answers marked safe or not, as tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from r1mega.config import BadRun, Config, RewardKind
from r1mega.data.preferences import Preference, read_preferences
from r1mega.data.safety import read_safety_labels
from r1mega.model.rows import Sample
from r1mega.preference.loss import Judged, pairwise, pointwise
from r1mega.preference.text import Reads, part_read
from r1mega.stages.parts import Text

Messages = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Rows:
    """Rows of one or two texts each, whose scores can be judged."""

    prompts: Sequence[str]
    texts: Sequence[tuple[Sample, ...]]
    """(chosen, rejected) of each pair; the one text of each label."""
    is_safe: Tensor | None
    """Of each label; None where the rows are pairs."""

    def samples(self, rows: Sequence[int]) -> list[Sample]:
        """The texts of these rows, one after another."""
        return list(chain.from_iterable(self.texts[row] for row in rows))

    def judge(self, rows: Sequence[int], scores: Sequence[Tensor]) -> Judged:
        """What the scores of `samples(rows)` are worth."""
        r_B = torch.cat(list(scores))
        if self.is_safe is None:
            return pairwise(*r_B.view(-1, 2).unbind(1))
        return pointwise(r_B, self.is_safe[list(rows)])


def read_rows(config: Config, text: Text) -> tuple[Rows, dict[str, int]]:
    """The rows of the run's data file, and how many were left out, by why.

    Left out are pairs whose scores are too close, and pairs of which the same part is read of both answers.

    Raises:
        DataFileError: the file or rows of it cannot be used; all of them by line.
        BadRun: texts too long, or with words that the tokenizer does not know; all of them by line.
    """
    file = config.reward_model.data_file
    assert file is not None
    if config.reward_model.kind is RewardKind.helpfulness:
        return _pairs(config, text, read_preferences(file))
    labels = read_safety_labels(file)
    texts = [scored_text(text, label.messages, label.answer, Reads.whole) for label in labels]
    _refuse(config, text, ((one.where, sample) for one, sample in zip(labels, texts, strict=True)))
    is_safe = torch.tensor([label.safe for label in labels])
    return Rows([str(label.messages) for label in labels], [(one,) for one in texts], is_safe), {}


def _pairs(config: Config, text: Text, everything: Sequence[Preference]) -> tuple[Rows, dict[str, int]]:
    least = config.reward_model.least_score_gap
    clear = [pair for pair in everything if pair.gap is None or pair.gap > least]
    kept, texts = [], []
    for pair in clear:
        both = tuple(
            scored_text(text, pair.messages, answer, Reads.summary) for answer in (pair.chosen, pair.rejected)
        )
        if both[0].tokens != both[1].tokens:
            kept.append(pair)
            texts.append(both)
    _refuse(config, text, ((pair.where, one) for pair, of in zip(kept, texts, strict=True) for one in of))
    left_out = {"score_gap": len(everything) - len(clear), "read_alike": len(clear) - len(kept)}
    return Rows([str(pair.messages) for pair in kept], texts, None), left_out


def scored_text(text: Text, messages: Messages, answer: str, reads: Reads) -> Sample:
    """A prompt with what is read of the answer. Its score is the value at its last token.

    The end token, which follows, is the sample's one answer token: values live one position before theirs.
    """
    sample = text.dialogue(messages, part_read(answer, reads))
    return Sample(sample.tokens, len(sample.tokens) - 1)


def _refuse(config: Config, text: Text, samples: Iterable[tuple[str, Sample]]) -> None:
    longest = config.rollout.max_context_tokens
    faults = []
    for where, sample in samples:
        if len(sample.tokens) > longest:
            faults.append(
                f"{where}: is {len(sample.tokens)} tokens long; rollout.max_context_tokens = {longest}"
                " must hold it"
            )
        if text.unknown_token is not None and text.unknown_token in sample.tokens:
            faults.append(f"{where}: has words that the tokenizer of {text.folder} does not know")
    if faults:
        more = len(faults) - 50
        raise BadRun([*faults[:50], *([f"... and {more} more"] if more > 0 else [])])
