"""The process of a call: made ready before there is one, then for the one job that it is there for.

The AgentSession never sees the JobContext, so it behaves as on the loopback line; the room is deleted when
the call is over, since livekit-sip keeps a caller in a room without an agent for ever.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import structlog
from livekit import rtc
from livekit.agents import JobContext, JobProcess
from livekit.agents.utils import http_context

from trunkline.agent import jobs
from trunkline.agent.consult import Switchboard
from trunkline.agent.kept import Kept
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.options import WorkerOptions
from trunkline.agent.outbound import CalleeLine
from trunkline.agent.pickup import Pickup, follow
from trunkline.agent.room import NoCaller, RoomLine, arrive
from trunkline.agent.services import Services
from trunkline.agent.warm import warm
from trunkline.agent.worker import answer
from trunkline.calls import queries as calls
from trunkline.calls import service
from trunkline.desk import dial, sip
from trunkline.desk.arrival import receive
from trunkline.kit import log as logs
from trunkline.kit.blobs import open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, open_database

log = structlog.get_logger()

_PAST_LIMIT = timedelta(minutes=2)
"""How much longer than the profile allows a call may be before LiveKit ends it: we say goodbye first."""

_DATABASE = "database"
"""Where a job's process keeps it."""


def kept_sounds(options: WorkerOptions) -> Kept:
    """Sentences that were said before, which all processes of a worker share."""
    return Kept(Path(options.agent.breaker_folder) / "said", utc_now)


def prepare(options: WorkerOptions, process: JobProcess) -> None:
    """Do, in a new process before it gets a call, everything that a first call would wait for."""
    logs.configure(options.log, options.log_level)
    # The engine keeps the statements it has compiled; its connections are closed and belong to no loop.
    process.userdata[_DATABASE] = db = open_database(options.database)
    asyncio.run(_warm(options, db))


async def _warm(options: WorkerOptions, db: Database) -> None:
    rtc.AudioResampler(48_000, 8_000)  # loads LiveKit's native library
    await warm()
    try:
        await _rehearse(options, db)
    except Exception:
        # Without a database a call is lost, but the worker need not be: it may come back.
        log.exception("database_not_reached")
    finally:
        await db.close()


_NOBODY = "+12025550199"
"""For a rehearsal; the last number of a range that is kept for fiction."""


class _Undone(Exception):
    """Ends a rehearsal; never leaves this file."""


async def _rehearse(options: WorkerOptions, db: Database) -> None:
    """Run the statements of a call's arrival once, and undo them: compiling them takes 0.1 s."""
    now = utc_now()
    with contextlib.suppress(_Undone):
        async with db.work() as session:
            room = f"rehearsal-{uuid.uuid4().hex}"
            found = await receive(
                session,
                room=room,
                channel="test",
                from_raw=_NOBODY,
                to_raw=_NOBODY,
                house=options.agent.house,
                now=now,
            )
            lease = await service.take_lease(session, found.call_id, now=now)
            await service.open_recording(session, lease, sample_rate_hz=LINE_RATE_HZ, now=now)
            await service.answer(session, lease, now=now)
            await calls.turns(session, found.call_id)
            raise _Undone


async def run(options: WorkerOptions, context: JobContext) -> None:
    """One job. It returns when the call goes on by itself; ``jobs.on_end`` waits for its end."""
    pickup = Pickup(context._info.received_at or time.time())
    pickup.note("in_process")
    await context.connect()
    pickup.note("room_joined")

    async def delete_room() -> None:
        await context.delete_room()

    db: Database = context.proc.userdata[_DATABASE]
    line: RoomLine
    try:
        if call_id := sip.call_to_dial(context.job.metadata):
            to_dial = await _to_dial(options, context, db, call_id, delete_room)
            if to_dial is None:
                context.shutdown("nothing to dial")
                return
            line = to_dial
        else:
            line = await arrive(context.room, delete_room, board=Switchboard(options.livekit))
    except NoCaller as error:
        await jobs.send_home(context, error, delete_room)
        return
    jobs.begin(context, line, _talk(line, options, db, pickup))


async def _to_dial(
    options: WorkerOptions,
    context: JobContext,
    db: Database,
    call_id: str,
    delete_room: Callable[[], Awaitable[None]],
) -> CalleeLine | None:
    """The line on which the queued call is dialled; None when it may not, or another agent dials it."""
    async with db.work() as session:
        found = await dial.begin(session, call_id, now=utc_now())
    if found is None:
        log.info("nothing_to_dial", call_id=call_id)
        return None
    call, body = found
    assert body.outbound is not None
    return CalleeLine(
        context.room,
        call,
        delete_room,
        options.livekit,
        ringing=timedelta(seconds=body.outbound.ring_s),
        longest=timedelta(seconds=body.limits.max_call_s) + _PAST_LIMIT,
        board=Switchboard(options.livekit),
    )


async def _talk(line: RoomLine, options: WorkerOptions, db: Database, pickup: Pickup) -> None:
    follow(pickup)
    kept = kept_sounds(options)
    services = Services(db, open_blobs(options.blobs), options.agent, utc_now, kept)
    try:
        async with http_context.open():
            await answer(line, services)
    except Exception:
        # Nothing could be stored, or not even begun: the caller must not hear ringing for ever.
        log.exception("call_not_taken", room=line.arrival.room)
        await line.hang_up()
    finally:
        await db.close()
