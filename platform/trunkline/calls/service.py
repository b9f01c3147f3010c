"""What can be done to a call. Every verb takes the edge's session and never commits.

Order of locks: each verb locks the row of its call before it records an event of that call. A
transaction that records events of a call by other means (a change in the CRM, say) therefore
begins with ``fence`` or ``enter_tool``; otherwise two transactions may wait for each other.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, aliased

from trunkline import events
from trunkline.calls import search
from trunkline.calls.lifecycle import EndReason, Signal, State, after
from trunkline.calls.models import Call, Leg, Recording, ToolRun, Turn
from trunkline.errors import Conflict, Invalid, NotFound, StaleLease
from trunkline.kit.audio import Reply
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.outbox.models import EventRow
from trunkline.outbox.record import record

DIRECTIONS = ("inbound", "outbound")
CHANNELS = ("sip", "web", "loopback", "test")
TRIED_ON = ("loopback", "test")
"""Channels without a telephone network: what comes over them is a test."""
ROLES = ("user", "agent")

Row = TypeVar("Row", Turn, ToolRun, Recording)

OUTBOUND_ROOM = "out_"
"""How the names of rooms begin in which we call somebody."""

CHANNELS_RECORDED = 2
"""Caller left, agent right."""


@dataclass(frozen=True)
class Lease:
    """The right of one agent to write to one call, until another takes it over."""

    call_id: str
    epoch: int


async def start(
    session: AsyncSession,
    *,
    room: str,
    direction: str = "inbound",
    channel: str,
    from_number: str | None,
    to_number: str | None,
    now: datetime,
    contact_id: str | None = None,
    profile_version_id: str | None = None,
    sip_call_id: str | None = None,
    sip_trunk_id: str | None = None,
    attestation: str | None = None,
) -> Call:
    """The call of *room*, ringing; made on the first report, found again on every later one.

    The agent's job, LiveKit's webhook and outbound dialling may each be first, also at the same
    moment: one of them makes the call, its leg and the event ``call.started``. A later report
    fills in what was unknown and changes nothing that was known. Numbers are E.164.
    Raises Invalid for an unknown direction or channel.
    """
    _one_of("direction", direction, DIRECTIONS)
    _one_of("channel", channel, CHANNELS)
    facts = {
        "from_number": from_number,
        "to_number": to_number,
        "contact_id": contact_id,
        "profile_version_id": profile_version_id,
        "sip_call_id": sip_call_id,
        "sip_trunk_id": sip_trunk_id,
        "attestation": attestation,
    }
    insert = insert_for(session, Call).values(
        id=new_id("call", now=now),
        room=room,
        direction=direction,
        channel=channel,
        state=State.RINGING.value,
        started_at=now,
        lease_epoch=0,
        test=channel in TRIED_ON,
        **facts,
    )
    # Waits for another transaction that is inserting the same room, until it commits or gives up.
    insert = insert.on_conflict_do_nothing(index_elements=[Call.room]).returning(Call.id)
    made = (await session.execute(insert)).scalar_one_or_none()
    call = await _locked(session, Call.room, room)
    if made is None and call.state == State.QUEUED:
        await _ring(session, call, now=now)
    if made is None:
        call.state = after(State(call.state), Signal.RING).value
        for name, value in facts.items():
            if getattr(call, name) is None:
                setattr(call, name, value)
        leg = await _first_leg(session, call.id)
        if leg is not None and leg.number is None:
            leg.number = _far_number(call)
    else:
        await _ring(session, call, now=now)
    await session.flush()
    return call


async def _ring(session: AsyncSession, call: Call, *, now: datetime) -> None:
    """The line of a call that is new to it, or was queued, rings from now on."""
    call.state = State.RINGING.value
    session.add(
        Leg(
            id=new_id("leg", now=now),
            call_id=call.id,
            kind="caller" if call.direction == "inbound" else "callee",
            number=_far_number(call),
            started_at=now,
        )
    )
    await record(
        session,
        events.CallStarted(
            call.id,
            call.direction,
            call.channel,
            call.from_number,
            call.to_number,
            call.contact_id,
            call.profile_version_id,
        ),
        now=now,
    )


async def queue(
    session: AsyncSession,
    *,
    from_number: str,
    to_number: str,
    contact_id: str | None,
    profile_version_id: str,
    reason: str | None,
    activity_id: str | None,
    due_at: datetime,
    retry_of: str | None = None,
    attempt: int = 1,
    source: str,
    now: datetime,
) -> Call:
    """A call that is to be dialled at *due_at*, in a room of its own. Records ``call.queued``.

    Whether it may be made is asked elsewhere (``desk.dial``). Numbers are E.164.
    """
    call_id = new_id("call", now=now)
    call = Call(
        id=call_id,
        room=f"{OUTBOUND_ROOM}{call_id}",
        direction="outbound",
        channel="sip",
        state=State.QUEUED.value,
        from_number=from_number,
        to_number=to_number,
        contact_id=contact_id,
        profile_version_id=profile_version_id,
        reason=reason,
        activity_id=activity_id,
        retry_of=retry_of,
        attempt=attempt,
        due_at=due_at,
        sent=0,
        started_at=now,
        lease_epoch=0,
    )
    session.add(call)
    await session.flush()
    await record(
        session,
        events.CallQueued(
            call_id,
            from_number,
            to_number,
            contact_id,
            profile_version_id,
            reason,
            activity_id,
            due_at,
            attempt,
            retry_of,
            source,
        ),
        now=now,
    )
    return call


async def due(session: AsyncSession, *, now: datetime) -> Call | None:
    """The queued call that has been due for longest, locked; None when there is none.

    A call that another transaction holds is passed over.
    """
    waiting = (
        select(Call)
        .where(Call.state == State.QUEUED.value, Call.due_at <= now)
        .order_by(Call.due_at, Call.id)
        .limit(1)
        .with_for_update(key_share=True, skip_locked=True)
    )
    return await session.scalar(waiting.execution_options(populate_existing=True))


async def postpone(session: AsyncSession, call: Call, *, due_at: datetime) -> None:
    """A queued call that the transaction holds is looked at again at *due_at*."""
    call.due_at = due_at
    await session.flush()


async def send_for_agent(
    session: AsyncSession, call: Call, *, again_at: datetime, now: datetime
) -> None:
    """An agent is sent for to dial the queued call that the transaction holds.

    When it has not begun by *again_at*, the call is due once more.
    """
    call.sent += 1
    call.sent_at = call.sent_at or now
    await postpone(session, call, due_at=again_at)


async def dial(session: AsyncSession, call_id: str, *, now: datetime) -> Lease | None:
    """The calling agent begins to dial: the call rings and is that agent's.

    None when it is not queued any more: of several agents that were sent for, one dials.
    """
    call = await _locked(session, Call.id, call_id)
    if call.state != State.QUEUED:
        return None
    await _ring(session, call, now=now)
    return await _lease_to(session, call, now=now)


async def identify(
    session: AsyncSession, call_id: str, *, contact_id: str, name: str | None, now: datetime
) -> None:
    """The other side of the call is this contact. Records ``contact.matched`` once for each contact."""
    call = await _locked(session, Call.id, call_id)
    call.contact_id = contact_id
    told = await session.scalars(
        select(EventRow).where(
            EventRow.subject == call_id, EventRow.type == events.ContactMatched.type
        )
    )
    if all(row.body["data"]["contact_id"] != contact_id for row in told):
        await record(session, events.ContactMatched(call_id, contact_id, name), now=now)


async def decide_door(
    session: AsyncSession, call_id: str, *, kind: str, reason: str | None
) -> None:
    """Note how the call was let in or turned away, and why. The first decision stays."""
    call = await _locked(session, Call.id, call_id)
    if call.door is None:
        call.door, call.door_reason = kind, reason and reason[:200]
        await session.flush()


async def attach_contact(session: AsyncSession, call_id: str, contact_id: str) -> None:
    """The caller became this contact during the call. Unlike ``identify``, no number was matched."""
    call = await _locked(session, Call.id, call_id)
    call.contact_id = contact_id
    await session.flush()


async def give_to_contact(
    session: AsyncSession, from_id: str, to_id: str, *, only: Sequence[str] | None = None
) -> list[str]:
    """Say of all calls of one contact, or of *only* some, that they are another's; returns which."""
    statement = update(Call).where(Call.contact_id == from_id)
    if only is not None:
        statement = statement.where(Call.id.in_(only))
    statement = statement.values(contact_id=to_id)
    return sorted(await session.scalars(statement.returning(Call.id)))


