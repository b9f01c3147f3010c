"""Calls as they are stored, on SQLite and on PostgreSQL."""

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.calls import queries, search, service, transcript
from trunkline.calls.filters import Filters
from trunkline.calls.lifecycle import EndReason, State
from trunkline.calls.models import Call, Leg, ToolRun
from trunkline.calls.service import Lease
from trunkline.errors import Conflict, Invalid, NotFound, StaleLease
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow
from trunkline.outbox.record import record

if TYPE_CHECKING:
    from tests.conftest import Make

S = timedelta(seconds=1)
MS = timedelta(milliseconds=1)


async def told(session: AsyncSession, call_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Type and data of the events of a call, in order."""
    rows = await session.scalars(
        select(EventRow).where(EventRow.subject == call_id).order_by(EventRow.seq)
    )
    return [(row.type, row.body["data"]) for row in rows]


async def types(session: AsyncSession, call_id: str) -> list[str]:
    return [kind for kind, _ in await told(session, call_id)]


async def answered(db: Database, make: "Make", now: datetime) -> Lease:
    """A call that rang for two seconds and was answered."""
    async with db.work() as session:
        call = await make.call(session, now=now - 2 * S)
        lease = await service.take_lease(session, call.id, now=now - 2 * S)
        await service.answer(session, lease, now=now)
    return lease


# --- start --------------------------------------------------------------------------------------


async def test_a_call_that_starts(db: Database, make: "Make", now: datetime) -> None:
    """It rings, has the caller's leg, and call.started tells both numbers."""
    async with db.work() as session:
        call = await make.call(session, channel="sip", contact_id="con_1", now=now)
    async with db.look() as session:
        found = await queries.call(session, call.id)
        (leg,) = await queries.legs(session, call.id)
        ((kind, data),) = await told(session, call.id)
    assert (found.state, found.started_at, found.answered_at) == (State.RINGING, now, None)
    assert (leg.kind, leg.number, leg.ended_at) == ("caller", "+12025550134", None)
    assert kind == "call.started"
    assert data == {
        "call_id": call.id,
        "direction": "inbound",
        "channel": "sip",
        "from_number": "+12025550134",
        "to_number": "+12025550100",
        "contact_id": "con_1",
        "profile_version_id": None,
        "seq": 1,
    }


async def test_a_call_that_is_dialled(db: Database, make: "Make", now: datetime) -> None:
    """The far end of an outbound call is the callee."""
    async with db.work() as session:
        call = await make.call(
            session, direction="outbound", from_number="+12025550100", to_number="+12025550134"
        )
        (leg,) = await queries.legs(session, call.id)
    assert (leg.kind, leg.number) == ("callee", "+12025550134")


async def test_a_later_report_fills_in_what_was_unknown(
    db: Database, make: "Make", now: datetime
) -> None:
    """LiveKit's webhook knows little; the job adds to it, and overwrites nothing."""
    async with db.work() as session:
        first = await make.call(session, from_number=None, now=now)
    async with db.work() as session:
        second = await service.start(
            session,
            room="room-1",
            channel="sip",
            from_number="+12025550134",
            to_number="+12025550199",
            sip_call_id="SCL_1",
            contact_id="con_1",
            now=now + S,
        )
        (leg,) = await queries.legs(session, second.id)
        kinds = await types(session, second.id)
    assert second.id == first.id
    assert (second.from_number, second.to_number) == ("+12025550134", "+12025550100")
    assert (second.sip_call_id, second.contact_id, second.channel) == ("SCL_1", "con_1", "loopback")
    assert second.started_at == now
    assert leg.number == "+12025550134"
    assert kinds == ["call.started"]


async def test_many_reports_at_once_make_one_call(
    db: Database, make: "Make", now: datetime
) -> None:
    """Eight sessions report the same call at the same moment: one row, one leg, one call.started."""

    async def report() -> str:
        async with db.work() as session:
            return (await make.call(session, now=now)).id

    ids = await asyncio.gather(*(report() for _ in range(8)))
    async with db.look() as session:
        rows = await session.scalar(select(func.count(Call.id)))
        legs = await session.scalar(select(func.count(Leg.id)))
        kinds = await types(session, ids[0])
    assert len(set(ids)) == 1
    assert (rows, legs, kinds) == (1, 1, ["call.started"])


class GivesUp(Exception):
    """The first report's transaction fails."""


# SQLite has one writer at a time: there a second report cannot begin before the first is over.
@pytest.mark.parametrize("db_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("gives_up", [False, True])
async def test_the_second_report_waits_for_the_first(
    db: Database, make: "Make", now: datetime, gives_up: bool
) -> None:
    """A report that crosses an uncommitted one finds its call, or makes it if the first gives up."""

    async def second() -> str:
        async with db.work() as session:
            return (await make.call(session, now=now)).id

    async def first() -> str:
        async with db.work() as session:
            call_id = (await make.call(session, now=now)).id
            waiter.append(asyncio.create_task(second()))
            await asyncio.wait_for(somebody_waits_for_a_lock(db), 60)
            if gives_up:
                raise GivesUp(call_id)
            return call_id

    waiter: list[asyncio.Task[str]] = []
    (outcome,) = await asyncio.gather(first(), return_exceptions=True)
    found = await waiter[0]
    assert (str(outcome) == found) is not gives_up
    async with db.look() as session:
        assert await types(session, found) == ["call.started"]
        assert await session.scalar(select(func.count(EventRow.id))) == 1


async def somebody_waits_for_a_lock(db: Database) -> None:
    """Until a transaction of this PostgreSQL database is blocked by another."""
    blocked = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with db.engine.connect() as connection:
        while not (await connection.exec_driver_sql(blocked)).scalar_one():
            await connection.rollback()  # the view is frozen within a transaction
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("direction", "sideways", "'sideways' is no direction of a call; use one of: inbound"),
        ("channel", "fax", "'fax' is no channel of a call; use one of: sip, web"),
    ],
)
async def test_a_call_of_no_known_kind_is_refused(
    sqlite_db: Database, make: "Make", field: str, value: str, sentence: str
) -> None:
    """An unknown word is refused with the known ones."""
    with pytest.raises(Invalid, match=sentence):
        async with sqlite_db.work() as session:
            await make.call(session, **{field: value})  # type: ignore[arg-type]


