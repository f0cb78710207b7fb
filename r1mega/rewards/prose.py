"""The prose of a text: what is left without code, formulas, tags and invisible characters.

Only what is closed is taken out, and a formula or a piece of inline code ends with its paragraph: an
opening mark alone hides nothing. A tag is a bare ASCII name in angle brackets; `<anything else>` is
prose. Everything here is linear in the length of the text.
"""

from __future__ import annotations

import re
import unicodedata

_CODE_BEGINS = re.compile(r" {0,3}(?:(`)``+[^`]*|(~)~~+.*)$")
_CODE_ENDS = re.compile(r" {0,3}(?:(`)``+|(~)~~+)[ \t\r]*$")
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")

# Escapes, delimiters, LaTeX commands (plain operators such as \times) and tags; longest first.
_MARK = re.compile(r"\\[\\$`]|\$\$|\$(?=\S)|\\[(\[]|\\[A-Za-z]+|`+|</?[A-Za-z][A-Za-z0-9_-]{0,31} ?/?>")
_CLOSED_BY = {
    "$$": re.compile(r"\$\$"),
    "$": re.compile(r"(?<![\s\\])\$(?!\d)"),  # or two prices would enclose a formula
    "\\(": re.compile(r"\\\)"),
    "\\[": re.compile(r"\\\]"),
    "`": re.compile(r"`+"),
}
_INVISIBLE = ("Mn", "Me", "Cf")  # marks upon letters, zero widths, directions, soft hyphens


def prose(text: str) -> str:
    """The text without closed code blocks and inline code, formulas, tags and invisible characters."""
    paragraphs = _BLANK_LINE.split(_without_code_blocks(_visible(text)))
    return "\n\n".join(map(_without_spans, paragraphs))


def has_code_block(text: str) -> bool:
    """Whether a code block begins in the text, closed or not."""
    return any(_CODE_BEGINS.match(line) for line in text.split("\n"))


def _visible(text: str) -> str:
    """Without the characters that could split a word and not be seen."""
    unseen = {c for c in set(text) if not c.isascii() and unicodedata.category(c) in _INVISIBLE}
    return text.translate(dict.fromkeys(map(ord, unseen))) if unseen else text


def _without_code_blocks(text: str) -> str:
    lines = text.split("\n")
    ends = {_fence(_CODE_ENDS, line): number for number, line in enumerate(lines)}
    kept, inside = [], ""
    for number, line in enumerate(lines):
        if inside:
            if _fence(_CODE_ENDS, line) == inside:
                inside = ""
            continue
        fence = _fence(_CODE_BEGINS, line)
        if fence and ends.get(fence, -1) > number:
            inside = fence
            kept.append("")
        else:
            kept.append(line)
    return "\n".join(kept)


def _fence(pattern: re.Pattern[str], line: str) -> str:
    """The character of the fence that the line is; empty if it is none."""
    found = pattern.match(line)
    return found[1] or found[2] if found else ""


def _without_spans(paragraph: str) -> str:
    """Without formulas, inline code, commands and tags."""
    kept: list[str] = []
    never: set[str] = set()  # what is not closed from here on, so that nothing is sought twice
    at = 0
    while mark := _MARK.search(paragraph, at):
        kept.append(paragraph[at : mark.start()])
        at = _end(paragraph, mark, never)
    kept.append(paragraph[at:])
    return " ".join(kept)


def _end(paragraph: str, mark: re.Match[str], never: set[str]) -> int:
    """Where that which the mark opens has ended; the mark's own end if it opens nothing."""
    kind = "`" if mark[0].startswith("`") else mark[0]
    if kind in _CLOSED_BY and kind not in never:
        if closed := _CLOSED_BY[kind].search(paragraph, mark.end()):
            return closed.end()
        never.add(kind)
    return mark.end()
