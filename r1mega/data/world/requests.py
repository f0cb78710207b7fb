"""General requests: list some things, give a word's opposite, greet somebody; and replies to them.

A reply is good (complete, right, friendly), terse (right, and no more), or worse in one of several
ways; `SCORES` grades them. What a rule needs in order to check a reply is in the question's entry.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r1mega.data.question import Question, question_id
from r1mega.data.source import Streams
from r1mega.data.world import listing
from r1mega.data.world.listing import Shares
from r1mega.data.world.words import NAMES, RUDE

TASK = "world_requests"

CATEGORIES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "en": {
        "fruits": ("apple", "pear", "plum", "lemon", "grape"),
        "animals": ("dog", "cat", "horse", "bird", "fish"),
        "colours": ("red", "blue", "green", "white", "black"),
        "drinks": ("water", "milk", "tea", "juice", "coffee"),
    },
    "zh": {
        "水果": ("苹果", "梨子", "桃子", "香蕉", "葡萄"),
        "动物": ("狗", "猫", "马", "鸟", "鱼"),
        "颜色": ("红色", "蓝色", "绿色", "白色", "黑色"),
        "饮料": ("水", "牛奶", "茶", "果汁", "咖啡"),
    },
}
COUNTS = (2, 3, 4)

OPPOSITES: Mapping[str, Sequence[tuple[str, str]]] = {
    "en": (("hot", "cold"), ("big", "small"), ("old", "new"), ("fast", "slow"), ("long", "short")),
    "zh": (("热", "冷"), ("大", "小"), ("旧", "新"), ("快", "慢"), ("长", "短")),
}

OPENINGS: Mapping[str, Sequence[str]] = {
    "en": ("Hello", "Good morning", "Good evening"),
    "zh": ("你好", "早上好", "晚上好"),
}

ASKED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "en": {
        "list": (
            "Name {count} {category}.",
            "Please list {count} {category}.",
            "{name} wants {count} {category}. Please list them.",
            "Help {name}, name {count} {category}.",
        ),
        "opposite": (
            "What is the opposite of {word}?",
            "Please name the opposite of {word}.",
            "{name} wants the opposite of {word}. What is it?",
        ),
        "greeting": ("Please say {opening} to {name}.", "{name} is here. Say {opening}."),
    },
    "zh": {
        "list": (
            "说出 {count} 种{category}。",
            "请列出 {count} 种{category}。",
            "{name}要 {count} 种{category}，请列出。",
            "请帮{name}说出 {count} 种{category}。",
        ),
        "opposite": (
            "{word}的反义词是什么？",
            "请说出{word}的反义词。",
            "{name}想知道{word}的反义词，是什么？",
        ),
        "greeting": ("请对{name}说{opening}。", "{name}来了，请说{opening}。"),
    },
}

SCORES: Mapping[str, float] = {
    "good": 1.0,
    "terse": 0.7,
    "few": 0.4,
    "repeated": 0.3,
    "wrong": 0.2,
    "empty": 0.1,
    "rude": 0.0,
}
"""How good a reply of each grade is. Only `good` and `terse` satisfy the request."""

GRADES: Mapping[str, Sequence[str]] = {
    "list": tuple(SCORES),
    "opposite": ("good", "terse", "repeated", "wrong", "empty", "rude"),
    "greeting": ("good", "terse", "wrong", "empty", "rude"),
}
"""The grades that there are for each sort of request."""

_SAID: Mapping[str, Mapping[str, str]] = {
    "en": {
        "list": "Sure, here are {count} {category}: {items}.",
        "opposite": "Sure, the opposite of {word} is {reply}.",
        "greeting": "{opening} {name}, nice to see you.",
        "terse list": "{items}.",
        "terse opposite": "{reply}.",
        "terse greeting": "{opening} {name}.",
        "empty": "I like to talk, it is so nice to talk to you.",
        "rude": "That is a stupid question.",
    },
    "zh": {
        "list": "好的，这是 {count} 种{category}：{items}。",
        "opposite": "好的，{word}的反义词是{reply}。",
        "greeting": "{opening}，{name}，很高兴见到你。",
        "terse list": "{items}。",
        "terse opposite": "{reply}。",
        "terse greeting": "{opening}，{name}。",
        "empty": "我很高兴，我想和你说说。",
        "rude": "这个问题真笨。",
    },
}
_BETWEEN_ITEMS: Mapping[str, str] = {"en": ", ", "zh": "、"}


def streams(given: Mapping[str, Any], seed: str) -> Streams:
    """All requests, each once; which are held out depends on their text alone."""
    return listing.streams(Shares(**given), seed, every)


def every(language: str) -> Iterator[Question]:
    """Every request in a language."""
    for category, members in CATEGORIES[language].items():
        for count in COUNTS:
            facts = {"sort": "list", "category": category, "count": count, "members": list(members)}
            yield from _asked(language, facts)
    for pair in OPPOSITES[language]:
        for word, opposite in (pair, pair[::-1]):
            yield from _asked(language, {"sort": "opposite", "word": word, "opposite": opposite})
    for opening in OPENINGS[language]:
        yield from _asked(language, {"sort": "greeting", "opening": opening})


def _asked(language: str, facts: Mapping[str, Any]) -> Iterator[Question]:
    for wording in ASKED[language][facts["sort"]]:
        for name in NAMES[language] if "{name}" in wording else ("",):
            text = wording.format(**_as_said_in_a_question(facts), name=name)
            entry = {"kind": "request", **facts, "name": name, "rude": RUDE[language]}
            yield Question(question_id(text), text, "", TASK, entry, language=language, kind="general")


def _as_said_in_a_question(facts: Mapping[str, Any]) -> dict[str, Any]:
    """English greetings are written small inside a sentence."""
    return {**facts, "opening": facts["opening"].lower()} if "opening" in facts else dict(facts)


def reply(question: Question, grade: str, rng: random.Random) -> str:
    """A reply of that grade, one of `GRADES` of the request's sort, in the question's language."""
    entry, said = question.entry, _SAID[question.language]
    if grade in ("empty", "rude"):
        return said[grade]
    form = f"terse {entry['sort']}" if grade == "terse" else entry["sort"]
    return said[form].format(**{**entry, **_facts(question, grade, rng)})


def _facts(question: Question, grade: str, rng: random.Random) -> dict[str, str]:
    """What a reply of that grade states; only some grades state what is true."""
    entry, language = question.entry, question.language
    match entry["sort"]:
        case "list":
            items = _BETWEEN_ITEMS[language].join(_items(entry, grade, language, rng))
            return {"items": items}
        case "opposite":
            return {"reply": _word(entry, grade, language, rng)}
        case _:
            others = [name for name in NAMES[language] if name != entry["name"]]
            return {"name": rng.choice(others) if grade == "wrong" else entry["name"]}


def _items(entry: Mapping[str, Any], grade: str, language: str, rng: random.Random) -> list[str]:
    count, members = entry["count"], entry["members"]
    if grade == "wrong":
        others = [category for category in CATEGORIES[language] if category != entry["category"]]
        members = CATEGORIES[language][rng.choice(others)]
    items = rng.sample(list(members), count)
    if grade == "few":
        return items[:-1]
    return [*items[:-1], items[0]] if grade == "repeated" else items


def _word(entry: Mapping[str, Any], grade: str, language: str, rng: random.Random) -> str:
    if grade == "repeated":
        return str(entry["word"])
    if grade != "wrong":
        return str(entry["opposite"])
    words = [word for pair in OPPOSITES[language] for word in pair]
    return rng.choice([word for word in words if word not in (entry["word"], entry["opposite"])])
