"""EDGE: dial what is queued. Sends for an agent to each queued call that is due; the agent does the rest.

Any number of dialers may run: each takes another call, in a transaction. Woken by every commit of
events, so a call is dialled as soon as it is asked for.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from datetime import timedelta

import structlog

from trunkline.calls import queries
from trunkline.desk import dial
from trunkline.desk.sip import AGENT, CALL_KEY
from trunkline.kit.clock import Clock, utc_now
from trunkline.kit.db import Database
from trunkline.kit.livekit import LiveKit, LiveKitFailed
from trunkline.outbox.listen import commits

log = structlog.get_logger()


@dataclass(frozen=True)
class DialerOptions:
    """How often it looks by itself."""

    every: timedelta = timedelta(seconds=5)
    """The longest pause between two looks, should no commit wake it."""
    again_after: timedelta = timedelta(seconds=1)
    """Pause after something failed."""


class Dialer:
    """One dialer; ``run`` until cancelled, or ``sweep`` once."""

    def __init__(
        self,
        db: Database,
        livekit: LiveKit,
        options: DialerOptions = DialerOptions(),
        clock: Clock = utc_now,
    ) -> None:
        self._db, self._livekit, self._options, self._clock = db, livekit, options, clock
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Dial again and again; what fails is logged and tried again."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            while True:
                self._woken.clear()
                pause = self._options.again_after
                try:
                    await self.sweep()
                    pause = await self._pause()
                except Exception:
                    log.exception("dialer_failed")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause.total_seconds()):
                        await self._woken.wait()

    async def sweep(self) -> list[str]:
        """Send for an agent to each call that is due. Returns the calls."""
        sent: list[str] = []
        while True:
            # A look first: most commits queue nothing, and a look takes no lock.
            async with self._db.look() as session:
                due = await queries.next_due(session)
            now = self._clock()
            if due is None or due > now:
                return sent
            async with self._db.work() as session:
                call = await dial.next_to_dial(session, now=now)
            if call is None:
                return sent
            # After the commit: an agent that comes must find the call taken.
            try:
                await self._livekit.dispatch(
                    call.room, AGENT, metadata=json.dumps({CALL_KEY: call.id})
                )
            except LiveKitFailed as error:
                log.warning("agent_not_sent_for", call_id=call.id, detail=str(error))
            sent.append(call.id)

    async def _pause(self) -> timedelta:
        async with self._db.look() as session:
            due = await queries.next_due(session)
        if due is None:
            return self._options.every
        return max(timedelta(0), min(self._options.every, due - self._clock()))

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(commits(self._db)) as news:
                    async for _ in news:
                        self._woken.set()
            except Exception:
                log.warning("dialer_watch_failed", exc_info=True)
            await asyncio.sleep(self._options.again_after.total_seconds())
