"""A file of contacts on its way in, on both databases: checked, imported, broken off and gone on with."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from trunkline.access.logins import Person
from trunkline.access.roles import Role
from trunkline.crm import queries
from trunkline.crm import service as crm
from trunkline.crm.models import Change, Contact, Import
from trunkline.desk import imports
from trunkline.errors import Conflict, Invalid
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow

if TYPE_CHECKING:
    from tests.conftest import Make

DANA = Person("usr_dana", "Dana", "dana@example.com", Role.MANAGER, "log_1")
S = timedelta(seconds=1)

FILE = """Name;Phone;E-Mail;Company;Tags;Id
Dana Whitfield;(202) 555-0134;;Whitfield Bakery;vip;1
=cmd();+49 30 123456;;;;2
Peter Novak;001 202 555 0177;peter@example.com;ACME;;3
"Broken;202-555-0178;;;;4
Nobody;12;;;;5
Peter Again;202.555.0177;;Acme;north;3
Jo;;jo@example.com;;;
Jo;;JO@example.com;;;
Ann;;jo@example.com;;;
Name only;;;;;
"""


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(BlobOptions(str(tmp_path / "blobs")))


async def brought(
    db: Database,
    blobs: Blobs,
    now: datetime,
    text: str = FILE,
    then: imports.Next = "checking",
    **more: Any,
) -> str:
    """A file that was brought and whose columns were chosen as they were guessed."""
    raw = text.encode("utf-8-sig")
    import_id = imports.fresh_id(now)
    await blobs.put(imports.new_blob(import_id), raw)
    async with db.work() as session:
        row = await imports.bring(
            session,
            imports.look(raw),
            import_id=import_id,
            file_name="people.csv",
            by=DANA,
            now=now,
        )
        wanted = {"region": "us", "source": "hubspot", "on_match": "update", **more}
        await imports.choose(session, import_id, columns=row.columns, then=then, **wanted)
    return import_id


def guardian(db: Database, blobs: Blobs, now: datetime) -> Guardian:
    return Guardian(db, blobs, GuardianOptions(), clock=lambda: now)


async def counts(db: Database, import_id: str) -> tuple[str, int, int, int, int]:
    async with db.look() as session:
        row = await imports.get(session, import_id)
    return row.state, row.made, row.changed, row.same, row.failed


async def begin(db: Database, import_id: str) -> None:
    async with db.work() as session:
        await imports.run(session, import_id)


async def test_a_check_says_what_an_import_does(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """The dry run writes no contact and counts as the import does; faults are named by line; what is written
    stands in the ledger and raises events."""
    async with db.work() as session:
        dana = await make.contact(session, now=now)
    import_id = await brought(db, blobs, now)
    work = guardian(db, blobs, now)
    await work.run_imports()
    found = ("checked", 4, 2, 1, 3)
    assert await counts(db, import_id) == found
    async with db.look() as session:
        assert await session.scalar(select(func.count()).select_from(Contact)) == 1
        wrong = await imports.faults(session, import_id)
    assert [(one.line, one.reason.partition(";")[0]) for one in wrong] == [
        (5, "a quote is opened and never closed"),
        (6, "Number: '12' is too short"),
        (11, "there is neither a number nor an address nor an id of the other system"),
    ]
    await begin(db, import_id)
    await work.run_imports()
    assert await counts(db, import_id) == ("done", *found[1:])
    async with db.look() as session:
        everybody = {one.name: one for one in await queries.contacts(session)}
        assert set(everybody) == {"Dana Whitfield", "=cmd()", "Peter Again", "Jo", "Ann"}
        peter, whole = everybody["Peter Again"], everybody["=cmd()"]
        assert (peter.source, peter.tags, [one.e164 for one in peter.phones]) == (
            "import", ["north"], ["+12025550177"],
        )  # fmt: skip
        assert peter.company
        assert peter.company.name == "ACME"
        assert [one.e164 for one in whole.phones] == ["+4930123456"]
        names = await queries.external_ids(session, "contact", [dana.id, peter.id])
        assert names == {dana.id: {"hubspot": "1"}, peter.id: {"hubspot": "3"}}
        ledger = list(
            await session.scalars(
                select(Change).where(Change.source == "import").order_by(Change.id)
            )
        )
        assert sorted((one.field, one.actor) for one in ledger) == [
            *[("*", "Dana")] * 4, ("tags", "Dana"),
        ]  # fmt: skip
        told = [
            (row.type, row.body["data"]["source"], row.seq)
            for row in await session.scalars(select(EventRow).order_by(EventRow.type, EventRow.id))
            if row.body["data"]["source"] == "import"
        ]
    assert told == [*[("contact.created", "import", 1)] * 4, ("contact.updated", "import", 2)]
    assert not await blobs.exists(imports.new_blob(import_id))
    async with db.look() as session:
        row = await imports.get(session, import_id)
    file = b"".join([part async for part in imports.errors_file(db, row)])
    lines = file.decode("utf-8-sig").splitlines()
    assert lines[0] == "line,error,Name,Phone,E-Mail,Company,Tags,Id"
    assert lines[2].startswith("6,")


async def test_the_same_file_again_changes_nothing(
    db: Database, blobs: Blobs, now: datetime
) -> None:
    """Everybody is found again, also somebody whom only an address tells."""
    text = "name,phone,email,id\nA,+12025550101,,\nB,,b@example.com,\nC,,,77\n"
    for expected in (("done", 3, 0, 0, 0), ("done", 0, 0, 3, 0)):
        import_id = await brought(db, blobs, now, text, then="running")
        await guardian(db, blobs, now).run_imports()
        assert await counts(db, import_id) == expected
        now += S


async def test_people_who_are_there_may_be_left_alone(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """With ``skip`` nobody changes; an import never lifts do-not-call, either way it sets it."""
    async with db.work() as session:
        dana = await make.contact(session, now=now)
        cause = crm.Cause("person")
        await crm.update_contact(session, dana.id, {"do_not_call": True}, cause=cause, now=now)
        told = await make.contact(session, name="Told", phones=["+12025550135"], now=now)
    text = (
        "name,phone,do not call\nDana W,+12025550134,no\nNew,+12025550188,yes\n"
        "Told,+12025550135,yes\n"
    )
    for on_match, name in (("skip", "Dana Whitfield"), ("update", "Dana W")):
        await brought(db, blobs, now, text, on_match=on_match, then="running")
        await guardian(db, blobs, now).run_imports()
        async with db.look() as session:
            found = await queries.contact(session, dana.id)
            new = await queries.contact_by_number(session, "+12025550188")
        assert (found.name, found.do_not_call) == (name, True)
        assert new is not None
        assert (new.do_not_call, new.do_not_call_by) == (True, "Dana")
        now += S
    async with db.look() as session:
        found = await queries.contact(session, told.id)
    assert (found.do_not_call_by, found.do_not_call_at) == ("Dana", now - S)


async def test_a_row_that_points_at_two_people_fails_alone(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Nobody is merged by a file; the row is named, the others are imported."""
    async with db.work() as session:
        one = await make.contact(session, now=now)
        two = await make.contact(session, name="Two", phones=["+12025550135"], now=now)
    text = "name,phone,phone 2\nX,+12025550134,+12025550135\nY,+12025550136,\n"
    import_id = await brought(db, blobs, now, text, then="running")
    await guardian(db, blobs, now).run_imports()
    assert await counts(db, import_id) == ("done", 1, 0, 0, 1)
    async with db.look() as session:
        [fault] = await imports.faults(session, import_id)
    assert (fault.line, one.id in fault.reason, two.id in fault.reason) == (2, True, True)


