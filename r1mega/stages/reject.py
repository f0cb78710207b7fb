"""Rejection sampling: a policy answers many questions, and what is right and readable becomes SFT data.

Of each question so many answers are sampled and graded; those that are right, in form, in one language
and pleasant to read are kept, some of them a question (DeepSeek-R1, arXiv 2501.12948, its third stage).
`review.jsonl` holds every right answer with the reasons against it, for a person to screen;
given back edited as `reject.review_file`, it decides instead, and nothing is sampled.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from r1mega import watch
from r1mega.config import Config
from r1mega.data.question import Question
from r1mega.data.review import read_review
from r1mega.parallel.plan import Plan
from r1mega.policy import Policy
from r1mega.rewards import readability
from r1mega.rewards.grader import Grader
from r1mega.stages import judging, sampling
from r1mega.stages.finished import COURSE
from r1mega.stages.handover import Handover, probe_texts
from r1mega.stages.parts import Text, load_model_fields, load_questions, load_text
from r1mega.stages.recorder import REVIEWED_ROWS, Recorder
from r1mega.stages.serving import open_engines
from r1mega.track import jsonl
from r1mega.track.files import write_atomic

QUESTIONS_AT_ONCE = 128
"""Asked in one go; the progress line comes after each."""


def run(config: Config, plan: Plan) -> None:
    """The whole stage, on every rank; leaves `sft.jsonl` and `review.jsonl`."""
    if config.reject.review_file is not None:
        _take_review(config, Path(config.reject.review_file))
        return
    questions = load_questions(config)
    with Recorder(config) as recorder:
        text = load_text(config, questions)
        policy = Policy(config, load_model_fields(config), plan)
        with (
            open_engines(config, policy) as engines,
            Grader(config.reward.workers, config.reward.time_limit_s) as grader,
        ):
            policy.load(text.folder)
            handover = Handover(config, policy, engines, probe_texts(config, text))
            handover.run()
            _ask(config, text, handover, grader, recorder)
        rows = jsonl.read(config.folder / REVIEWED_ROWS) if recorder.writes else []
        recorder.finish({"reject": _write(config, rows, recorder.writes), "handover": handover.summary()})


def _take_review(config: Config, file: Path) -> None:
    with Recorder(config) as recorder:
        rows = read_review(file)
        recorder.finish({"reject": _write(config, rows, recorder.writes)})


def _ask(config: Config, text: Text, handover: Handover, grader: Grader, recorder: Recorder) -> None:
    """Ask all questions, so many at once, from where an earlier start had come to; keep the rows."""
    plan = config.reject
    asked = text.questions.train[: plan.questions]
    done = _take_up(config, recorder)
    progress = recorder.progress("rollout", -(-len(asked) // QUESTIONS_AT_ONCE), done)
    firsts = list(enumerate(range(0, len(asked), QUESTIONS_AT_ONCE), 1))
    watch.phase("sampling")
    for number, first in firsts[done:]:
        began = time.monotonic()
        questions = asked[first : first + QUESTIONS_AT_ONCE]
        batch = sampling.sample(
            handover,
            "the sampling",
            text,
            questions,
            plan.samples_per_question,
            seed=(config.seed, sampling.REJECTION, number),
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            max_answer_tokens=config.rollout.max_answer_tokens,
        )
        generated_s = time.monotonic() - began
        components = judging.collect(judging.submit(grader, batch), len(batch.texts))
        rows = [
            row
            for group in range(0, len(batch.texts), plan.samples_per_question)
            for row in _reviewed(config, batch, components, range(group, group + plan.samples_per_question))
        ]
        kept = sum(row["keep"] for row in rows)
        figures = {
            "rollout": number,
            **judging.figures(components),
            **batch.figures(generated_s),
            "reject/right": len(rows) / len(batch.texts),
            "reject/kept": kept / len(questions),
        }
        recorder.rollout(figures, progress)
        recorder.samples(
            batch, components, range(min(config.track.samples_kept, len(batch.texts))), rollout=number
        )
        recorder.reviewed(rows)
        if recorder.writes:
            course = {"done": number, "rows": recorder.position()}
            write_atomic(config.folder / COURSE, json.dumps(course) + "\n")


def _take_up(config: Config, recorder: Recorder) -> int:
    """How often was asked before the run was cut short; the rows of what was not finished go."""
    file = config.folder / COURSE
    course: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"done": 0, "rows": {}}
    # Nobody writes it anew before all have read it.
    dist.barrier()
    recorder.rewind(course["rows"])
    return int(course["done"])


def _reviewed(
    config: Config, batch: sampling.Batch, components: judging.Components, group: range
) -> list[dict[str, Any]]:
    """A row of each right answer to one question: some of the readable ones are kept, no text twice."""
    question = batch.questions[group[0]]
    right = dict.fromkeys(batch.texts[i].strip() for i in group if components[i]["accuracy"] == 1.0)
    against = {
        answer: readability.faults(answer, question.language, paragraph_words=config.reject.paragraph_words)
        for answer in right
    }
    readable = [answer for answer, faults in against.items() if not faults]
    draw = random.Random(f"reject:{config.seed}:{question.id}")
    kept = set(draw.sample(readable, min(config.reject.kept_per_question, len(readable))))
    return [_row(question, answer, answer in kept, faults) for answer, faults in against.items()]


def _row(question: Question, answer: str, keep: bool, against: Sequence[str]) -> dict[str, Any]:
    return {
        "keep": keep,
        "prompt": question.text,
        "answer": answer,
        "against": list(against),
        "reference": question.answer,
        "language": question.language,
        "kind": question.kind,
    }


def _write(config: Config, rows: Sequence[dict[str, Any]], writes: bool) -> dict[str, int]:
    """Both files; says how many answers were right, and kept."""
    kept = [
        {name: row[name] for name in ("prompt", "answer", "language", "kind")} for row in rows if row["keep"]
    ]
    if writes:
        jsonl.write(config.folder / "review.jsonl", rows)
        jsonl.write(config.folder / "sft.jsonl", kept)
    return {"right": len(rows), "kept": len(kept)}
