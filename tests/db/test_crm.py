"""The CRM's verbs, on both databases."""

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.crm import queries, service
from trunkline.crm.models import Activity, Change, Company, Contact
from trunkline.crm.service import Cause, Stage
from trunkline.errors import Conflict, Invalid, NotFound, Refused, TrunklineError
from trunkline.kit.db import Database
from trunkline.kit.money import Money
from trunkline.kit.phone import PhoneNumber
from trunkline.outbox.models import EventRow

if TYPE_CHECKING:
    from tests.conftest import Make

DANA = PhoneNumber("+12025550134")
PETER = PhoneNumber("+12025550177")
API = Cause(source="api")
CALL = Cause(
    source="call", call_id="call_1", tool_run_id="run_1", turn_id="turn_1", offset_ms=21_340
)


async def told(session: AsyncSession, type_: str) -> list[dict[str, Any]]:
    """The data of all events of a type, in order."""
    rows = await session.scalars(
        select(EventRow).where(EventRow.type == type_).order_by(EventRow.id)
    )
    return [row.body["data"] for row in rows]


async def count(session: AsyncSession, table: Any) -> int:
    return await session.scalar(select(func.count()).select_from(table)) or 0


# --- contacts ----------------------------------------------------------------------------------


async def test_a_contact_is_found_by_each_of_its_numbers(
    db: Database, make: "Make", now: datetime
) -> None:
    """A contact has several numbers; each leads to it, with company and numbers at hand."""
    async with db.work() as session:
        made = await make.contact(session, phones=[DANA.e164])
        await service.add_phone(session, made.id, PETER, label="desk", cause=API, now=now)
    async with db.look() as session:
        for number in (DANA, PETER):
            found = await queries.contact_by_number(session, number.e164)
            assert found is not None
            assert found.id == made.id
            assert found.company is not None
            assert found.company.name == "Whitfield Bakery"
            assert {row.e164 for row in found.phones} == {DANA.e164, PETER.e164}
        assert await queries.contact_by_number(session, "+12025550199") is None


async def test_a_number_is_looked_up_by_index(db: Database, make: "Make") -> None:
    """No part of the lookup at arrival reads a table from end to end."""
    seen: list[tuple[str, Any]] = []

    def note(*arguments: Any) -> None:
        if arguments[2].startswith("SELECT"):
            seen.append((arguments[2], arguments[3]))

    async with db.work() as session:
        await make.contact(session)
    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    async with db.look() as session:
        await queries.contact_by_number(session, DANA.e164)
    event.remove(db.engine.sync_engine, "before_cursor_execute", note)
    ((sql, parameters),) = seen
    async with db.engine.connect() as connection:
        explain = "EXPLAIN QUERY PLAN " if db.dialect == "sqlite" else "EXPLAIN "
        if db.dialect == "postgresql":  # which would rather scan a table of one row
            await connection.exec_driver_sql("SET enable_seqscan = off")
        rows = await connection.exec_driver_sql(explain + sql, parameters)
        plan = "\n".join(str(row) for row in rows)
    assert "e164" in plan
    assert "SCAN " not in plan
    assert "Seq Scan" not in plan


async def test_a_new_contact_is_in_ledger_and_events(db: Database, now: datetime) -> None:
    """Who came into being, by whom and on what evidence, is written beside the contact."""
    async with db.work() as session:
        contact = await service.create_contact(
            session, name=" Peter  Novak ", phones=[PETER, PETER], cause=CALL, now=now
        )
    async with db.look() as session:
        (change,) = await queries.changes_of_call(session, "call_1")
        (fact,) = await told(session, "contact.created")
    assert contact.name == "Peter Novak"
    assert (change.entity, change.entity_id, change.field) == ("contact", contact.id, "*")
    assert change.before is None
    assert change.after is not None
    assert change.after["phones"] == [PETER.e164]
    assert (change.tool_run_id, change.turn_id, change.offset_ms) == ("run_1", "turn_1", 21_340)
    assert fact["contact_id"] == contact.id
    assert fact["evidence"] == {"call_id": "call_1", "turn_id": "turn_1", "offset_ms": 21_340}


