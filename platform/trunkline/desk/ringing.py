"""A call as somebody other than its agent sees it: LiveKit's webhook, or a look at its rooms.

Whoever is first stores it, and everything may be told twice, in any order, or not at all.
"""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import queries
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason, State
from trunkline.desk import sip
from trunkline.desk.arrival import receive
from trunkline.desk.door import Kind


async def seen(
    session: AsyncSession, *, room: str, attributes: Mapping[str, str], now: datetime
) -> str:
    """A SIP participant with these *attributes* is in *room*. Stores the call; returns its id."""
    call = sip.read(attributes)
    reception = await receive(
        session,
        room=room,
        channel="sip",
        from_raw=call.from_raw,
        to_raw=call.to_raw or "",
        direction=call.direction,
        sip_call_id=call.call_id,
        sip_trunk_id=call.trunk_id,
        attestation=call.attestation,
        now=now,
    )
    return reception.call_id


async def left(
    session: AsyncSession,
    *,
    room: str,
    attributes: Mapping[str, str],
    reason: EndReason,
    now: datetime,
) -> None:
    """That participant has left, as far as LiveKit knows for *reason*.

    Ends a call that nobody has answered. One that was is its agent's to end, or the guardian's.
    """
    await seen(session, room=room, attributes=attributes, now=now)
    await _end_if_ringing(session, room, reason, now=now)


async def closed(session: AsyncSession, *, room: str, now: datetime) -> None:
    """*room* is no more. Ends its call if nobody has answered it; a room without a call is none of ours."""
    if await queries.call_in_room(session, room) is not None:
        await _end_if_ringing(session, room, EndReason.NO_ANSWER, now=now)


async def _end_if_ringing(
    session: AsyncSession, room: str, reason: EndReason, *, now: datetime
) -> None:
    call = await queries.call_in_room(session, room)
    # One that we place is its agent's to end, who knows more: busy from declined, and why.
    if call is not None and call.direction == "inbound" and call.state == State.RINGING:
        if call.door == Kind.BLOCKED:
            reason = EndReason.BLOCKED  # whoever tells it first
        await calls.end(session, call.id, reason, now=now)
