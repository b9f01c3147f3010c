"""Calls as a file, on both databases: asked for, written in the background, fetched by who asked."""

import csv
import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trunkline.access.logins import Person
from trunkline.access.roles import Role
from trunkline.calls import review
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Export
from trunkline.desk import exports
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.db import Database

if TYPE_CHECKING:
    from tests.conftest import Make

DANA = Person("usr_dana", "Dana", "dana@example.com", Role.MANAGER, "log_1")
EVE = Person("usr_eve", "Eve", "eve@example.com", Role.VIEWER, "log_2")
S = timedelta(seconds=1)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(BlobOptions(str(tmp_path / "blobs")))


async def two_calls(db: Database, make: "Make", now: datetime) -> None:
    """A call of a minute and a half by somebody with a dangerous name, and one that nobody answered."""
    async with db.work() as session:
        contact = await make.contact(session, name='=HYPERLINK("http://x")')
        call = await make.call(session, room="one", contact_id=contact.id, now=now)
        lease = await calls.take_lease(session, call.id, now=now)
        await calls.answer(session, lease, now=now)
        await calls.end(session, call.id, EndReason.CALLER_HANGUP, now=now + 90 * S)
        by = review.By(DANA.id, DANA.name)
        await review.add_tag(session, call.id, "vip", by=by, now=now)
        other = await make.call(session, room="two", from_number=None, now=now + 100 * S)
        await calls.end(session, other.id, EndReason.CANCELLED, now=now + 110 * S)


async def asked_for(db: Database, query: str, now: datetime, *, bom: bool = False) -> str:
    async with db.work() as session:
        return (await exports.ask(session, query, by=DANA, bom=bom, now=now)).id


async def fetched(db: Database, blobs: Blobs, export_id: str) -> tuple[Export, bytes]:
    async with db.look() as session:
        export = await exports.get(session, export_id, by=DANA)
        return export, await blobs.get(exports.ready(export))


async def test_a_file_of_calls(db: Database, blobs: Blobs, make: "Make", now: datetime) -> None:
    """One line for each call that the filters find, newest first; nothing in it is a formula."""
    await two_calls(db, make, now)
    everything = await asked_for(db, "", now, bom=True)
    some = await asked_for(db, "tag=vip", now)
    guardian = Guardian(db, blobs, GuardianOptions(), clock=lambda: now)
    await guardian.write_exports()
    export, content = await fetched(db, blobs, everything)
    assert (export.state, export.rows, export.attempt) == ("done", 2, 1)
    assert content.startswith(b"\xef\xbb\xbfid,started_at,")
    silent, long = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert (silent["from"], silent["end_reason"], silent["duration_s"]) == ("", "cancelled", "")
    assert (long["from"], long["duration_s"], long["tags"]) == ("+12025550134", "90.0", "vip")
    assert long["contact"] == '\'=HYPERLINK("http://x")'
    assert long["started_at"] == "2026-01-15T09:30:00+00:00"
    export, content = await fetched(db, blobs, some)
    assert (export.rows, content.count(b"\r\n")) == (1, 2)


async def test_a_writer_that_died_is_followed_by_another(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Nobody else takes it while its lease runs; then it is begun anew, and what the first writes is void."""
    await two_calls(db, make, now)
    export_id = await asked_for(db, "", now)
    async with db.work() as session:
        first = await exports.claim(session, now=now)
        assert first is not None
        assert await exports.claim(session, now=now + exports.LEASE - S) is None
    later = now + exports.LEASE + S
    await Guardian(db, blobs, GuardianOptions(), clock=lambda: later).write_exports()
    export, _ = await fetched(db, blobs, export_id)
    assert (export.state, export.attempt) == ("done", 2)
    async with db.work() as session:
        assert not await exports.renew(session, first, now=later)
        assert not await exports.finish(session, first, rows=7, now=later)
    export, _ = await fetched(db, blobs, export_id)
    assert export.rows == 2


async def test_what_cannot_be_written_is_given_up_with_its_reason(
    db: Database, now: datetime
) -> None:
    """After three tries; whoever asks is told why and what to do."""
    export_id = await asked_for(db, "", now)
    for _ in range(exports.MOST_ATTEMPTS):
        async with db.work() as session:
            job = await exports.claim(session, now=now)
            assert job is not None
            await exports.fail(session, job, "the store is full", now=now)
    async with db.look() as session:
        export = await exports.get(session, export_id, by=DANA)
        with pytest.raises(Conflict, match=r"the store is full; ask for it again"):
            exports.ready(export)
        assert not await exports.is_due(session, now=now)


async def test_a_file_is_its_owners_and_not_for_ever(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Somebody else's looks like none; after a week it is gone, the file too; a wrong filter is refused."""
    await two_calls(db, make, now)
    export_id = await asked_for(db, "", now)
    await Guardian(db, blobs, GuardianOptions(), clock=lambda: now).write_exports()
    export, _ = await fetched(db, blobs, export_id)
    key = exports.ready(export)
    async with db.look() as session:
        with pytest.raises(NotFound):
            await exports.get(session, export_id, by=EVE)
        assert list(await exports.mine(session, by=EVE)) == []
    week = now + exports.KEPT + S
    await Guardian(db, blobs, GuardianOptions(), clock=lambda: week).write_exports()
    assert not await blobs.exists(key)
    async with db.look() as session:
        assert list(await exports.mine(session, by=DANA)) == []
    with pytest.raises(Invalid, match="direction"):
        await asked_for(db, "direction=sideways", now)
