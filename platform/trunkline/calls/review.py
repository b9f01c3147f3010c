"""What people say of a call: to be reviewed or reviewed, tags, comments, a test. Verbs and their reads.

None of it is an event of the call: it changes nothing that happened. Who may do it is the edge's to ask,
and the edge writes the audit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls.models import Call, Comment, Tag
from trunkline.errors import Invalid, NotFound
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.kit.redact import redact

MOST_TAGS = 20
"""On one call."""
LONGEST_TAG = 40
LONGEST_COMMENT = 4000
MOST_COMMENTS = 200
"""On one call."""

_NAME = 100
_ODD = re.compile(r"[\x00-\x1f\x7f,/]")


class Review(StrEnum):
    """What somebody has said of a call."""

    NEEDED = "needed"
    DONE = "done"


@dataclass(frozen=True)
class By:
    """Who does it: a person or a key of the API."""

    id: str
    name: str


@dataclass(frozen=True)
class Marks:
    """All that people have said of one call."""

    review: Review | None
    reviewed_by: str | None
    reviewed_at: datetime | None
    test: bool
    tags: tuple[str, ...]
    """In alphabetical order."""
    comments: tuple[Comment, ...]
    """The oldest first."""


async def set_review(
    session: AsyncSession, call_id: str, review: Review | None, *, by: By, now: datetime
) -> bool:
    """Mark the call as to be reviewed or as reviewed; None takes the mark away.

    Returns whether that changed anything; a repeat keeps the first name and time. Raises NotFound.
    """
    call = await _held(session, call_id)
    if call.review == review:
        return False
    call.review = review.value if review else None
    call.reviewed_by = by.name[:_NAME] if review else None
    call.reviewed_at = now if review else None
    await session.flush()
    return True


async def set_test(session: AsyncSession, call_id: str, test: bool) -> bool:
    """Say that the call was placed to try something, or that it was not. Returns whether that is new."""
    call = await _held(session, call_id)
    changed = call.test != test
    call.test = test
    await session.flush()
    return changed


async def add_tag(session: AsyncSession, call_id: str, tag: str, *, by: By, now: datetime) -> bool:
    """Put a tag on the call. Returns whether it is new there; capitals and spaces around make no other tag.

    Raises Invalid for a tag that cannot be and for more than MOST_TAGS, NotFound.
    """
    word = tag_of(tag)
    await _held(session, call_id)
    there = await tags(session, call_id)
    if word in there:
        return False
    if len(there) >= MOST_TAGS:
        raise Invalid(f"a call can have {MOST_TAGS} tags; take one away first")
    insert = insert_for(session, Tag).values(call_id=call_id, tag=word, by=by.name[:_NAME], at=now)
    await session.execute(insert.on_conflict_do_nothing())
    return True


async def remove_tag(session: AsyncSession, call_id: str, tag: str) -> bool:
    """Take a tag off the call. Returns whether it was there. Raises NotFound."""
    await _held(session, call_id)
    word = tag.strip().lower()
    gone = await session.scalars(
        delete(Tag).where(Tag.call_id == call_id, Tag.tag == word).returning(Tag.tag)
    )
    return gone.first() is not None


async def comment(
    session: AsyncSession,
    call_id: str,
    text: str,
    *,
    offset_ms: int | None = None,
    by: By,
    now: datetime,
) -> Comment:
    """Write something beside the call, or beside the place *offset_ms* of it.

    Card numbers are blacked out. Raises Invalid for no text, for too much and for too many, NotFound.
    """
    await _held(session, call_id)
    written = redact(text.replace("\x00", "").replace("\r\n", "\n").strip())
    if not 0 < len(written) <= LONGEST_COMMENT:
        raise Invalid(f"a comment must have 1 to {LONGEST_COMMENT} characters")
    count = await session.scalar(select(func.count(Comment.id)).where(Comment.call_id == call_id))
    if (count or 0) >= MOST_COMMENTS:
        raise Invalid(f"a call can have {MOST_COMMENTS} comments; remove one first")
    row = Comment(
        id=new_id("cmt", now=now),
        call_id=call_id,
        by_id=by.id,
        by=by.name[:_NAME],
        text=written,
        offset_ms=offset_ms,
        at=now,
    )
    session.add(row)
    await session.flush()
    return row


async def remove_comment(session: AsyncSession, call_id: str, comment_id: str, *, by: By) -> None:
    """Take back a comment. Raises NotFound, also for a comment that somebody else wrote."""
    row = await session.get(Comment, comment_id)
    if row is None or row.call_id != call_id or row.by_id != by.id:
        raise NotFound(f"you have written no comment {comment_id} beside {call_id}")
    await session.delete(row)
    await session.flush()


def tag_of(text: str) -> str:
    """A tag as it is kept: small letters, single spaces. Raises Invalid."""
    word = " ".join(text.lower().split())
    if not 1 <= len(word) <= LONGEST_TAG or _ODD.search(word):
        raise Invalid(f"a tag must have 1 to {LONGEST_TAG} characters, without commas and slashes")
    return word


# Reads ------------------------------------------------------------------------------------------


async def marks(session: AsyncSession, call_id: str) -> Marks:
    """What people have said of the call. Raises NotFound."""
    call = await session.get(Call, call_id)
    if call is None:
        raise NotFound(f"there is no call {call_id}")
    return Marks(
        review=Review(call.review) if call.review else None,
        reviewed_by=call.reviewed_by,
        reviewed_at=call.reviewed_at,
        test=call.test,
        tags=tuple(await tags(session, call_id)),
        comments=tuple(await comments(session, call_id)),
    )


async def tags(session: AsyncSession, call_id: str) -> Sequence[str]:
    """The call's tags in alphabetical order."""
    rows = select(Tag.tag).where(Tag.call_id == call_id).order_by(Tag.tag)
    return (await session.scalars(rows)).all()


async def tags_of(session: AsyncSession, call_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Call → its tags in alphabetical order; calls without any are left out."""
    found: dict[str, tuple[str, ...]] = {}
    rows = select(Tag.call_id, Tag.tag).where(Tag.call_id.in_(call_ids)).order_by(Tag.tag)
    for call_id, tag in await session.execute(rows):
        found[call_id] = (*found.get(call_id, ()), tag)
    return found


async def comments(session: AsyncSession, call_id: str) -> Sequence[Comment]:
    """What was written beside the call, the oldest first."""
    rows = select(Comment).where(Comment.call_id == call_id).order_by(Comment.at, Comment.id)
    return (await session.scalars(rows)).all()


async def known_tags(session: AsyncSession) -> Sequence[str]:
    """Every tag there is, at most 200, in alphabetical order; to choose from."""
    # Jumps from tag to tag: a tag may be on a hundred thousand calls.
    first = select(func.min(Tag.tag).label("tag")).cte("known", recursive=True)
    after = select(func.min(Tag.tag)).where(Tag.tag > first.c.tag).scalar_subquery()
    each = first.union_all(select(after).where(first.c.tag.is_not(None)))
    found = select(each.c.tag).where(each.c.tag.is_not(None)).limit(200)
    return [tag for tag in await session.scalars(found) if tag is not None]


async def _held(session: AsyncSession, call_id: str) -> Call:
    """The call, its row locked. Raises NotFound."""
    held = select(Call).where(Call.id == call_id).with_for_update(key_share=True)
    call = await session.scalar(held.execution_options(populate_existing=True))
    if call is None:
        raise NotFound(f"there is no call {call_id}")
    return call
