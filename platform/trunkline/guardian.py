"""Watches live calls: one whose agent has died is closed, and its recording made playable.

Any number of guardians may run. Each looks by itself; the lease of a call decides which of
them closes it, and whoever has the lease joins the recording.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog

from trunkline.calls import queries, recording, service
from trunkline.kit.blobs import Blobs
from trunkline.kit.clock import Clock, utc_now
from trunkline.kit.db import Database

log = structlog.get_logger()


@dataclass(frozen=True)
class GuardianOptions:
    """How soon a silent agent is given up."""

    every: timedelta = timedelta(seconds=1)
    """Pause between two looks at the live calls."""
    lost_after: timedelta = timedelta(seconds=6)
    """An agent without a sign of life for this long is dead. Above three of its heartbeats."""
    join_after: timedelta = timedelta(seconds=60)
    """Whoever was joining the recording of an ended call is given up after this long. Longer than
    joining the longest recording takes: an hour is 115 MB."""


class Guardian:
    """One guardian; ``run`` until cancelled, or ``sweep`` once."""

    def __init__(
        self, db: Database, blobs: Blobs, options: GuardianOptions, clock: Clock = utc_now
    ) -> None:
        self._db, self._blobs, self._options, self._clock = db, blobs, options, clock
        self._to_join: deque[str] = deque()

    async def run(self) -> None:
        """Sweep again and again; what fails is logged and tried again by the next sweep.

        Joining a long recording never delays the closing of other calls.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._again_and_again(self._close_lost))
            tasks.create_task(self._again_and_again(self._join_left))

    async def sweep(self) -> None:
        """Close the calls that lost their agent, then join the recordings nobody is joining.

        What fails with one call is logged and tried again later; the others are done meanwhile.
        """
        await self._close_lost()
        await self._join_left()

    async def _again_and_again(self, do: Callable[[], Awaitable[None]]) -> None:
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
                async with self._db.work() as session:
                    lease = await service.lose(session, call.id, silent_since=silent_since, now=now)
            except Exception:
                log.exception("call_not_closed", call_id=call.id)
                continue
            if lease is not None:
                log.warning("agent_lost", call_id=call.id, epoch=lease.epoch)
                self._to_join.append(call.id)

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
                    state="incomplete",
                    now=self._clock(),
                )
            await recording.discard(self._blobs, found.segments)
            log.info("recording_joined", call_id=call_id, missing=len(joined.missing))
        except Exception:
            log.exception("recording_not_joined", call_id=call_id)
