"""Calls as a CSV file, written in the background: asked for, taken by one guardian under a lease, fetched.

A guardian that dies in the middle leaves a lease that ends; the next one begins the file anew.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.logins import Person
from trunkline.access.models import ApiKey
from trunkline.calls import search
from trunkline.calls.models import Export
from trunkline.calls.queries import Cursor
from trunkline.desk import asked, call_list
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit import sheets
from trunkline.kit.db import Database
from trunkline.kit.ids import new_id

LEASE = timedelta(seconds=60)
"""How long a page of the file may take before another guardian begins it anew."""
KEPT = timedelta(days=7)
"""A file that nobody fetched by then is gone."""
MOST_ATTEMPTS = 3
_PAGE = 500
_LONGEST_QUERY = 2000

COLUMNS = (
    *("id", "started_at", "direction", "from", "to", "contact", "state", "end_reason"),
    *("duration_s", "transferred", "crm_failed", "tools_failed", "crm_changes", "turns"),
    *("review", "tags", "reason", "test"),
)
"""First line of the file. Times are ISO 8601 in UTC, durations in seconds."""


@dataclass(frozen=True)
class Job:
    """A file to be written."""

    id: str
    attempt: int
    query: str
    bom: bool

    @property
    def blob_key(self) -> str:
        """Where it goes; of its own for each attempt, so that one given up cannot spoil the next."""
        return f"exports/{self.id}-{self.attempt}.csv"


async def ask(
    session: AsyncSession, query: str, *, by: Person | ApiKey, bom: bool = False, now: datetime
) -> Export:
    """Ask for the calls that *query*, as it stands behind the ``?`` of the list's address, finds.

    Raises Invalid as the list does, or when it is too long; NotFound for a profile there is none of.
    """
    wishes = asked.given(query)
    await asked.read(session, wishes)
    text = asked.as_query(wishes)
    if len(text) > _LONGEST_QUERY:
        raise Invalid(f"the filters are longer than {_LONGEST_QUERY} characters")
    export = Export(
        id=new_id("exp", now=now),
        owner_id=by.id,
        owner=by.name,
        query=text,
        timezone=wishes.get("timezone", "UTC"),
        bom=bom,
        state="queued",
        attempt=0,
        created_at=now,
    )
    session.add(export)
    await session.flush()
    return export


async def get(session: AsyncSession, export_id: str, *, by: Person | ApiKey) -> Export:
    """One of one's own. Raises NotFound, also for somebody else's."""
    found = await session.get(Export, export_id)
    if found is None or found.owner_id != by.id:
        raise NotFound(f"there is no export {export_id[:60]!r} of yours")
    return found


async def mine(session: AsyncSession, *, by: Person | ApiKey, limit: int = 50) -> Sequence[Export]:
    """One's own, the newest first."""
    return (
        await session.scalars(
            select(Export)
            .where(Export.owner_id == by.id)
            .order_by(Export.created_at.desc(), Export.id.desc())
            .limit(limit)
        )
    ).all()


def ready(export: Export) -> str:
    """The blob of a finished file. Raises Conflict with what to do when there is none."""
    if export.state == "failed":
        raise Conflict(f"the file could not be written: {export.error}; ask for it again")
    if export.blob_key is None:
        raise Conflict("the file is still being written; try again in a moment")
    return export.blob_key


async def is_due(session: AsyncSession, *, now: datetime) -> bool:
    """Whether there is anything to write or to forget: a read, for whoever asks every second."""
    due = or_(Export.finished_at.is_(None), Export.created_at < now - KEPT)
    return await session.scalar(select(Export.id).where(due).limit(1)) is not None


async def claim(session: AsyncSession, *, now: datetime) -> Job | None:
    """Take the oldest file that nobody writes, or whose writer is gone; None when there is none."""
    free = or_(Export.leased_until.is_(None), Export.leased_until < now)
    oldest = (
        select(Export.id)
        .where(Export.finished_at.is_(None), free)
        .order_by(Export.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = await session.scalar(oldest)
    if found is None:
        return None
    # The condition again: of two that read the same row on SQLite one changes it.
    row = (
        await session.execute(
            update(Export)
            .where(Export.id == found, Export.finished_at.is_(None), free)
            .values(state="running", attempt=Export.attempt + 1, leased_until=now + LEASE)
            .returning(Export.id, Export.attempt, Export.query, Export.bom)
        )
    ).one_or_none()
    return Job(*row) if row is not None else None


async def renew(session: AsyncSession, job: Job, *, now: datetime) -> bool:
    """Say that *job* is still being written; False when another has it by now."""
    return await _set(session, job, leased_until=now + LEASE)


async def finish(session: AsyncSession, job: Job, *, rows: int, now: datetime) -> bool:
    """The file is complete; False when another has it by now, whose file counts."""
    return await _set(
        session, job, state="done", rows=rows, blob_key=job.blob_key, finished_at=now, error=None
    )


async def fail(session: AsyncSession, job: Job, error: str, *, now: datetime) -> None:
    """It did not work out: it is tried again, or given up after MOST_ATTEMPTS."""
    if job.attempt < MOST_ATTEMPTS:
        await _set(session, job, state="queued", leased_until=None, error=error[:300])
    else:
        await _set(session, job, state="failed", finished_at=now, error=error[:300])


async def outdated(session: AsyncSession, *, now: datetime) -> list[str]:
    """Forget the exports that are older than KEPT; returns their blobs, which are to be deleted after."""
    rows = await session.scalars(select(Export).where(Export.created_at < now - KEPT).limit(100))
    keys = []
    for row in rows:
        if row.blob_key is not None:
            keys.append(row.blob_key)
        await session.delete(row)
    return keys


async def _set(session: AsyncSession, job: Job, **values: object) -> bool:
    changed = await session.scalar(
        update(Export)
        .where(Export.id == job.id, Export.attempt == job.attempt, Export.finished_at.is_(None))
        .values(**values)
        .returning(Export.id)
    )
    return changed is not None


async def lines(db: Database, job: Job) -> AsyncIterator[list[bytes]]:
    """The file, a page of lines at a time, each read in a transaction of its own."""
    head = _line(COLUMNS)
    yield [b"\xef\xbb\xbf" + head if job.bom else head]
    before: Cursor | None = None
    while True:
        async with db.look() as session:
            want = await asked.read(session, asked.given(job.query))
            found = await search.page(
                session, want.filters, want.wanted, before=before, limit=_PAGE
            )
            rows = await call_list.rows(session, found.calls)
        yield [_line(_cells(row)) for row in rows]
        if found.next is None:
            return
        before = found.next


def _cells(call: call_list.CallRow) -> Sequence[object]:
    return (
        call.id,
        call.started_at.isoformat(),
        call.direction,
        call.from_number or "",
        call.to_number or "",
        (call.contact and call.contact.name) or "",
        call.state,
        call.end_reason or "",
        "" if call.duration_ms is None else f"{call.duration_ms / 1000:.1f}",
        _yes(call.transferred),
        _yes(call.crm_failed),
        call.failed_tool_count,
        call.change_count,
        call.turn_count,
        call.review or "",
        ", ".join(call.tags),
        call.reason or "",
        _yes(call.test),
    )


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _line(cells: Sequence[object]) -> bytes:
    return sheets.written(cells).encode()