async def test_rows_of_one_batch_that_mean_one_person(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Each row has its place in the ledger and one event, in the order of the file; each begins at what the
    row before it left, a company keeps the spelling it had, and what was changed can be undone."""
    async with db.work() as session:
        dana = await make.contact(session, now=now)
        await crm.update_contact(
            session, dana.id, {"company": "ACME"}, cause=crm.Cause("person"), now=now
        )
    text = (
        "name,phone,phone 2,company,tags,email\n"
        "Dana W,+12025550134,+12025550135,acme,vip,d@example.com\n"
        "Dana Whitfield,+12025550135,,Bakery,north,\n"
        "Dana W,+12025550134,,Acme,,D@EXAMPLE.COM\n"
    )
    import_id = await brought(db, blobs, now, text, then="running")
    await guardian(db, blobs, now).run_imports()
    assert await counts(db, import_id) == ("done", 0, 3, 0, 0)
    async with db.look() as session:
        told = [
            row.body["data"]["changes"]
            for row in await session.scalars(select(EventRow).order_by(EventRow.seq))
            if row.body["data"]["source"] == "import"
        ]
        ledger = list(
            await session.scalars(
                select(Change).where(Change.source == "import").order_by(Change.id)
            )
        )
        found = await queries.contact(session, dana.id)
    assert told == [
        {
            "name": ["Dana Whitfield", "Dana W"],
            "email": [None, "d@example.com"],
            "tags": [[], ["vip"]],
            "phones": [["+12025550134"], ["+12025550134", "+12025550135"]],
        },
        {
            "name": ["Dana W", "Dana Whitfield"],
            "company": ["ACME", "Bakery"],
            "tags": [["vip"], ["vip", "north"]],
        },
        {"name": ["Dana Whitfield", "Dana W"], "company": ["Bakery", "ACME"]},
    ]
    assert [(one.field, one.before, one.after) for one in ledger] == [
        (name, *both) for changes in told for name, both in changes.items()
    ]
    assert found.company
    assert (found.company.name, found.name_key) == ("ACME", "dana w")
    async with db.work() as session:
        await crm.undo(session, ledger[-1].id, cause=crm.Cause("person"), now=now + S)
    async with db.look() as session:
        found = await queries.contact(session, dana.id)
    assert found.company
    assert found.company.name == "Bakery"


async def test_a_worker_that_died_is_followed_by_another(
    db: Database, blobs: Blobs, now: datetime
) -> None:
    """What it had committed stands and is not done again; what it still writes is refused, batch and all."""
    rows = "".join(f"P{n},+1202555{n:04}\n" for n in range(1000, 1000 + 2 * imports.BATCH + 10))
    import_id = await brought(db, blobs, now, "name,phone\n" + rows, then="running")
    async with db.work() as session:
        first = await imports.claim(session, now=now)
        assert first is not None
        assert await imports.claim(session, now=now + imports.LEASE - S) is None
    batches = imports.batches(first, await blobs.get(first.blob_key))
    async with db.work() as session:
        lines = next(batches)
        found = await imports.write(session, first, lines, now=now)
        await imports.note(session, first, lines, found, now=now)
    later = now + imports.LEASE + 2 * S
    async with db.work() as session:
        second = await imports.claim(session, now=later)
    assert second is not None
    assert (second.attempt, second.done) == (2, imports.BATCH)
    lines = next(batches)

    async def write_late() -> None:
        async with db.work() as session:
            found = await imports.write(session, first, lines, now=later)
            await imports.note(session, first, lines, found, now=later)

    with pytest.raises(imports.Lost):
        await write_late()
    last = later + imports.LEASE + S
    await guardian(db, blobs, last).run_imports()
    assert await counts(db, import_id) == ("done", 2 * imports.BATCH + 10, 0, 0, 0)
    async with db.look() as session:
        people = await session.scalar(select(func.count()).select_from(Contact))
        told = await session.scalar(select(func.count()).select_from(EventRow))
    assert (people, told) == (2 * imports.BATCH + 10,) * 2


async def test_an_import_is_stopped_and_goes_on(db: Database, blobs: Blobs, now: datetime) -> None:
    """What was imported stays; who was at it may write no more; it goes on where it stood."""
    rows = "".join(f"P{n},+1202555{n:04}\n" for n in range(1000, 1000 + imports.BATCH + 5))
    import_id = await brought(db, blobs, now, "name,phone\n" + rows, then="running")
    async with db.work() as session:
        job = await imports.claim(session, now=now)
    assert job is not None
    batches = imports.batches(job, await blobs.get(job.blob_key))
    async with db.work() as session:
        lines = next(batches)
        await imports.note(
            session, job, lines, await imports.write(session, job, lines, now=now), now=now
        )
        await imports.stop(session, import_id, by="Dana", now=now)
    async with db.work() as session:
        with pytest.raises(imports.Lost):
            await imports.note(session, job, [], [], now=now)
    async with db.look() as session:
        assert (await imports.get(session, import_id)).error == "stopped by Dana"
        assert not await imports.is_due(session, now=now + imports.LEASE + S)
    async with db.work() as session:
        with pytest.raises(Conflict):
            await imports.discard(session, import_id)
    await begin(db, import_id)
    await guardian(db, blobs, now).run_imports()
    assert await counts(db, import_id) == ("done", imports.BATCH + 5, 0, 0, 0)


async def test_what_fails_twice_at_one_place_stops(
    db: Database, blobs: Blobs, now: datetime
) -> None:
    """A file that is gone: tried again after a minute, then given up with its reason; after a month nothing
    is kept."""
    import_id = await brought(db, blobs, now, then="running")
    await blobs.delete(imports.new_blob(import_id))
    await guardian(db, blobs, now).run_imports()
    assert (await counts(db, import_id))[0] == "running"
    await guardian(db, blobs, now + imports.LEASE + S).run_imports()
    async with db.look() as session:
        row = await imports.get(session, import_id)
    assert row.state == "stopped"
    assert "there is no blob" in str(row.error)
    await guardian(db, blobs, now + imports.KEPT + S).run_imports()
    async with db.look() as session:
        assert await session.scalar(select(func.count()).select_from(Import)) == 0


@pytest.mark.parametrize(
    ("rows", "spent_ms", "then"),
    [
        (100, 100, 100),  # just right
        (100, 50, 200),
        (100, 5, 200),  # twice as many at most
        (100, 125, 80),
        (100, 5000, 50),  # half as many at most
        (7, 7, 100),  # the last rows of a file say as much
    ],
)
def test_how_many_rows_the_next_transaction_takes(rows: int, spent_ms: int, then: int) -> None:
    """As many as take a tenth of a second."""
    pace = imports.Pace(100)
    pace.took(rows, timedelta(milliseconds=spent_ms))
    assert pace.rows == then


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "empty"),
        (b"name,phone\n", "no rows"),
        (b'"name,phone\nx,y\n', "first line"),
        (b"PK\x03\x04\x00", "save it as CSV"),
        (b"a" * (imports.MOST_BYTES + 1), "larger than 25 MB"),
        (b"a\n" + b"b\n" * (imports.MOST_ROWS + 1), "more than 250000 rows"),
    ],
)
def test_a_file_that_will_not_do(raw: bytes, says: str) -> None:
    """Is refused when it is brought, with what to do."""
    with pytest.raises(Invalid, match=says):
        imports.look(raw)
