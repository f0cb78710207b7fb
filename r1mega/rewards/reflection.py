"""Words by which a model takes back or checks what it has said.

The English ones are those that DeepSeek-R1 (arXiv 2501.12948) counts to watch reflection grow; the
Chinese ones say the same. A word count shows the habit, not whether it helps.
"""

from __future__ import annotations

import re

_ENGLISH = ("wait", "mistake", "however", "but", "retry", "error", "verify", "wrong", "evaluate", "check")
# Where one word begins another the longer comes first, so that it counts once.
_CHINESE = (
    *("等等", "等一下", "错误", "(?<!不)错", "不对", "不过", "但是", "可是", "然而"),
    *("重新", "重试", "再试", "检查", "检验", "验证", "验算", "核对", "评估"),
)
_REFLECTION = re.compile(
    rf"(?<![A-Za-z0-9_])(?:{'|'.join(_ENGLISH)})(?![A-Za-z0-9_])|{'|'.join(_CHINESE)}", re.IGNORECASE
)


def reflection_words(text: str) -> int:
    """How many such words the text has."""
    return sum(1 for _ in _REFLECTION.finditer(text))


def reflects(text: str) -> bool:
    """Whether the text has any such word."""
    return _REFLECTION.search(text) is not None