# --- contact, answer, end -----------------------------------------------------------------------


async def test_a_contact_is_matched_once(db: Database, make: "Make", now: datetime) -> None:
    """The event comes once, also when the contact stood in the call from its start."""
    async with db.work() as session:
        call = await make.call(session, contact_id="con_1")
        for _ in range(2):
            await service.identify(session, call.id, contact_id="con_1", name="Dana", now=now)
        await service.identify(session, call.id, contact_id="con_2", name="Peter", now=now)
    async with db.look() as session:
        assert (await queries.call(session, call.id)).contact_id == "con_2"
        matched = [data for kind, data in await told(session, call.id) if kind == "contact.matched"]
    assert [(data["contact_id"], data["name"]) for data in matched] == [
        ("con_1", "Dana"),
        ("con_2", "Peter"),
    ]


async def test_a_call_is_answered_once(db: Database, make: "Make", now: datetime) -> None:
    """The first answer counts and says how long it rang."""
    lease = await answered(db, make, now)
    async with db.work() as session:
        call = await service.answer(session, lease, now=now + S)
        (leg,) = await queries.legs(session, call.id)
        events_told = await told(session, call.id)
    assert (call.state, call.answered_at, leg.answered_at) == (State.TALKING, now, now)
    assert [kind for kind, _ in events_told] == ["call.started", "call.answered"]
    assert events_told[1][1]["ring_ms"] == 2000