async def take_lease(session: AsyncSession, call_id: str, *, now: datetime) -> Lease:
    """Make the calling agent the only one that may write to the call; the one before is fenced off.

    What an agent that had answered left unfinished is closed when it was last seen: its tool runs have
    failed, its turns are over, and whoever it was calling for the caller is not reached.
    """
    return await _take(session, await _locked(session, Call.id, call_id), now=now)


async def take_abandoned(
    session: AsyncSession, call_id: str, *, silent_since: datetime, now: datetime
) -> Lease | None:
    """The lease of a call whose holder has given no sign of life since *silent_since*.

    None when it has one after all: of several that ask at once, one gets the lease.
    """
    call = await _locked(session, Call.id, call_id)
    if last_seen(call) >= silent_since:
        return None
    return await _take(session, call, now=now)


async def is_rescued(session: AsyncSession, call_id: str, *, alive_since: datetime) -> bool:
    """Whether the keypad menu has the call, and has given a sign of life since *alive_since*."""
    call = await session.get(Call, call_id)
    if call is None or call.state != State.RESCUED:
        return False
    return call.heartbeat_at is not None and call.heartbeat_at > alive_since


async def heartbeat(session: AsyncSession, lease: Lease, *, now: datetime) -> None:
    """A sign of life of the agent. Raises StaleLease when another has taken the call over."""
    call = await fence(session, lease)
    call.heartbeat_at = now
    await session.flush()


