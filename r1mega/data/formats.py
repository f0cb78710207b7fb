"""Which format a file's rows have, found from their keys, and the one way that rows become items.

A format is named with the keys that mark it. A row has the format whose marks it all has, the one
with more of them where one format's marks include another's. Guarantees that each row is either an
item or a fault that names its line, in the file's order. Refuses a row that has no known format or
two at once, and a second format in one file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar, final

from r1mega.data.fields import Fields
from r1mega.data.files import BadRow, DataFileError, rows

T = TypeVar("T")

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class Format(Generic[T]):
    """A format's name, its marks (each a key, or several of which one is there), and its reader.

    `read` takes a row's fields and where the row stands ("file:line").
    """

    name: str
    marks: tuple[tuple[str, ...], ...]
    read: Callable[[Fields, str], T]

    def fits(self, keys: set[str]) -> bool:
        return all(keys.intersection(mark) for mark in self.marks)

    def touches(self, keys: set[str]) -> bool:
        return any(keys.intersection(mark) for mark in self.marks)

    def __str__(self) -> str:
        return f"{self.name} ({', '.join('/'.join(mark) for mark in self.marks)})"


@final
class Reading(Generic[T]):
    """One pass over a file. Iterate it for numbered items; then `finish` gives those kept."""

    def __init__(self, path: str | Path, formats: Sequence[Format[T]], noun: str) -> None:
        self._path = str(path)
        self._formats = formats
        self._noun = noun
        self._faults: list[str] = []
        self._kept: list[T] = []
        self._seen: dict[Hashable, tuple[Hashable, int]] = {}
        self._repeats = 0
        self._format: tuple[Format[T], int] | None = None

    def __iter__(self) -> Iterator[tuple[int, T]]:
        for row in rows(self._path):
            if isinstance(row, BadRow):
                self.wrong(row.number, row.fault)
            elif (item := self._read(row.number, Fields(row.values))) is not None:
                yield row.number, item

    def wrong(self, number: int, fault: str) -> None:
        self._faults.append(f"{self._path}:{number}: {fault}")

    def keep(self, number: int, item: T, key: Hashable, claim: Hashable, claimed: str) -> bool:
        """Keep an item unless its key was there before: with an equal claim it is a repeat, and with
        another one a fault, which says `claimed` of it."""
        known, first = self._seen.setdefault(key, (claim, number))
        if first == number:
            self._kept.append(item)
            return True
        self._repeats += 1
        if known != claim:
            self.wrong(number, f"the {self._noun} of line {first} again, with another {claimed}")
        return False

    def finish(self) -> list[T]:
        """The items kept. Raises `DataFileError` with every fault if there is any."""
        if not (self._faults or self._kept):
            self._faults.append(f"{self._path}: holds no {self._noun}")
        if self._faults:
            raise DataFileError(self._faults)
        if self._repeats:
            _log.warning("%s: %d repeated %ss were kept once each", self._path, self._repeats, self._noun)
        return self._kept

    def _read(self, number: int, fields: Fields) -> T | None:
        try:
            form = self._format_of(number, set(fields.values))
        except _Unclear as error:
            self.wrong(number, str(error))
            return None
        item = form.read(fields, f"{self._path}:{number}")
        if fields.faults:
            self.wrong(number, "; ".join(fields.faults))
            return None
        return item

    def _format_of(self, number: int, keys: set[str]) -> Format[T]:
        fitting = [form for form in self._formats if form.fits(keys)]
        fitting = [form for form in fitting if not any(_includes(other, form) for other in fitting)]
        if len(fitting) > 1:
            both = " and ".join(str(form) for form in fitting)
            raise _Unclear(f"fits two formats, {both}: keep the keys of one")
        if not fitting:
            return self._nearest(keys)
        if self._format is None:
            self._format = fitting[0], number
            _log.info("%s: %ss as in %s", self._path, self._noun, fitting[0])
        first, where = self._format
        if fitting[0] is not first:
            raise _Unclear(f"is in the format of {fitting[0]}, but line {where} in that of {first}: keep one")
        return first

    def _nearest(self, keys: set[str]) -> Format[T]:
        """The format that a row with missing keys was meant to have."""
        known = [self._format[0]] if self._format else []
        for near in (known, self._formats):
            touching = [form for form in near if form.touches(keys)]
            if len(touching) == 1:
                return touching[0]
        has = ", ".join(repr(key[:40]) for key in sorted(keys)[:10]) or "no key"
        raise _Unclear(f"has {has}; must have the keys of {', or '.join(map(str, self._formats))}")


class _Unclear(ValueError):
    """Why a row's format cannot be told."""


def _includes(more: Format[T], less: Format[T]) -> bool:
    return set(more.marks) > set(less.marks)
