"""What is known of a call before the first word, on both databases."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, select

from trunkline.calls import queries as call_queries
from trunkline.calls.models import Call
from trunkline.crm import service as crm
from trunkline.desk.arrival import dialled, first_name, receive
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow

if TYPE_CHECKING:
    from tests.conftest import Make

DANA = "+12025550134"
OURS = "+12025550100"
API = crm.Cause(source="api")


@contextmanager
def statements(db: Database) -> Iterator[list[str]]:
    """The SQL that runs meanwhile."""
    seen: list[str] = []

    def note(*arguments: Any) -> None:
        seen.append(arguments[2])

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(db.engine.sync_engine, "before_cursor_execute", note)


async def types_of(db: Database, call_id: str) -> list[str]:
    async with db.look() as session:
        rows = await session.scalars(
            select(EventRow.type).where(EventRow.subject == call_id).order_by(EventRow.seq)
        )
        return list(rows)


async def test_a_known_caller_is_received_with_all_we_know(
    db: Database, make: "Make", now: datetime
) -> None:
    """Profile, contact, company, open deals and last activities are there; the call is stored and told."""
    async with db.work() as session:
        version = await make.profile(session)
        contact = await make.contact(session)
        won = await make.deal(session, contact=contact, title="Old line")
        await crm.move_deal(session, won.id, "won", cause=API, now=now)
        deal = await make.deal(session, contact=contact)
        for n in range(6):
            await crm.log_activity(
                session,
                kind="note",
                summary=f"note {n}",
                contact_id=contact.id,
                cause=API,
                now=now + timedelta(minutes=n),
            )
    async with db.work() as session:
        reception = await receive(
            session, room="r1", channel="loopback", from_raw="(202) 555-0134", to_raw=OURS, now=now
        )
    assert reception.answering is not None
    assert reception.answering.version.id == version.id
    assert reception.contact is not None
    assert reception.contact.id == contact.id
    assert (reception.first_name, reception.company) == ("Dana", "Whitfield Bakery")
    assert reception.caller is not None
    assert reception.caller.e164 == DANA
    assert [each.id for each in reception.open_deals] == [deal.id]
    assert [each.summary for each in reception.last_activities] == [
        f"note {n}" for n in (5, 4, 3, 2, 1)
    ]
    async with db.look() as session:
        call = await call_queries.call(session, reception.call_id)
    assert (call.from_number, call.to_number) == (DANA, OURS)
    assert (call.contact_id, call.profile_version_id) == (contact.id, version.id)
    assert await types_of(db, call.id) == ["call.started", "contact.matched"]


async def test_a_repeated_arrival_is_the_same_call(
    db: Database, make: "Make", now: datetime
) -> None:
    """The job and LiveKit's webhook may both report the room; the call and its events are there once."""
    async with db.work() as session:
        await make.profile(session)
        await make.contact(session)
    ids = []
    for _ in range(2):
        async with db.work() as session:
            reception = await receive(
                session, room="r1", channel="sip", from_raw=DANA, to_raw=OURS, now=now
            )
            ids.append(reception.call_id)
    assert ids[0] == ids[1]
    assert await types_of(db, ids[0]) == ["call.started", "contact.matched"]


@pytest.mark.parametrize(
    ("from_raw", "stored"),
    [
        ("anonymous", None),  # hidden
        (None, None),  # no header
        ("sip:dana@example.com", None),  # a user without a number
        ("911", None),  # a short code calls
        ("+12025550188", "+12025550188"),  # a number nobody has
    ],
)
async def test_a_caller_we_do_not_know_is_received_too(
    db: Database, make: "Make", now: datetime, from_raw: str | None, stored: str | None
) -> None:
    """Whatever the line says of the caller, the call is answered."""
    async with db.work() as session:
        await make.profile(session)
        await make.contact(session)
    async with db.work() as session:
        reception = await receive(
            session, room="r1", channel="sip", from_raw=from_raw, to_raw=OURS, now=now
        )
    assert reception.answering is not None
    assert reception.contact is None
    assert reception.first_name is None
    assert list(reception.open_deals) == []
    async with db.look() as session:
        assert (await call_queries.call(session, reception.call_id)).from_number == stored
    assert await types_of(db, reception.call_id) == ["call.started"]


