"""Cursors: where a page of calls, events or other things stops, as one opaque word for a URL.

The word begins with the version of its form, so that a later form can still read this one.
"""

import base64
from collections.abc import Callable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Annotated, TypeVar

from fastapi import Query
from pydantic import Field

from trunkline.calls.queries import Cursor
from trunkline.errors import Invalid
from trunkline.kit.ids import is_id

_VERSION = "1"
_MAX_LENGTH = 200

_EVENTS = "e1"
_IDS = "i1"

Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
LongLimit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
"""For a short list, which its readers have whole when they say nothing."""
PageCursor = Annotated[
    str | None,
    Query(description="`next_cursor` of the page before.", max_length=_MAX_LENGTH, examples=[None]),
]
NextCursor = Annotated[
    str | None,
    Field(description="Send as `cursor` for the next page; null on the last one.", examples=[None]),
]

Row = TypeVar("Row")


def write(cursor: Cursor) -> str:
    """The cursor as one word of URL-safe characters."""
    return _word(f"{_VERSION}|{cursor.started_at.isoformat()}|{cursor.id}")


def read(word: str | None) -> Cursor | None:
    """The cursor that *word* is; None for none. Raises Invalid."""
    if word is None:
        return None
    try:
        version, moment, call_id = _parts(word)
        started_at = datetime.fromisoformat(moment)
    except ValueError:
        raise _not_ours() from None
    if version != _VERSION or started_at.tzinfo is None or not is_id("call", call_id):
        raise _not_ours()
    return Cursor(started_at, call_id)


def write_position(position: int) -> str:
    """A place in the log of events as one word of URL-safe characters."""
    return _word(f"{_EVENTS}|{position}")


def read_position(word: str | None) -> int:
    """The place in the log of events that *word* is; 0, the beginning, for none. Raises Invalid."""
    if word is None:
        return 0
    try:
        version, text = _parts(word)
    except ValueError:
        raise _not_ours() from None
    # More digits than a BIGINT holds are none of ours either.
    if version != _EVENTS or not text.isdecimal() or len(text) > 18:
        raise _not_ours()
    return int(text)


def write_id(id_: str) -> str:
    """The last thing of a page that is ordered by id, as one word of URL-safe characters."""
    return _word(f"{_IDS}|{id_}")


def read_id(prefix: str, word: str | None) -> str | None:
    """The id of kind *prefix* that *word* holds; None for none. Raises Invalid."""
    if word is None:
        return None
    try:
        version, id_ = _parts(word)
    except ValueError:
        raise _not_ours() from None
    if version != _IDS or not is_id(prefix, id_):
        raise _not_ours()
    return id_


def cut(
    rows: Sequence[Row], limit: int, id_of: Callable[[Row], str] = attrgetter("id")
) -> tuple[Sequence[Row], str | None]:
    """A page of *limit* rows, and the cursor for what follows: None when nothing does.

    *rows* are ordered by *id_of* and were asked for with a limit of one more, which tells whether any follow.
    """
    shown = rows[:limit]
    return shown, write_id(id_of(shown[-1])) if len(rows) > limit else None


def _word(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _parts(word: str) -> list[str]:
    """What was joined by bars. Raises ValueError."""
    if len(word) > _MAX_LENGTH:
        raise ValueError("too long")
    padded = word + "=" * (-len(word) % 4)
    raw = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    return raw.decode("ascii").split("|")


def _not_ours() -> Invalid:
    return Invalid(
        "this cursor is not one of ours; send back `next_cursor` as it was given, or none"
    )
