"""The letter that an answer to a multiple-choice question chooses.

Reads "B", "(b)", "**B**", "B) Paris", "\\boxed{B}", "Answer: B", "the answer is B", "答案是B" and the
like. An answer that names two letters has chosen none, however it names them: hedging earns nothing.
Letters are A to J; a lower-case one counts only where it stands alone. Linear in the length of the
text, of which only the end is read.
"""

from __future__ import annotations

import re
import unicodedata

_READ = 1_000  # characters from the end; what stands before is no answer but a thought
_ALONE = re.compile(r"[\W_]*([A-Ja-j])[\W_]*")
_WRAPPING = re.compile(
    r"\\(?:boxed|text|textbf|mathrm|mathbf) ?(?=\{)|[*`$\"“”{}\[\]]|(?<![a-z])['‘’]|['’](?![a-z])"
)
_STATED = re.compile(
    r"(?:answer|option|choice|答案|选项|选择?)(?: is| would be|为|是|应该是|应为)?[\s:：=]{0,3}"
    r"\(?([A-J])(?![A-Za-z])",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?<![A-Za-z])([A-J])\)")
_LEADING = re.compile(r"\(?([A-J])(?:[).:、,，。]|\n|$)")
_LETTER = re.compile(
    r"(?<![A-Za-z0-9])([B-HJ]|A(?! (?!is\b)[a-z]))(?![A-Za-z0-9'])"
)  # "a cat" chooses nothing
_SEVERAL = re.compile(r"(?<![A-Za-z])[A-J]\)? ?(?:[,/&;、或和与\n]| or | and ){1,3} ?\(?[A-HJ](?![A-Za-z])")
_DENIAL = re.compile(r"\bnot\b|n['’]t\b|\bneither\b|\bexcept\b|不|非", re.IGNORECASE)


def choice_of(text: str) -> str | None:
    """The one letter chosen, as a capital; None if there is none, or more than one."""
    plain = _WRAPPING.sub("", unicodedata.normalize("NFKC", text[-_READ:])).strip()
    if alone := _ALONE.fullmatch(plain):
        return alone[1].upper()
    chosen = set() if _SEVERAL.search(plain) else _chosen(plain)
    return chosen.pop() if len(chosen) == 1 else None


def _chosen(text: str) -> set[str]:
    """Every letter that is stated, labels an option or leads; failing these, any letter on its own."""
    stated = {letter for letter in _STATED.findall(text) if letter.isupper()}
    labels = set(_LABEL.findall(text))
    leading = _LEADING.match(text)
    named = stated | labels | ({leading[1]} if leading else set())
    if named or _DENIAL.search(text):
        return named
    return set(_LETTER.findall(text))
