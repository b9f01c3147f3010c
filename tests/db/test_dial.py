"""Calls that are asked for: who may be called and when, who dials, and what follows."""

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select

from trunkline.calls import queries, service
from trunkline.calls.lifecycle import EndReason, State
from trunkline.calls.models import Call
from trunkline.crm import queries as crm_reads
from trunkline.crm import service as crm
from trunkline.desk import dial
from trunkline.errors import (
    CalledEnough,
    Conflict,
    DoNotCall,
    Invalid,
    NotFound,
    OutsideHours,
    TrunklineError,
)
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow
from trunkline.profiles.behaviour import Outbound
from trunkline.profiles.hours import Hours

if TYPE_CHECKING:
    from tests.conftest import Make

DANA = "+12025550134"
OURS = "+12025550100"
BY_API = crm.Cause(source="api")
DAYS: list[Any] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
OPENING = "Hello {first_name}, this is {company}, calling about {reason}."
ANY_TIME: dict[str, Any] = {"opening": OPENING, "hours": []}


async def ready(
    db: Database, make: "Make", now: datetime, *, do_not_call: bool = False, **outbound: Any
) -> None:
    """A profile that calls out, and Dana."""
    async with db.work() as session:
        body = make.body(outbound={**ANY_TIME, **outbound})
        await make.profile(session, body=body)
        dana = await make.contact(session)
        if do_not_call:
            await crm.update_contact(session, dana.id, {"do_not_call": True}, cause=BY_API, now=now)


async def ask(db: Database, now: datetime, **given: Any) -> Call:
    async with db.work() as session:
        return await dial.queue_call(session, **{"to": DANA, **given}, cause=BY_API, now=now)


async def take(db: Database, now: datetime) -> Call | None:
    async with db.work() as session:
        return await dial.next_to_dial(session, now=now)


async def stored(db: Database, call_id: str) -> Call:
    async with db.look() as session:
        return await queries.call(session, call_id)


async def types(db: Database, call_id: str) -> list[str]:
    async with db.look() as session:
        rows = select(EventRow).where(EventRow.subject == call_id).order_by(EventRow.seq)
        return [row.type for row in await session.scalars(rows)]


async def over(db: Database, call_id: str, reason: EndReason, now: datetime) -> Call | None:
    """Dial it, and let it end so. Returns the next attempt."""
    async with db.work() as session:
        assert await dial.begin(session, call_id, now=now) is not None
        ended = await service.end(session, call_id, reason, now=now)
        return await dial.settle(session, ended, now=now)


async def test_a_call_is_queued(db: Database, make: "Make", now: datetime) -> None:
    """It has a room of its own, our number, the contact, the profile's version, and tells of itself."""
    await ready(db, make, now)
    call = await ask(db, now, reason="your new line")
    assert (call.state, call.direction) == (State.QUEUED, "outbound")
    assert (call.from_number, call.to_number, call.room) == (OURS, DANA, f"out_{call.id}")
    assert call.contact_id is not None
    assert await types(db, call.id) == ["call.queued"]


@pytest.mark.parametrize(
    ("outbound", "given", "error", "words"),
    [
        ({}, {"to": "555"}, Invalid, r"\+"),
        ({}, {"to": None}, Invalid, "which number"),
        ({}, {"from_number": "+12025550111"}, Invalid, "no number of ours"),
        ({}, {"profile": "Sales"}, NotFound, "'Sales'"),
        ({"hours": [Hours(days=DAYS, opens="09:00", closes="20:00")]}, {}, OutsideHours,
         # 09:30 UTC is half past four in Washington, where the number is.
         "Thursday 04:30 in America/New_York.*not_before 2026-01-15T14:00"),
    ],
    ids=["short", "none", "not-ours", "no-profile", "night"],
)  # fmt: skip
async def test_what_is_refused(
    outbound: dict[str, Any],
    given: dict[str, Any],
    error: type[TrunklineError],
    words: str,
    db: Database,
    make: "Make",
    now: datetime,
) -> None:
    """A call that may not be made is an error that says what to do, and leaves nothing behind."""
    await ready(db, make, now, **outbound)
    with pytest.raises(error, match=words):
        await ask(db, now, **given)
    assert await take(db, now) is None


