"""Ids that say what they name and sort by when they were made: ``call_01jd3q…``.

The part after the prefix is a ULID (https://github.com/ulid/spec): 48 bits of milliseconds and
80 random bits in lower-case Crockford base32, 26 characters. Ids made by one process in
the same millisecond still sort in the order they were made.
"""

import secrets
import threading
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
"""Two characters at a time: an import makes hundreds of thousands of ids."""

_lock = threading.Lock()
_last: tuple[int, int] = (0, 0)


def new_id(prefix: str, *, now: datetime) -> str:
    """A fresh id for a thing of kind *prefix*, made at *now*."""
    global _last
    millis = int(now.timestamp() * 1000)
    with _lock:
        # The top bit stays clear, so that counting up within a millisecond never overflows.
        same = _last[0] == millis
        tail = _last[1] + 1 if same else secrets.randbits(_RANDOM_BITS - 1)
        _last = (millis, tail)
    return f"{prefix}_{_encode((millis << _RANDOM_BITS) | tail)}"


def lowest_id(prefix: str, *, at: datetime) -> str:
    """The lowest id that a thing of kind *prefix* made at *at* could have: a bound for a search by time."""
    return f"{prefix}_{_encode(int(at.timestamp() * 1000) << _RANDOM_BITS)}"


def is_id(prefix: str, text: str) -> bool:
    """Whether *text* has the form of an id of kind *prefix*."""
    head, _, tail = text.partition("_")
    return head == prefix and len(tail) == 26 and all(c in _ALPHABET for c in tail)


def _encode(value: int) -> str:
    """The 26 characters of 128 bits; the first two of 130 are clear."""
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in range(120, -1, -10)])
