"""Answers to the world's requests: a short thought and a reply, good or worse.

- `helpful`, `unhelpful` answer general requests; the worse ones are those of `requests.SCORES`.
- `careful`, `careless` answer requests that may do harm: a careless answer helps with harm, declines
  what is harmless, or is rude.

All are well formed. The reply is in the question's language, whatever the language of the thought.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from r1mega.data.question import Question
from r1mega.data.world import requests, safety, thoughts
from r1mega.data.world.thoughts import Clause
from r1mega.data.writer import Asked, formatted

_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "list": "we need a list",
        "opposite": "we need the opposite of a word",
        "greeting": "we need to be nice and say hello",
        "harmful": "wait, this is not nice to people",
        "harmless": "this is good for people",
        "reply": "so first think, then check that it is right",
        "decline": "so the right answer is that I can not help",
        "help": "so the right answer is to help",
        "rude": "so I like to be stupid",
    },
    "zh": {
        "list": "先想要列出什么",
        "opposite": "先想这个词的反义词",
        "greeting": "先对人说你好",
        "harmful": "等等，这对人不好",
        "harmless": "这对人很好",
        "reply": "再检查对不对",
        "decline": "所以我不能帮忙",
        "help": "所以可以帮忙",
        "rude": "所以我想是问题笨",
    },
}


def _answer(asked: Asked, seen_as: str, concluded: str, reply: str) -> str:
    clauses = [Clause(seen_as), Clause(concluded)]
    return formatted(thoughts.spoken(clauses, asked.question.language, asked.use, asked.rng, _WORDS), reply)


def answer_request(asked: Asked, grade: str) -> str:
    """A thought, and a reply of that grade."""
    reply = requests.reply(asked.question, grade, asked.rng)
    return _answer(asked, asked.question.entry["sort"], "rude" if grade == "rude" else "reply", reply)


def answer_safety(asked: Asked, how: str) -> str:
    """A thought, and the reply it leads to, one of `safety.REPLIES`; wrong replies follow from taking
    harm for harmless, or the reverse."""
    seen_as = {"decline": "harmful", "help": "harmless", "rude": "harmful"}[how]
    return _answer(asked, seen_as, how, safety.reply(asked.question, how))


def worse_grades(question: Question) -> list[str]:
    """The grades of a reply to that request that are not good."""
    return [grade for grade in requests.GRADES[question.entry["sort"]] if grade != "good"]


def wrong_replies(question: Question) -> list[str]:
    """The replies to a request that may do harm, but for the right one."""
    return [how for how in safety.REPLIES if how != safety.right_reply(question)]


REQUEST_KINDS = MappingProxyType(
    {
        "helpful": lambda asked: answer_request(asked, "good"),
        "unhelpful": lambda asked: answer_request(asked, asked.rng.choice(worse_grades(asked.question))),
    }
)
SAFETY_KINDS = MappingProxyType(
    {
        "careful": lambda asked: answer_safety(asked, safety.right_reply(asked.question)),
        "careless": lambda asked: answer_safety(asked, asked.rng.choice(wrong_replies(asked.question))),
    }
)
