"""Who gets in, on both databases: hours and who stands in, blocked callers, caps."""

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import queries as call_queries
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Call
from trunkline.desk import caps, ringing
from trunkline.desk.arrival import Reception, receive
from trunkline.desk.door import House, Kind, Load
from trunkline.errors import Invalid, NotFound
from trunkline.kit.db import Database
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles import queries, service
from trunkline.profiles.behaviour import Limits

if TYPE_CHECKING:
    from tests.conftest import Make

DANA = "+12025550134"
OURS = "+12025550100"
OFFICE = [{"days": ["mon", "tue", "wed", "thu", "fri"], "opens": "09:00", "closes": "17:00"}]
"""In New York, where it is 04:30 on the Thursday of the tests."""
ANYBODY = House()


async def ring(
    session: AsyncSession,
    room: str,
    *,
    now: datetime,
    from_raw: str | None = DANA,
    to_raw: str = OURS,
    house: House | None = ANYBODY,
    **more: Any,
) -> Reception:
    return await receive(
        session,
        room=room,
        channel="sip",
        from_raw=from_raw,
        to_raw=to_raw,
        house=house,
        now=now,
        **more,
    )


# --- hours ------------------------------------------------------------------------------------


async def test_another_profile_answers_after_hours(
    db: Database, make: "Make", now: datetime
) -> None:
    """When it is closed the profile for that answers, and the call is stored as answered by it."""
    async with db.work() as session:
        night = await make.profile(session, name="Night", number=None)
        day = await make.profile(
            session, name="Day", body=make.body(hours=OFFICE, after_hours="Night")
        )
    async with db.work() as session:
        closed = await ring(session, "r1", now=now)
        at_ten = await ring(session, "r2", now=now + timedelta(hours=6))
    assert closed.answering is not None
    assert at_ten.answering is not None
    assert (closed.answering.version.id, closed.door.kind) == (night.id, Kind.AFTER_HOURS)
    assert closed.door.reason == "closed, so 'Night' answers"
    assert (at_ten.answering.version.id, at_ten.door.kind) == (day.id, Kind.OPEN)
    async with db.look() as session:
        call = await call_queries.call(session, closed.call_id)
        assert (call.profile_version_id, call.door) == (night.id, "after_hours")


async def test_who_stands_in_may_have_hours_too(db: Database, make: "Make", now: datetime) -> None:
    """The way goes on until somebody is open, or has nobody after them."""
    async with db.work() as session:
        last = await make.profile(session, name="Last", number=None)
        evening = make.body(
            hours=[{"days": ["mon"], "opens": "17:00", "closes": "22:00"}], after_hours="Last"
        )
        await make.profile(session, name="Evening", body=evening, number=None)
        await make.profile(session, name="Day", body=make.body(hours=OFFICE, after_hours="Evening"))
    async with db.work() as session:
        found = await ring(session, "r1", now=now)
    assert found.answering is not None
    assert found.answering.version.id == last.id


async def test_hours_are_those_of_where_the_number_rings(
    db: Database, make: "Make", now: datetime
) -> None:
    """A Berlin number of a New York profile opens when Berlin does; all the call's times are Berlin's."""
    async with db.work() as session:
        await make.profile(session, name="Night", number=None)
        day = await make.profile(
            session, name="Day", body=make.body(hours=OFFICE, after_hours="Night")
        )
        await service.assign_number(
            session, PhoneNumber("+4930987654"), day.profile_id,
            region="DE", timezone="Europe/Berlin", now=now,
        )  # fmt: skip
    async with db.work() as session:
        berlin = await ring(session, "r1", to_raw="+4930987654", now=now)  # 10:30 there
    assert berlin.answering is not None
    assert (berlin.door.kind, berlin.answering.body.timezone) == (Kind.OPEN, "Europe/Berlin")
    async with db.work() as session:
        night = await ring(session, "r2", to_raw="+4930987654", now=now + timedelta(hours=8))
    assert night.answering is not None
    assert (night.answering.profile.name, night.answering.body.timezone) == (
        "Night",
        "Europe/Berlin",
    )


