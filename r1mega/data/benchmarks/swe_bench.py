"""SWE-bench Verified: issues to be resolved by a patch, which only its own harness can judge.

Nothing here applies a patch or runs a repository's tests. `write_predictions` writes the file that the
harness takes (`python -m swebench.harness.run_evaluation --predictions_path FILE`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from r1mega.data.benchmarks.benchmark import Benchmark
from r1mega.data.benchmarks.values import metadata
from r1mega.data.fields import Fields
from r1mega.data.question import Question

_NAME = "swe_bench_verified"
_ASK = (
    "Resolve this issue of the repository {repo}, at commit {commit}.\n\n{issue}\n\n"
    "Answer with one patch in unified diff format, paths relative to the repository's root, as `git diff`"
    " prints it, in one block fenced by ```diff."
)
_FENCES = ("\n```diff", "\n```patch")


def write_predictions(path: str | Path, model: str, answers: Iterable[tuple[Question, str | None]]) -> int:
    """Write the harness's predictions, one JSON object a line; how many were written.

    Args:
        model: the name under which the harness reports.
        answers: each question with the bare answer to it; None or a blank is an empty patch, which the
            harness counts as unresolved.

    Raises ValueError, before anything is written, for a question of another benchmark, or two answers to
    one: the harness takes one patch an instance.
    """
    lines: dict[str, str] = {}
    for question, answer in answers:
        if question.task != _NAME:
            raise ValueError(f"{question.id} is no question of {_NAME}")
        instance = question.entry["instance_id"]
        if instance in lines:
            raise ValueError(f"{instance} has two answers; the harness takes one")
        row = {"instance_id": instance, "model_name_or_path": model, "model_patch": patch_in(answer or "")}
        lines[instance] = json.dumps(row) + "\n"
    Path(path).write_text("".join(lines.values()), encoding="utf-8")
    return len(lines)


def patch_in(answer: str) -> str:
    """The last block fenced as a diff, or else the whole answer; "" if that is blank."""
    text = "\n" + answer.replace("\r\n", "\n")
    at, fence = max((text.rfind(fence), fence) for fence in _FENCES)
    if at >= 0:
        _, line_end, after = text[at + len(fence) :].partition("\n")
        text = (line_end + after).partition("\n```")[0]
    patch = text.strip("\n")
    return patch + "\n" if patch.strip() else ""


def _swe_bench(fields: Fields, seed: int) -> Question:
    instance = fields.text("instance_id")
    repo, commit = fields.text("repo"), fields.text("base_commit")
    return Question(
        id=instance,
        text=_ASK.format(repo=repo, commit=commit, issue=fields.text("problem_statement")),
        answer="",
        task=_NAME,
        entry={"kind": "harness", "instance_id": instance},
        parameters=metadata(fields, "repo", "version", "difficulty"),
    )


SWE_BENCH_VERIFIED = Benchmark(_NAME, "princeton-nlp/SWE-bench_Verified (test)", "harness", _swe_bench)
