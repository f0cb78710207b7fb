"""What every stage starts from: the questions, the tokenizer and the model's fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from r1mega.checks import model_fields
from r1mega.config import BadRun, Config, DataConfig, EvalConfig, Stage
from r1mega.data import prompts, tasks, templates, tokenizer
from r1mega.data.benchmarks import read_benchmark
from r1mega.data.corpus import lexicon
from r1mega.data.question import Question, Questions
from r1mega.model.rows import Sample
from r1mega.rewards.language import language_of

if TYPE_CHECKING:
    import tokenizers


@dataclass
class Text:
    """The run's questions, if it asks any, and how texts become tokens."""

    questions: Questions
    tokenizer: tokenizers.Tokenizer
    end_token: int
    template: str
    folder: Path
    """Where the tokenizer's files are."""

    @property
    def unknown_token(self) -> int | None:
        """The token that a tokenizer of ours puts for words it was not built from."""
        return self.tokenizer.token_to_id(tokenizer.UNK)

    def prompt(self, question: Question) -> list[int]:
        """The tokens that ask the question."""
        return list(self.tokenizer.encode(templates.render(self.template, question.text)).ids)

    def dialogue(self, messages: Sequence[tuple[str, str]], answer: str) -> Sample:
        """A dialogue with its answer, closed by the end token."""
        end = str(self.tokenizer.id_to_token(self.end_token))
        prompt, said = templates.render_dialogue(self.template, messages, answer, end)
        asked, given = self.tokenizer.encode(prompt).ids, self.tokenizer.encode(said).ids
        stop = given.index(self.end_token) if self.end_token in given else len(given)
        return Sample([*asked, *given[:stop], self.end_token], len(asked))

    def decode(self, answers: list[list[int]]) -> list[str]:
        """The answers as text, without special tokens."""
        return list(self.tokenizer.decode_batch(answers, skip_special_tokens=True))


def load_questions(config: Config) -> Questions:
    """Training and held-out questions, from the run's tasks or its prompts file.

    They depend on `data` alone, not on the run's seed: runs of other seeds meet the same held-out ones.
    """
    questions = _questions(config.data) if config.eval.benchmark is None else _benchmark(config.eval)
    kinds = {question.kind for question in questions.train} - config.reward.weights.keys()
    if config.stage is Stage.grpo and kinds:
        raise BadRun(
            [
                f"reward.weights.{kind}: missing; questions of that kind are asked, say what they earn,"
                f" as in +reward.weights.{kind}.format=1.0"
                for kind in sorted(kinds)
            ]
        )
    return questions


def _benchmark(plan: EvalConfig) -> Questions:
    assert plan.benchmark is not None
    return Questions((), tuple(read_benchmark(plan.benchmark, plan.benchmark_file)))


def _questions(data: DataConfig) -> Questions:
    if data.prompts_file is not None:
        everything = prompts.read_prompts(data.prompts_file, language_of)
        return prompts.split(everything, data.train_questions, data.held_out_questions, seed=0)
    named = [(task.name, task.parameters, task.weight) for task in data.tasks]
    try:
        return tasks.generate(named, data.train_questions, data.held_out_questions, seed=0)
    except ValueError as error:
        raise BadRun([str(error)]) from error


def load_text(config: Config, questions: Questions) -> Text:
    """The questions with the tokenizer of `model.init_from`, or one built for them in the run's folder."""
    template = config.data.template
    if config.model.init_from is not None:
        folder = Path(config.model.init_from)
    else:
        folder = config.folder / "tokenizer"
        words = lexicon([*questions.train, *questions.held_out], template)
        try:
            built = tokenizer.build(words, config.model.hf["vocab_size"], config.data.digits_per_token)
        except tokenizer.VocabularyError as error:
            raise BadRun([f"model.hf.vocab_size: {error}"]) from None
        if dist.get_rank() == 0:
            tokenizer.save(built, folder, templates.TEMPLATES[template], config.rollout.max_context_tokens)
        dist.barrier()
    text = _read_tokenizer(folder, template, questions)
    _check_words(text.tokenizer, questions, template, folder)
    _check_lengths(config, text.tokenizer, questions)
    return text


def load_tokenizer(config: Config) -> Text:
    """The tokenizer of `model.init_from` alone, for stages that ask no questions."""
    assert config.model.init_from is not None
    return _read_tokenizer(Path(config.model.init_from), config.data.template, Questions((), ()))


def _read_tokenizer(folder: Path, template: str, questions: Questions) -> Text:
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Text(questions, loaded, _end_token(folder, loaded), template, folder)


def _check_lengths(config: Config, loaded: tokenizers.Tokenizer, questions: Questions) -> None:
    longest = max(config.rollout.max_answer_tokens, config.grpo.longer_answer_tokens or 0)
    room = config.rollout.max_context_tokens - longest
    everything = [*questions.train, *questions.held_out]
    prompted = loaded.encode_batch([templates.render(config.data.template, one.text) for one in everything])
    long = [(len(encoded.ids), one.text) for encoded, one in zip(prompted, everything, strict=True)]
    tokens, text = max(long)
    if tokens > room:
        raise BadRun(
            [
                f"rollout.max_context_tokens: was {config.rollout.max_context_tokens}, which leaves {room}"
                f" tokens for a prompt; {sum(length > room for length, _ in long)} prompts are longer, up to"
                f" {tokens} ({text[:60]!r} ...)"
            ]
        )


def _check_words(loaded: tokenizers.Tokenizer, questions: Questions, template: str, folder: Path) -> None:
    """Refuse questions that a tokenizer of ours, closed over the words it was built from, cannot ask."""
    if loaded.token_to_id(tokenizer.UNK) is None:
        return
    texts = (templates.render(template, one.text) for one in (*questions.train, *questions.held_out))
    unknown = tokenizer.unknown_pieces(loaded, texts)
    if unknown:
        raise BadRun([f"{folder}: its tokenizer has no token for {', '.join(map(repr, unknown[:20]))}"])


def _end_token(folder: Path, loaded: tokenizers.Tokenizer) -> int:
    named: Any = json.loads((folder / "tokenizer_config.json").read_text())["eos_token"]
    token = named["content"] if isinstance(named, dict) else named
    number = loaded.token_to_id(token)
    if number is None:
        raise BadRun([f"{folder}: its tokenizer has no end token {token!r}"])
    return int(number)


def load_model_fields(config: Config) -> dict[str, Any]:
    """The model's HF fields; `check` found them faultless."""
    hf, _ = model_fields(config)
    assert hf is not None
    return hf


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that make the tokenizer of an HF folder."""
    names = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    return [folder / name for name in names if (folder / name).exists()]
