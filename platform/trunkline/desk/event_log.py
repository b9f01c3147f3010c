"""The events as a log to read from any point on: for those whom no webhook can reach."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.errors import NotFound
from trunkline.events import CATALOGUE, EndpointTest, sample_body
from trunkline.outbox.models import EventRow
from trunkline.webhooks import filters

ALL = ("*",)
_SAMPLES = 3


@dataclass(frozen=True)
class Page:
    """What the log holds behind a position."""

    events: Sequence[EventRow]
    position: int
    """Read on from here: all before it was looked at."""
    more: bool
    """Whether there is more already."""


async def last_position(session: AsyncSession) -> int:
    """Where the log ends now; 0 while it is empty."""
    return await session.scalar(select(func.max(EventRow.position))) or 0


async def page(
    session: AsyncSession,
    *,
    after: int,
    types: Sequence[str] = ALL,
    ignored_sources: Collection[str] = (),
    limit: int = 100,
) -> Page:
    """Up to *limit* events behind the position *after*, in the order all readers see.

    *types* are filters as endpoints have them; what one endpoint was sent on request (tests, samples) is
    left out, for nothing has happened. A position is given after commit, under a lock, so nothing ever
    comes up later before one that was read. Raises Invalid for a filter that covers no event.
    """
    wanted = filters.checked(types)
    shown = [
        type_
        for type_ in CATALOGUE
        if filters.wants(wanted, type_) and (type_ != EndpointTest.type or type_ in wanted)
    ]
    # First, so that what is published between the two statements is left to the next page.
    last = await last_position(session)
    rows = (
        await session.scalars(
            select(EventRow)
            .where(EventRow.position > after, EventRow.position <= last, EventRow.type.in_(shown))
            .order_by(EventRow.position)
            .limit(limit)
        )
    ).all()
    kept = [row for row in rows if _happened(row) and _source(row) not in ignored_sources]
    if len(rows) < limit:
        return Page(kept, max(after, last), more=False)
    position = rows[-1].position or 0
    return Page(kept, position, more=position < last)


async def event(session: AsyncSession, event_id: str) -> EventRow:
    """One event. Raises NotFound."""
    found = await session.get(EventRow, event_id)
    if found is None:
        raise NotFound(f"there is no event {event_id}")
    return found


async def samples(session: AsyncSession, type_: str) -> list[dict[str, Any]]:
    """The last few bodies of *type_*, newest first; the catalogue's own while there is none.

    Raises Invalid, naming what was probably meant, when there is no such type.
    """
    if type_ not in CATALOGUE:
        filters.checked([type_])
        raise NotFound(f"samples are of one type; {type_!r} is a filter")
    rows = await session.scalars(
        select(EventRow)
        .where(EventRow.type == type_, EventRow.position.is_not(None))
        .order_by(EventRow.position.desc())
        .limit(_SAMPLES)
    )
    return [row.body for row in rows] or [sample_body(type_)]


def _happened(row: EventRow) -> bool:
    return not row.body["data"].get("sample")


def _source(row: EventRow) -> str | None:
    source = row.body["data"].get("source")
    return source if isinstance(source, str) else None
