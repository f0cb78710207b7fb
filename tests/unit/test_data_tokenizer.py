"""Every text a tiny model sees comes back byte for byte, also through transformers."""

import itertools
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1mega.data import sums
from r1mega.data.corpus import lexicon, write
from r1mega.data.tasks import generate
from r1mega.data.templates import TEMPLATES, check_template, render
from r1mega.data.tokenizer import (
    EOS_ID,
    PAD_ID,
    UNK_ID,
    VocabularyError,
    build,
    check_digits,
    save,
    unknown_pieces,
)

KINDS = tuple(sums.KINDS)
DEMO = ("chain_sum", {"min_terms": 3, "max_terms": 4, "min_digits": 1, "max_digits": 1}, 1.0)
WIDE = ("chain_sum", {"min_terms": 2, "max_terms": 6, "max_digits": 4, "allow_negation": True}, 1.0)


@pytest.fixture(scope="module")
def demo():
    return generate([DEMO], 500, 100, 0)


@pytest.fixture(scope="module")
def short(demo):
    return build(lexicon(demo.train, "short"))


# chat_sum is for models that bring a tokenizer with ChatML's tokens; these two are asked in plain words.
@pytest.fixture(scope="module", params=["r1_zero", "short"])
def folder(request, demo, tmp_path_factory):
    """A saved tokenizer beside a model of the DeepSeek-V3 family."""
    path = tmp_path_factory.mktemp(request.param)
    save(build(lexicon(demo.train, request.param)), path, TEMPLATES[request.param], max_tokens=256)
    (path / "config.json").write_text(json.dumps({"model_type": "deepseek_v3"}))
    return path, request.param


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(KINDS), st.integers())
def test_every_kind_of_text_round_trips(demo, short, data, kind, seed):
    asked, other = (data.draw(st.sampled_from(demo.train + demo.held_out)) for _ in range(2))
    text = render("short", asked.text) + write(kind, asked, other, random.Random(seed))
    ids = short.encode(text).ids
    assert UNK_ID not in ids
    assert short.decode(ids) == text


def test_larger_and_negative_numbers_round_trip():
    questions = generate([WIDE], 300, 10, 0).train
    tokenizer = build(lexicon(questions[:5], "r1_zero"))
    rng = random.Random(0)
    for asked, other in itertools.pairwise(questions):
        text = render("r1_zero", asked.text) + write(rng.choice(KINDS), asked, other, rng)
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789 +-=,"), max_size=30))
def test_digits_and_signs_round_trip_however_they_stand(text):
    known = build([f"{space}{sign}" for space in ("", " ") for sign in ("+", "-", "=", ",", "")])
    assert known.decode(known.encode(text).ids) == text


@pytest.mark.parametrize("digits", [1, 2, 3])
@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789 +-=,"), max_size=30))
def test_every_number_has_its_tokens_however_many_digits_one_holds(digits, text):
    known = build([f"{space}{sign}" for space in ("", " ") for sign in "+-=, "], 2_000, digits)
    assert unknown_pieces(known, [text]) == []
    assert known.decode(known.encode(text).ids) == text


def test_a_number_after_a_space_is_one_token_up_to_the_digits_asked_for():
    known = build(["个"], 2_000, 2)
    for text, tokens in {
        " 47": [" 47"],
        " 4": [" 4"],
        " 470": [" 4", "7", "0"],
        " 07": [" 0", "7"],
        "47": ["4", "7"],
        " 47个": [" 47", "个"],
    }.items():
        assert known.encode(text).tokens == tokens


@pytest.mark.parametrize("digits", [0, 4])
def test_more_digits_than_a_small_vocabulary_holds_are_a_fault(digits):
    assert check_digits(2) == []
    assert check_digits(digits)[0].startswith(f"data.digits_per_token: was {digits}; must be from 1 to 3")


def test_numbers_are_digits_and_tags_are_one_token(short):
    assert short.encode(" 12 - -3").tokens == [" 1", "2", " -", " -", "3"]
    assert short.encode(" <think> 4 </think>").tokens == [" <think>", " 4", " </think>"]


def test_prompts_and_answers_are_short(demo, short):
    rng = random.Random(0)
    prompts = [len(short.encode(render("short", q.text)).ids) for q in demo.train]
    answers = [len(short.encode(write(kind, q, q, rng)).ids) for q in demo.train for kind in KINDS]
    assert max(prompts) <= 25
    assert max(answers) + 1 <= 48
    assert short.get_vocab_size() <= 64


def test_the_vocabulary_does_not_depend_on_order(demo):
    texts = list(lexicon(demo.train, "short"))
    assert build(texts).get_vocab() == build(reversed(texts)).get_vocab()


def test_special_tokens_have_their_ids_and_are_never_added(short):
    assert [short.id_to_token(i) for i in (PAD_ID, EOS_ID, UNK_ID)] == [
        "<|pad|>",
        "<|eos|>",
        "<|unk|>",
    ]
    assert short.encode("").ids == []


def test_unknown_pieces_are_found_beforehand(demo, short):
    assert unknown_pieces(short, [render("short", q.text) for q in demo.held_out]) == []
    unknown = unknown_pieces(short, ["State 7 * 8", " the Größe"])
    assert unknown == sorted(["State", " *", " Gr", "ö", "ß", "e"])


def test_too_large_a_vocabulary_is_refused():
    with pytest.raises(VocabularyError, match="vocabulary of 3"):
        build(chr(ord("à") + i) for i in range(300))


def test_transformers_reads_it_back(folder, demo):
    from transformers import AutoTokenizer

    path, template = folder
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD_ID, EOS_ID)
    rng = random.Random(1)
    for asked in demo.held_out[:20]:
        prompt = render(template, asked.text)
        message = [{"role": "user", "content": asked.text}]
        given = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        assert given == prompt
        text = prompt + write("corrected", asked, asked, rng)
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode([*ids, EOS_ID], skip_special_tokens=True) == text


def test_an_answer_in_a_conversation_is_closed(folder):
    from transformers import AutoTokenizer

    path, template = folder
    turns = [{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2"}]
    text = AutoTokenizer.from_pretrained(path).apply_chat_template(turns, tokenize=False)
    assert text == render(template, "1 + 1 =") + " 2<|eos|>"


def test_decoding_token_by_token_gives_the_same_text(demo, short):
    from tokenizers.decoders import DecodeStream

    text = write("right", demo.train[0], demo.train[1], random.Random(0))
    stream = DecodeStream(skip_special_tokens=True)
    assert "".join(stream.step(short, i) or "" for i in short.encode(text).ids) == text


def test_the_papers_template_is_word_for_word():
    assert render("r1_zero", "{{ 1 }} {% x %}?") == (
        "A conversation between User and Assistant. The user asks a question, and the Assistant"
        " solves it. The assistant first thinks about the reasoning process in the mind and then"
        " provides the user with the answer. The reasoning process and answer are enclosed within"
        " <think> </think> and <answer> </answer> tags, respectively, i.e., <think> reasoning"
        " process here </think> <answer> answer here </answer>. User: {{ 1 }} {% x %}?. Assistant:"
    )


def test_an_unknown_template_is_a_fault_that_names_the_known_ones():
    assert check_template("short") == []
    assert check_template("qwen") == [
        "data.template: was qwen; must be a template, it may be chat_ml, chat_sum, r1_zero, short"
    ]
