"""What every call needs besides its line, whoever answers it: how it begins, lives and ends as a row."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from trunkline.agent.kept import Kept
from trunkline.agent.line import Line
from trunkline.agent.options import AgentOptions
from trunkline.calls import queries
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason, State
from trunkline.calls.models import Call
from trunkline.desk import dial
from trunkline.desk.arrival import Reception, receive
from trunkline.errors import StaleLease
from trunkline.kit.blobs import Blobs
from trunkline.kit.clock import Clock
from trunkline.kit.db import Database

log = structlog.get_logger()


@dataclass(frozen=True)
class Services:
    """Database, blobs, options and clock."""

    db: Database
    blobs: Blobs
    options: AgentOptions
    clock: Clock
    kept: Kept | None = None
    """Sentences that were said before; None where each is made anew."""


class Rescued(Exception):
    """The keypad menu has the caller already."""

    def __init__(self, call_id: str) -> None:
        super().__init__(call_id)
        self.call_id = call_id


class Ended(Exception):
    """The call was closed already, by somebody who saw the caller leave or gave it up."""

    def __init__(self, call: Call) -> None:
        super().__init__(call.id)
        self.call_id = call.id
        self.reason = EndReason(call.end_reason or EndReason.INTERNAL_ERROR)


@dataclass(frozen=True)
class Taken:
    """A call that is ours."""

    reception: Reception
    lease: calls.Lease
    goes_on: bool
    """Another agent had answered it, and is gone; the line goes on counting from that answer."""
    contact_id: str | None
    """Who the caller is, also when no number told but the caller, to the agent before."""


async def take(line: Line, services: Services, *, over_rescue: bool = True) -> Taken:
    """Store the call on *line* as ours: who calls whom, and the lease that shuts out whoever had it.

    Raises Rescued, unless *over_rescue*, when the menu has answered and lives: a caller who has chosen
    there is not to begin anew. Raises Ended when the call is over.
    """
    arrival, now = line.arrival, services.clock()
    async with services.db.work() as session:
        reception = await receive(
            session,
            room=arrival.room,
            channel=arrival.channel,
            from_raw=arrival.from_raw,
            to_raw=arrival.to_raw,
            direction=arrival.direction,
            sip_call_id=arrival.sip_call_id,
            sip_trunk_id=arrival.sip_trunk_id,
            attestation=arrival.attestation,
            house=services.options.house,
            now=now,
        )
        if not over_rescue:
            alive_since = now - 3 * services.options.heartbeat
            if await calls.is_rescued(session, reception.call_id, alive_since=alive_since):
                raise Rescued(reception.call_id)
        call = await queries.call(session, reception.call_id)
        if call.state == State.ENDED:
            raise Ended(call)
        lease = await calls.take_lease(session, call.id, now=now)
    if call.answered_at is not None:
        log.warning("call_taken_over_here", call_id=call.id, epoch=lease.epoch)
        line.go_on(call.answered_at.timestamp())
    goes_on = call.answered_at is not None
    return Taken(reception, lease, goes_on=goes_on, contact_id=call.contact_id)


async def beat(services: Services, lease: calls.Lease, on_stale: Callable[[], None]) -> None:
    """Sign that the call's agent lives, until cancelled. *on_stale*: another has taken the call over."""
    while True:
        try:
            async with services.db.work() as session:
                await calls.heartbeat(session, lease, now=services.clock())
        except StaleLease:
            on_stale()
            return
        except Exception:
            log.exception("heartbeat_not_stored")
        await asyncio.sleep(services.options.heartbeat.total_seconds())


async def close(
    services: Services, lease: calls.Lease, reason: EndReason, ended_at: datetime
) -> None:
    """Store that the call is over since *ended_at*, unless another agent has taken it over."""
    try:
        async with services.db.work() as session:
            call = await calls.end(
                session,
                lease.call_id,
                reason,
                now=services.clock(),
                lease=lease,
                ended_at=ended_at,
            )
            await dial.settle(session, call, now=services.clock())
    except StaleLease:
        log.warning("call_taken_over")
    log.info("call_ended", end_reason=reason.value)