async def test_a_call_ends_once(db: Database, make: "Make", now: datetime) -> None:
    """The first reason stays; legs and open turns are closed with it and everything is told in order."""
    lease = await answered(db, make, now)
    async with db.work() as session:
        await service.save_turn(
            session,
            lease,
            turn_id=None,
            role="agent",
            text="Hello",
            started_ms=100,
            ended_ms=900,
            now=now,
        )
        await service.save_turn(
            session,
            lease,
            turn_id=None,
            role="user",
            text="I would like",
            started_ms=1500,
            ended_ms=None,
            now=now,
        )
    for reason in (EndReason.CALLER_HANGUP, EndReason.MAX_DURATION):
        async with db.work() as session:
            call = await service.end(
                session, lease.call_id, reason, now=now + 3210 * MS, lease=lease
            )
    async with db.look() as session:
        (leg,) = await queries.legs(session, call.id)
        turns = await queries.turns(session, call.id)
        events_told = await told(session, call.id)
    assert (call.state, call.end_reason) == (State.ENDED, "caller_hangup")
    assert (leg.outcome, leg.ended_at) == ("caller_hangup", now + 3210 * MS)
    assert [turn.ended_ms for turn in turns] == [900, 3210]
    assert [kind for kind, _ in events_told] == [
        "call.started",
        "call.answered",
        "transcript.turn",
        "transcript.turn",
        "call.ended",
        "transcript.ready",
    ]
    assert [data["seq"] for _, data in events_told] == [1, 2, 3, 4, 5, 6]
    ended = events_told[4][1]
    assert (ended["end_reason"], ended["duration_ms"]) == ("caller_hangup", 3210)
    assert ended["ended_at"] == "2026-01-15T09:30:03.210Z"
    assert events_told[5][1]["turns"] == 2


async def test_two_ends_at_once_are_one(db: Database, make: "Make", now: datetime) -> None:
    """The job and LiveKit's webhook report the end at the same moment; call.ended is told once."""
    lease = await answered(db, make, now)

    async def hang_up(reason: EndReason, by: Lease | None) -> str | None:
        async with db.work() as session:
            return (await service.end(session, lease.call_id, reason, now=now, lease=by)).end_reason

    reasons = await asyncio.gather(
        hang_up(EndReason.AGENT_HANGUP, lease), hang_up(EndReason.CALLER_HANGUP, None)
    )
    assert len(set(reasons)) == 1
    async with db.look() as session:
        assert (await types(session, lease.call_id)).count("call.ended") == 1


async def test_a_call_that_nobody_answered_still_ends(
    db: Database, make: "Make", now: datetime
) -> None:
    """It has ended, with no talking time; an answer that crosses the hang-up changes nothing."""
    async with db.work() as session:
        call = await make.call(session, now=now)
        lease = await service.take_lease(session, call.id, now=now)
        await service.end(session, call.id, EndReason.CANCELLED, now=now + S)
    async with db.work() as session:
        late = await service.answer(session, lease, now=now + S)
        again = await make.call(session, now=now + 2 * S)
        kinds = await told(session, call.id)
    assert (late.state, late.answered_at, again.state) == (State.ENDED, None, State.ENDED)
    assert [kind for kind, _ in kinds] == ["call.started", "call.ended", "transcript.ready"]
    assert kinds[1][1]["duration_ms"] == 0


async def test_a_call_that_is_not_there(sqlite_db: Database, now: datetime) -> None:
    """Whatever is asked of an unknown call is answered with NotFound."""
    async with sqlite_db.work() as session:
        with pytest.raises(NotFound, match="there is no call call_x"):
            await queries.call(session, "call_x")
        with pytest.raises(NotFound, match="there is no call call_x"):
            await service.end(session, "call_x", EndReason.BUSY, now=now)


# --- leases -------------------------------------------------------------------------------------