async def test_the_numbers_region_reads_the_callers(
    db: Database, make: "Make", now: datetime
) -> None:
    """A national caller on a German number is a German."""
    async with db.work() as session:
        await make.profile(session, number="+4930987654", region="DE")
        contact = await make.contact(session, phones=["+4930123456"])
    async with db.work() as session:
        reception = await receive(
            session, room="r1", channel="sip", from_raw="030 123456", to_raw="4930987654", now=now
        )
    assert reception.contact is not None
    assert reception.contact.id == contact.id


async def test_a_number_of_nobodys_is_stored_and_unanswered(
    db: Database, make: "Make", now: datetime
) -> None:
    """Without a profile there is still a call, so that the edge can end it with its reason."""
    async with db.work() as session:
        await make.profile(session)
        for room, to_raw in (("r1", "+12025550199"), ("r2", "reception"), ("r3", "")):
            reception = await receive(
                session, room=room, channel="sip", from_raw=DANA, to_raw=to_raw, now=now
            )
            assert reception.answering is None
            stored = await session.get(Call, reception.call_id)
            assert stored is not None
            assert stored.from_number == DANA


async def test_on_an_outbound_call_the_contact_is_who_we_dial(
    db: Database, make: "Make", now: datetime
) -> None:
    """The profile is that of the number we call from, the contact whom we call."""
    async with db.work() as session:
        await make.profile(session)
        contact = await make.contact(session)
        reception = await receive(
            session,
            room="r1",
            channel="sip",
            direction="outbound",
            from_raw=OURS,
            to_raw="(202) 555-0134",
            now=now,
        )
        assert reception.answering is not None
        assert reception.contact is not None
        assert reception.contact.id == contact.id
        call = await session.get(Call, reception.call_id)
        assert call is not None
        assert (call.direction, call.from_number, call.to_number) == ("outbound", OURS, DANA)


async def test_an_arrival_reads_little(db: Database, make: "Make", now: datetime) -> None:
    """Six statements find everything out; storing the call and its two events takes the rest."""
    async with db.work() as session:
        await make.profile(session)
        await make.deal(session)
    with statements(db) as seen:
        async with db.work() as session:
            await receive(session, room="r1", channel="sip", from_raw=DANA, to_raw=OURS, now=now)
    ours = ("contacts", "contact_phones", "deals", "activities", "numbers")
    reads = [
        sql for sql in seen if sql.startswith("SELECT") and any(f"FROM {t}" in sql for t in ours)
    ]
    assert len(reads) == 4  # profile, contact, deals, activities
    assert len([sql for sql in seen if sql.startswith("SELECT")]) <= 8
    assert len(seen) <= 18


@pytest.mark.parametrize(
    ("name", "spoken"),
    [
        ("Dana Whitfield", "Dana"),
        ("Dr. Dana Whitfield", "Dana"),  # a title
        ("Whitfield, Dana", "Dana"),  # the surname first
        ("DANA WHITFIELD", "Dana"),  # capitals would be spelled out
        ("dana", "Dana"),
        ("J. Robert Smith", "Robert"),  # an initial cannot be said
        ("Anne-Marie O'Neil", "Anne-Marie"),
        ("D'Angelo Russo", "D'Angelo"),
        ("Łukasz Żak", "Łukasz"),
        ("Dana (bakery) \U0001f370", "Dana"),  # what is not a letter is not said
        ("Mr.", None),  # nothing is left
        ("+1 202 555 0134", None),  # a number for a name
        ("", None),
    ],
)
def test_a_first_name_can_be_spoken(name: str, spoken: str | None) -> None:
    """A greeting uses the name alone, in a form a voice says right."""
    assert first_name(name) == spoken


@pytest.mark.parametrize(
    ("text", "e164"),
    [
        ("+12025550100", OURS),  # as trunks say it
        ("12025550100", OURS),  # without the plus sign
        ("0012025550100", OURS),
        ("sip:+12025550100@sip.example.com", OURS),
        ("sip:12025550100@10.0.0.1:5060", OURS),  # the host's digits are not the number's
        ("reception", None),
        ("", None),
        (None, None),
    ],
)
def test_the_dialled_number_is_read_without_a_region(text: str | None, e164: str | None) -> None:
    """Which country a trunk is in is only known once its number is."""
    number = dialled(text)
    assert (number.e164 if number else None) == e164
