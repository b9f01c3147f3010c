"""Answering without a model: recorded sentences and the keypad menu.

For calls that find no agent: every line is busy, the worker is full, or the agent that was sent for did
not come. Nothing has to be loaded, so one process holds many such calls.
"""

import asyncio
from collections.abc import Callable

import structlog

from trunkline.agent import clips
from trunkline.agent.bare import ClipVoice, play
from trunkline.agent.line import Line
from trunkline.agent.menu import Caller, Menu, person_of, until_over
from trunkline.agent.recorder import Recorder
from trunkline.agent.scribe import Scribe
from trunkline.agent.services import Ended, Services, Taken, beat, close, take
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.desk.arrival import Reception
from trunkline.desk.door import Kind
from trunkline.errors import StaleLease, TrunklineError
from trunkline.profiles.body import ProfileBody

log = structlog.get_logger()


async def rescue(line: Line, services: Services) -> EndReason:
    """Answer *line* with the menu, store all of it, and hang up. Returns why the call ended.

    Whatever fails, the caller hears the package's sentences, and the line is closed in the end.
    """
    try:
        taken = await _take(line, services)
    except Ended as ended:
        await line.hang_up()
        return ended.reason
    except Exception:
        log.exception("call_not_stored", room=line.arrival.room)
        return await _apologise(line)
    return await serve(line, services, taken.reception, taken.lease)


async def serve(
    line: Line, services: Services, reception: Reception, lease: calls.Lease
) -> EndReason:
    """The same for a call that is ours already."""
    structlog.contextvars.bind_contextvars(call_id=lease.call_id)
    talk = _Rescue(line, services, reception, lease)
    alive = asyncio.create_task(beat(services, lease, talk.lose), name="heartbeat")
    reason = EndReason.INTERNAL_ERROR
    try:
        try:
            reason = await talk.run()
        except StaleLease:
            reason = EndReason.AGENT_LOST
        except Exception:
            log.exception("rescue_failed")
        finally:
            # Whoever took the call over still talks to the caller.
            await (line.leave() if reason is EndReason.AGENT_LOST else line.hang_up())
        ended_at = services.clock()
        await talk.wind_up()
        await close(services, lease, reason, ended_at)
    finally:
        alive.cancel()
    return reason


async def _take(line: Line, services: Services) -> Taken:
    try:
        return await take(line, services)
    except Ended:
        raise
    except Exception as error:  # a database that is busy for once is asked again
        log.warning("call_not_stored_yet", room=line.arrival.room, detail=str(error)[:300])
        return await take(line, services)


async def _apologise(line: Line) -> EndReason:
    """Nothing can be stored, so nothing may be promised: say so in the package's words, and let them go."""
    if await line.answer():
        for name in ("trouble", "goodbye"):
            await play(line.voice, clips.packaged(name).pcm, asyncio.Event())
    await line.hang_up()
    return EndReason.INTERNAL_ERROR


class _Rescue:
    """One call while it is on."""

    def __init__(
        self, line: Line, services: Services, reception: Reception, lease: calls.Lease
    ) -> None:
        self._line, self._services, self._reception, self._lease = line, services, reception, lease
        self._scribe = Scribe(services.db, lease, line, services.clock)
        self._scribe.on_stale = self.lose
        self._tape = Tape(line, services, lease)
        self._lost: asyncio.Future[EndReason] = asyncio.get_running_loop().create_future()

    def lose(self) -> None:
        """Another agent has taken the call over."""
        if not self._lost.done():
            self._lost.set_result(EndReason.AGENT_LOST)

    async def run(self) -> EndReason:
        """Answer, offer the menu, and say why the call ended."""
        line, services, reception = self._line, self._services, self._reception
        kind = reception.door.kind
        if kind is Kind.BLOCKED:
            return EndReason.BLOCKED
        body = reception.answering.body if reception.answering else None
        menu = Menu(
            db=services.db,
            blobs=services.blobs,
            clock=services.clock,
            lease=self._lease,
            line=line,
            scribe=self._scribe,
            body=body,
            caller=Caller(
                number=reception.caller,
                contact_id=reception.contact.id if reception.contact else None,
                region=reception.answering.number.region if reception.answering else None,
                about="nobody could answer the call",
            ),
            voice=ClipVoice(line, self._scribe),
            record=self._tape.start,
            person=person_of(line, body),
            otherwise=EndReason.BLOCKED if kind is Kind.MESSAGE else EndReason.CAPACITY,
            message_only=kind is Kind.MESSAGE,
        )
        line.on_digit(menu.keypad.press)
        self._tape.listen(menu.hear)
        answered, _ = await asyncio.gather(line.answer(), self._record(body))
        if not answered:
            return await line.ended()
        async with services.db.work() as session:
            await calls.rescue(session, self._lease, now=services.clock())
        opening = ("message_door",) if kind is Kind.MESSAGE else ("busy",)
        talking = asyncio.create_task(until_over(menu, line, opening))
        try:
            await asyncio.wait([talking, self._lost], return_when=asyncio.FIRST_COMPLETED)
            return talking.result() if talking.done() else self._lost.result()
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)

    async def _record(self, body: ProfileBody | None) -> None:
        if body is not None and body.record:
            await self._tape.start()

    async def wind_up(self) -> None:
        """Store what is left."""
        await self._scribe.aclose()
        await self._tape.stop()


class Tape:
    """Records from when it is wanted on; what was before is silence, so that its clock is the call's."""

    def __init__(
        self,
        line: Line,
        services: Services,
        lease: calls.Lease,
        running: Recorder | None = None,
    ) -> None:
        """*running* has recorded the call so far, goes on, and is somebody else's to stop."""
        self._line = line
        self._recorder = running or Recorder(
            services.db, services.blobs, lease, services.clock, line.position_ms
        )
        self._on, self._ours = running is not None, running is None
        self._hear: Callable[[bytes], None] = lambda caller: None

    def listen(self, hear: Callable[[bytes], None]) -> None:
        """Let *hear* have the caller's side as well."""
        self._hear = hear
        self._line.tap(self._push)

    async def start(self) -> None:
        """Be recording from now on."""
        if self._on:
            return
        self._on = True
        try:
            await self._recorder.start()
        except BaseException:
            self._on = False
            raise

    async def stop(self) -> None:
        """Store what is left."""
        self._line.tap(None)
        if not self._ours:
            return
        try:
            await self._recorder.stop()
        except (TrunklineError, OSError):
            log.exception("recording_not_closed")

    def _push(self, caller: bytes, agent: bytes) -> None:
        self._hear(caller)
        if self._on:
            self._recorder.push(caller, agent)