async def test_a_number_belongs_to_one_contact(db: Database, make: "Make", now: datetime) -> None:
    """Someone else's number is refused, masked in the message; the rest of the unit still works."""
    async with db.work() as session:
        dana = await make.contact(session)
        with pytest.raises(Conflict) as refusal:
            await service.create_contact(session, name="Eve", phones=[DANA], cause=API, now=now)
        assert dana.id in str(refusal.value)
        assert "5550134" not in str(refusal.value)
        peter = await service.create_contact(
            session, name="Peter", phones=[PETER], cause=API, now=now
        )
        with pytest.raises(Conflict):
            await service.add_phone(session, peter.id, DANA, cause=API, now=now)
    async with db.look() as session:
        found = await queries.contact(session, peter.id)
        assert [row.e164 for row in found.phones] == [PETER.e164]


async def test_two_agents_that_add_the_same_caller_make_one(db: Database, now: datetime) -> None:
    """Of two transactions that create a contact with one number at once, one is told of the other."""

    async def create(name: str) -> str:
        try:
            async with db.work() as session:
                await service.create_contact(session, name=name, phones=[PETER], cause=API, now=now)
        except Conflict:
            return "conflict"
        return "made"

    outcomes = await asyncio.gather(create("Peter"), create("Pete"))
    assert sorted(outcomes) == ["conflict", "made"]
    async with db.look() as session:
        assert await count(session, Contact) == 1
        assert len(await told(session, "contact.created")) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Whitfield Bakery", "whitfield BAKERY"),  # case
        ("Whitfield Bakery", "  Whitfield   Bakery "),  # spaces
        ("Müller & Söhne", "MÜLLER & SÖHNE"),  # letters SQLite's lower() does not know
        ("MÜLLER & SÖHNE", "Müller & Söhne"),  # stored in capitals
    ],
)
async def test_a_company_is_found_whatever_the_case(
    db: Database, make: "Make", first: str, second: str
) -> None:
    """Two people of one company do not make it twice."""
    async with db.work() as session:
        one = await make.contact(session, company=first)
        two = await make.contact(session, phones=[PETER.e164], company=second)
    assert one.company_id == two.company_id
    async with db.look() as session:
        assert await count(session, Company) == 1


async def test_an_update_tells_only_what_changed(db: Database, make: "Make", now: datetime) -> None:
    """Fields set to what they are leave neither ledger row nor event."""
    later = now + timedelta(hours=1)
    async with db.work() as session:
        contact = await make.contact(session, tags=["vip"])
        changes = {
            "name": "Dana Whitfield",
            "email": " dana@example.com ",
            "tags": ["vip", "bakery", "vip"],
            "do_not_call": True,
            "company": None,
        }
        await service.update_contact(session, contact.id, changes, cause=API, now=later)
        await service.update_contact(session, contact.id, changes, cause=API, now=later)
    async with db.look() as session:
        (fact,) = await told(session, "contact.updated")
        ledger = await queries.changes_of(session, "contact", contact.id)
        found = await queries.contact(session, contact.id)
    assert fact["changes"] == {
        "email": [None, "dana@example.com"],
        "tags": [["vip"], ["vip", "bakery"]],
        "do_not_call": [False, True],
        "company": ["Whitfield Bakery", None],
    }
    assert [change.field for change in ledger] == ["*", "email", "tags", "do_not_call", "company"]
    assert found.company is None
    assert found.updated_at == later


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "  "}, "a name must not be empty"),
        ({"name": 7}, "a name must not be empty"),  # no text at all
        ({"name": "x" * 201}, "a name may have 200 characters, not 201"),
        ({"company": ""}, "a company's name must not be empty"),
        ({"email": "dana"}, "no email address"),
        ({"email": "dana @example.com"}, "no email address"),
        ({"tags": "vip"}, "tags must be a list"),
        ({"tags": ["vip", ""]}, "a tag must not be empty"),
        ({"do_not_call": "yes"}, "true or false"),
        ({"id": "con_2"}, "has no field id to set; there are company, do_not_call, do_not"),
    ],
)
async def test_a_wrong_value_changes_nothing(
    sqlite_db: Database, make: "Make", now: datetime, changes: dict[str, Any], says: str
) -> None:
    """A wrong value is refused in a sentence, and the contact stays as it was."""
    async with sqlite_db.work() as session:
        contact = await make.contact(session)
    with pytest.raises(Invalid, match=says):
        async with sqlite_db.work() as session:
            await service.update_contact(
                session, contact.id, {"email": "new@example.com", **changes}, cause=API, now=now
            )
    async with sqlite_db.look() as session:
        assert (await queries.contact(session, contact.id)).email is None
        assert await told(session, "contact.updated") == []


