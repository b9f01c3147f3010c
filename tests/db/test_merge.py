"""Two contacts that are one person, on both databases."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls.models import Call
from trunkline.crm import queries, upsert
from trunkline.crm import service as crm
from trunkline.crm.models import Change, Contact
from trunkline.crm.upsert import Named
from trunkline.desk import merge, timeline
from trunkline.errors import Conflict, Invalid, NotFound, Refused, TrunklineError
from trunkline.kit.db import Database, alembic_config
from trunkline.kit.phone import PhoneNumber
from trunkline.outbox.models import EventRow

if TYPE_CHECKING:
    from tests.conftest import Make

S = timedelta(seconds=1)
DANA = "+12025550134"
PETER = PhoneNumber("+12025550177")
PERSON = crm.Cause("person", actor="Kim Ito")
HUBSPOT = crm.Cause("hubspot")


@dataclass
class Two:
    """A person twice: what there is of the one that stays and of the one that goes."""

    stays: str
    goes: str
    deal: str
    activity: str
    call: str


async def twice(session: AsyncSession, make: "Make", now: datetime) -> Two:
    stays, _ = await upsert.upsert_contact(
        session,
        Named("hubspot", external_id="1", phones=[PhoneNumber(DANA)]),
        {"name": "Dana Whitfield", "tags": ["vip"]},
        cause=HUBSPOT,
        now=now,
    )
    goes, _ = await upsert.upsert_contact(
        session,
        Named("hubspot", external_id="2", phones=[PETER]),
        {"name": "D. Whitfield", "email": "dana@example.com", "tags": ["vip", "north"]}
        | {"do_not_call": True, "do_not_call_reason": "Asked in March"},
        cause=HUBSPOT,
        now=now,
    )
    deal = await make.deal(session, contact=goes)
    note = await crm.log_activity(
        session, kind="note", summary="Wants fiber", contact_id=goes.id, cause=PERSON, now=now
    )
    call = await make.call(session, contact_id=goes.id)
    return Two(stays.id, goes.id, deal.id, note.id, call.id)


async def state(session: AsyncSession, two: Two) -> dict[str, Any]:
    """Whose everything is, and what is written of both."""
    session.expire_all()
    shown: dict[str, Any] = {}
    for which in (two.stays, two.goes):
        row = await session.get_one(Contact, which)
        shown[which] = {
            "name": row.name,
            "email": row.email,
            "tags": row.tags,
            "do_not_call": (row.do_not_call, row.do_not_call_reason),
            "merged_into": row.merged_into,
            "phones": sorted(phone.e164 for phone in row.phones),
        }
    shown["deal"] = (await queries.deal(session, two.deal)).contact_id
    shown["activity"] = (await queries.activity(session, two.activity)).contact_id
    shown["call"] = (await session.get_one(Call, two.call)).contact_id
    for external_id in ("1", "2"):
        shown[external_id] = await queries.by_external_id(
            session, "contact", "hubspot", external_id
        )
    return shown


async def told(session: AsyncSession, type_: str) -> list[dict[str, Any]]:
    rows = await session.scalars(
        select(EventRow).where(EventRow.type == type_).order_by(EventRow.id)
    )
    return [row.body["data"] for row in rows]


async def test_everything_of_one_goes_to_the_other(
    db: Database, make: "Make", now: datetime
) -> None:
    """Numbers, calls, deals, activities and names elsewhere move; what is missing is filled in; one event."""
    async with db.work() as session:
        two = await twice(session, make, now)
    async with db.work() as session:
        contact, change = await merge.merge(session, two.stays, two.goes, cause=PERSON, now=now)
        assert contact.id == two.stays
    async with db.look() as session:
        shown = await state(session, two)
        (fact,) = await told(session, "contact.merged")
        moments = await timeline.of_contact(session, two.stays)
    assert shown[two.stays] == {
        "name": "Dana Whitfield",  # what it has it keeps
        "email": "dana@example.com",
        "tags": ["vip", "north"],
        "do_not_call": (True, "Asked in March"),
        "merged_into": None,
        "phones": [DANA, PETER.e164],
    }
    assert shown[two.goes]["merged_into"] == two.stays
    assert shown[two.goes]["phones"] == []
    for what in ("deal", "activity", "call", "1", "2"):
        assert shown[what] == two.stays
    assert (fact["contact_id"], fact["merged_id"]) == (two.stays, two.goes)
    assert fact["change_id"] == change.id
    assert fact["moved"] == {"phones": 1, "calls": 1, "deals": 1, "activities": 1}
    assert fact["changes"]["email"] == [None, "dana@example.com"]
    assert change.actor == "Kim Ito"
    assert {one.kind for one in moments} >= {"call", "activity", "change"}


async def test_a_merge_is_taken_back_whole(db: Database, make: "Make", now: datetime) -> None:
    """Undone, everything is where and as it was, a webhook tells of it, and it can be merged again."""
    async with db.work() as session:
        two = await twice(session, make, now)
    async with db.look() as session:
        before = await state(session, two)
    async with db.work() as session:
        _, change = await merge.merge(session, two.stays, two.goes, cause=PERSON, now=now)
    async with db.work() as session:
        back = await merge.undo(session, change.id, cause=PERSON, now=now)
    async with db.look() as session:
        assert await state(session, two) == before
        (fact,) = await told(session, "change.undone")
        assert (fact["change_id"], fact["entity_id"]) == (change.id, two.stays)
    for again, says in ((change.id, "undone already"), (back.id, "taken back as a whole")):
        async with db.work() as session:
            with pytest.raises((Conflict, Refused), match=says):
                await merge.undo(session, again, cause=PERSON, now=now)
    async with db.work() as session:
        await merge.merge(session, two.goes, two.stays, cause=PERSON, now=now)


async def test_what_came_since_a_merge_stays(db: Database, make: "Make", now: datetime) -> None:
    """Taking a merge back moves what the merge had moved: later calls and changed fields stay as they are."""
    async with db.work() as session:
        two = await twice(session, make, now)
        _, change = await merge.merge(session, two.stays, two.goes, cause=PERSON, now=now)
    async with db.work() as session:
        later = await make.call(session, room="room-2", contact_id=two.stays)
        await crm.update_contact(
            session, two.goes, {"email": "new@example.com"}, cause=PERSON, now=now
        )  # by its old id: the one that stays is meant
    async with db.work() as session:
        await merge.undo(session, change.id, cause=PERSON, now=now)
    async with db.look() as session:
        shown = await state(session, two)
        assert (await session.get_one(Call, later.id)).contact_id == two.stays
    assert shown[two.stays]["email"] == "new@example.com"
    assert shown[two.stays]["do_not_call"] == (False, None)
    assert shown[two.goes]["email"] == "dana@example.com"
    assert shown["call"] == two.goes


@pytest.mark.parametrize(
    "named",
    [
        Named("hubspot", external_id="2"),  # what the other system called the one that went
        Named("hubspot", external_id="1"),
        Named("hubspot", phones=[PETER]),  # a number that moved
    ],
)
async def test_other_systems_go_on_as_before(
    sqlite_db: Database, make: "Make", now: datetime, named: Named
) -> None:
    """What pointed at either contact points at the one that stays; nobody is made anew."""
    async with sqlite_db.work() as session:
        two = await twice(session, make, now)
        await merge.merge(session, two.stays, two.goes, cause=PERSON, now=now)
    async with sqlite_db.work() as session:
        contact, made = await upsert.upsert_contact(
            session, named, {"name": "Dana W."}, cause=HUBSPOT, now=now
        )
    assert (contact.id, made) == (two.stays, False)


async def test_the_old_id_still_works(db: Database, make: "Make", now: datetime) -> None:
    """Whoever holds the id of the one that went reads and writes the other: a call under way, another
    system."""
    async with db.work() as session:
        two = await twice(session, make, now)
        await merge.merge(session, two.stays, two.goes, cause=PERSON, now=now)
    async with db.work() as session:
        assert (await queries.contact(session, two.goes)).id == two.stays
        assert [deal.id for deal in await queries.open_deals(session, two.goes)] == [two.deal]
        assert len(await queries.last_activities(session, two.goes)) == 1
        note = await crm.log_activity(
            session, kind="note", summary="Later", contact_id=two.goes, cause=PERSON, now=now
        )
        assert note.contact_id == two.stays
        contact, made = await upsert.upsert_contact(
            session, Named("hubspot", id=two.goes), {"name": "Dana"}, cause=HUBSPOT, now=now
        )
        assert (contact.id, made) == (two.stays, False)
        listed = await queries.contacts(session)
        found = await queries.find_contacts(session, "whitfield")
    assert [one.id for one in listed] == [two.stays]
    assert two.goes not in {one.id for one in found}


async def test_merging_again(db: Database, make: "Make", now: datetime) -> None:
    """Of three that are one the first id leads to the last; merges are taken back in reverse."""
    async with db.work() as session:
        two = await twice(session, make, now)
        third = await make.contact(session, name="Dana W", phones=[])
        _, first = await merge.merge(session, two.stays, two.goes, cause=PERSON, now=now)
        _, second = await merge.merge(session, third.id, two.stays, cause=PERSON, now=now)
    async with db.work() as session:
        assert (await queries.contact(session, two.goes)).id == third.id
        with pytest.raises(Conflict, match="undo that first"):
            await merge.undo(session, first.id, cause=PERSON, now=now)
    async with db.work() as session:
        await merge.undo(session, second.id, cause=PERSON, now=now)
        assert (await queries.contact(session, two.goes)).id == two.stays
        await merge.undo(session, first.id, cause=PERSON, now=now)
    async with db.look() as session:
        assert (await state(session, two))["deal"] == two.goes


@pytest.mark.parametrize(
    ("pair", "kind", "says"),
    [
        (("stays", "stays"), Invalid, "with itself"),
        (("stays", "con_none"), NotFound, "no contact con_none"),
        (("con_none", "stays"), NotFound, "no contact con_none"),
        (("stays", "gone"), Conflict, "was merged into"),
        (("gone", "goes"), Conflict, "was merged into"),
    ],
)
async def test_a_merge_that_cannot_be(
    sqlite_db: Database,
    make: "Make",
    now: datetime,
    pair: tuple[str, str],
    kind: type[TrunklineError],
    says: str,
) -> None:
    """It is refused in a sentence, and leaves everything as it is."""
    async with sqlite_db.work() as session:
        two = await twice(session, make, now)
        gone = await make.contact(session, name="Gone", phones=[])
        await merge.merge(session, two.goes, gone.id, cause=PERSON, now=now)
    async with sqlite_db.look() as session:
        before = await state(session, two)
    ids = {"stays": two.stays, "goes": two.goes, "gone": gone.id}
    with pytest.raises(kind, match=says):
        async with sqlite_db.work() as session:
            await merge.merge(
                session, ids.get(pair[0], pair[0]), ids.get(pair[1], pair[1]), cause=PERSON, now=now
            )
    async with sqlite_db.look() as session:
        assert await state(session, two) == before


async def test_two_merges_at_once(db: Database, make: "Make", now: datetime) -> None:
    """Two people who merge the same pair, each the other way round: one does, the other is told."""
    async with db.work() as session:
        two = await twice(session, make, now)

    async def one(stays: str, goes: str) -> str:
        try:
            async with db.work() as session:
                await merge.merge(session, stays, goes, cause=PERSON, now=now)
        except Conflict:
            return "conflict"
        return "merged"

    outcomes = await asyncio.gather(one(two.stays, two.goes), one(two.goes, two.stays))
    assert sorted(outcomes) == ["conflict", "merged"]
    async with db.look() as session:
        assert len(await told(session, "contact.merged")) == 1


async def test_an_older_change_waits_for_the_merge(
    sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """What was changed of the one that went cannot be taken back while it is part of the other."""
    async with sqlite_db.work() as session:
        two = await twice(session, make, now)
        await crm.update_contact(session, two.goes, {"name": "Dee"}, cause=PERSON, now=now)
        renamed = (await queries.changes_of(session, "contact", two.goes))[-1]
        await merge.merge(session, two.stays, two.goes, cause=PERSON, now=now)
    async with sqlite_db.work() as session:
        with pytest.raises(Conflict, match="undo the merge first"):
            await merge.undo(session, renamed.id, cause=PERSON, now=now)


async def test_who_may_be_the_same(sqlite_db: Database, make: "Make", now: datetime) -> None:
    """Those of the same address come first, then those of the same name, whatever the case; nobody else."""
    async with sqlite_db.work() as session:
        dana = await make.contact(session, name="Müller Dana", phones=[])
        await crm.update_contact(
            session, dana.id, {"email": "d@Example.com"}, cause=PERSON, now=now
        )
        by_name = await make.contact(session, name="MÜLLER  dana", phones=[])
        by_address = await make.contact(session, name="D.", phones=[])
        await crm.update_contact(
            session, by_address.id, {"email": "D@example.com"}, cause=PERSON, now=now
        )
        nobody = await make.contact(session, name=None, phones=[])
        await make.contact(session, name=None, phones=[PETER.e164])
    async with sqlite_db.look() as session:
        dana = await queries.contact(session, dana.id)
        found = await queries.duplicates(session, dana)
        assert [one.id for one in found] == [by_address.id, by_name.id]
        assert await queries.duplicates(session, await queries.contact(session, nobody.id)) == []


@pytest.mark.parametrize(
    "changes", [{"do_not_call_reason": "Asked"}, {"do_not_call": False, "do_not_call_reason": "x"}]
)
async def test_a_reason_for_nothing(
    sqlite_db: Database, make: "Make", now: datetime, changes: dict[str, Any]
) -> None:
    """A reason not to call somebody who may be called is refused."""
    async with sqlite_db.work() as session:
        dana = await make.contact(session)
    with pytest.raises(Invalid, match="set do_not_call too"):
        async with sqlite_db.work() as session:
            await crm.update_contact(session, dana.id, changes, cause=PERSON, now=now)


async def test_who_said_not_to_call_and_when(db: Database, make: "Make", now: datetime) -> None:
    """Kept with the mark, whoever sets it: by hand, by a merge, which brings along who said so before, or by
    taking back that they may be called; a new reason does not make it somebody else's."""
    maria, jon = crm.Cause("person", actor="Maria"), crm.Cause("person", actor="Jon")
    marked = {"do_not_call": True, "do_not_call_reason": "Asked"}
    async with db.work() as session:
        dana = await make.contact(session)
        await crm.update_contact(session, dana.id, marked, cause=maria, now=now)
        again = {**marked, "do_not_call_reason": "Asked twice"}
        await crm.update_contact(session, dana.id, again, cause=jon, now=now + S)
        assert (dana.do_not_call_by, dana.do_not_call_at) == ("Maria", now)
        other = await make.contact(session, name="D. Whitfield", phones=["+12025550135"])
        await merge.merge(session, other.id, dana.id, cause=jon, now=now + 2 * S)
        assert (other.do_not_call_by, other.do_not_call_at) == ("Maria", now)
        lifted = {"do_not_call": False}
        await crm.update_contact(session, other.id, lifted, cause=jon, now=now + 3 * S)
        assert (other.do_not_call_by, other.do_not_call_at) == (None, None)
        change = await session.scalar(
            select(Change.id).where(Change.entity_id == other.id, Change.field == "do_not_call")
        )
        assert change is not None
        await crm.undo(session, change, cause=jon, now=now + 4 * S)
        assert (other.do_not_call_by, other.do_not_call_at) == ("Jon", now + 4 * S)
        made = await crm.create_contact(session, name="Shy", do_not_call=True, cause=maria, now=now)
        assert (made.do_not_call_by, made.do_not_call_at) == ("Maria", now)