async def fence(session: AsyncSession, lease: Lease) -> Call:
    """The call, locked until the transaction ends, if *lease* is still the newest.

    Raises StaleLease when another agent has taken the call over.
    """
    call = await _locked(session, Call.id, lease.call_id)
    if call.lease_epoch != lease.epoch:
        raise StaleLease(
            f"another agent has taken over {call.id} (lease {lease.epoch}, now {call.lease_epoch}); "
            "stop writing to it"
        )
    return call


async def answer(session: AsyncSession, lease: Lease, *, now: datetime) -> Call:
    """The line is picked up. A second answer, or one that crosses the hang-up, changes nothing."""
    return await _pick_up(session, lease, Signal.ANSWER, now=now)


async def rescue(session: AsyncSession, lease: Lease, *, now: datetime) -> Call:
    """The keypad menu has the caller: it picked up, or takes over a call whose agent cannot go on."""
    return await _pick_up(session, lease, Signal.RESCUE, now=now)


async def take_over(session: AsyncSession, lease: Lease) -> Call:
    """The agent talks with a caller whom another one had, whatever that one was doing with them."""
    return await _signal(session, lease, Signal.TAKE_OVER)


async def _pick_up(session: AsyncSession, lease: Lease, signal: Signal, *, now: datetime) -> Call:
    call = await fence(session, lease)
    state = after(State(call.state), signal)
    call.state = state.value
    if state is not State.ENDED and call.answered_at is None:
        call.answered_at = now
        leg = await _first_leg(session, call.id)
        rang_since = call.started_at
        if leg is not None:
            leg.answered_at, rang_since = now, leg.started_at
        await record(session, events.CallAnswered(call.id, ring_ms=_ms(now - rang_since)), now=now)
    await session.flush()
    return call