async def test_do_not_call(db: Database, make: "Make", now: datetime) -> None:
    """Nobody is called against their will, whatever the hour."""
    await ready(
        db, make, now, do_not_call=True, hours=[Hours(days=["sun"], opens="09:00", closes="10:00")]
    )
    with pytest.raises(DoNotCall, match="asked not to be called"):
        await ask(db, now)


async def test_a_profile_that_does_not_call(db: Database, make: "Make", now: datetime) -> None:
    """A profile without the part 'outbound' calls nobody."""
    async with db.work() as session:
        await make.profile(session)
    with pytest.raises(Conflict, match="outbound"):
        await ask(db, now)
    with pytest.raises(Conflict, match="does not call out"):
        await ask(db, now, from_number=OURS)


async def test_the_day_has_a_cap(db: Database, make: "Make", now: datetime) -> None:
    """A number is called so often within 24 hours, and then again."""
    await ready(db, make, now, max_calls_per_number_per_day=2)
    await ask(db, now)
    await ask(db, now)
    with pytest.raises(CalledEnough, match="2 times"):
        await ask(db, now)
    assert await take(db, now) is not None


async def test_two_dialers_take_a_call_once(db: Database, make: "Make", now: datetime) -> None:
    """However many ask at the same moment, each queued call is given to one of them."""
    await ready(db, make, now, max_calls=10, max_calls_per_number_per_day=10)
    asked = {(await ask(db, now)).id for _ in range(3)}
    taken = await asyncio.gather(*(take(db, now) for _ in range(6)))
    assert sorted(call.id for call in taken if call) == sorted(asked)


async def test_a_cap_holds_calls_back(db: Database, make: "Make", now: datetime) -> None:
    """Calls above the profile's cap wait until one has ended; one that is being dialled counts."""
    await ready(db, make, now, max_calls=1)
    first, second = await ask(db, now), await ask(db, now)
    taken = await asyncio.gather(*(take(db, now) for _ in range(4)))
    assert [call.id for call in taken if call] == [first.id]
    await over(db, first.id, EndReason.REJECTED, now)
    later = now + dial.CAP_LOOK
    call = await take(db, later)
    assert call is not None
    assert call.id == second.id


async def test_no_agent_comes(db: Database, make: "Make", now: datetime) -> None:
    """An agent is sent for again and again, ever more seldom; then the call ends as capacity."""
    await ready(db, make, now)
    asked = await ask(db, now)
    at, sent = now, []
    while (call := await take(db, at)) is not None:
        sent.append(at - now)
        assert await take(db, at) is None, "it was sent for just now"
        assert call.due_at is not None
        at = call.due_at
    assert [wait.total_seconds() for wait in sent[:5]] == [0, 5, 15, 35, 75]
    ended = await stored(db, asked.id)
    assert (ended.state, ended.end_reason) == (State.ENDED, "capacity")
    assert at - now >= dial.PATIENCE
    assert await types(db, asked.id) == ["call.queued", "call.ended", "transcript.ready"]


async def test_what_changes_while_it_waits(db: Database, make: "Make", now: datetime) -> None:
    """The rules are asked again when it is dialled: by the dialer, and by the agent that has come."""
    await ready(db, make, now, hours=[Hours(days=DAYS, opens="04:00", closes="05:00")])
    late, barred, called_off = await ask(db, now), await ask(db, now), await ask(db, now)
    async with db.work() as session:
        await service.postpone(
            session, await queries.call(session, late.id), due_at=now + timedelta(hours=1)
        )
    for _ in range(2):
        await take(db, now)
    async with db.work() as session:
        dana = await crm_reads.contact_by_number(session, DANA)
        assert dana is not None
        await crm.update_contact(session, dana.id, {"do_not_call": True}, cause=BY_API, now=now)
    async with db.work() as session:
        assert await dial.begin(session, barred.id, now=now) is None
    assert (await stored(db, barred.id)).end_reason == "do_not_call"
    async with db.work() as session:
        await crm.update_contact(session, dana.id, {"do_not_call": False}, cause=BY_API, now=now)
    assert await take(db, now + timedelta(hours=1)) is None
    for call in (late, called_off):
        assert (await stored(db, call.id)).end_reason == "outside_hours"