async def test_nobody_publishes_a_way_that_leads_nowhere(
    db: Database, make: "Make", now: datetime
) -> None:
    """A name that is none and names that lead back are refused in a sentence, and nothing is stored."""
    async with db.work() as session:
        day = await make.profile(session, name="Day")
        await make.profile(session, name="Night", body=make.body(after_hours="Day"), number=None)
        for body, says in (
            (make.body(after_hours="Nigth"), "there is no profile 'Nigth'; .* 'Day', 'Night'"),
            (make.body(after_hours="Night"), r"leads back .* \(Day → Night → Day\)"),
            (make.body(after_hours="Day"), r"leads back .* \(Day → Day\)"),
        ):
            with pytest.raises(Invalid, match=f"after_hours: .*{says}"):
                await service.publish(session, day.profile_id, body, now=now)
        assert len(await queries.versions(session, day.profile_id)) == 1


async def test_a_call_stays_with_what_it_began_with(
    db: Database, make: "Make", now: datetime
) -> None:
    """An agent that takes a call over talks as the one before, whatever was published or struck since."""
    async with db.work() as session:
        night = await make.profile(session, name="Night", number=None)
        day = await make.profile(
            session, name="Day", body=make.body(hours=OFFICE, after_hours="Night")
        )
    async with db.work() as session:
        first = await ring(session, "r1", now=now)
    async with db.work() as session:
        await service.publish(session, night.profile_id, make.body(company="Other"), now=now)
        await service.publish(session, day.profile_id, make.body(), now=now)
        await service.block_caller(session, DANA, now=now)
    async with db.work() as session:
        again = await ring(session, "r1", now=now + timedelta(hours=6))
    assert again.call_id == first.call_id
    assert again.answering is not None
    assert (again.answering.version.id, again.answering.profile.name) == (night.id, "Night")
    assert again.door == first.door


# --- blocked callers --------------------------------------------------------------------------


async def test_the_narrowest_block_that_has_not_run_out_counts(
    db: Database, make: "Make", now: datetime
) -> None:
    """A rule for a whole beginning has exceptions for single numbers, and every rule may end."""
    async with db.work() as session:
        await make.profile(session)
        await service.block_caller(session, "+1202*", reason="advertising", now=now)
        await service.block_caller(session, DANA, action="message", now=now)
        await service.block_caller(
            session, "+1202555017*", action="message", expires_at=now + timedelta(hours=1), now=now
        )
        kinds = {}
        for room, caller, hours in (
            ("r1", DANA, 0),
            ("r2", "+12025550145", 0),
            ("r3", "+12025550177", 0),
            ("r4", "+12025550177", 1),  # that one has run out
            ("r5", "+13035550134", 0),
            ("r6", "anonymous", 0),
        ):
            found = await ring(session, room, from_raw=caller, now=now + timedelta(hours=hours))
            kinds[room] = found.door.kind
    assert kinds == {
        "r1": Kind.MESSAGE,
        "r2": Kind.BLOCKED,
        "r3": Kind.MESSAGE,
        "r4": Kind.BLOCKED,
        "r5": Kind.OPEN,
        "r6": Kind.OPEN,
    }


async def test_a_hidden_caller_is_not_one_without_a_number(
    db: Database, make: "Make", now: datetime
) -> None:
    """Who withholds the number is turned away; a telephone system that has none is not."""
    async with db.work() as session:
        await make.profile(session, body=make.body(hidden_callers="reject"))
        kinds = [
            (await ring(session, f"r-{raw}", from_raw=raw, now=now)).door.kind
            for raw in ("anonymous", None, "sip:dana@example.com", DANA)
        ]
    assert kinds == [Kind.BLOCKED, Kind.BLOCKED, Kind.OPEN, Kind.OPEN]


async def test_a_block_is_changed_and_taken_back(db: Database, now: datetime) -> None:
    """Blocking again changes the block that is there; what is not there cannot be taken back."""
    async with db.work() as session:
        first, is_new = await service.block_caller(session, "+44 90*", reason=" x  y ", now=now)
        assert (is_new, first.pattern, first.reason, first.action) == (
            True,
            "+4490*",
            "x y",
            "reject",
        )
        again, is_new = await service.block_caller(session, "+4490*", action="message", now=now)
        assert (is_new, again.id, again.action, again.reason) == (False, first.id, "message", None)
        with pytest.raises(Invalid, match="'drop' is no action; choose reject or message"):
            await service.block_caller(session, "+4490*", action="drop", now=now)
        with pytest.raises(Invalid, match="run out already"):
            await service.block_caller(session, "+4490*", expires_at=now, now=now)
    async with db.work() as session:
        await service.unblock(session, first.id)
        with pytest.raises(NotFound, match=f"no blocked caller {first.id}"):
            await service.unblock(session, first.id)
        assert await queries.blocks_page(session) == []