async def end(
    session: AsyncSession,
    call_id: str,
    reason: EndReason,
    *,
    now: datetime,
    lease: Lease | None = None,
    ended_at: datetime | None = None,
) -> Call:
    """The call is over. The first reason stays; a repeat changes nothing.

    Closes the legs and the turns still being spoken and records ``call.ended`` (whose
    ``duration_ms`` counts from the answer, 0 without one) and ``transcript.ready``. *ended_at*
    is for an end that is noticed late. Tool runs that still go on may finish afterwards, and a
    turn that comes late is still stored.
    """
    call = await (fence(session, lease) if lease else _locked(session, Call.id, call_id))
    if call.state == State.ENDED:
        return call
    call.state = after(State(call.state), Signal.END).value
    call.end_reason = reason.value
    call.transferred = call.transferred or reason is EndReason.TRANSFERRED
    call.ended_at = ended = max(ended_at or now, call.answered_at or call.started_at)
    call.duration_ms = _ms(ended - call.answered_at) if call.answered_at else None
    open_legs = select(Leg).where(Leg.call_id == call.id, Leg.ended_at.is_(None))
    for leg in await session.scalars(open_legs):
        leg.ended_at, leg.outcome = ended, leg.outcome or reason.value
    await _close_turns(session, call, until=ended, now=now)
    turns = await session.scalar(select(func.count(Turn.id)).where(Turn.call_id == call.id))
    await record(
        session,
        events.CallEnded(
            call.id,
            reason.value,
            call.direction,
            call.from_number,
            call.to_number,
            call.contact_id,
            call.started_at,
            call.answered_at,
            ended,
            call.duration_ms or 0,
        ),
        now=now,
    )
    await record(session, events.TranscriptReady(call.id, turns=turns or 0), now=now)
    return call


async def lose(
    session: AsyncSession,
    call_id: str,
    *,
    silent_since: datetime,
    reason: EndReason = EndReason.AGENT_LOST,
    now: datetime,
) -> Lease | None:
    """Close a live call, for *reason*, if its agent has given no sign of life since *silent_since*.

    The call ended when the agent was last seen; what the agent left unfinished (turns, tool
    runs) is closed with it, and the agent is fenced off should it come back. Returns the lease
    of whoever closed it; None when there was nothing to close: of several that ask at once, one does it.
    """
    call = await _locked(session, Call.id, call_id)
    seen = last_seen(call)
    if call.state in (State.ENDED, State.QUEUED) or seen >= silent_since:
        return None
    lease = await _lease_to(session, call, now=now)
    await _fail_running(session, call_id, now=now)
    await end(session, call_id, reason, now=now, ended_at=seen)
    return lease


async def _close_turns(
    session: AsyncSession, call: Call, *, until: datetime, now: datetime
) -> None:
    open_turns = select(Turn).where(Turn.call_id == call.id, Turn.ended_ms.is_(None))
    for turn in (await session.scalars(open_turns.order_by(Turn.seq))).all():
        spoken_until = _ms(until - call.answered_at) if call.answered_at else 0
        turn.ended_ms = max(turn.started_ms, spoken_until)
        await search.index(session, turn)
        await _tell_turn(session, turn, now=now)


async def _fail_running(session: AsyncSession, call_id: str, *, now: datetime) -> None:
    running = select(ToolRun).where(ToolRun.call_id == call_id, ToolRun.state == "started")
    for run in (await session.scalars(running.order_by(ToolRun.seq))).all():
        await _fail(session, run, error=EndReason.AGENT_LOST.value, now=now)


def last_seen(call: Call) -> datetime:
    """The last sign of life of the call's agent; its start when there was none."""
    return call.heartbeat_at or call.started_at