async def test_contacts_and_deals_come_in_pages(db: Database, make: "Make") -> None:
    """Following the last id shows everything once, in the order it was made."""
    async with db.work() as session:
        contacts = [await make.contact(session, phones=[f"+1202555013{n}"]) for n in range(5)]
        deals = [await make.deal(session, contact=contact) for contact in contacts]
    async with db.look() as session:
        first = await queries.contacts(session, limit=3)
        rest = await queries.contacts(session, after=first[-1].id, limit=3)
        assert [each.id for each in (*first, *rest)] == [each.id for each in contacts]
        first_deals = await queries.deals(session, limit=3)
        rest_deals = await queries.deals(session, after=first_deals[-1].id, limit=3)
        assert [each.id for each in (*first_deals, *rest_deals)] == [each.id for each in deals]


# --- deals -------------------------------------------------------------------------------------


async def test_moving_a_deal_writes_change_ledger_and_event(
    db: Database, make: "Make", now: datetime
) -> None:
    """A move sets stage and outcome, with the evidence in the ledger and in the event."""
    async with db.work() as session:
        deal = await make.deal(session, stage="proposal")
        assert [each.id for each in await queries.open_deals(session, deal.contact_id or "")] == [
            deal.id
        ]
        await service.move_deal(session, deal.id, "won", cause=CALL, now=now)
    async with db.look() as session:
        moved = await queries.deal(session, deal.id)
        (change,) = await queries.changes_of_call(session, "call_1")
        fact = (await told(session, "deal.updated"))[-1]
        assert await queries.open_deals(session, deal.contact_id or "") == []
    assert (moved.stage, moved.outcome) == ("won", "won")
    assert (change.field, change.before, change.after) == ("stage", "proposal", "won")
    assert (fact["before"], fact["after"]) == ({"stage": "proposal"}, {"stage": "won"})
    assert fact["evidence"]["offset_ms"] == 21_340


async def test_a_move_to_the_same_stage_leaves_no_trace(
    db: Database, make: "Make", now: datetime
) -> None:
    """Told twice, also in another case, a deal moves once."""
    async with db.work() as session:
        deal = await make.deal(session, stage="proposal")
        for stage in ("won", "won", " Won "):
            await service.move_deal(session, deal.id, stage, cause=CALL, now=now)
    async with db.look() as session:
        assert len(await queries.changes_of_call(session, "call_1")) == 1
        assert len(await told(session, "deal.updated")) == 2  # made, moved


async def test_nothing_of_a_unit_that_fails_stays(
    db: Database, make: "Make", now: datetime
) -> None:
    """An exception after move_deal leaves neither the change, nor the ledger row, nor the event."""
    async with db.work() as session:
        deal = await make.deal(session, stage="proposal")

    async def lose_the_line() -> None:
        async with db.work() as session:
            await service.move_deal(session, deal.id, "won", cause=CALL, now=now)
            raise RuntimeError("line lost")

    with pytest.raises(RuntimeError, match="line lost"):
        await lose_the_line()
    async with db.look() as session:
        assert (await queries.deal(session, deal.id)).stage == "proposal"
        assert await queries.changes_of_call(session, "call_1") == []
        assert len(await told(session, "deal.updated")) == 1


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"stage": "sold"}, Invalid, "its stages are qualified, proposal, won, lost"),
        ({"pipeline": "Rentals"}, NotFound, "no pipeline 'Rentals'"),
        ({"title": " "}, Invalid, "a deal's title must not be empty"),
        ({"amount": Money(-1, "USD")}, Invalid, "no amount of a deal"),
        ({"amount": Money(1, "usd")}, Invalid, "a code like USD"),
        ({"contact_id": "con_none"}, NotFound, "no contact con_none"),
    ],
)
async def test_a_wrong_deal_is_refused(
    sqlite_db: Database,
    make: "Make",
    now: datetime,
    changed: dict[str, Any],
    error: type[TrunklineError],
    says: str,
) -> None:
    """A deal that cannot be is refused in a sentence that says what there is."""
    async with sqlite_db.work() as session:
        deal = await make.deal(session)
        values: dict[str, Any] = {
            "title": "Fiber",
            "contact_id": deal.contact_id,
            "pipeline": "Sales",
            "stage": "proposal",
            "amount": Money(1, "USD"),
            **changed,
        }
        with pytest.raises(error, match=says):
            await service.create_deal(session, **values, cause=API, now=now)
    with pytest.raises(Invalid, match="its stages are qualified, proposal, won, lost"):
        async with sqlite_db.work() as session:
            await service.move_deal(session, deal.id, "sold", cause=API, now=now)
    with pytest.raises(NotFound):
        async with sqlite_db.work() as session:
            await service.move_deal(session, "deal_none", "won", cause=API, now=now)


