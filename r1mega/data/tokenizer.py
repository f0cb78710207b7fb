"""A small word-level tokenizer, closed over the texts it is built from.

A piece is a word (with its colon), a Han character, a digit, a tag or a sign, together with the one
space or line break before it. Where asked, a number of up to so many digits after a space is one
piece too. Nothing is lost between pieces, so decoding gives back every known text byte for byte:
" 12" is " 1" "2" (or " 12"), and "- 12" differs from "-12". Every number has its tokens. It refuses
a vocabulary larger than the limit; text that holds an unknown piece becomes `<|unk|>` there, which
`unknown_pieces` finds beforehand.

Saved in Hugging Face form (tokenizer.json, tokenizer_config.json with the chat template), which
transformers' AutoTokenizer and vLLM load. No special token is ever added by encoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, EOS, UNK = "<|pad|>", "<|eos|>", "<|unk|>"
PAD_ID, EOS_ID, UNK_ID = 0, 1, 2

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_PIECE = r"[ \n]?(?:</?(?:think|answer)>|[A-Za-z]+:?|[0-9]|[^\sA-Za-z0-9])|\s"
_NUMBER = r" [1-9][0-9]{{1,{more}}}(?![0-9])"  # of several digits; one of them alone is a digit
_LIMIT = 128
MOST_DIGITS_PER_TOKEN = 3


class VocabularyError(ValueError):
    """The texts hold more different pieces than a small vocabulary may have."""


def build(texts: Iterable[str], limit: int = _LIMIT, digits_per_token: int = 1) -> Tokenizer:
    """The tokenizer of all pieces in `texts`, plus every digit, tag and number of up to
    `digits_per_token` digits; ids do not depend on order.

    Raises `VocabularyError` if there are more than `limit`, special tokens included.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    number = _NUMBER.format(more=digits_per_token - 1) + "|" if digits_per_token > 1 else ""
    splitter = pre_tokenizers.Split(Regex(number + _PIECE), behavior="isolated")
    pieces = {piece for text in set(texts) for piece, _ in splitter.pre_tokenize_str(text)}
    pieces |= {space + word for space in ("", " ") for word in (*_TAGS, *"0123456789")}
    pieces |= {f" {number}" for number in range(10, 10**digits_per_token)}
    words = [PAD, EOS, UNK, *sorted(pieces - {PAD, EOS, UNK})]
    if len(words) > limit:
        raise VocabularyError(
            f"the texts need a vocabulary of {len(words)}, more than {limit}: a tiny tokenizer"
            " serves tasks of few words; start from a model that has its own (model.init_from)"
        )
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in words[:3]])
    return tokenizer


def check_digits(digits_per_token: int) -> list[str]:
    """The fault of `data.digits_per_token`, if any."""
    if 1 <= digits_per_token <= MOST_DIGITS_PER_TOKEN:
        return []
    return [f"data.digits_per_token: was {digits_per_token}; must be from 1 to {MOST_DIGITS_PER_TOKEN}"]


def unknown_pieces(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """The pieces of `texts` that the tokenizer has no token for, sorted; they would not come
    back."""
    unknown = set()
    for text in texts:
        encoding = tokenizer.encode(text)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        unknown |= {text[start:end] for token, (start, end) in spans if token == UNK_ID}
    return sorted(unknown)


def save(tokenizer: Tokenizer, folder: str | Path, chat_template: str, max_tokens: int) -> None:
    """Write the tokenizer's files into `folder`; `max_tokens` is the longest text a model takes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names: dict[str, object] = {"pad_token": PAD, "eos_token": EOS, "unk_token": UNK}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,  # it would pull signs towards the word before
        "chat_template": chat_template,
    }
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", names)


def _write_json(path: Path, value: dict[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