async def save_turn(
    session: AsyncSession,
    lease: Lease,
    *,
    turn_id: str | None,
    role: str,
    text: str,
    started_ms: int,
    ended_ms: int | None,
    interrupted: bool = False,
    latency: Mapping[str, Any] | None = None,
    models: Mapping[str, str] | None = None,
    language: str | None = None,
    leg_id: str | None = None,
    now: datetime,
) -> Turn:
    """Store what was said so far: a new turn without *turn_id*, otherwise that one's next form.

    *text* is redacted already. The first time that *ended_ms* is given the turn is complete and
    ``transcript.turn`` is recorded; it stays complete. A None for latency, models, language or leg
    leaves what was known. Raises Invalid for an unknown role, NotFound when no such turn is in this call.
    """
    _one_of("role", role, ROLES)
    await fence(session, lease)
    if turn_id is None:
        turn = Turn(
            id=new_id("turn", now=now),
            call_id=lease.call_id,
            seq=await _next_seq(session, Turn.seq, Turn.call_id, lease.call_id),
            role=role,
        )
        session.add(turn)
    else:
        turn = await _of_call(session, Turn, turn_id, lease.call_id)
    completed = turn.ended_ms is None and ended_ms is not None
    turn.text = text
    turn.started_ms = started_ms
    turn.interrupted = interrupted
    if ended_ms is not None:
        turn.ended_ms = ended_ms
    if latency is not None:
        turn.latency = dict(latency)
    if models:
        turn.models = dict(models)
    if language is not None:
        turn.language = language
    if leg_id is not None:
        turn.leg_id = leg_id
    await session.flush()
    if turn.ended_ms is not None:
        await search.index(session, turn)
    if completed:
        await _tell_turn(session, turn, now=now)
    return turn


async def add_usage(session: AsyncSession, lease: Lease, usage: Mapping[str, Any]) -> None:
    """Store what the call took of its providers, as ``calls.usage.bill`` writes it.

    An agent that took the call over adds to what the one before it took.
    """
    call = await fence(session, lease)
    before = call.usage
    if before is None:
        call.usage = dict(usage)
        return
    known = [one for one in (before["cost_micros"], usage["cost_micros"]) if one is not None]
    call.usage = {
        **usage,
        "parts": [*before["parts"], *usage["parts"]],
        "cost_micros": sum(known) if known else None,
        "complete": before["complete"] and usage["complete"],
    }


async def start_tool(
    session: AsyncSession,
    lease: Lease,
    *,
    name: str,
    arguments: Mapping[str, Any],
    writes: bool = False,
    turn_id: str | None,
    offset_ms: int | None,
    now: datetime,
) -> ToolRun:
    """First transaction of a tool: it is about to run. *writes*: it changes the CRM.

    Returns the earlier run instead, its state ``ok``, when the same tool with the same arguments
    has succeeded in this call. Raises Invalid when *arguments* are no JSON.
    """
    await fence(session, lease)
    key = tool_key(lease.call_id, name, arguments)
    earlier = await _success(session, key)
    if earlier is not None:
        return earlier
    run = ToolRun(
        id=new_id("run", now=now),
        call_id=lease.call_id,
        turn_id=turn_id,
        seq=await _next_seq(session, ToolRun.seq, ToolRun.call_id, lease.call_id),
        name=name,
        arguments=dict(arguments),
        writes=writes,
        state="started",
        started_at=now,
        offset_ms=offset_ms,
        key=key,
    )
    session.add(run)
    await session.flush()
    return run


async def enter_tool(session: AsyncSession, lease: Lease, run_id: str, *, now: datetime) -> ToolRun:
    """Begin the second transaction of a tool, the one that makes its change.

    Returns the run when it is to be done now (``started``). When an equal run succeeded in the
    meantime, returns that one (``ok``), and this one is closed as ``repeated``: change nothing.
    Until the transaction ends no equal run can enter. Raises Conflict when the run has failed.
    """
    await fence(session, lease)
    run = await _of_call(session, ToolRun, run_id, lease.call_id)
    earlier = await _success(session, run.key)
    if earlier is not None:
        if run.state == "started":
            run.state, run.error, run.ms = "error", "repeated", _ms(now - run.started_at)
            await session.flush()
        return earlier
    _must_run(run)
    return run


async def finish_tool(
    session: AsyncSession, lease: Lease, run_id: str, *, result: str, now: datetime
) -> ToolRun:
    """The tool did it; belongs into the transaction of the change itself.

    Raises Conflict when an equal run has succeeded before or this one has failed, so that
    the change is undone with the transaction. Repeating the call for a run that is ``ok`` returns it.
    """
    call = await fence(session, lease)
    run = await _of_call(session, ToolRun, run_id, lease.call_id)
    if run.state == "ok":
        return run
    _must_run(run)
    if await _success(session, run.key) is not None:
        raise Conflict(f"{run.name} was done before in this call; use the first result")
    run.state, run.result, run.ms = "ok", result, _ms(now - run.started_at)
    await session.flush()
    if call.crm_failed:
        call.crm_failed = await _crm_fails(session, call.id)
        await session.flush()
    return run


