"""Cursors: where a page of calls stops, as one opaque word for a URL.

The word begins with the version of its form, so that a later form can still read this one.
"""

import base64
import binascii
from datetime import datetime

from trunkline.calls.queries import Cursor
from trunkline.errors import Invalid
from trunkline.kit.ids import is_id

_VERSION = "1"
_MAX_LENGTH = 200


def write(cursor: Cursor) -> str:
    """The cursor as one word of URL-safe characters."""
    text = f"{_VERSION}|{cursor.started_at.isoformat()}|{cursor.id}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read(word: str | None) -> Cursor | None:
    """The cursor that *word* is; None for none. Raises Invalid."""
    if word is None:
        return None
    try:
        if len(word) > _MAX_LENGTH:
            raise ValueError("too long")
        padded = word + "=" * (-len(word) % 4)
        raw = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
        version, moment, call_id = raw.decode("ascii").split("|")
        started_at = datetime.fromisoformat(moment)
    except (ValueError, binascii.Error):
        raise _not_ours() from None
    if version != _VERSION or started_at.tzinfo is None or not is_id("call", call_id):
        raise _not_ours()
    return Cursor(started_at, call_id)


def _not_ours() -> Invalid:
    return Invalid(
        "this cursor is not one of ours; send back `next_cursor` as it was given, or none"
    )
