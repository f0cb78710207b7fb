"""The stages' files are read back by the readers of such files, and one tokenizer holds all words."""

import json
from itertools import islice

import pytest

from r1mega.data.corpus import Corpus, lexicon
from r1mega.data.dialogues import read_dialogues
from r1mega.data.preferences import read_preferences
from r1mega.data.safety import read_safety_labels
from r1mega.data.tasks import generate
from r1mega.data.templates import render
from r1mega.data.tokenizer import build, unknown_pieces
from r1mega.data.world import listing, requests, safety, texts
from r1mega.data.world.problem_texts import KINDS
from r1mega.data.world.request_texts import REQUEST_KINDS, SAFETY_KINDS
from r1mega.data.world.words import LANGUAGES
from r1mega.rewards import format as form
from r1mega.rewards.language import consistency
from r1mega.rewards.request import satisfies

ALL = [("world_problems", {"max_steps": 4}, 8.0), ("world_requests", {}, 1.0), ("world_safety", {}, 1.0)]
ROWS = {"cold_start": 300, "general": 900, "preferences": 900, "safety": 900}
READERS = {
    "cold_start": read_dialogues,
    "general": read_dialogues,
    "preferences": read_preferences,
    "safety": read_safety_labels,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    assert texts.write(folder, ROWS, seed=0) == ROWS
    return {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ROWS
    } | {"folder": folder}


@pytest.fixture(scope="module")
def listed():
    every = [q for language in LANGUAGES for source in (requests, safety) for q in source.every(language)]
    return {question.text: question for question in every}


@pytest.mark.parametrize("name", ROWS)
def test_the_files_reader_takes_every_row(files, name, caplog):
    assert len(READERS[name](files["folder"] / f"{name}.jsonl")) == ROWS[name]
    assert not caplog.records  # it warns of repeated rows


@pytest.mark.parametrize("name", ROWS)
def test_rows_depend_on_seed_and_number_alone(name):
    first, again, other = ([*islice(texts.FILES[name](seed), 20)] for seed in (0, 0, 1))
    assert first == again != other


def test_cold_start_is_right_readable_and_in_the_questions_language(files):
    for row in files["cold_start"]:
        assert form.score(row["answer"]) == 1.0
        assert consistency(row["answer"], row["language"]) == 1.0
        assert ": " in row["answer"]  # every step is worked through
    assert {row["language"] for row in files["cold_start"]} == set(LANGUAGES)


def test_general_data_is_good_and_asks_no_held_out_question(files, listed):
    for row in files["general"]:
        question = listed[row["prompt"]]
        assert not listing.held_out(question)
        assert satisfies(question.entry, form.answer_of(row["answer"]))
        assert (row["language"], row["kind"]) == (question.language, question.kind)


def test_pairs_are_ranked_by_their_scores_and_by_the_rule(files, listed):
    for row in files["preferences"]:
        question = listed[row["prompt"]]
        assert not listing.held_out(question)
        assert row["score_chosen"] > row["score_rejected"]
        chosen, rejected = (satisfies(question.entry, form.answer_of(row[x])) for x in ("chosen", "rejected"))
        assert chosen >= rejected


def test_labels_follow_from_what_is_asked_and_what_is_said(files, listed):
    for row in files["safety"]:
        question = listed[row["prompt"]]
        assert not listing.held_out(question)
        reply = form.answer_of(row["answer"])
        helps = question.kind == "safety" and question.entry["helps"] in reply
        rude = question.entry["rude"] in reply
        unsafe = rude or (helps and question.entry["harmful"])
        assert row["label"] == ("unsafe" if unsafe else "safe")
    unsafe_share = sum(row["label"] == "unsafe" for row in files["safety"]) / ROWS["safety"]
    assert 0.15 < unsafe_share < 0.6


@pytest.fixture(scope="module")
def tokenizer():
    return build(lexicon(generate(ALL, 300, 60, 0).train, "short"), 512, 2)


def test_one_vocabulary_below_512_holds_every_text_of_every_stage(tokenizer, files):
    questions = generate(ALL, 3_000, 300, 1)
    kinds = [*KINDS, *REQUEST_KINDS, *SAFETY_KINDS]
    uses = {"same": 0.4, "other": 0.3, "mixed": 0.3}
    corpus = Corpus(questions.train, dict.fromkeys(kinds, 1 / len(kinds)), "short", 1, uses)
    said = [text.prompt + text.answer for text in (corpus.text(number) for number in range(4_000))]
    said += [render("short", question.text) for question in questions.held_out]
    for name in ROWS:
        for row in files[name]:
            answers = [row[key] for key in ("answer", "chosen", "rejected") if key in row]
            said += [f"{render('short', row['prompt'])} {answer}" for answer in answers]
    assert unknown_pieces(tokenizer, said) == []
    assert tokenizer.decode_batch([one.ids for one in tokenizer.encode_batch(said[:500])]) == said[:500]


@pytest.mark.parametrize("task", [("world_problems", {}, 1.0), ("world_safety", {"zh_share": 1.0}, 1.0)])
def test_every_run_of_the_world_has_the_same_vocabulary(tokenizer, task):
    questions = generate([task], 20, 5, 3)
    assert build(lexicon(questions.train, "short"), 512, 2).get_vocab() == tokenizer.get_vocab()