@pytest.mark.parametrize(
    ("stages", "error"),
    [
        ([], Invalid),  # nowhere to be
        ([Stage("new"), Stage("New")], Invalid),  # two that sound the same
        ([Stage("new", "maybe")], Invalid),  # no such outcome
        ([Stage("new")], Conflict),  # the name is taken
    ],
)
async def test_a_wrong_pipeline_is_refused(
    sqlite_db: Database, make: "Make", now: datetime, stages: list[Stage], error: type[Exception]
) -> None:
    """A pipeline has a name of its own and stages that can be told apart."""
    async with sqlite_db.work() as session:
        await make.deal(session)
        with pytest.raises(error):
            await service.create_pipeline(session, name="Sales", stages=stages, now=now)


# --- activities --------------------------------------------------------------------------------


async def test_a_task_is_logged_and_done_once(db: Database, make: "Make", now: datetime) -> None:
    """A task carries its call and due time; doing it twice is doing it once."""
    due = now + timedelta(days=1)
    async with db.work() as session:
        contact = await make.contact(session)
        task = await service.log_activity(
            session,
            kind="task",
            summary="Call back.",
            contact_id=contact.id,
            due_at=due,
            cause=CALL,
            now=now,
        )
        await service.complete_task(session, task.id, cause=API, now=due)
        await service.complete_task(session, task.id, cause=API, now=due + timedelta(days=1))
    async with db.look() as session:
        (found,) = await queries.activities_of_call(session, "call_1")
        (fact,) = await told(session, "activity.logged")
        ledger = await queries.changes_of(session, "activity", task.id)
    assert (found.due_at, found.done_at) == (due, due)
    assert fact["due_at"] == "2026-01-16T09:30:00.000Z"
    assert [change.field for change in ledger] == ["*", "done_at"]


async def test_the_last_activities_come_newest_first(
    db: Database, make: "Make", now: datetime
) -> None:
    """A caller's history begins with what was last."""
    async with db.work() as session:
        contact = await make.contact(session)
        for n in range(4):
            await service.log_activity(
                session,
                kind="note",
                summary=f"note {n}",
                contact_id=contact.id,
                cause=API,
                now=now + timedelta(minutes=n),
            )
    async with db.look() as session:
        last = await queries.last_activities(session, contact.id, limit=2)
    assert [each.summary for each in last] == ["note 3", "note 2"]


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"kind": "sms"}, Invalid, "no kind of activity; there are call, note, task, meeting"),
        ({"kind": "task"}, Invalid, "a task needs the time it is due"),
        ({"due_at": datetime.fromisoformat("2026-01-16T09:00Z")}, Invalid, "only a task has one"),
        ({"summary": " \n "}, Invalid, "a summary must not be empty"),
        ({"contact_id": "con_none"}, NotFound, "no contact con_none"),
        ({"deal_id": "deal_none"}, NotFound, "no deal deal_none"),
    ],
)
async def test_a_wrong_activity_is_refused(
    sqlite_db: Database,
    make: "Make",
    now: datetime,
    changed: dict[str, Any],
    error: type[TrunklineError],
    says: str,
) -> None:
    """What is no activity is refused in a sentence."""
    async with sqlite_db.work() as session:
        contact = await make.contact(session)
        values: dict[str, Any] = {
            "kind": "note",
            "summary": "x",
            "contact_id": contact.id,
            **changed,
        }
        with pytest.raises(error, match=says):
            await service.log_activity(session, **values, cause=API, now=now)
        assert await count(session, Activity) == 0


