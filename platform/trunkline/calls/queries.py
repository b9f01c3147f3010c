"""All reads of calls."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls.lifecycle import State
from trunkline.calls.models import Call, Leg, Recording, ToolRun, Turn
from trunkline.errors import NotFound


class Cursor(NamedTuple):
    """Where a page of calls stops: the last call shown on it."""

    started_at: datetime
    id: str


async def call(session: AsyncSession, call_id: str) -> Call:
    """The call with that id. Raises NotFound."""
    found = await session.get(Call, call_id)
    if found is None:
        raise NotFound(f"there is no call {call_id}")
    return found


async def call_in_room(session: AsyncSession, room: str) -> Call | None:
    """The call of a LiveKit room, or of a loopback line's name."""
    return await session.scalar(select(Call).where(Call.room == room))


async def next_due(session: AsyncSession) -> datetime | None:
    """When the next queued call is due, which may have passed; None when none is queued."""
    queued = select(func.min(Call.due_at)).where(Call.state == State.QUEUED.value)
    return await session.scalar(queued)


async def placed_to(session: AsyncSession, e164: str, *, since: datetime) -> int:
    """How many calls to that number were asked for since then and were dialled, or still wait."""
    calls = select(func.count(Call.id)).where(
        Call.direction == "outbound",
        Call.to_number == e164,
        Call.started_at >= since,
        (Call.state == State.QUEUED.value)
        | select(Leg.id).where(Leg.call_id == Call.id, Leg.kind == "callee").exists(),
    )
    return await session.scalar(calls) or 0


async def being_placed(session: AsyncSession, profile_version_ids: Sequence[str]) -> int:
    """How many calls of those versions of a profile we are placing now: on the line, or an agent sent for."""
    calls = select(func.count(Call.id)).where(
        Call.direction == "outbound",
        Call.profile_version_id.in_(profile_version_ids),
        Call.ended_at.is_(None),
        (Call.state != State.QUEUED.value) | (Call.sent > 0),
    )
    return await session.scalar(calls) or 0


async def open_call_for(session: AsyncSession, activity_id: str) -> Call | None:
    """A call for that task that is queued or going on."""
    calls = select(Call).where(Call.activity_id == activity_id, Call.ended_at.is_(None))
    return await session.scalar(calls.limit(1))


async def live_without_heartbeat(session: AsyncSession, before: datetime) -> Sequence[Call]:
    """Calls that go on, though their agent gave no sign of life since *before*.

    A call whose agent never came counts from its start. Calls of the channel ``test`` have
    no agent process and are left out, as are calls still queued for dialling.
    """
    seen = func.coalesce(Call.heartbeat_at, Call.started_at, type_=Call.started_at.type)
    live = [state.value for state in State if state not in (State.ENDED, State.QUEUED)]
    calls = select(Call).where(Call.state.in_(live), Call.channel != "test", seen < before)
    return (await session.scalars(calls.order_by(Call.started_at, Call.id))).all()


async def ended_without_recording(session: AsyncSession, before: datetime) -> Sequence[Call]:
    """Calls that are over, whose recording nobody has joined since *before*."""
    seen = func.coalesce(Call.heartbeat_at, Call.started_at, type_=Call.started_at.type)
    calls = (
        select(Call)
        .join(Recording, Recording.call_id == Call.id)
        .where(Recording.state == "open", Call.state == State.ENDED.value)
        .where(seen < before, Call.ended_at < before)
    )
    return (await session.scalars(calls.order_by(Call.started_at, Call.id))).all()


async def turns(session: AsyncSession, call_id: str) -> Sequence[Turn]:
    """The transcript: by the time a turn began, then by the order in which they were stored."""
    rows = select(Turn).where(Turn.call_id == call_id).order_by(Turn.started_ms, Turn.seq)
    return (await session.scalars(rows)).all()


async def tool_runs(session: AsyncSession, call_id: str) -> Sequence[ToolRun]:
    """The tools of a call, in the order in which they were started."""
    rows = select(ToolRun).where(ToolRun.call_id == call_id).order_by(ToolRun.seq)
    return (await session.scalars(rows)).all()


async def legs(session: AsyncSession, call_id: str) -> Sequence[Leg]:
    """Everyone's way in the call, first comer first."""
    rows = select(Leg).where(Leg.call_id == call_id).order_by(Leg.started_at, Leg.id)
    return (await session.scalars(rows)).all()


async def recording(session: AsyncSession, call_id: str) -> Recording | None:
    """The call's recording; None when the call was not recorded."""
    return await session.scalar(select(Recording).where(Recording.call_id == call_id))
