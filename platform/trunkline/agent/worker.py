"""The way of one call, from the ring to the hang-up, on whatever line it came."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from livekit import rtc
from livekit.agents import Agent, AgentSession, ErrorEvent
from livekit.agents.llm import LLMError
from livekit.agents.stt import STTError
from livekit.agents.tts import TTSError
from livekit.agents.voice import SpeechHandle

from trunkline.agent import persona, realtime
from trunkline.agent import session as sessions
from trunkline.agent.audio import Quieted
from trunkline.agent.conversation import Conversation
from trunkline.agent.errors import provider_failed
from trunkline.agent.fallback import fall_back, offer
from trunkline.agent.first_words import FirstWords
from trunkline.agent.keys import KeyCollector
from trunkline.agent.line import Line
from trunkline.agent.models.team import Team, assemble
from trunkline.agent.outbound import Opening
from trunkline.agent.phrases import phrase
from trunkline.agent.pickup import at_ms, note
from trunkline.agent.recorder import Recorder
from trunkline.agent.rescue import serve
from trunkline.agent.scribe import Scribe
from trunkline.agent.services import Ended, Rescued, Services, beat, close, take
from trunkline.agent.tools import tools_for
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.queries import turns as turns_of
from trunkline.calls.usage import bill
from trunkline.crm import queries as crm_reads
from trunkline.desk.door import Kind
from trunkline.errors import ProviderFailed, StaleLease, TrunklineError
from trunkline.profiles.body import ProfileBody
from trunkline.profiles.choices import PartName

log = structlog.get_logger()

T = TypeVar("T")

_CUT_OFF = timedelta(seconds=1)
"""How long what is being said may take to stop, before the answer that is owed begins all the same."""
_STOP = timedelta(seconds=5)
"""How long each part of a call may take to stop. livekit-agents may hang when the caller hangs up
while the agent speaks (agents#5497)."""


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
        taken = await take(line, services, over_rescue=False)
    except Rescued as rescued:
        log.info("rescue_answers", call_id=rescued.call_id)
        await line.leave()
        return Outcome(rescued.call_id, EndReason.AGENT_LOST)
    except Ended as ended:
        await line.hang_up()
        return Outcome(ended.call_id, ended.reason)
    except Exception:
        await line.hang_up()
        raise
    note("call_stored")
    reception, lease = taken.reception, taken.lease
    structlog.contextvars.bind_contextvars(call_id=lease.call_id)
    if reception.answering is None:
        await line.hang_up()
        await close(services, lease, EndReason.NO_PROFILE, services.clock())
        return Outcome(lease.call_id, EndReason.NO_PROFILE)
    if reception.door.kind in (Kind.CAPACITY, Kind.MESSAGE):
        reason = await serve(line, services, reception, lease)
        return Outcome(lease.call_id, reason)
    if reception.door.kind is Kind.BLOCKED:
        try:  # stored first: LiveKit tells others at once that the room is gone
            await close(services, lease, EndReason.BLOCKED, services.clock())
            return Outcome(lease.call_id, EndReason.BLOCKED)
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
    if talk.contact_id is None:
        talk.contact_id = taken.contact_id
    talk.scribe.on_stale = lambda: talk.end(EndReason.AGENT_LOST)
    call = _Call(line, services, talk, goes_on=taken.goes_on)
    # Until all is stored: without a sign of life the guardian would take a slow ending for a dead agent.
    alive = asyncio.create_task(
        beat(services, lease, lambda: talk.end(EndReason.AGENT_LOST)), name="heartbeat"
    )
    reason = EndReason.INTERNAL_ERROR
    try:
        try:
            reason = await call.run()
        except StaleLease:
            reason = EndReason.AGENT_LOST
        except Exception:
            log.exception("call_failed")
        finally:
            # Whoever took the call over still talks to the caller.
            await (line.leave() if reason is EndReason.AGENT_LOST else line.hang_up())
        ended_at = services.clock()
        await call.wind_up()
        await close(services, lease, reason, ended_at)
        return Outcome(lease.call_id, reason, call.failure)
    finally:
        alive.cancel()


class _Call:
    """The parts that run while one call is on."""

    def __init__(
        self, line: Line, services: Services, talk: Conversation, *, goes_on: bool
    ) -> None:
        self._line, self._services, self._talk = line, services, talk
        self._goes_on = goes_on
        """Another agent began this call and died."""
        self._session: AgentSession[Conversation] | None = None
        self._team: Team | None = None
        self._recorder: Recorder | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._realtime: realtime.Realtime | None = None
        self._changing: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._answered = asyncio.Event()
        self._failed = False
        self._first: Opening | None = None
        self._first_words: FirstWords | None = None
        self._silence: asyncio.Task[None] | None = None
        self.failure: ProviderFailed | None = None

    async def run(self) -> EndReason:
        """Prepare while it rings, answer, greet, and stay until the call is over."""
        talk, body = self._talk, self._talk.body
        self._keep(self._watch_line())
        outbound = self._line.arrival.direction == "outbound" and body.outbound is not None
        calls_out = outbound and not self._goes_on
        if self._goes_on:
            words = phrase(body, "back")
        elif calls_out:
            words = persona.opening(body, talk.reception, self._line.arrival.reason)
        else:
            words = persona.greeting(body, talk.reception)
        kept = self._services.kept
        team = self._team = assemble(body, self._services.options, talk.clock, kept)
        talk.sound = team.speaking.sound
        first = self._first_words = FirstWords(words, body, team.speaking, kept)
        begun = self._keep(self._begun(first))
        # A pipeline's session starts without a word to anybody, in less time than it takes to pick up. A
        # Realtime model is asked first, and whom we call may speak at once.
        at_once = not calls_out and body.realtime is None
        picked_up = self._keep(self._pick_up(begun)) if at_once else None
        recording = self._keep(self._record())
        session = sessions.build(body, team, talk)
        session.on("error", self._on_error)
        talk.scribe.listen(session)
        talk.watch(session)
        self._session = session
        agent = await self._agent(session, speech_to_speech=not calls_out)
        await self._line.attach(session, talk.scribe.heard_text())
        if body.noise_suppression and session.input.audio is not None:
            session.input.audio = Quieted(session.input.audio)
        note("session_made")
        await session.start(agent, record=False)
        note("session_started")
        self._started.set()
        has_begun = await begun
        frames = await self._whole(first) if calls_out and has_begun else None
        if calls_out:
            await recording
        if self._changing is not None:
            # Until then nobody hears the caller.
            await asyncio.wait([self._changing], timeout=_STOP.total_seconds())
        if talk.is_over:
            return await talk.over()
        if calls_out:
            # Before the answer: whoever picks up may speak at once.
            self._open(session, words, frames)
        elif has_begun and not self._failed:
            # It waits on the line until that is open.
            session.say(words, audio=self._stream(first))
        if not await (picked_up or self._line.answer()):
            return await talk.over()
        log.info("picked_up", **at_ms())
        await recording
        talk.on_key = self._keys().press
        self._line.on_digit(talk.on_key)
        self._answered.set()  # from here on the menu may take the keys
        if calls_out:
            self._keep(self._opening())
        async with talk.db.work() as work:
            if self._goes_on:
                await calls.take_over(work, talk.lease)
            else:
                await calls.answer(work, talk.lease, now=talk.clock())
        if not calls_out and not self._failed:
            self._silence = self._keep(self._converse(body))
        self._keep(talk.mind_limit())
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
        if self._first_words is not None:
            await self._first_words.aclose()
        if self._realtime is not None:
            with contextlib.suppress(Exception):
                await self._realtime.aclose()
        if self._team is not None:
            disbanding = asyncio.create_task(self._team.aclose())
            await asyncio.wait([disbanding], timeout=_STOP.total_seconds())
            await self._store_usage(self._team)
        await self._talk.scribe.aclose()
        if self._recorder is not None:
            try:
                await self._recorder.stop()
            except (TrunklineError, OSError):
                log.exception("recording_not_closed")

    async def _store_usage(self, team: Team) -> None:
        used, limits = team.used, {}
        if (model := self._realtime) is not None:
            used, limits = [model.used, *used], {model.label_shown: model.limits}
        usage = bill(used, self._services.options.prices, limits)
        try:
            async with self._talk.db.work() as work:
                await calls.add_usage(work, self._talk.lease, usage)
        except StaleLease:
            log.info("usage_fenced")
        except Exception:
            # What it cost matters less than that the call is closed.
            log.exception("usage_not_stored")

    def _keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def _agent(
        self,
        session: AgentSession[Conversation],
        *,
        speech_to_speech: bool,
        first: Callable[[], object] = lambda: None,
    ) -> Agent:
        """Who talks, knowing what was said so far; *first* is called when it has the call."""
        talk, body = self._talk, self._talk.body
        instructions = persona.instructions(body, talk.reception, now=talk.clock())
        tools = tools_for(body, await self._stages(body))
        # Nothing yet, of a call that begins.
        said = await self._said() if self._goes_on or self._started.is_set() else []
        if speech_to_speech and body.realtime is not None:
            model = self._realtime = realtime.Realtime(
                body.realtime, body.language, self._services.options
            )
            model.on_lost = self._on_realtime_lost
            talk.scribe.models_of = self._models_of
            model.watch(session)
            return realtime.agent(model, instructions, tools, said)
        assert self._team is not None
        talk.scribe.models_of = self._team.models_of
        self._team.watch(session)
        return sessions.agent(instructions, tools, said, first)

    def _models_of(self, role: str) -> dict[str, str]:
        """Who made a turn while the Realtime model has the call; fixed sentences are the voice's alone."""
        assert self._team is not None
        assert self._realtime is not None
        voice = self._team.models_of(role) if role == "agent" else {}
        if voice and (self._realtime.choice.modality == "audio" or not self._realtime.taken()):
            return voice
        return {"realtime": self._realtime.label_shown, **voice}

    async def _converse(self, body: ProfileBody) -> None:
        """The profile's choices by key, if it has any; then the agent talks, and silence is minded."""
        talk, session = self._talk, self._session
        if body.menu is not None and not self._goes_on:
            assert session is not None
            offering = talk.keep(offer(talk, self._services, session, self._recorder, body.menu))
            if (reason := await asyncio.shield(offering)) is not None:
                talk.end(reason)
                return
            self._line.on_digit(talk.on_key)
        await talk.mind_silence()

    # When we call ---------------------------------------------------------------------------

    def _open(
        self, session: AgentSession[Conversation], words: str, frames: list[rtc.AudioFrame] | None
    ) -> None:
        def say() -> SpeechHandle:
            if frames is None:
                return session.say(words, allow_interruptions=False)
            return session.say(words, audio=_each(frames), allow_interruptions=False)

        first = self._first = Opening(self._talk, session, say)
        recorder = self._recorder

        def tap(callee: bytes, agent: bytes) -> None:
            if recorder is not None:
                recorder.push(callee, agent)
            first.hear(callee)

        self._line.tap(tap)

    async def _opening(self) -> None:
        assert self._first is not None
        while True:
            await self._first.greet()
            self._silence = self._keep(self._talk.mind_silence())
            if not await self._first.watch():
                return
            # Nobody is asked whether they are still there who has not come yet.
            self._silence.cancel()

    # Before the first word ------------------------------------------------------------------

    async def _begun(self, first: FirstWords) -> bool:
        """Wait, while the line rings, for the first of the sound; False when there is no voice."""
        try:
            async with asyncio.timeout(self._services.options.greeting_timeout.total_seconds()):
                await first.begun()
        except Exception as error:
            self._fail("tts", error)
            return False
        note("greeting_begun")
        return True

    async def _whole(self, first: FirstWords) -> list[rtc.AudioFrame] | None:
        try:
            async with asyncio.timeout(self._services.options.greeting_timeout.total_seconds()):
                return await first.whole()
        except TimeoutError as error:
            self._fail("tts", error)
            return None

    async def _stream(self, first: FirstWords) -> AsyncIterator[rtc.AudioFrame]:
        async for frame in first.stream():
            yield frame
        if first.error is not None:
            self._fail("tts", first.error)

    async def _pick_up(self, begun: asyncio.Task[bool]) -> bool:
        """Open the line once there is something to be heard on it."""
        await begun
        return await self._line.answer()

    async def _record(self) -> None:
        if not self._talk.body.record:
            return
        services = self._services
        self._recorder = Recorder(
            services.db,
            services.blobs,
            self._talk.lease,
            self._talk.clock,
            self._line.position_ms,
        )
        self._line.tap(self._recorder.push)
        await self._recorder.start()

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
        reason = await self._talk.why(await self._line.ended())
        if self._failed and reason is EndReason.CALLER_HANGUP:
            reason = EndReason.PROVIDER_DOWN  # which is why they hung up
        self._talk.end(reason)

    def _keys(self) -> KeyCollector:
        return KeyCollector(self._services.options.key_gap, self._on_keys)

    def _on_keys(self, digits: str) -> None:
        """Keys reach the model as a turn of their own and cut the agent off, as speech would."""
        talk, session = self._talk, self._session
        assert session is not None
        talk.stir()
        talk.scribe.keys_pressed(digits, self._line.position_ms())
        if talk.away:
            return
        with contextlib.suppress(RuntimeError):  # nothing to interrupt, or it may not be
            session.interrupt()
        session.generate_reply(user_input=f"[keys {digits}]")

    # When a speech-to-speech model fails -------------------------------------------------------

    def _on_realtime_lost(self, error: BaseException, owed: bool) -> None:
        assert self._realtime is not None
        failure = provider_failed(
            "realtime", error, self._realtime.address, self._realtime.label_shown
        )
        log.error("provider_failed", part="realtime", detail=str(failure))
        self._changing = self._keep(self._to_pipeline(owed=owed))

    async def _to_pipeline(self, *, owed: bool) -> None:
        """The pipeline goes on where the Realtime model stopped, and gives the answer it owes."""
        talk, session = self._talk, self._session
        assert session is not None
        await self._started.wait()
        if owed:
            # What is being said is half an answer; the whole one follows.
            with contextlib.suppress(RuntimeError, TimeoutError):
                async with asyncio.timeout(_CUT_OFF.total_seconds()):
                    await session.interrupt(force=True)
        await talk.scribe.settled()

        def first() -> None:
            if not owed or talk.is_over:
                return
            if said and said[-1].role == "user":
                session.generate_reply()
            else:  # what the caller said was lost with the model
                talk.say(phrase(talk.body, "back"))

        said = await self._said()
        realtime.unwatch(session)
        session.update_agent(await self._agent(session, speech_to_speech=False, first=first))
        if (change := session._update_activity_atask) is not None:  # nothing public tells its end
            await asyncio.wait([change], timeout=_STOP.total_seconds())

    # When a provider fails --------------------------------------------------------------------

    def _on_error(self, event: ErrorEvent) -> None:
        error = event.error
        if not isinstance(error, LLMError | STTError | TTSError) or error.recoverable:
            return
        parts: dict[str, PartName] = {"llm_error": "llm", "stt_error": "stt", "tts_error": "tts"}
        self._fail(parts[error.type], error.error)

    def _fail(self, part: PartName, error: BaseException) -> None:
        """A provider is gone for good. The first one counts; the others mostly follow from it."""
        if self._failed:
            return
        self._failed = True
        assert self._team is not None
        self.failure = self._team.failure(part, error)
        log.error("provider_failed", part=part, detail=str(self.failure))
        self._keep(self._give_up())

    async def _give_up(self) -> None:
        """The keypad menu takes over; it outlives the caller, who may hang up on a promise."""
        await self._answered.wait()
        if self._silence is not None:
            self._silence.cancel()
        assert self._session is not None
        falling = self._talk.keep(
            fall_back(self._talk, self._services, self._session, self._recorder)
        )
        self._talk.end(await asyncio.shield(falling))


async def _each(frames: list[rtc.AudioFrame]) -> AsyncIterator[rtc.AudioFrame]:
    for frame in frames:
        yield frame