async def test_an_agent_that_was_replaced_cannot_write(
    db: Database, make: "Make", now: datetime
) -> None:
    """Every verb that takes a lease refuses an old one and leaves no trace."""
    old = await answered(db, make, now)
    async with db.work() as session:
        run = await service.start_tool(
            session, old, name="t", arguments={}, turn_id=None, offset_ms=0, now=now
        )
        recording = await service.open_recording(session, old, sample_rate_hz=8000, now=now)
        new = await service.take_lease(session, old.call_id, now=now)
        before = await types(session, old.call_id)
    assert new == Lease(old.call_id, old.epoch + 1)
    verbs: list[Any] = [
        lambda s: service.heartbeat(s, old, now=now + S),
        lambda s: service.answer(s, old, now=now),
        lambda s: service.end(s, old.call_id, EndReason.SILENCE, now=now, lease=old),
        lambda s: service.save_turn(
            s, old, turn_id=None, role="user", text="x", started_ms=0, ended_ms=1, now=now
        ),
        lambda s: service.start_tool(
            s, old, name="t", arguments={}, turn_id=None, offset_ms=0, now=now
        ),
        lambda s: service.enter_tool(s, old, run.id, now=now),
        lambda s: service.finish_tool(s, old, run.id, result="x", now=now),
        lambda s: service.fail_tool(s, old, run.id, error="x", now=now),
        lambda s: service.press_keys(s, old, "2", offset_ms=0, now=now),
        lambda s: service.open_recording(s, old, sample_rate_hz=8000, now=now),
        lambda s: service.add_segment(s, old, recording.id, "a.pcm", now=now),
    ]
    for verb in verbs:
        with pytest.raises(StaleLease, match="lease 1, now 2"):
            async with db.work() as session:
                await verb(session)
    async with db.look() as session:
        assert await types(session, old.call_id) == before
        assert (await queries.call(session, old.call_id)).heartbeat_at == now
    async with db.work() as session:
        await service.heartbeat(session, new, now=now + S)
        assert (await queries.call(session, old.call_id)).heartbeat_at == now + S


async def test_a_lease_is_checked_before_the_change_that_goes_with_it(
    db: Database, make: "Make", now: datetime
) -> None:
    """A takeover waits for the writing transaction; after it the old agent is refused."""
    old = await answered(db, make, now)
    inside, order = asyncio.Event(), []

    async def write() -> None:
        async with db.work() as session:
            await service.fence(session, old)
            inside.set()
            await record(session, events.DtmfReceived(old.call_id, "1", 0), now=now)
            await service.press_keys(session, old, "2", offset_ms=0, now=now)
            order.append("written")

    async def take() -> None:
        await inside.wait()
        async with db.work() as session:
            await service.take_lease(session, old.call_id, now=now)
            order.append("taken")

    await asyncio.wait_for(asyncio.gather(write(), take()), 60)
    assert order == ["written", "taken"]


# --- turns --------------------------------------------------------------------------------------


async def test_a_turn_grows_and_is_complete_once(db: Database, make: "Make", now: datetime) -> None:
    """One row from the first word on; transcript.turn is told when its end is known, not again."""
    lease = await answered(db, make, now)
    turn_id: str | None = None
    forms: list[tuple[str, int | None, bool, dict[str, Any] | None]] = [
        ("Your deal", None, False, None),
        ("Your deal is in", 2000, True, {"reply": 640}),
        ("Your deal is", None, True, None),
    ]
    for text, ended_ms, interrupted, latency in forms:
        async with db.work() as session:
            turn = await service.save_turn(
                session,
                lease,
                turn_id=turn_id,
                role="agent",
                text=text,
                started_ms=800,
                ended_ms=ended_ms,
                interrupted=interrupted,
                latency=latency,
                language="en" if turn_id is None else None,
                now=now,
            )
            turn_id = turn.id
    async with db.look() as session:
        (stored,) = await queries.turns(session, lease.call_id)
        (data,) = [d for kind, d in await told(session, lease.call_id) if kind == "transcript.turn"]
    assert (stored.text, stored.ended_ms, stored.interrupted) == ("Your deal is", 2000, True)
    assert (stored.latency, stored.language) == ({"reply": 640}, "en")
    assert (data["text"], data["turn_seq"], data["interrupted"]) == ("Your deal is in", 1, True)


async def test_turns_of_many_writers_are_numbered_without_a_gap(
    db: Database, make: "Make", now: datetime
) -> None:
    """Writers at the same moment never get the same number; the transcript is by time of speech."""
    lease = await answered(db, make, now)

    async def say(at: int) -> None:
        async with db.work() as session:
            await service.save_turn(
                session,
                lease,
                turn_id=None,
                role="user",
                text=str(at),
                started_ms=1000 - 100 * at,
                ended_ms=2000,
                now=now,
            )

    await asyncio.gather(*(say(at) for at in range(6)))
    async with db.look() as session:
        turns = await queries.turns(session, lease.call_id)
    assert sorted(turn.seq for turn in turns) == [1, 2, 3, 4, 5, 6]
    assert [turn.text for turn in turns] == ["5", "4", "3", "2", "1", "0"]


