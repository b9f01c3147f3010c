"""Give committed events their place in the one order that readers follow."""

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.kit.db import insert_for
from trunkline.outbox.models import EventRow, Stream

ALL = "*"
_LOCK_KEY = 0x7472_756E_6B  # "trunk": any number that no other advisory lock of the database uses


async def waiting(session: AsyncSession) -> bool:
    """Whether any committed event has no position yet: a look that takes no lock."""
    found = await session.scalar(select(EventRow.id).where(EventRow.position.is_(None)).limit(1))
    return found is not None


async def publish(session: AsyncSession, *, limit: int = 500) -> Sequence[EventRow]:
    """Number up to *limit* committed events that have no position yet, and return them in order.

    Positions are given by one publisher at a time (an advisory lock on PostgreSQL, the write lock
    on SQLite) and become visible together at its commit. A reader that remembers the last
    position it saw therefore never skips an event whose transaction began early and committed late.
    """
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY})
    # Lower numbers first, so that a cut-off batch never leaves a subject's earlier event behind.
    unnumbered = (
        select(EventRow)
        .where(EventRow.position.is_(None))
        .order_by(EventRow.seq, EventRow.id)
        .limit(limit)
    )
    rows = _in_order((await session.scalars(unnumbered)).all())
    if not rows:
        return rows
    upsert = insert_for(session, Stream).values(subject=ALL, seq=len(rows))
    upsert = upsert.on_conflict_do_update(
        index_elements=[Stream.subject], set_={"seq": Stream.seq + len(rows)}
    ).returning(Stream.seq)
    last = (await session.execute(upsert)).scalar_one()
    for position, row in enumerate(rows, start=last - len(rows) + 1):
        row.position = position
    await session.flush()
    return rows


def _in_order(rows: Sequence[EventRow]) -> Sequence[EventRow]:
    """By the time they were recorded, but each subject's own events always by ``seq``.

    Clocks of two machines may disagree by milliseconds; the counter never does.
    """
    by_subject: dict[str, list[EventRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.seq, reverse=True):
        by_subject[row.subject].append(row)
    by_time = sorted(rows, key=lambda row: (row.recorded_at, row.id))
    return [by_subject[row.subject].pop() for row in by_time]


async def read(session: AsyncSession, *, after: int = 0, limit: int = 100) -> Sequence[EventRow]:
    """Published events with a position above *after*, in order, at most *limit*."""
    return (
        await session.scalars(
            select(EventRow)
            .where(EventRow.position > after)
            .order_by(EventRow.position)
            .limit(limit)
        )
    ).all()
