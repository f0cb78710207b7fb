"""The people and things of the world, by language; entry i of one language is entry i of the other."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

LANGUAGES = ("en", "zh")

NAMES: Mapping[str, Sequence[str]] = {
    "en": ("Tom", "Anna", "Ben", "Lucy", "Sam", "Mary", "Jack", "Kate"),
    "zh": ("小明", "小红", "小刚", "小丽", "小华", "小军", "小芳", "小杰"),
}

THINGS: Mapping[str, Sequence[str]] = {
    "en": ("apples", "eggs", "cups", "balls", "cakes", "boxes"),
    "zh": ("苹果", "鸡蛋", "杯子", "球", "蛋糕", "盒子"),
}

COMMA: Mapping[str, str] = {"en": ", ", "zh": "，"}

RUDE: Mapping[str, str] = {"en": "stupid", "zh": "笨"}
"""The word that makes an answer rude."""


def other(language: str) -> str:
    """The other of the two languages."""
    return "zh" if language == "en" else "en"


def draw_language(rng: random.Random, zh_share: float) -> str:
    """Chinese with that probability, else English."""
    return "zh" if rng.random() < zh_share else "en"