async def test_a_turn_of_another_call_is_not_touched(
    sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """A lease reaches the turns of its own call only."""
    lease = await answered(sqlite_db, make, now)
    async with sqlite_db.work() as session:
        other = await service.take_lease(
            session, (await make.call(session, room="room-2")).id, now=now
        )
        turn = await service.save_turn(
            session, other, turn_id=None, role="user", text="x", started_ms=0, ended_ms=1, now=now
        )
        with pytest.raises(NotFound, match=turn.id):
            await service.save_turn(
                session,
                lease,
                turn_id=turn.id,
                role="user",
                text="y",
                started_ms=0,
                ended_ms=1,
                now=now,
            )


async def test_keys_are_told(db: Database, make: "Make", now: datetime) -> None:
    """Pressed keys become dtmf.received."""
    lease = await answered(db, make, now)
    async with db.work() as session:
        await service.press_keys(session, lease, "2", offset_ms=4100, now=now)
        kind, data = (await told(session, lease.call_id))[-1]
    assert (kind, data["digits"], data["offset_ms"]) == ("dtmf.received", "2", 4100)


# --- tools --------------------------------------------------------------------------------------


async def start_tool(
    db: Database, lease: Lease, now: datetime, /, name: str = "move_deal", **arguments: Any
) -> ToolRun:
    async with db.work() as session:
        return await service.start_tool(
            session,
            lease,
            name=name,
            arguments=arguments,
            turn_id="turn_1",
            offset_ms=5000,
            now=now,
        )


async def test_a_repeat_returns_the_first_success(
    db: Database, make: "Make", now: datetime
) -> None:
    """The same tool with the same arguments is done once in a call; others are other runs."""
    lease = await answered(db, make, now)
    run = await start_tool(db, lease, now, stage="won", note="x")
    assert (run.state, run.seq, run.ms) == ("started", 1, None)
    async with db.work() as session:
        entered = await service.enter_tool(session, lease, run.id, now=now)
        assert entered.id == run.id
        await service.finish_tool(session, lease, run.id, result="moved", now=now + 120 * MS)
    again = await start_tool(db, lease, now + S, note="x", stage="won")  # the order is no matter
    assert (again.id, again.state, again.result, again.ms) == (run.id, "ok", "moved", 120)
    assert (await start_tool(db, lease, now, stage="lost")).id != run.id
    assert (await start_tool(db, lease, now, "log_activity", stage="won", note="x")).id != run.id
    async with db.work() as session:
        repeated = await service.finish_tool(session, lease, run.id, result="other", now=now + S)
        runs = await queries.tool_runs(session, lease.call_id)
    assert repeated.result == "moved"
    assert [run.seq for run in runs] == [1, 2, 3]


async def test_a_failure_may_be_tried_again(db: Database, make: "Make", now: datetime) -> None:
    """A failure is told and stays in the transcript; the next try is a run of its own."""
    lease = await answered(db, make, now)
    first = await start_tool(db, lease, now, stage="won")
    async with db.work() as session:
        for _ in range(2):
            failed = await service.fail_tool(
                session, lease, first.id, error="conflict", now=now + 30 * MS
            )
    assert (failed.state, failed.error, failed.ms) == ("error", "conflict", 30)
    async with db.work() as session:
        for verb in (
            service.enter_tool(session, lease, first.id, now=now),
            service.finish_tool(session, lease, first.id, result="x", now=now),
        ):
            with pytest.raises(Conflict, match="has failed already; start it again"):
                await verb
    second = await start_tool(db, lease, now, stage="won")
    async with db.work() as session:
        await service.finish_tool(session, lease, second.id, result="moved", now=now)
        after = await service.fail_tool(session, lease, second.id, error="late", now=now)
        failures = [d for kind, d in await told(session, lease.call_id) if kind == "tool.failed"]
    assert second.id != first.id
    assert after.state == "ok"
    assert [(d["tool_run_id"], d["error"]) for d in failures] == [(first.id, "conflict")]


async def test_two_equal_runs_at_once_change_once(
    db: Database, make: "Make", now: datetime
) -> None:
    """The model asks for the same thing twice in one breath: both start, one makes the change."""
    lease = await answered(db, make, now)
    runs = [await start_tool(db, lease, now, stage="won") for _ in range(2)]
    assert runs[0].id != runs[1].id
    done: list[str] = []

    async def change(run: ToolRun) -> ToolRun:
        async with db.work() as session:
            entered = await service.enter_tool(session, lease, run.id, now=now)
            if entered.state == "ok":
                return entered
            await record(session, events.DtmfReceived(lease.call_id, "1", 0), now=now)
            done.append(run.id)
            return await service.finish_tool(session, lease, run.id, result="moved", now=now)

    results = await asyncio.wait_for(asyncio.gather(*map(change, runs)), 60)
    async with db.look() as session:
        stored = await queries.tool_runs(session, lease.call_id)
        kinds = await types(session, lease.call_id)
    assert len(done) == 1
    assert {result.id for result in results} == set(done)
    assert sorted((run.state, run.error) for run in stored) == [("error", "repeated"), ("ok", None)]
    assert kinds.count("dtmf.received") == 1
    assert "tool.failed" not in kinds


async def test_a_second_finish_undoes_its_change(db: Database, make: "Make", now: datetime) -> None:
    """Whoever changes first and asks afterwards is refused, and the transaction takes the change back."""
    lease = await answered(db, make, now)
    runs = [await start_tool(db, lease, now, stage="won") for _ in range(2)]

    async def change(run: ToolRun) -> None:
        async with db.work() as session:
            await service.fence(session, lease)
            await record(session, events.DtmfReceived(lease.call_id, "1", 0), now=now)
            await service.finish_tool(session, lease, run.id, result="moved", now=now)

    outcomes = await asyncio.wait_for(
        asyncio.gather(*map(change, runs), return_exceptions=True), 20
    )
    assert [type(outcome) for outcome in outcomes].count(Conflict) == 1
    async with db.look() as session:
        assert (await types(session, lease.call_id)).count("dtmf.received") == 1


async def test_the_database_itself_allows_one_success(
    db: Database, make: "Make", now: datetime
) -> None:
    """Even around the service, two runs with the same key cannot both be ok."""
    lease = await answered(db, make, now)
    for _ in range(2):
        await start_tool(db, lease, now, stage="won")
    with pytest.raises(IntegrityError):
        async with db.work() as session:
            await session.execute(update(ToolRun).values(state="ok"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"at": object()}, "no JSON type"), ({"n": float("nan")}, "JSON has no NaN")],
)
def test_arguments_that_are_no_json(arguments: dict[str, Any], reason: str) -> None:
    """Arguments come from a model as JSON; anything else is refused."""
    with pytest.raises(Invalid, match="the arguments of t are no JSON object"):
        service.tool_key("call_1", "t", arguments)