async def test_one_agent_dials(db: Database, make: "Make", now: datetime) -> None:
    """Of two agents that were sent for one dials; from then on the call rings."""
    await ready(db, make, now)
    asked = await ask(db, now)
    later = now + timedelta(seconds=9)
    async with db.work() as session:
        assert await dial.begin(session, asked.id, now=later) is not None
    async with db.work() as session:
        assert await dial.begin(session, asked.id, now=later) is None
        assert await dial.next_to_dial(session, now=later) is None
    async with db.look() as session:
        (leg,) = await queries.legs(session, asked.id)
    assert (leg.kind, leg.number, leg.started_at) == ("callee", DANA, later)
    assert await types(db, asked.id) == ["call.queued", "call.started"]


@pytest.mark.parametrize(
    ("reason", "again"),
    [
        (EndReason.BUSY, True),
        (EndReason.NO_ANSWER, True),
        (EndReason.REJECTED, False),  # they said no
        (EndReason.INVALID_NUMBER, False),
        (EndReason.TRUNK_ERROR, False),  # ours to mend
    ],
)
async def test_another_attempt(
    reason: EndReason, again: bool, db: Database, make: "Make", now: datetime
) -> None:
    """Busy or unanswered is tried again as the profile says, as a call that names the first."""
    await ready(db, make, now, max_attempts=2, retry_after_min=10)
    first = await ask(db, now, reason="your new line")
    second = await over(db, first.id, reason, now)
    assert (second is not None) == again
    if second is None:
        return
    assert (second.attempt, second.retry_of, second.reason) == (2, first.id, "your new line")
    assert second.due_at == now + timedelta(minutes=10)
    assert await take(db, now) is None
    assert await over(db, second.id, reason, now) is None, "two attempts are enough"


async def test_an_attempt_waits_for_the_morning(db: Database, make: "Make", now: datetime) -> None:
    """An attempt that would fall outside the hours is made when they begin."""
    hours = [Hours(days=DAYS, opens="04:00", closes="05:00")]
    await ready(db, make, now, max_attempts=2, retry_after_min=60, hours=hours)
    second = await over(db, (await ask(db, now)).id, EndReason.BUSY, now)
    assert second is not None
    assert second.due_at == now + timedelta(hours=23, minutes=30)  # 04:00 the day after


@pytest.mark.parametrize(
    ("reason", "done"), [(EndReason.CALLEE_HANGUP, True), (EndReason.VOICEMAIL_LEFT, False)]
)
async def test_a_task(
    reason: EndReason, done: bool, db: Database, make: "Make", now: datetime
) -> None:
    """A call for a task goes to its contact, says its words, and the task is done once a person answers."""
    await ready(db, make, now)
    async with db.work() as session:
        dana = await crm_reads.contact_by_number(session, DANA)
        assert dana is not None
        task = await crm.log_activity(
            session, kind="task", summary="Call back: the invoice", contact_id=dana.id,
            due_at=now, cause=BY_API, now=now,
        )  # fmt: skip
    call = await ask(db, now, to=None, activity_id=task.id)
    assert (call.to_number, call.reason) == (DANA, "the invoice")
    with pytest.raises(Conflict, match="being made"):
        await ask(db, now, activity_id=task.id)
    async with db.work() as session:
        assert await dial.begin(session, call.id, now=now) is not None
        lease = service.Lease(call.id, 1)
        await service.answer(session, lease, now=now)
        ended = await service.end(session, call.id, reason, now=now)
        assert await dial.settle(session, ended, now=now) is None
    async with db.look() as session:
        assert ((await crm_reads.activity(session, task.id)).done_at is not None) == done


@pytest.mark.parametrize(
    ("number", "zones"),
    [
        ("+12025550134", ("America/New_York",)),
        ("+14155550134", ("America/Los_Angeles",)),
        ("+4915112345678", ("Europe/Berlin",)),
        ("+18005550134", ("America/New_York",)),  # everywhere: then the profile's
    ],
)
def test_whose_time_counts(number: str, zones: tuple[str, ...], make: "Make") -> None:
    """Hours are read where the person is, as far as the number tells."""
    assert tuple(dial.zones(make.body(), number)) == zones


def test_hours_over_midnight(make: "Make") -> None:
    """Hours that end on the next day reach into it."""
    outbound = Outbound(
        opening="Hello.", hours=[Hours(days=["mon"], opens="22:00", closes="02:00")]
    )
    monday = datetime.fromisoformat("2026-01-12T23:00-05:00")
    for hours, allowed in ((0, True), (2, True), (3, False), (24, False)):
        at = monday + timedelta(hours=hours)
        assert dial.may_call_at(make.body(), outbound, DANA, at) == allowed