async def test_whoever_tells_of_a_blocked_call_ends_it_as_blocked(
    db: Database, make: "Make", now: datetime
) -> None:
    """LiveKit's webhook may report the room's end before the job stored its own."""
    attributes = {
        "sip.ruleID": "SDR_1",
        "sip.callID": "SCL_1",
        "sip.phoneNumber": DANA,
        "trunkline.number": OURS,
    }
    async with db.work() as session:
        await make.profile(session)
        await service.block_caller(session, DANA, now=now)
        call_id = await ringing.seen(session, room="r1", attributes=attributes, now=now)
        assert (await call_queries.call(session, call_id)).door is None  # seen is not decided
        assert (await ring(session, "r1", now=now)).door.kind is Kind.BLOCKED
        await ringing.left(
            session, room="r1", attributes=attributes, reason=EndReason.LINE_LOST, now=now
        )
        call = await call_queries.call(session, call_id)
        assert (call.state, call.end_reason, call.answered_at) == ("ended", "blocked", None)


# --- caps -------------------------------------------------------------------------------------


async def test_a_full_profile_lets_nobody_in_until_somebody_leaves(
    db: Database, make: "Make", now: datetime
) -> None:
    """The cap counts calls that talk, not those that were turned away, and not other profiles'."""
    async with db.work() as session:
        await make.profile(session, body=make.body(limits={"max_calls": 1}))
        await make.profile(session, name="Other", number="+12025550101")
    async with db.work() as session:
        other = await ring(session, "r0", to_raw="+12025550101", now=now)
        first = await ring(session, "r1", now=now)
        second = await ring(session, "r2", now=now)
        third = await ring(session, "r3", now=now)
        again = await ring(session, "r1", now=now)
    kinds = [each.door.kind for each in (other, first, second, third, again)]
    assert kinds == [Kind.OPEN, Kind.OPEN, Kind.CAPACITY, Kind.CAPACITY, Kind.OPEN]
    assert second.door.reason == "all 1 lines of this profile are busy"
    async with db.work() as session:
        await calls.end(session, first.call_id, EndReason.CALLER_HANGUP, now=now)
        assert (await ring(session, "r4", now=now)).door.kind is Kind.OPEN


async def test_the_houses_cap_counts_calls_out_too(
    db: Database, make: "Make", now: datetime
) -> None:
    """Lines are lines: calls that we place take theirs, those that only wait to be placed don't."""
    async with db.work() as session:
        await make.profile(session)
        placed = await make.call(session, room="out", direction="outbound")
        turned_away = await ring(session, "r1", house=House(max_calls=1), now=now)
        let_in = await ring(session, "r2", house=House(max_calls=2), now=now)
        assert (turned_away.door.kind, let_in.door.kind) == (Kind.CAPACITY, Kind.OPEN)
        placed.state = "queued"
        await session.flush()
        assert (await ring(session, "r3", house=House(max_calls=2), now=now)).door.lets_in


async def test_a_caller_who_calls_again_and_again(
    db: Database, make: "Make", now: datetime
) -> None:
    """Calls of one number are counted over an hour; hidden callers have no number to count."""
    async with db.work() as session:
        await make.profile(session, body=make.body(limits={"max_calls_per_caller_per_hour": 2}))
        kinds = []
        for n, minutes in enumerate((0, 10, 20, 59, 60, 61)):
            at = now + timedelta(minutes=minutes)
            found = await ring(session, f"r{n}", now=at)
            kinds.append(found.door.kind)
            await calls.end(session, found.call_id, EndReason.CALLER_HANGUP, now=at)
        for n in range(3):
            assert (await ring(session, f"h{n}", from_raw="anonymous", now=now)).door.lets_in
        assert (await ring(session, "o", from_raw="+12025550145", now=now)).door.lets_in
    # At 60 the first has just left the hour; at 61 those of 10 and 60 are in it.
    assert [kind.value for kind in kinds] == [
        "open", "open", "capacity", "capacity", "open", "capacity",
    ]  # fmt: skip