# --- recordings ---------------------------------------------------------------------------------


async def test_a_recording_opens_grows_and_closes(
    db: Database, make: "Make", now: datetime
) -> None:
    """Segments are kept in order and once; the first close counts and is told; then it is shut."""
    lease = await answered(db, make, now)
    async with db.work() as session:
        recording = await service.open_recording(session, lease, sample_rate_hz=8000, now=now)
        again = await service.open_recording(session, lease, sample_rate_hz=8000, now=now)
        with pytest.raises(Conflict, match="runs at 8000 Hz"):
            await service.open_recording(session, lease, sample_rate_hz=16000, now=now)
    assert again.id == recording.id
    for key in ("a.pcm", "b.pcm", "b.pcm"):
        async with db.work() as session:
            await service.add_segment(session, lease, recording.id, key, now=now)
    async with db.look() as session:
        found = await queries.recording(session, lease.call_id)
    assert found is not None
    assert (found.state, found.segments) == ("open", ["a.pcm", "b.pcm"])
    for key in ("whole.wav", "other.wav"):
        async with db.work() as session:
            closed = await service.close_recording(
                session,
                lease.call_id,
                blob_key=key,
                duration_ms=4000,
                peaks=[{"left": 1, "right": 2}],
                now=now,
            )
    assert (closed.state, closed.blob_key, closed.segments) == ("ready", "whole.wav", [])
    async with db.work() as session:
        ready = [d for kind, d in await told(session, lease.call_id) if kind == "recording.ready"]
        with pytest.raises(Conflict, match="is closed"):
            await service.add_segment(session, lease, recording.id, "c.pcm", now=now)
        with pytest.raises(Conflict, match="is closed"):
            await service.open_recording(session, lease, sample_rate_hz=8000, now=now)
    assert [(d["recording_id"], d["duration_ms"], d["channels"]) for d in ready] == [
        (recording.id, 4000, 2)
    ]