async def test_an_activity_cannot_join_a_contact_to_anothers_deal(
    sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """A deal's activities are its own contact's; only a task can be done."""
    async with sqlite_db.work() as session:
        deal = await make.deal(session)
        other = await make.contact(session, phones=[PETER.e164])
        with pytest.raises(Conflict, match="belongs to another contact"):
            await service.log_activity(
                session,
                kind="note",
                summary="x",
                contact_id=other.id,
                deal_id=deal.id,
                cause=API,
                now=now,
            )
        note = await service.log_activity(
            session,
            kind="note",
            summary="x",
            contact_id=deal.contact_id,
            deal_id=deal.id,
            cause=API,
            now=now,
        )
        with pytest.raises(Invalid, match="only a task"):
            await service.complete_task(session, note.id, cause=API, now=now)


# --- undo --------------------------------------------------------------------------------------


async def test_undo_takes_a_move_back_and_tells_it(
    db: Database, make: "Make", now: datetime
) -> None:
    """Undoing sets the old value, marks the change, adds the compensating one and its event."""
    async with db.work() as session:
        deal = await make.deal(session, stage="proposal")
        await service.move_deal(session, deal.id, "won", cause=CALL, now=now)
        (change,) = await queries.changes_of_call(session, "call_1")
    later = now + timedelta(hours=1)
    person = Cause(source="person")
    async with db.work() as session:
        back = await service.undo(session, change.id, cause=person, now=later)
    async with db.look() as session:
        found = await queries.deal(session, deal.id)
        (fact,) = await told(session, "change.undone")
        (undone,) = await queries.changes_of_call(session, "call_1")
    assert (found.stage, found.outcome) == ("proposal", "open")
    assert (back.before, back.after, back.source) == ("won", "proposal", "person")
    assert undone.undone_at == later
    assert (fact["change_id"], fact["call_id"]) == (change.id, "call_1")
    assert (fact["before"], fact["after"]) == ("won", "proposal")

    with pytest.raises(Conflict, match="undone already"):
        async with db.work() as session:
            await service.undo(session, change.id, cause=person, now=later)
    async with db.work() as session:  # what was taken back can be put back
        await service.undo(session, back.id, cause=person, now=later)
        assert (await queries.deal(session, deal.id)).stage == "won"


async def test_undo_never_overwrites_a_later_change(
    db: Database, make: "Make", now: datetime
) -> None:
    """A change is undone only while its value still stands; the later one goes first."""
    async with db.work() as session:
        deal = await make.deal(session, stage="qualified")
        await service.move_deal(session, deal.id, "proposal", cause=CALL, now=now)
        await service.move_deal(session, deal.id, "won", cause=CALL, now=now)
        first, second = await queries.changes_of_call(session, "call_1")
        with pytest.raises(Conflict, match="has changed since"):
            await service.undo(session, first.id, cause=API, now=now)
        await service.undo(session, second.id, cause=API, now=now)
        await service.undo(session, first.id, cause=API, now=now)
        assert (await queries.deal(session, deal.id)).stage == "qualified"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "D. Whitfield"),
        ("email", None),
        ("tags", ["new", "tags"]),
        ("do_not_call", True),
        ("company", "Another Bakery"),
        ("company", None),
    ],
)
async def test_every_field_of_a_contact_can_be_taken_back(
    db: Database, make: "Make", now: datetime, field: str, value: Any
) -> None:
    """Whatever was set on a contact, undo brings the old value back."""

    def state(contact: Contact) -> tuple[Any, ...]:
        company = contact.company.name if contact.company else None
        return contact.name, contact.email, contact.tags, contact.do_not_call, company

    async with db.work() as session:
        contact = await make.contact(session, tags=["vip"])
        await service.update_contact(
            session, contact.id, {"email": "dana@example.com"}, cause=API, now=now
        )
        before = state(contact)
        await service.update_contact(session, contact.id, {field: value}, cause=CALL, now=now)
        assert state(contact) != before
        (change,) = await queries.changes_of_call(session, "call_1")
        await service.undo(session, change.id, cause=API, now=now)
    async with db.look() as session:
        assert state(await queries.contact(session, contact.id)) == before


