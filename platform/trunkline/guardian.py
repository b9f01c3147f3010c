"""Watches live calls: one that rings in vain gets an agent sent for, and so does one whose agent has died;
when nobody is on the line any more it is closed and its recording made playable.

Any number of guardians may run. Each looks by itself; the lease of a call decides which of
them closes it, and whoever has the lease joins the recording.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import queries, recording, service
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Call
from trunkline.crm.bulk import People
from trunkline.desk import exports, imports, ringing, sip, takeover
from trunkline.kit.blobs import Blobs
from trunkline.kit.clock import Clock, utc_now
from trunkline.kit.db import Database
from trunkline.kit.livekit import CONSULT_ROOM, LiveKit, LiveKitFailed

log = structlog.get_logger()

_BETWEEN_BATCHES = timedelta(milliseconds=30)
"""SQLite gives its one lock to whoever asks in the right moment, and who waits asks every 25 ms for the
first tenth of a second (sqliteDefaultBusyCallback, https://sqlite.org/src/file/src/main.c): a pause longer
than that, after work that is shorter than ``imports.WORK``, lets in everybody who came meanwhile."""


@dataclass(frozen=True)
class GuardianOptions:
    """How soon a silent agent is given up."""

    every: timedelta = timedelta(seconds=1)
    """Pause between two looks at the live calls."""
    lost_after: timedelta = timedelta(seconds=6)
    """An agent without a sign of life for this long is dead. Above three of its heartbeats."""
    closed_after: timedelta = timedelta(seconds=30)
    """A call without a sign of life is closed after this long also when LiveKit, out of reach, cannot say
    whether its caller is still there."""
    join_after: timedelta = timedelta(seconds=60)
    """Whoever was joining the recording of an ended call is given up after this long. Longer than
    joining the longest recording takes: an hour is 115 MB."""
    alone_after: timedelta = timedelta(seconds=1)
    """A caller who hears ringing for this long, with no agent in the room, gets one sent for again, and a
    last time after twice as long. livekit-server 1.13 asks its workers once only, and when all are
    busy in that moment the caller rings for ever."""
    rescue_after: timedelta = timedelta(seconds=4)
    """A caller who still hears ringing then is answered by ``trunkline-rescue``; should that not come either,
    it is sent for again after twice as long, and so on."""
    coming: timedelta = timedelta(seconds=4)
    """An agent that took the job and is not in the room after this long does not come."""


def whom_to_send(
    options: GuardianOptions, rings: timedelta, *, sent: int, rescues: int, coming: bool
) -> str | None:
    """Which agent to send for to a room that has rung for *rings* without one; None: nobody, not yet.

    *sent* and *rescues* count how often each was sent for; *coming*: an agent has taken the job.
    """
    if rings >= options.rescue_after * 2**rescues:
        return sip.RESCUE
    if not coming and sent < 3 and options.alone_after * sent <= rings < options.rescue_after:
        return sip.AGENT
    return None


class _Job(Protocol):
    """A file that this guardian has under a lease."""

    @property
    def id(self) -> str: ...


J = TypeVar("J", bound=_Job)
J_contra = TypeVar("J_contra", bound=_Job, contravariant=True)


class _Lane(Protocol[J_contra]):
    """A module whose files wait in the database to be worked at: ``imports`` or ``exports``."""

    async def is_due(self, session: AsyncSession, *, now: datetime) -> bool: ...

    async def fail(
        self, session: AsyncSession, job: J_contra, error: str, *, now: datetime
    ) -> None: ...

    async def outdated(self, session: AsyncSession, *, now: datetime) -> list[str]: ...


class Guardian:
    """One guardian; ``run`` until cancelled, or ``sweep`` once."""

    def __init__(
        self,
        db: Database,
        blobs: Blobs,
        options: GuardianOptions,
        clock: Clock = utc_now,
        livekit: LiveKit | None = None,
    ) -> None:
        """Without *livekit* only the database is watched."""
        self._db, self._blobs, self._options, self._clock = db, blobs, options, clock
        self._livekit = livekit
        self._to_join: deque[str] = deque()

    async def run(self) -> None:
        """Sweep again and again; what fails is logged and tried again by the next sweep.

        Joining a long recording never delays the closing of other calls.
        """
        async with asyncio.TaskGroup() as tasks:
            if self._livekit is not None:
                tasks.create_task(self._again_and_again(self.send_again))
            tasks.create_task(self._again_and_again(self._close_lost))
            tasks.create_task(self._again_and_again(self._join_left))
            tasks.create_task(self._again_and_again(self.write_exports))
            tasks.create_task(self._again_and_again(self.run_imports))

    async def run_imports(self, only: str | None = None) -> None:
        """Check and import the files of contacts that wait, or *only* the one of that id."""
        await self._work_off(imports, partial(imports.claim, only=only), self._import)

    async def _work_off(
        self,
        lane: _Lane[J],
        claim: Callable[..., Awaitable[J | None]],
        do: Callable[[J], Awaitable[None]],
    ) -> None:
        """Take the files that wait, one after another, then drop those that are old."""
        async with self._db.look() as session:
            if not await lane.is_due(session, now=self._clock()):
                return
        while True:
            async with self._db.work() as session:
                job = await claim(session, now=self._clock())
            if job is None:
                break
            try:
                await do(job)
            except Exception as error:
                log.exception("file_failed", file_id=job.id)
                async with self._db.work() as session:
                    await lane.fail(session, job, _short(error), now=self._clock())
        async with self._db.work() as session:
            old = await lane.outdated(session, now=self._clock())
        for key in old:
            await self._blobs.delete(key)

    async def _import(self, job: imports.Job) -> None:
        try:
            await self._read_and_write(job)
        except imports.Lost:
            log.warning("import_taken_over", import_id=job.id)

    async def _read_and_write(self, job: imports.Job) -> None:
        raw = await self._blobs.get(job.blob_key)
        pace = imports.Pace()
        batches = imports.batches(job, raw, pace)
        people = People(job.source, job.on_match)
        # Reading takes a while, so it goes on in a thread.
        while lines := await asyncio.to_thread(next, batches, None):
            if job.state == "checking":
                async with self._db.look() as session:
                    found = await imports.check(session, people, lines, now=self._clock())
            async with self._db.work() as session:
                await session.connection()  # others that write have had their turn
                began = time.monotonic()
                if job.state == "running":
                    found = await imports.write(session, job, lines, now=self._clock())
                await imports.note(session, job, lines, found, now=self._clock())
            if job.state == "running":
                pace.took(len(lines), timedelta(seconds=time.monotonic() - began))
                if self._db.dialect == "sqlite":
                    # pace: lets in who waits for the lock.
                    await asyncio.sleep(_BETWEEN_BATCHES.total_seconds())
        async with self._db.work() as session:
            done_with = await imports.finish(session, job, now=self._clock())
        if done_with is not None:
            await self._blobs.delete(done_with)
        log.info("import_through", import_id=job.id, state=job.state)

    async def write_exports(self) -> None:
        """Write the files of calls that were asked for, and drop those that are old."""
        await self._work_off(exports, exports.claim, self._write)

    async def _write(self, job: exports.Job) -> None:
        rows, mine = -1, True  # the first line tells the columns

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal rows, mine
            async for lines in exports.lines(self._db, job):
                async with self._db.work() as session:
                    mine = await exports.renew(session, job, now=self._clock())
                if not mine:
                    return
                rows += len(lines)
                yield b"".join(lines)

        await self._blobs.put_stream(job.blob_key, pieces())
        async with self._db.work() as session:
            if not mine or not await exports.finish(session, job, rows=rows, now=self._clock()):
                log.warning("export_taken_over", export_id=job.id)

    async def sweep(self) -> None:
        """Close the calls that lost their agent, then join the recordings nobody is joining.

        What fails with one call is logged and tried again later; the others are done meanwhile.
        """
        await self._close_lost()
        await self._join_left()

    async def send_again(self) -> list[str]:
        """Send for an agent to each room that rings without one. Returns the rooms.

        The call is stored if nobody has done so. Of several guardians one sends: the call's lease
        decides, and the agent that comes takes it over.
        """
        assert self._livekit is not None
        sent = []
        try:
            for room in await self._livekit.rooms():
                # An answered call has publishers, the agent and the caller.
                rings = room.num_participants and not room.num_publishers
                if rings and await self._send_to(self._livekit, room.name):
                    sent.append(room.name)
        except LiveKitFailed as error:
            log.warning("livekit_not_asked", detail=str(error))
        return sent

    async def _send_to(self, livekit: LiveKit, room: str) -> bool:
        now = self._clock()
        who = await livekit.participants(room)
        callers = [one for one in who if one.kind == one.Kind.SIP]
        if not callers or any(one.kind == one.Kind.AGENT for one in who):
            return False
        caller = callers[0]
        since = datetime.fromtimestamp(caller.joined_at, UTC)
        if caller.attributes.get("sip.callStatus", "ringing") != "ringing":
            return False
        if now - since < self._options.alone_after:
            return False
        # Only where our agent was sent for before: other rooms are other people's. How often stands in
        # LiveKit, so that several guardians, and one that was started again, know it alike.
        dispatches = await livekit.dispatches(room)
        sent = [list(one.state.jobs) for one in dispatches if one.agent_name == sip.AGENT]
        if not sent:
            return False
        coming = any(self._is_coming(job.state, now) for some in sent for job in some)
        rescues = sum(one.agent_name == sip.RESCUE for one in dispatches)
        agent = whom_to_send(
            self._options, now - since, sent=len(sent), rescues=rescues, coming=coming
        )
        if agent is None:
            return False
        async with self._db.work() as session:
            call_id = await ringing.seen(
                session, room=room, attributes=dict(caller.attributes), now=since
            )
            lease = await service.take_abandoned(
                session, call_id, silent_since=now - self._options.alone_after, now=now
            )
        if lease is None:
            return False
        log.warning("agent_sent_again", call_id=call_id, room=room, agent=agent)
        await livekit.dispatch(room, agent)
        return True

    def _is_coming(self, job: Any, now: datetime) -> bool:
        """Whether the agent of that job (a ``livekit.JobState``) is still on its way."""
        began = datetime.fromtimestamp(job.started_at / 1e9, UTC) if job.started_at else now
        return not job.ended_at and now - began < self._options.coming

    async def _again_and_again(self, do: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                await do()
            except Exception:
                log.exception("sweep_failed")
            await asyncio.sleep(self._options.every.total_seconds())

    async def _close_lost(self) -> None:
        now = self._clock()
        silent_since = now - self._options.lost_after
        async with self._db.look() as session:
            lost = await queries.live_without_heartbeat(session, silent_since)
        for call in lost:
            try:
                reason = await self._why_closed(call, silent_since, now)
                if reason is None:
                    continue
                async with self._db.work() as session:
                    lease = await service.lose(
                        session, call.id, silent_since=silent_since, reason=reason, now=now
                    )
            except Exception:
                log.exception("call_not_closed", call_id=call.id)
                continue
            if lease is not None:
                log.warning("call_closed", call_id=call.id, reason=reason.value, epoch=lease.epoch)
                self._to_join.append(call.id)
                await self._end_rooms(call.room)

    async def _why_closed(
        self, call: Call, silent_since: datetime, now: datetime
    ) -> EndReason | None:
        """The reason for which a call without a sign of life ends; None when it goes on."""
        if self._livekit is None or call.channel != "sip":
            return EndReason.AGENT_LOST
        try:
            if not await takeover.has_caller(self._livekit, call.room):
                # Nobody was there to note that a caller who heard ringing has hung up.
                rang = call.answered_at is None and call.direction == "inbound"
                return EndReason.CANCELLED if rang else EndReason.AGENT_LOST
            agent = takeover.next_agent(await self._livekit.dispatches(call.room))
            if agent is None:
                return EndReason.AGENT_LOST
            # Of several guardians one sends.
            async with self._db.work() as session:
                lease = await service.take_abandoned(
                    session, call.id, silent_since=silent_since, now=now
                )
            if lease is not None:
                log.warning("agent_replaced", call_id=call.id, agent=agent)
                await takeover.send(self._livekit, call.room, agent)
        except LiveKitFailed as error:
            log.warning("livekit_not_asked", call_id=call.id, detail=str(error))
            unseen = now - service.last_seen(call) > self._options.closed_after
            return EndReason.AGENT_LOST if unseen else None
        return None

    async def _end_rooms(self, room: str) -> None:
        """Let nobody wait for an agent that is gone: neither the caller nor whom it had asked."""
        if self._livekit is None:
            return
        for name in (room, f"{CONSULT_ROOM}{room}"):
            try:
                await self._livekit.delete_room(name)
            except LiveKitFailed as error:
                log.warning("room_not_ended", room=name, detail=str(error))

    async def _join_left(self) -> None:
        await self._take_unjoined()
        while self._to_join:
            await self._join(self._to_join.popleft())

    async def _take_unjoined(self) -> None:
        now = self._clock()
        silent_since = now - self._options.join_after
        async with self._db.look() as session:
            unjoined = await queries.ended_without_recording(session, silent_since)
        for call in unjoined:
            try:
                async with self._db.work() as session:
                    lease = await service.take_abandoned(
                        session, call.id, silent_since=silent_since, now=now
                    )
            except Exception:
                log.exception("recording_not_taken", call_id=call.id)
                continue
            if lease is not None:
                self._to_join.append(call.id)

    async def _join(self, call_id: str) -> None:
        """Make one WAV of what the agent had stored, if the call was recorded and is not joined yet."""
        try:
            async with self._db.look() as session:
                found = await queries.recording(session, call_id)
            if found is None or found.state != "open":
                return
            joined = await recording.join(self._blobs, found)
            async with self._db.work() as session:
                await service.close_recording(
                    session,
                    call_id,
                    blob_key=joined.blob_key,
                    duration_ms=joined.duration_ms,
                    peaks=joined.peaks,
                    replies=joined.replies,
                    state="incomplete",
                    now=self._clock(),
                )
            await recording.discard(self._blobs, found.segments)
            log.info("recording_joined", call_id=call_id, missing=len(joined.missing))
        except Exception:
            log.exception("recording_not_joined", call_id=call_id)


def _short(error: Exception) -> str:
    """An error as people may read it; a database's own text repeats what was to be stored."""
    return type(error).__name__ if hasattr(error, "orig") else f"{type(error).__name__}: {error}"