async def test_a_call_without_recording_has_none_to_close(
    sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """Closing what was never opened is NotFound."""
    lease = await answered(sqlite_db, make, now)
    async with sqlite_db.work() as session:
        assert await queries.recording(session, lease.call_id) is None
        with pytest.raises(NotFound, match="has no recording"):
            await service.close_recording(
                session, lease.call_id, blob_key="x", duration_ms=0, peaks=[], now=now
            )


# --- reads --------------------------------------------------------------------------------------


async def test_pages_of_calls(db: Database, make: "Make", now: datetime) -> None:
    """Newest first; each page goes on where the last one stopped, also within one moment."""
    async with db.work() as session:
        made = [
            (await make.call(session, room=f"room-{at}", now=now + (at // 3) * S)).id
            for at in range(8)
        ]
    seen: list[str] = []
    cursor: queries.Cursor | None = None
    async with db.look() as session:
        while page := await search.page(session, Filters(), before=cursor, limit=3):
            assert len(page.calls) <= 3
            seen += [call.id for call in page.calls]
            cursor = page.next
            if cursor is None:
                break
    assert seen == made[::-1]


async def test_calls_that_lost_their_agent(db: Database, make: "Make", now: datetime) -> None:
    """Live calls are found by their last sign of life; ended, queued and test calls are not."""
    async with db.work() as session:
        for room, channel, state, beat in [
            ("silent", "sip", State.TALKING, now - 10 * S),
            ("no agent came", "loopback", State.RINGING, None),
            ("rescued", "sip", State.RESCUED, now - 8 * S),
            ("alive", "sip", State.TALKING, now - 2 * S),
            ("ended", "sip", State.ENDED, now - 10 * S),
            ("queued", "sip", State.QUEUED, None),
            ("text only", "test", State.TALKING, None),
        ]:
            call = await make.call(session, room=room, channel=channel, now=now - 20 * S)
            call.state, call.heartbeat_at = state.value, beat
    async with db.look() as session:
        found = await queries.live_without_heartbeat(session, now - 6 * S)
        known = await queries.call_in_room(session, "silent")
    assert {call.room for call in found} == {"silent", "no agent came", "rescued"}
    assert known is not None


async def test_a_transcript_with_its_tool_runs(
    sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """Tool runs stand between the turns where they were started."""
    lease = await answered(sqlite_db, make, now)
    async with sqlite_db.work() as session:
        for role, text, started_ms, cut in [
            ("agent", "Hello, Dana.", 200, False),
            ("user", "Take the bigger plan.", 3_000, False),
            ("agent", "Done. Anything", 3_662_000, True),
        ]:
            turn = await service.save_turn(
                session,
                lease,
                turn_id=None,
                role=role,
                text=text,
                started_ms=started_ms,
                ended_ms=started_ms + 900,
                interrupted=cut,
                now=now,
            )
        for name, turn_id, offset_ms in [
            ("log_activity", turn.id, None),  # right after the turn it names
            ("move_deal", None, 5_000),
        ]:
            run = await service.start_tool(
                session,
                lease,
                name=name,
                arguments={},
                turn_id=turn_id,
                offset_ms=offset_ms,
                now=now,
            )
        await service.fail_tool(session, lease, run.id, error="conflict", now=now)
        turns = await queries.turns(session, lease.call_id)
        runs = await queries.tool_runs(session, lease.call_id)
    assert transcript.as_text(transcript.merge(turns, runs)) == (
        "0:00 Agent: Hello, Dana.\n"
        "0:03 Caller: Take the bigger plan.\n"
        "0:05 [move_deal: conflict]\n"
        "1:01:02 Agent: Done. Anything (interrupted)\n"
        "[log_activity: started]\n"
    )
