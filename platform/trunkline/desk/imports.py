"""Files of contacts on their way into the CRM: brought, checked, then imported in the background.

    draft → checking → checked → running → done
              ↑___________|         ↓ ↑
                                   stopped

A draft waits for somebody to say what its columns hold. The check reads everything and writes no contact;
the import is begun by a second word, after which what is written comes in batches, each committed with how
far it is. One guardian has a file under a lease. When it dies the next one goes on behind the last batch,
with a check from the beginning. ``stopped`` is what somebody stopped, or what failed twice at one place; it
may go on where it stood.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal, cast

from sqlalchemy import ColumnElement, and_, delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.logins import Person
from trunkline.access.models import ApiKey
from trunkline.crm import bulk, mapping
from trunkline.crm.ledger import Cause
from trunkline.crm.models import Import, ImportFault
from trunkline.crm.upsert import checked_source
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit import phone, sheets
from trunkline.kit.db import Database
from trunkline.kit.ids import new_id

LEASE = timedelta(seconds=60)
"""How long a batch may take before another guardian goes on."""
KEPT = timedelta(days=30)
"""Afterwards the file and its errors are forgotten; what was imported stays."""
MOST_BYTES = 25_000_000
MOST_ROWS = 250_000
BATCH = 100
"""Rows of the first transaction; how many the next one takes, ``Pace`` says."""
WORK = timedelta(milliseconds=100)
"""What one transaction is to take; others that write wait as long."""
_MOST_AT_ONCE = 500
_FEWEST_AT_ONCE = 50
OURS = "import"
"""Whose external ids are, when no other system is named."""
ERRORS_HEADING = ("line", "error")
"""Columns that the file of errors has before those of the file itself."""
_SAMPLE = 5
_MOST_COLUMNS = 100
_RUNS = ("checking", "running")
Next = Literal["checking", "running"]
"""What becomes of a file whose columns are known: it is checked, or imported without a look."""


@dataclass(frozen=True)
class Sheet:
    """What was found in a file before anybody said what its columns hold."""

    encoding: str
    delimiter: str
    header: tuple[str, ...]
    sample: tuple[tuple[str, ...], ...]
    total: int


@dataclass(frozen=True)
class Job:
    """A file that somebody works at."""

    id: str
    attempt: int
    state: str
    done: int
    blob_key: str
    encoding: str
    delimiter: str
    columns: tuple[str, ...]
    region: str | None
    source: str
    on_match: bulk.OnMatch
    owner: str

    @property
    def cause(self) -> Cause:
        """Who brings the changes about."""
        return Cause("import", actor=self.owner)


@dataclass(frozen=True)
class Line:
    """A row of the file: read, or what is wrong with it."""

    number: int
    cells: tuple[str, ...]
    row: mapping.Row | None
    fault: str | None


@dataclass
class Pace:
    """How many rows the next transaction takes, by what the last one took: machines and files differ."""

    rows: int = BATCH

    def took(self, rows: int, spent: timedelta) -> None:
        """*rows* were *spent* on. Halved or doubled at most: one slow moment says little."""
        fits = rows * WORK / max(spent, timedelta(milliseconds=1))
        wanted = min(max(fits, self.rows / 2), self.rows * 2)
        self.rows = round(min(max(wanted, _FEWEST_AT_ONCE), _MOST_AT_ONCE))


class Lost(Conflict):
    """Another guardian has the file by now, or somebody stopped it: nothing more may be written."""


def look(raw: bytes) -> Sheet:
    """What is in a file. Takes a second for a large one. Raises Invalid with what to do."""
    if len(raw) > MOST_BYTES:
        raise Invalid(f"the file is larger than {MOST_BYTES // 1_000_000} MB; cut it into several")
    try:
        text, encoding = sheets.decoded(raw)
    except ValueError as error:
        raise Invalid(str(error)) from None
    delimiter = sheets.delimiter_of(text)
    rows = sheets.records(text, delimiter)
    head = next(rows, None)
    if head is None:
        raise Invalid("the file is empty; its first line names the columns")
    if head.fault is not None:
        raise Invalid(f"the first line, which names the columns, is broken: {head.fault}")
    if len(head.cells) > _MOST_COLUMNS:
        raise Invalid(f"the file has {len(head.cells)} columns; keep at most {_MOST_COLUMNS}")
    sample: list[tuple[str, ...]] = []
    total = 0
    for record in rows:
        total += 1
        if len(sample) < _SAMPLE and record.fault is None:
            sample.append(tuple(cell[:200] for cell in record.cells))
        if total > MOST_ROWS:
            raise Invalid(f"the file has more than {MOST_ROWS} rows; cut it into several")
    if total == 0:
        raise Invalid("the file has headings and no rows below them")
    header = tuple(cell.strip()[:200] for cell in head.cells)
    return Sheet(encoding, delimiter, header, tuple(sample), total)


def new_blob(import_id: str) -> str:
    """Where the file of an import is kept."""
    return f"imports/{import_id}.csv"


async def bring(
    session: AsyncSession,
    sheet: Sheet,
    *,
    import_id: str,
    file_name: str,
    by: Person | ApiKey,
    now: datetime,
) -> Import:
    """Write down a file that lies in ``new_blob`` already; what its columns hold is guessed."""
    row = Import(
        id=import_id,
        owner_id=by.id,
        owner=by.name,
        file_name=(" ".join(file_name.split()) or "contacts.csv")[:200],
        blob_key=new_blob(import_id),
        encoding=sheet.encoding,
        delimiter=sheet.delimiter,
        header=list(sheet.header),
        sample=[list(cells) for cells in sheet.sample],
        columns=mapping.guess(sheet.header, sheet.sample),
        region=None,
        source=OURS,
        on_match="update",
        state="draft",
        total=sheet.total,
        done=0,
        made=0,
        changed=0,
        same=0,
        failed=0,
        attempt=0,
        created_at=now,
    )
    session.add(row)
    await session.flush()
    return row


async def choose(
    session: AsyncSession,
    import_id: str,
    *,
    columns: Sequence[str],
    region: str | None,
    source: str,
    on_match: str,
    then: Next = "checking",
) -> Import:
    """Say what the columns hold, and have the file checked, or imported at once; also once more.

    Raises Invalid, NotFound, or Conflict when it is being imported already.
    """
    found = await _locked(session, import_id)
    if found.state not in ("draft", "checked"):
        raise Conflict("the columns can no longer be changed; bring the file again")
    if on_match not in ("update", "skip"):
        raise Invalid("what becomes of people who are there already: update or skip")
    found.columns = mapping.checked(columns, len(found.header))
    found.region = _region(region)
    found.source = OURS if source in ("", OURS) else checked_source(source)
    found.on_match = on_match
    await _begin(session, found, then)
    return found


async def run(session: AsyncSession, import_id: str) -> Import:
    """Import what was checked, or go on with what stopped. Raises NotFound, Conflict, or Invalid when the
    columns hold nothing to find people by."""
    found = await _locked(session, import_id)
    if found.state not in ("draft", "checked", "stopped"):
        raise Conflict(f"an import that is {found.state} cannot be begun")
    mapping.checked(found.columns, len(found.header))
    if found.state == "stopped":
        found.state, found.error, found.finished_at, found.leased_until = (
            "running",
            None,
            None,
            None,
        )
    else:
        await _begin(session, found, "running")
    return found


async def stop(session: AsyncSession, import_id: str, *, by: str, now: datetime) -> Import:
    """Let it go no further; what is imported stays. Raises NotFound or Conflict."""
    found = await _locked(session, import_id)
    if found.state not in _RUNS:
        raise Conflict(f"an import that is {found.state} cannot be stopped")
    if found.state == "checking":
        found.state, found.leased_until = "draft", None
    else:
        found.state, found.finished_at = "stopped", now
        found.error = f"stopped by {by}"[:300]
    found.attempt += 1
    return found


async def discard(session: AsyncSession, import_id: str) -> str | None:
    """Forget a file of which nothing was imported; returns its blob. Raises NotFound or Conflict."""
    found = await _locked(session, import_id)
    if found.state not in ("draft", "checking", "checked"):
        raise Conflict("contacts came from this file; its record is kept")
    key = found.blob_key
    await session.delete(found)
    return key


async def get(session: AsyncSession, import_id: str) -> Import:
    """One of them. Raises NotFound."""
    found = await session.get(Import, import_id)
    if found is None:
        raise NotFound(f"there is no import {import_id[:60]!r}")
    return found


async def newest(session: AsyncSession, *, limit: int = 50) -> Sequence[Import]:
    """The newest first."""
    order = select(Import).order_by(Import.created_at.desc(), Import.id.desc()).limit(limit)
    return (await session.scalars(order)).all()


async def faults(
    session: AsyncSession, import_id: str, *, after: int = 0, limit: int = 20
) -> Sequence[ImportFault]:
    """Rows that cannot be imported, by their line, those behind the line *after*."""
    statement = (
        select(ImportFault)
        .where(ImportFault.import_id == import_id, ImportFault.line > after)
        .order_by(ImportFault.line)
        .limit(limit)
    )
    return (await session.scalars(statement)).all()


async def errors_file(db: Database, import_: Import) -> AsyncIterator[bytes]:
    """The rows that failed, as a file to be mended and brought again: line and error before the cells."""
    yield b"\xef\xbb\xbf" + sheets.written((*ERRORS_HEADING, *import_.header)).encode()
    after = 0
    while True:
        async with db.look() as session:
            page = await faults(session, import_.id, after=after, limit=500)
        if not page:
            return
        yield "".join(
            sheets.written((one.line, one.reason, *map(sheets.bare, one.cells))) for one in page
        ).encode()
        after = page[-1].line


# --- for whoever does the work --------------------------------------------------------------------


async def is_due(session: AsyncSession, *, now: datetime) -> bool:
    """Whether there is anything to do or to forget: a read, for whoever asks every second."""
    due = or_(_is_free(now), Import.created_at < now - KEPT)
    return await session.scalar(select(Import.id).where(due).limit(1)) is not None


async def claim(session: AsyncSession, *, now: datetime, only: str | None = None) -> Job | None:
    """Take the oldest file that nobody works at, or whose worker is gone; None when there is none."""
    oldest = select(Import.id).where(_is_free(now)).order_by(Import.created_at).limit(1)
    if only is not None:
        oldest = oldest.where(Import.id == only)
    found = await session.scalar(oldest.with_for_update(skip_locked=True))
    if found is None:
        return None
    row = await _locked(session, found)
    row.attempt += 1
    row.leased_until = now + LEASE
    if row.state == "checking":
        await _clear(session, row)
    assert row.blob_key is not None
    return Job(
        row.id, row.attempt, row.state, row.done, row.blob_key, row.encoding, row.delimiter,
        tuple(row.columns), row.region, row.source, cast(bulk.OnMatch, row.on_match), row.owner,
    )  # fmt: skip


def batches(job: Job, raw: bytes, pace: Pace | None = None) -> Iterator[list[Line]]:
    """What is still to be done, as many lines at a time as *pace* says; reading 100 takes about 10 ms."""
    pace = pace or Pace()
    text, _ = sheets.decoded(raw, job.encoding)
    records = sheets.records(text, job.delimiter)
    next(records)  # the headings
    left = islice(records, job.done, None)
    while some := list(islice(left, pace.rows)):
        yield [_read(record, job) for record in some]


def _read(record: sheets.Record, job: Job) -> Line:
    row, fault = None, record.fault
    if fault is None:
        row, fault = mapping.read(record.cells, job.columns, region=job.region)
    return Line(record.line, record.cells, row, fault)


async def check(
    session: AsyncSession, people: bulk.People, lines: Sequence[Line], *, now: datetime
) -> list[bulk.Outcome]:
    """What would become of each line; *people* are those of all batches before. Writes nothing."""
    await people.look_up(session, [line.row for line in lines if line.row is not None])
    return [
        bulk.Outcome("failed", line.fault)
        if line.row is None
        else people.take(line.row, now=now)[0]
        for line in lines
    ]


async def write(
    session: AsyncSession, job: Job, lines: Sequence[Line], *, now: datetime
) -> list[bulk.Outcome]:
    """Put the lines into the CRM."""
    rows = [line.row for line in lines if line.row is not None]
    written = iter(
        await bulk.put(
            session, rows, source=job.source, on_match=job.on_match, cause=job.cause, now=now
        )
    )
    return [
        bulk.Outcome("failed", line.fault) if line.row is None else next(written) for line in lines
    ]


async def note(
    session: AsyncSession,
    job: Job,
    lines: Sequence[Line],
    outcomes: Sequence[bulk.Outcome],
    *,
    now: datetime,
) -> None:
    """Write down how far it is, in the transaction of the batch. Raises Lost, which undoes the batch."""
    count = dict.fromkeys(("made", "changed", "same", "failed"), 0)
    for outcome in outcomes:
        count[outcome.what] += 1
    await _set(
        session,
        job,
        done=Import.done + len(lines),
        made=Import.made + count["made"],
        changed=Import.changed + count["changed"],
        same=Import.same + count["same"],
        failed=Import.failed + count["failed"],
        leased_until=now + LEASE,
        error=None,
    )
    wrong = [
        {
            "import_id": job.id,
            "line": line.number,
            "cells": [cell[:1000] for cell in line.cells],
            "reason": outcome.reason or "it could not be imported",
        }
        for line, outcome in zip(lines, outcomes, strict=True)
        if outcome.what == "failed"
    ]
    if wrong:
        await session.execute(insert(ImportFault), wrong)


async def finish(session: AsyncSession, job: Job, *, now: datetime) -> str | None:
    """All rows are through. Returns the blob that is no longer needed. Raises Lost."""
    if job.state == "checking":
        await _set(session, job, state="checked", leased_until=None)
        return None
    await _set(
        session, job, state="done", finished_at=now, leased_until=None, blob_key=None, error=None
    )
    return job.blob_key


async def fail(session: AsyncSession, job: Job, error: str, *, now: datetime) -> None:
    """It did not work out: it is tried again in a minute, and stops when it fails at one place twice."""
    found = await _locked(session, job.id)
    if found.attempt != job.attempt or found.state != job.state:
        return
    if found.error is None:
        found.error, found.leased_until = error[:300], now + LEASE
    else:
        found.state, found.error, found.finished_at = "stopped", error[:300], now


async def outdated(session: AsyncSession, *, now: datetime) -> list[str]:
    """Forget what is older than KEPT; returns the blobs, which are to be deleted after."""
    rows = await session.scalars(select(Import).where(Import.created_at < now - KEPT).limit(100))
    keys = []
    for row in rows:
        if row.blob_key is not None:
            keys.append(row.blob_key)
        await session.delete(row)
    return keys


def fresh_id(now: datetime) -> str:
    """The id of an import that is about to be brought."""
    return new_id("imp", now=now)


def _is_free(now: datetime) -> ColumnElement[bool]:
    lease = or_(Import.leased_until.is_(None), Import.leased_until < now)
    return and_(Import.finished_at.is_(None), Import.state.in_(_RUNS), lease)


async def _locked(session: AsyncSession, import_id: str) -> Import:
    found = await session.get(Import, import_id, with_for_update=True, populate_existing=True)
    if found is None:
        raise NotFound(f"there is no import {import_id[:60]!r}")
    return found


async def _begin(session: AsyncSession, row: Import, state: str) -> None:
    row.state, row.leased_until, row.error = state, None, None
    await _clear(session, row)


async def _clear(session: AsyncSession, row: Import) -> None:
    row.done = row.made = row.changed = row.same = row.failed = 0
    await session.execute(delete(ImportFault).where(ImportFault.import_id == row.id))


async def _set(session: AsyncSession, job: Job, **values: object) -> None:
    changed = await session.scalar(
        update(Import)
        .where(Import.id == job.id, Import.attempt == job.attempt, Import.state == job.state)
        .values(**values)
        .returning(Import.id)
        .execution_options(synchronize_session=False)
    )
    if changed is None:
        raise Lost("another worker has this file, or it was stopped")


def _region(region: str | None) -> str | None:
    if not region or not region.strip():
        return None
    try:
        phone.parse("+12025550134", region=region)
    except ValueError as error:
        raise Invalid(str(error)) from None
    return region.strip().upper()
