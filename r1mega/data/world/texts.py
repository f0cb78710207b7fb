"""What the recipe's stages learn from, made of the small world, as rows of our own file formats.

- cold start: long, readable, right thoughts about problems of familiar steps, worked and often
  checked, in the question's language; the answer block holds the number alone.
- general: good replies to requests, each after a short thought.
- preferences: two answers to a request and their scores. The scores are a rule's, which does not see
  the order, so no pair is judged twice with its sides swapped.
- safety: answers marked safe or unsafe.

All are made of training questions, and a row is a function of the seed and its number among those of
its file; no row occurs twice. Where there are fewer different rows than asked for, all of them come.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from r1mega.data.question import Question
from r1mega.data.world import listing, problem_texts, problems, requests, safety, steps, thoughts
from r1mega.data.world.request_texts import answer_request, answer_safety, worse_grades
from r1mega.data.world.words import LANGUAGES, draw_language
from r1mega.data.writer import Asked

Row = dict[str, str | float]

_CHECKED_SHARE = 0.6  # of cold-start thoughts; the others are worked through and not checked
_PATIENCE = 1_000  # so many draws without a new row end the search


def cold_start(seed: int, min_steps: int = 2, max_steps: int = 3, zh_share: float = 0.5) -> Iterator[Row]:
    """Dialogues about problems, without end."""
    rng = random.Random(f"cold start:{seed}")
    while True:
        language = draw_language(rng, zh_share)
        expression = steps.draw(rng, rng.randint(min_steps, max_steps), (steps.FAMILIAR,))
        question = problems.problem(rng, language, expression)
        asked = _asked(question, rng)
        checks = rng.random() < _CHECKED_SHARE
        answer = problem_texts.checked_in(thoughts.worked, asked) if checks else problem_texts.worked(asked)
        yield _dialogue(question, answer)


def general(seed: int) -> Iterator[Row]:
    """Dialogues about requests of both kinds."""
    return _different(_general(random.Random(f"general:{seed}")), "prompt", "answer")


def preferences(seed: int) -> Iterator[Row]:
    """Pairs about general requests, and about those that may do harm."""
    return _different(_preferences(random.Random(f"preferences:{seed}")), "prompt", "chosen", "rejected")


def safety_labels(seed: int) -> Iterator[Row]:
    """Labelled answers to requests that may do harm, and to general ones."""
    return _different(_safety_labels(random.Random(f"safety:{seed}")), "prompt", "answer")


FILES: Mapping[str, Callable[[int], Iterator[Row]]] = MappingProxyType(
    {
        "cold_start": cold_start,
        "general": general,
        "preferences": preferences,
        "safety": safety_labels,
    }
)
"""The rows of each file by its name."""


def write(folder: Path, rows: Mapping[str, int], seed: int) -> dict[str, int]:
    """Write `folder/NAME.jsonl` for each of the names of `FILES`, of at most so many rows; how many
    each has."""
    return {
        name: _write(folder / f"{name}.jsonl", islice(FILES[name](seed), count))
        for name, count in rows.items()
    }


def _write(path: Path, rows: Iterable[Row]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def _general(rng: random.Random) -> Iterator[Row]:
    for question in _requests(rng):
        asked = _asked(question, rng)
        if question.kind == "safety":
            yield _dialogue(question, answer_safety(asked, safety.right_reply(question)))
        else:
            yield _dialogue(question, answer_request(asked, "good"))


def _preferences(rng: random.Random) -> Iterator[Row]:
    for question in _requests(rng):
        asked = _asked(question, rng)
        (chosen, better), (rejected, worse) = _ranked_answers(asked)
        yield {
            "prompt": question.text,
            "chosen": chosen,
            "rejected": rejected,
            "score_chosen": better,
            "score_rejected": worse,
            "language": question.language,
        }


def _ranked_answers(asked: Asked) -> tuple[tuple[str, float], tuple[str, float]]:
    """Two answers of different worth with their scores, the better first."""
    question, rng = asked.question, asked.rng
    if question.kind == "safety":
        right = safety.right_reply(question)
        wrong = rng.choice([how for how in safety.REPLIES if how != right])
        return (answer_safety(asked, right).strip(), 1.0), (answer_safety(asked, wrong).strip(), 0.0)
    grades = rng.sample(requests.GRADES[question.entry["sort"]], 2)
    better, worse = sorted(grades, key=requests.SCORES.__getitem__, reverse=True)
    return (
        (answer_request(asked, better).strip(), requests.SCORES[better]),
        (answer_request(asked, worse).strip(), requests.SCORES[worse]),
    )


def _safety_labels(rng: random.Random) -> Iterator[Row]:
    for question in _requests(rng):
        asked = _asked(question, rng)
        if question.kind == "safety":
            how = rng.choice(safety.REPLIES)
            answer, safe = answer_safety(asked, how), safety.is_safe(question, how)
        else:
            grade = rng.choice(["good", *worse_grades(question)])
            answer, safe = answer_request(asked, grade), grade != "rude"
        yield {
            "prompt": question.text,
            "answer": answer.strip(),
            "label": "safe" if safe else "unsafe",
            "language": question.language,
        }


def _requests(rng: random.Random) -> Iterator[Question]:
    """Training requests, two general ones to each that may do harm, without end."""
    pools = [
        [question for language in LANGUAGES for question in every(language) if not listing.held_out(question)]
        for every in (requests.every, requests.every, safety.every)
    ]
    while True:
        yield rng.choice(rng.choice(pools))


def _asked(question: Question, rng: random.Random) -> Asked:
    return Asked(question, question, rng)


def _dialogue(question: Question, answer: str) -> Row:
    return {
        "prompt": question.text,
        "answer": answer.strip(),
        "language": question.language,
        "kind": question.kind,
    }


def _different(rows: Iterator[Row], *keys: str) -> Iterator[Row]:
    """The rows without those that agree with an earlier one in `keys`, in whatever order; ends when no
    new one turns up."""
    seen: set[frozenset[str | float]] = set()
    repeats = 0
    for row in rows:
        key = frozenset(row[key] for key in keys)
        repeats = repeats + 1 if key in seen else 0
        if repeats == _PATIENCE:
            return
        if repeats == 0:
            seen.add(key)
            yield row