async def test_of_calls_at_the_same_moment_as_many_get_in_as_there_are_lines(
    db: Database, make: "Make", now: datetime
) -> None:
    """Eight arrivals at once, each in its own transaction: a cap of three lets three in."""
    async with db.work() as session:
        await make.profile(session, body=make.body(limits={"max_calls": 3}))

    async def arrive(n: int) -> Kind:
        async with db.work() as session:
            caller = f"+1202555015{n}"
            return (await ring(session, f"r{n}", from_raw=caller, now=now)).door.kind

    kinds = await asyncio.gather(*(arrive(n) for n in range(8)))
    assert sorted(kind.value for kind in kinds) == ["capacity"] * 5 + ["open"] * 3


# On SQLite one transaction writes at a time, so nobody can hang with the count beside another.
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
async def test_nobody_waits_long_to_be_counted(db: Database, make: "Make", now: datetime) -> None:
    """While another arrival hangs with the count, a caller is let in rather than kept waiting."""
    async with db.work() as session:
        await make.profile(session, body=make.body(limits={"max_calls": 9}))
    async with db.work() as hanging:
        await caps.in_turn(hanging)
        async with asyncio.timeout(60), db.work() as session:
            assert (await ring(session, "r1", now=now)).door.kind is Kind.OPEN
            # What was set for the wait is put back.
            assert await session.scalar(text("SHOW lock_timeout")) == "0"


async def test_counting_reads_no_more_than_it_must(
    db: Database, make: "Make", now: datetime
) -> None:
    """With many calls in the records every part of the count goes through an index."""
    limits = Limits(max_calls=5, max_calls_per_caller_per_hour=5)
    async with db.work() as session:
        version = await make.profile(session)
        past = [
            {
                "id": f"call_{n:08}",
                "room": f"old-{n}",
                "direction": "inbound",
                "channel": "sip",
                "state": "ended",
                "from_number": f"+1202{n % 997:07}",
                "profile_version_id": version.id,
                "door": "open",
                "started_at": now - timedelta(minutes=n),
                "ended_at": now - timedelta(minutes=n),
            }
            for n in range(10_000)
        ]
        await session.execute(insert(Call), past)
        await ring(session, "r1", now=now)
    async with db.work() as session:
        await session.execute(text("ANALYZE"))
    plan: list[str] = []
    async with db.look() as session:
        load = await caps.count(
            session, call_id=None, profile_id=version.profile_id, caller=DANA,
            limits=limits, house=House(max_calls=5), now=now,
        )  # fmt: skip
        assert load == Load(all=1, of_profile=1, of_caller=1)
        explain = "EXPLAIN" if db.dialect == "postgresql" else "EXPLAIN QUERY PLAN"
        explained = await caps.count(
            _Explaining(session, explain, plan),  # type: ignore[arg-type]
            call_id=None, profile_id=version.profile_id, caller=DANA,
            limits=limits, house=House(max_calls=5), now=now,
        )  # fmt: skip
        assert explained == Load()
    told = "\n".join(plan)
    assert "ix_calls_live" in told, told
    assert "ix_calls_from_number_started_at" in told, told
    assert "Seq Scan on calls" not in told, told
    assert "SCAN calls" not in told.replace("SCAN calls USING INDEX ix_calls_live", ""), told


class _Explaining:
    """A session that has each statement explained to it instead of run."""

    def __init__(self, session: AsyncSession, word: str, plan: list[str]) -> None:
        self._session, self._word, self._plan = session, word, plan

    async def execute(self, statement: Any) -> Any:
        bind = self._session.get_bind()
        compiled = statement.compile(dialect=bind.dialect, compile_kwargs={"literal_binds": True})
        rows = await self._session.execute(text(f"{self._word} {compiled}".replace(":", "\\:")))
        self._plan.extend(str(row[-1]) for row in rows)

        class Nothing:
            def one(self) -> tuple[int, int, int]:
                return 0, 0, 0

        return Nothing()
