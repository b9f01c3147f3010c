"""What counts as a word of what was said, in every language. Pure.

The same words go into the index of either database, as small ASCII letters and digits, so that no database's
own idea of a word matters and both find the same.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

MOST = 5000
"""Words of a turn that are indexed: half an hour of speech."""
LONGEST = 64
"""Characters of a word that count."""

_RUN = re.compile(r"[^\W_]+(?:[\u0300-\u036f]+[^\W_]*)*")
_ONE_BY_ONE = (
    (0x0E00, 0x0E7F),  # Thai
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x9FFF),  # Han
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Scripts without spaces: each character is a word, and a word of theirs is a phrase."""


class Word(NamedTuple):
    """A word and where it stands in its text."""

    key: str
    """ASCII letters and digits: as it is indexed and compared."""
    start: int
    end: int


def words(text: str) -> Iterator[Word]:
    """The words of *text*, without capitals and accents; one with a hyphen or apostrophe is two."""
    for run in _RUN.finditer(text):
        plain = unicodedata.normalize("NFKD", run[0]).casefold()
        key = ""
        for char in unicodedata.normalize("NFKD", plain):
            if not char.isalnum():
                continue
            if any(low <= ord(char) <= high for low, high in _ONE_BY_ONE):
                if key:
                    yield Word(key[:LONGEST], run.start(), run.end())
                yield Word(_ascii(char), run.start(), run.end())
                key = ""
            else:
                key += char if char.isascii() else _ascii(char)
        if key:
            yield Word(key[:LONGEST], run.start(), run.end())


def _ascii(char: str) -> str:
    return f"z{ord(char):05x}"


def indexed(text: str) -> str:
    """The words of *text* with a space before, between and after: what is searched in."""
    found = [word.key for word, _ in zip(words(text), range(MOST), strict=False)]
    return f" {' '.join(found)} " if found else " "