async def test_a_number_given_can_be_taken_back_and_put_back(
    db: Database, make: "Make", now: datetime
) -> None:
    """Undoing add_phone frees the number; undoing that gives it again, unless someone has it now."""
    async with db.work() as session:
        contact = await make.contact(session)
        await service.add_phone(session, contact.id, PETER, cause=CALL, now=now)
        await service.add_phone(session, contact.id, PETER, cause=CALL, now=now)
        (change,) = await queries.changes_of_call(session, "call_1")
        back = await service.undo(session, change.id, cause=API, now=now)
        assert await queries.contact_by_number(session, PETER.e164) is None
        again = await service.undo(session, back.id, cause=API, now=now)
        found = await queries.contact_by_number(session, PETER.e164)
        assert found is contact
        gone = await service.undo(session, again.id, cause=API, now=now)
    async with db.work() as session:
        await make.contact(session, phones=[PETER.e164])
        with pytest.raises(Conflict, match="belongs to contact"):
            await service.undo(session, gone.id, cause=API, now=now)


async def test_what_came_into_being_goes_again(db: Database, make: "Make", now: datetime) -> None:
    """An activity or deal nobody built upon is deleted; the ledger keeps that it was."""
    async with db.work() as session:
        deal = await make.deal(session)
        note = await service.log_activity(
            session,
            kind="note",
            summary="x",
            contact_id=deal.contact_id,
            deal_id=deal.id,
            cause=CALL,
            now=now,
        )
        (made_note,) = await queries.changes_of(session, "activity", note.id)
        (made_deal,) = await queries.changes_of(session, "deal", deal.id)
        with pytest.raises(Conflict, match="undo those first"):
            await service.undo(session, made_deal.id, cause=API, now=now)
        back = await service.undo(session, made_note.id, cause=API, now=now)
        await service.undo(session, made_deal.id, cause=API, now=now)
        with pytest.raises(Refused, match="add it anew"):
            await service.undo(session, back.id, cause=API, now=now)
    async with db.look() as session:
        assert await count(session, Activity) == 0
        with pytest.raises(NotFound):
            await queries.deal(session, deal.id)
        assert len(await queries.changes_of(session, "activity", note.id)) == 2


async def test_some_things_cannot_be_taken_back(db: Database, make: "Make", now: datetime) -> None:
    """A contact stays since calls name it; a deal that moved since stays; an unknown change is not found."""
    async with db.work() as session:
        deal = await make.deal(session)
        await service.move_deal(session, deal.id, "won", cause=CALL, now=now)
        made_deal, _ = await queries.changes_of(session, "deal", deal.id)
        (made_contact,) = await queries.changes_of(session, "contact", deal.contact_id or "")
        with pytest.raises(Conflict, match="has changed since"):
            await service.undo(session, made_deal.id, cause=API, now=now)
        with pytest.raises(Refused, match="calls may name it"):
            await service.undo(session, made_contact.id, cause=API, now=now)
        with pytest.raises(NotFound, match="no change chg_none"):
            await service.undo(session, "chg_none", cause=API, now=now)
        marked = select(func.count()).select_from(Change).where(Change.undone_at.is_not(None))
        assert await session.scalar(marked) == 0


async def test_a_done_task_can_be_opened_again(db: Database, make: "Make", now: datetime) -> None:
    """Undoing complete_task makes the task due again."""
    async with db.work() as session:
        contact = await make.contact(session)
        task = await service.log_activity(
            session,
            kind="task",
            summary="Call back.",
            contact_id=contact.id,
            due_at=now,
            cause=API,
            now=now,
        )
        await service.complete_task(session, task.id, cause=CALL, now=now)
        (change,) = await queries.changes_of_call(session, "call_1")
        await service.undo(session, change.id, cause=API, now=now)
        assert task.done_at is None