async def fail_tool(
    session: AsyncSession, lease: Lease, run_id: str, *, error: str, now: datetime
) -> ToolRun:
    """Third transaction of a tool, in place of the second: it did not work. Records ``tool.failed``.

    *error* is a stable code, at most 60 characters. A run that is over already stays as it is.
    """
    await fence(session, lease)
    run = await _of_call(session, ToolRun, run_id, lease.call_id)
    if run.state == "started":
        await _fail(session, run, error=error, now=now)
    return run


def tool_key(call_id: str, name: str, arguments: Mapping[str, Any]) -> str:
    """What makes two tool runs equal: SHA-256 over call, tool and canonical JSON arguments.

    Raises Invalid when *arguments* are no JSON.
    """
    try:
        canonical = json.dumps(
            [call_id, name, arguments], sort_keys=True, separators=(",", ":"), allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise Invalid(f"the arguments of {name} are no JSON object: {error}") from error
    return hashlib.sha256(canonical.encode()).hexdigest()


async def note_voicemail(
    session: AsyncSession, lease: Lease, *, action: str, offset_ms: int, now: datetime
) -> None:
    """A machine answered. *action* is hang_up or leave_message. Records ``voicemail.detected``."""
    await fence(session, lease)
    await record(session, events.VoicemailDetected(lease.call_id, action, offset_ms), now=now)


async def press_keys(
    session: AsyncSession, lease: Lease, digits: str, *, offset_ms: int, now: datetime
) -> None:
    """The caller pressed keys, *offset_ms* after the answer. Records ``dtmf.received``, nothing else."""
    await fence(session, lease)
    await record(session, events.DtmfReceived(lease.call_id, digits, offset_ms), now=now)


async def hold(session: AsyncSession, lease: Lease) -> None:
    """The caller hears music while the agent sees to something: the call is ``held``.

    One that does not talk just now (it has ended, somebody else has the caller) stays as it is.
    """
    call = await fence(session, lease)
    if call.state == State.TALKING:
        call.state = after(State.TALKING, Signal.HOLD).value
        await session.flush()


async def resume(session: AsyncSession, lease: Lease) -> None:
    """The agent is back with a caller on hold. A call that is not ``held`` stays as it is."""
    call = await fence(session, lease)
    if call.state == State.HELD:
        call.state = after(State.HELD, Signal.RESUME).value
        await session.flush()


async def begin_transfer(
    session: AsyncSession,
    lease: Lease,
    *,
    kind: Literal["cold", "warm"],
    number: str,
    participant: str | None = None,
    now: datetime,
) -> Leg:
    """Somebody is being called for the caller: the call is ``transferring``, with a leg to *number*.

    Raises IllegalTransition unless somebody is talking with the caller.
    """
    await _signal(session, lease, Signal.TRANSFER)
    leg = Leg(
        id=new_id("leg", now=now),
        call_id=lease.call_id,
        kind="consult" if kind == "warm" else "callee",
        participant=participant,
        number=number[:32],
        started_at=now,
    )
    session.add(leg)
    await session.flush()
    return leg


async def answer_leg(session: AsyncSession, lease: Lease, leg_id: str, *, now: datetime) -> None:
    """Whoever was called has picked up. A repeat changes nothing."""
    await fence(session, lease)
    leg = await session.get(Leg, leg_id, populate_existing=True)
    if leg is not None and leg.answered_at is None:
        leg.answered_at = now
        await session.flush()


async def finish_transfer(
    session: AsyncSession,
    lease: Lease,
    leg_id: str,
    *,
    kind: Literal["cold", "warm"],
    name: str,
    outcome: str,
    reason: str | None,
    now: datetime,
) -> None:
    """What came of a transfer; records ``call.transferred``.

    ``answered`` leaves the call ``transferring`` until it ends; after any other *outcome* the agent
    is back with the caller. The leg keeps the outcome; a call that has ended meanwhile stays so.
    """
    call = await fence(session, lease)
    leg = await session.get(Leg, leg_id, populate_existing=True)
    if leg is None or leg.call_id != call.id:
        raise NotFound(f"{call.id} has no leg {leg_id}")
    if outcome != "answered":
        leg.ended_at = leg.ended_at or now
        if call.state == State.TRANSFERRING:
            call.state = after(State(call.state), Signal.RESUME).value
    else:
        call.transferred = True
        leg.answered_at = leg.answered_at or now
    leg.outcome = outcome
    await record(
        session,
        events.CallTransferred(call.id, kind, leg.number, name, outcome, leg.id, reason),
        now=now,
    )
    await session.flush()


async def _signal(session: AsyncSession, lease: Lease, signal: Signal) -> Call:
    call = await fence(session, lease)
    call.state = after(State(call.state), signal).value
    await session.flush()
    return call


async def open_recording(
    session: AsyncSession, lease: Lease, *, sample_rate_hz: int, now: datetime
) -> Recording:
    """The call's recording, open for segments; an agent that takes over goes on with the same one.

    Raises Conflict when it was opened at another rate or is closed.
    """
    await fence(session, lease)
    recording = await _recording(session, lease.call_id)
    if recording is None:
        recording = Recording(
            id=new_id("rec", now=now),
            call_id=lease.call_id,
            state="open",
            segments=[],
            sample_rate_hz=sample_rate_hz,
            started_at=now,
        )
        session.add(recording)
        await session.flush()
    elif recording.state != "open":
        raise Conflict(f"the recording of {lease.call_id} is closed; nothing can be added to it")
    elif recording.sample_rate_hz != sample_rate_hz:
        raise Conflict(
            f"the recording of {lease.call_id} runs at {recording.sample_rate_hz} Hz; "
            f"write its segments at that rate, not at {sample_rate_hz} Hz"
        )
    return recording


async def add_segment(
    session: AsyncSession, lease: Lease, recording_id: str, blob_key: str, *, now: datetime
) -> None:
    """The next piece of audio is stored under *blob_key*; store it first. A repeat changes nothing.

    Raises Conflict when the recording is closed.
    """
    await fence(session, lease)
    recording = await _of_call(session, Recording, recording_id, lease.call_id)
    if recording.state != "open":
        raise Conflict(f"the recording of {lease.call_id} is closed; nothing can be added to it")
    if blob_key not in recording.segments:
        # A new list: a change inside a JSON column goes unnoticed.
        recording.segments = [*recording.segments, blob_key]
        await session.flush()


async def close_recording(
    session: AsyncSession,
    call_id: str,
    *,
    blob_key: str,
    duration_ms: int,
    peaks: Sequence[Mapping[str, Any]],
    replies: Sequence[Reply] | None = None,
    state: Literal["ready", "incomplete"] = "ready",
    now: datetime,
) -> Recording:
    """The recording lies joined under *blob_key*. The first close counts; records ``recording.ready``.

    Raises NotFound when the call was not recorded.
    """
    await _locked(session, Call.id, call_id)
    recording = await _recording(session, call_id)
    if recording is None:
        raise NotFound(f"{call_id} has no recording")
    if recording.state == "open":
        recording.state = state
        recording.blob_key = blob_key
        recording.duration_ms = duration_ms
        recording.peaks = [dict(peak) for peak in peaks]
        recording.replies = None if replies is None else [reply._asdict() for reply in replies]
        recording.segments = []
        await record(
            session,
            events.RecordingReady(call_id, recording.id, duration_ms, CHANNELS_RECORDED),
            now=now,
        )
    return recording


async def _locked(session: AsyncSession, column: InstrumentedAttribute[str], value: str) -> Call:
    # NO KEY UPDATE on PostgreSQL, so that inserting a row that refers to the call needs no wait.
    locked = select(Call).where(column == value).with_for_update(key_share=True)
    call = await session.scalar(locked.execution_options(populate_existing=True))
    if call is None:
        raise NotFound(f"there is no call {value}")
    return call


async def _take(session: AsyncSession, call: Call, *, now: datetime) -> Lease:
    seen = last_seen(call)
    lease = await _lease_to(session, call, now=now)
    if call.answered_at is not None and call.state != State.ENDED:
        await _fail_running(session, call.id, now=now)
        await _close_turns(session, call, until=seen, now=now)
        asked = select(Leg).where(Leg.call_id == call.id, Leg.ended_at.is_(None))
        first = await _first_leg(session, call.id)
        for leg in await session.scalars(asked):
            if first is None or leg.id != first.id:
                leg.ended_at, leg.outcome = seen, leg.outcome or "failed"
        await session.flush()
    return lease


async def _lease_to(session: AsyncSession, call: Call, *, now: datetime) -> Lease:
    call.lease_epoch += 1
    call.heartbeat_at = now
    await session.flush()
    return Lease(call.id, call.lease_epoch)


async def _of_call(session: AsyncSession, table: type[Row], row_id: str, call_id: str) -> Row:
    row = await session.get(table, row_id, populate_existing=True)
    if row is None or row.call_id != call_id:
        raise NotFound(f"{call_id} has no {row_id}")
    return row


async def _first_leg(session: AsyncSession, call_id: str) -> Leg | None:
    """The leg of the one who called, or was called."""
    legs = select(Leg).where(Leg.call_id == call_id, Leg.kind.in_(("caller", "callee")))
    return await session.scalar(legs.order_by(Leg.id).limit(1))


def _far_number(call: Call) -> str | None:
    return call.from_number if call.direction == "inbound" else call.to_number


async def _recording(session: AsyncSession, call_id: str) -> Recording | None:
    found = select(Recording).where(Recording.call_id == call_id)
    return await session.scalar(found.execution_options(populate_existing=True))


async def _next_seq(
    session: AsyncSession,
    seq: InstrumentedAttribute[int],
    owner: InstrumentedAttribute[str],
    call_id: str,
) -> int:
    """One above the highest; safe because the call's row is locked."""
    return (await session.scalar(select(func.max(seq)).where(owner == call_id)) or 0) + 1


async def _success(session: AsyncSession, key: str) -> ToolRun | None:
    return await session.scalar(select(ToolRun).where(ToolRun.key == key, ToolRun.state == "ok"))


def _must_run(run: ToolRun) -> None:
    if run.state != "started":
        raise Conflict(f"{run.id} of {run.name} has failed already; start it again")


async def _fail(session: AsyncSession, run: ToolRun, *, error: str, now: datetime) -> None:
    run.state, run.error, run.ms = "error", error, _ms(now - run.started_at)
    await session.flush()
    if run.writes and (call := await session.get(Call, run.call_id)):
        call.crm_failed = await _crm_fails(session, run.call_id)
        await session.flush()
    await record(session, events.ToolFailed(run.call_id, run.id, run.name, error), now=now)


async def _crm_fails(session: AsyncSession, call_id: str) -> bool:
    """Whether a tool that writes failed and did not succeed after that, be it with other arguments."""
    done = aliased(ToolRun)
    failed = select(ToolRun.id).where(
        ToolRun.call_id == call_id,
        ToolRun.writes,
        ToolRun.state == "error",
        ToolRun.error != "repeated",
        ~select(done.id)
        .where(
            done.call_id == call_id,
            done.name == ToolRun.name,
            done.state == "ok",
            done.seq > ToolRun.seq,
        )
        .exists(),
    )
    return await session.scalar(failed.limit(1)) is not None


async def _tell_turn(session: AsyncSession, turn: Turn, *, now: datetime) -> None:
    assert turn.ended_ms is not None
    await record(
        session,
        events.TranscriptTurn(
            turn.call_id,
            turn.id,
            turn.seq,
            turn.role,
            turn.text,
            turn.started_ms,
            turn.ended_ms,
            turn.interrupted,
        ),
        now=now,
    )


def _one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise Invalid(f"{value!r} is no {what} of a call; use one of: {', '.join(known)}")


def _ms(span: timedelta) -> int:
    return max(0, round(span / timedelta(milliseconds=1)))