async def test_why_not_to_call(sqlite_db: Database, make: "Make", now: datetime) -> None:
    """The reason stands as long as the mark."""
    async with sqlite_db.work() as session:
        dana = await make.contact(session)
        marked = {"do_not_call": True, "do_not_call_reason": "Asked"}
        await crm.update_contact(session, dana.id, marked, cause=PERSON, now=now)
        assert dana.do_not_call_reason == "Asked"
        await crm.update_contact(session, dana.id, {"do_not_call": False}, cause=PERSON, now=now)
        assert dana.do_not_call_reason is None
        last = list(await session.scalars(select(Change.field).order_by(Change.id)))[-2:]
    assert sorted(last) == ["do_not_call", "do_not_call_reason"]


async def test_companies_of_one_name_become_one(db: Database, now: datetime) -> None:
    """The migration leaves the oldest company of a name, with the people and deals of the others."""
    config = alembic_config(db.engine.url.render_as_string(hide_password=False))
    await asyncio.to_thread(command.downgrade, config, "0010")
    at = now.isoformat()
    async with db.engine.begin() as connection:
        for id_, name in (("com_1", "Müller"), ("com_2", "MÜLLER"), ("com_3", "Other")):
            await connection.execute(
                text("INSERT INTO companies (id, name, created_at) VALUES (:id, :name, :at)"),
                {"id": id_, "name": name, "at": at},
            )
        await connection.execute(
            text(
                "INSERT INTO contacts (id, name, email, company_id, tags, do_not_call, source,"
                " created_at, updated_at) VALUES ('con_1', 'ÄNNE', 'A@B.de', 'com_2', '[]', false,"
                " 'api', :at, :at)"
            ),
            {"at": at},
        )
    await asyncio.to_thread(command.upgrade, config, "head")
    async with db.look() as session:
        names = list(await session.scalars(text("SELECT name_key FROM companies ORDER BY id")))
        row = await session.get_one(Contact, "con_1")
    assert names == ["müller", "other"]
    assert (row.company_id, row.name_key, row.email_key) == ("com_1", "änne", "a@b.de")
