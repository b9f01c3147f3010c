"""The way of one call, from the ring to the hang-up, on whatever line it came."""

import asyncio
import contextlib
import wave
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from livekit import rtc
from livekit.agents import NOT_GIVEN, AgentSession, ErrorEvent
from livekit.agents.llm import LLMError
from livekit.agents.stt import STTError
from livekit.agents.tts import TTSError
from livekit.agents.voice import SpeechHandle

from trunkline.agent import persona
from trunkline.agent import session as sessions
from trunkline.agent.conversation import Conversation, heard
from trunkline.agent.errors import provider_failed
from trunkline.agent.keys import KeyCollector
from trunkline.agent.line import Line
from trunkline.agent.options import AgentOptions
from trunkline.agent.outbound import Opening
from trunkline.agent.recorder import Recorder
from trunkline.agent.scribe import Scribe
from trunkline.agent.tools import tools_for
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.queries import turns as turns_of
from trunkline.crm import queries as crm_reads
from trunkline.crm import service as crm
from trunkline.desk import callbacks, dial
from trunkline.desk.arrival import Reception, receive
from trunkline.desk.door import Kind
from trunkline.errors import ProviderFailed, StaleLease, TrunklineError
from trunkline.kit.blobs import Blobs
from trunkline.kit.clock import Clock
from trunkline.kit.db import Database
from trunkline.profiles.body import ProfileBody

log = structlog.get_logger()

APOLOGY = (
    "I'm sorry, I have a technical problem just now. "
    "Somebody will call you back as soon as possible. Goodbye."
)
"""Said when a provider fails; ``clips/sorry.en.wav`` says it when no voice is left."""


_APOLOGY_LIMIT = timedelta(seconds=20)
_STOP = timedelta(seconds=5)
"""How long each part of a call may take to stop. livekit-agents may hang when the caller hangs up
while the agent speaks (agents#5497)."""


@dataclass(frozen=True)
class Services:
    """What a call needs besides its line."""

    db: Database
    blobs: Blobs
    options: AgentOptions
    clock: Clock


@dataclass(frozen=True)
class Outcome:
    """How a call went; ``failure`` tells the operator of a provider that failed."""

    call_id: str
    reason: EndReason
    failure: ProviderFailed | None = None


async def answer(line: Line, services: Services) -> Outcome:
    """Take the call on *line*: store it, answer, talk, and leave everything written down.

    Whatever fails, the call ends with a reason and what was stored stays.
    """
    try:
        reception, lease = await _receive(line, services)
    except Exception:
        await line.hang_up()
        raise
    structlog.contextvars.bind_contextvars(call_id=lease.call_id)
    if reception.answering is None:
        await line.hang_up()
        return await _close(services, lease, EndReason.NO_PROFILE, services.clock(), None)
    if reception.door.kind is Kind.BLOCKED:
        try:  # stored first: LiveKit tells others at once that the room is gone
            return await _close(services, lease, EndReason.BLOCKED, services.clock(), None)
        finally:
            await line.hang_up()
    talk = Conversation(
        db=services.db,
        line=line,
        lease=lease,
        reception=reception,
        body=reception.answering.body,
        options=services.options,
        scribe=Scribe(services.db, lease, line, services.clock),
        clock=services.clock,
    )
    talk.scribe.on_stale = lambda: talk.end(EndReason.AGENT_LOST)
    call = _Call(line, services, talk)
    # Until all is stored: without a sign of life the guardian would take a slow ending for a dead agent.
    alive = asyncio.create_task(_beat(services, talk), name="heartbeat")
    reason = EndReason.INTERNAL_ERROR
    try:
        try:
            reason = await call.run()
        except Exception:
            log.exception("call_failed")
        finally:
            # Whoever took the call over still talks to the caller.
            await (line.leave() if reason is EndReason.AGENT_LOST else line.hang_up())
        ended_at = services.clock()
        await call.wind_up()
        return await _close(services, lease, reason, ended_at, call.failure)
    finally:
        alive.cancel()


async def _receive(line: Line, services: Services) -> tuple[Reception, calls.Lease]:
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
        return reception, await calls.take_lease(session, reception.call_id, now=now)


async def _close(
    services: Services,
    lease: calls.Lease,
    reason: EndReason,
    ended_at: datetime,
    failure: ProviderFailed | None,
) -> Outcome:
    now = services.clock()
    try:
        async with services.db.work() as session:
            call = await calls.end(
                session, lease.call_id, reason, now=now, lease=lease, ended_at=ended_at
            )
            await dial.settle(session, call, now=now)
    except StaleLease:
        log.warning("call_taken_over")
    log.info("call_ended", end_reason=reason.value)
    return Outcome(lease.call_id, reason, failure)


async def _beat(services: Services, talk: Conversation) -> None:
    while True:
        try:
            async with services.db.work() as session:
                await calls.heartbeat(session, talk.lease, now=services.clock())
        except StaleLease:
            talk.end(EndReason.AGENT_LOST)
            return
        except Exception:
            log.exception("heartbeat_not_stored")
        await asyncio.sleep(services.options.heartbeat.total_seconds())


class _Call:
    """The parts that run while one call is on."""

    def __init__(self, line: Line, services: Services, talk: Conversation) -> None:
        self._line, self._services, self._talk = line, services, talk
        self._session: AgentSession[Conversation] | None = None
        self._recorder: Recorder | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._answered = asyncio.Event()
        self._failed = False
        self._first: Opening | None = None
        self._silence: asyncio.Task[None] | None = None
        self.failure: ProviderFailed | None = None

    async def run(self) -> EndReason:
        """Prepare while it rings, answer, greet, and stay until the call is over."""
        talk, body = self._talk, self._talk.body
        self._spawn(self._watch_line())
        let_in = talk.reception.door.lets_in
        calls_out = self._line.arrival.direction == "outbound" and body.outbound is not None
        if calls_out:
            words = persona.opening(body, talk.reception, self._line.arrival.reason)
        else:
            words = (persona.greeting if let_in else persona.turned_away)(body, talk.reception)
        session = sessions.build(body, self._services.options, talk)
        session.on("error", self._on_error)
        talk.scribe.listen(session)
        talk.watch(session)
        self._session = session
        greeting = asyncio.create_task(self._synthesise(body, words))
        agent = sessions.agent(
            persona.instructions(body, talk.reception, now=talk.clock()),
            tools_for(body, await self._stages(body)),
            await self._said(),
        )
        await self._line.attach(session, talk.scribe.heard_text())
        await session.start(agent, record=False)
        frames = await greeting
        if body.record and let_in:  # without a greeting nobody has been told of a recording
            self._recorder = Recorder(
                self._services.db, self._services.blobs, talk.lease, talk.clock
            )
            await self._recorder.start()
            self._line.tap(self._recorder.push)
        if talk.is_over:
            return await talk.over()
        if calls_out:
            # Before the answer: whoever picks up may speak at once.
            self._open(session, words, frames)
        if not await self._line.answer():
            return await talk.over()
        self._answered.set()
        if calls_out:
            self._spawn(self._opening())
        elif frames is not None and not self._failed:
            said = session.say(words, audio=_stream(frames), allow_interruptions=let_in)
            if not let_in:
                self._spawn(self._send_away(said))
        async with talk.db.work() as work:
            await calls.answer(work, talk.lease, now=talk.clock())
        self._line.on_digit(self._keys().press)
        if not calls_out:
            self._silence = self._spawn(talk.mind_silence(session))
        self._spawn(talk.mind_limit(session))
        return await talk.over()

    async def wind_up(self) -> None:
        """Stop what runs, in the order in which nothing is lost."""
        for task in self._tasks:
            task.cancel()
        # Bounded: awaiting a speech may swallow its cancellation.
        await asyncio.wait(self._tasks, timeout=_STOP.total_seconds())
        await self._talk.finish_work(self._services.options.tool_grace)
        if self._session is not None:
            closing = asyncio.create_task(self._session.aclose())
            await asyncio.wait([closing], timeout=_STOP.total_seconds())
        await self._talk.scribe.aclose()
        if self._recorder is not None:
            try:
                await self._recorder.stop()
            except (TrunklineError, OSError):
                log.exception("recording_not_closed")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    # When we call ---------------------------------------------------------------------------

    def _open(
        self, session: AgentSession[Conversation], words: str, frames: list[rtc.AudioFrame] | None
    ) -> None:
        def say() -> SpeechHandle:
            if frames is None:
                return session.say(words, allow_interruptions=False)
            return session.say(words, audio=_stream(frames), allow_interruptions=False)

        first = self._first = Opening(self._talk, session, say)
        recorder = self._recorder

        def tap(callee: bytes, agent: bytes) -> None:
            if recorder is not None:
                recorder.push(callee, agent)
            first.hear(callee)

        self._line.tap(tap)

    async def _opening(self) -> None:
        assert self._first is not None
        assert self._session is not None
        await self._first.greet()
        self._silence = self._spawn(self._talk.mind_silence(self._session))
        await self._first.watch()

    # Before the first word ------------------------------------------------------------------

    async def _synthesise(self, body: ProfileBody, words: str) -> list[rtc.AudioFrame] | None:
        """The greeting's audio, made while the line rings; None when there is no voice."""
        options = self._services.options
        voice = sessions.speech(body, options)
        try:
            async with asyncio.timeout(options.greeting_timeout.total_seconds()):
                async with voice.synthesize(words, conn_options=sessions.SPEAKING) as stream:
                    return [event.frame async for event in stream]
        except Exception as error:
            self._fail("tts", error)
            return None
        finally:
            await voice.aclose()

    async def _stages(self, body: ProfileBody) -> tuple[str, ...]:
        """The stages a deal may be moved to: the pipeline's, or all when the profile names none."""
        async with self._services.db.look() as session:
            found = [
                pipeline
                for pipeline in await crm_reads.pipelines(session)
                if body.pipeline in (None, pipeline.name)
            ]
        return tuple(dict.fromkeys(stage["name"] for pipe in found for stage in pipe.stages))

    async def _said(self) -> Any:
        async with self._services.db.look() as session:
            return await turns_of(session, self._talk.lease.call_id)

    # While it is on -------------------------------------------------------------------------

    async def _watch_line(self) -> None:
        self._talk.end(await self._line.ended())

    async def _send_away(self, said: SpeechHandle) -> None:
        """End the call of somebody who is not let in, once the words are heard."""
        await heard(said)
        await asyncio.sleep(self._services.options.hangup_grace.total_seconds())
        full = self._talk.reception.door.kind is Kind.CAPACITY
        self._talk.end(EndReason.CAPACITY if full else EndReason.BLOCKED)

    def _keys(self) -> KeyCollector:
        return KeyCollector(self._services.options.key_gap, self._on_keys)

    def _on_keys(self, digits: str) -> None:
        """Keys reach the model as a turn of their own and cut the agent off, as speech would."""
        talk, session = self._talk, self._session
        assert session is not None
        talk.stir()
        talk.scribe.keys_pressed(digits, self._line.position_ms())
        with contextlib.suppress(RuntimeError):  # nothing to interrupt, or it may not be
            session.interrupt()
        session.generate_reply(user_input=f"[keys {digits}]")

    # When a provider fails --------------------------------------------------------------------

    def _on_error(self, event: ErrorEvent) -> None:
        error = event.error
        if not isinstance(error, LLMError | STTError | TTSError) or error.recoverable:
            return
        self._fail(
            {"llm_error": "llm", "stt_error": "stt", "tts_error": "tts"}[error.type], error.error
        )

    def _fail(self, part: str, error: BaseException) -> None:
        """A provider is gone for good. The first one counts; the others mostly follow from it."""
        if self._failed:
            return
        self._failed = True
        options = self._services.options
        address = {
            "stt": options.deepgram.base_url,
            "llm": options.openai.base_url,
            "tts": options.cartesia.base_url,
        }[part]
        self.failure = provider_failed(part, error, address)
        log.error("provider_failed", part=part, detail=str(self.failure))
        self._spawn(self._give_up(has_voice=part != "tts"))

    async def _give_up(self, *, has_voice: bool) -> None:
        """Apologise, promise a call back and keep the promise, then hang up."""
        talk, session = self._talk, self._session
        assert session is not None
        talk.keep(self._promise_callback())
        await self._answered.wait()
        if self._silence is not None:
            self._silence.cancel()
        try:
            async with asyncio.timeout(_APOLOGY_LIMIT.total_seconds()):
                with contextlib.suppress(RuntimeError):  # nothing is being said
                    await session.interrupt(force=True)
                clip = NOT_GIVEN if has_voice else _clip("sorry.en.wav")
                await session.say(APOLOGY, audio=clip, allow_interruptions=False)
        except (RuntimeError, TimeoutError):
            log.warning("apology_not_said")
        talk.end(EndReason.PROVIDER_DOWN)

    async def _promise_callback(self) -> None:
        talk, now = self._talk, self._talk.clock()
        caller = talk.reception.caller
        try:
            async with talk.db.work() as session:
                await callbacks.request_callback(
                    session,
                    contact_id=talk.contact_id,
                    number=caller.e164 if caller else None,
                    due=now + timedelta(minutes=15),
                    reason="the call broke off because of a technical problem",
                    cause=crm.Cause(source="call", call_id=talk.lease.call_id),
                    now=now,
                )
        except Exception:
            log.exception("callback_not_stored")


async def _stream(frames: list[rtc.AudioFrame]) -> AsyncIterator[rtc.AudioFrame]:
    for frame in frames:
        yield frame


async def _clip(name: str) -> AsyncIterator[rtc.AudioFrame]:
    """A recorded sentence of the package, for when no voice is left."""
    with wave.open(str(Path(__file__).parent / "clips" / name)) as file:
        rate = file.getframerate()
        while data := file.readframes(rate // 50):
            yield rtc.AudioFrame(data, rate, 1, len(data) // 2)
