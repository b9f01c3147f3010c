"""One call while it is on: what its tools share, who ends it, and what silence leads to."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from livekit.agents import AgentSession, AgentStateChangedEvent, RunContext, UserStateChangedEvent
from livekit.agents.voice import SpeechHandle

from trunkline.agent.audio import frames_of
from trunkline.agent.line import Line
from trunkline.agent.options import AgentOptions
from trunkline.agent.scribe import Scribe
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.desk.arrival import Reception
from trunkline.desk.identity import Rung, rung
from trunkline.kit.clock import Clock
from trunkline.kit.db import Database
from trunkline.profiles.body import ProfileBody

log = structlog.get_logger()

T = TypeVar("T")

PAUSE = timedelta(milliseconds=700)
"""Silence of both sides after which somebody who has something to add may speak."""
_LONGEST_SPEECH = timedelta(seconds=60)
"""What a profile may have said at once takes some forty seconds."""


async def heard(said: SpeechHandle) -> None:
    """Wait until *said* was played out or cut off; bounded, since a session that closes may never tell."""
    # The task is waited for, not awaited: a speech may swallow the cancellation of who awaits it.
    playing = asyncio.ensure_future(said.wait_for_playout())
    await asyncio.wait([playing], timeout=_LONGEST_SPEECH.total_seconds())


_CONNECTED = timedelta(seconds=5)
"""How long after the caller is gone LiveKit may take to tell that the carrier has connected them."""


class Conversation:
    """The state of one live call. AgentSession carries it as ``userdata``."""

    def __init__(
        self,
        *,
        db: Database,
        line: Line,
        lease: calls.Lease,
        reception: Reception,
        body: ProfileBody,
        options: AgentOptions,
        scribe: Scribe,
        clock: Clock,
    ) -> None:
        self.db, self.line, self.lease = db, line, lease
        self.reception, self.body, self.options = reception, body, options
        self.scribe, self.clock = scribe, clock
        self.contact_id = reception.contact.id if reception.contact else None
        self._matched = reception.contact is not None
        self._over: asyncio.Future[EndReason] = asyncio.get_running_loop().create_future()
        self._work: set[asyncio.Task[Any]] = set()
        self._moved = asyncio.Event()
        self._busy = {"user": False, "agent": False}
        self._user_stirred = False
        self.session: AgentSession[Conversation] | None = None
        """The session that talks with the caller, once it is there."""
        self.holding = False
        """Whether the agent answers nothing by itself: whoever it hears may be a machine."""
        self.on_key: Callable[[str], None] = lambda key: None
        """Gets each key of the caller while nothing else has asked for them."""
        self.sound: Callable[[str], bytes | None] = lambda words: None
        """The sound of a sentence as it was made for another call, PCM16 mono at LINE_RATE_HZ, if it was."""
        self.fillers: list[SpeechHandle] = []
        """What was said only because a tool took long."""
        self.asked: dict[str, int] = {}
        """Entry of the profile → how often the agent has asked for it."""
        self.wrong_codes: dict[str, int] = {}
        """Entry → how many wrong codes were keyed in for it."""
        self.handing_over: asyncio.Future[bool] | None = None
        """Set while the caller is being handed to somebody else; true once they have been."""
        self.away = False
        """The caller is with music, the carrier or somebody else, and not with the agent."""

    @property
    def rung(self) -> Rung:
        """How sure we are who is calling; a contact made in this call proves nothing."""
        return rung(matched=self._matched, attestation=self.reception.attestation)

    def keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *work* so that it outlives the speech that started it; the call's end waits for it."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def finish_work(self, grace: timedelta) -> None:
        """Wait for work that still runs, at most *grace*."""
        if self._work:
            _, pending = await asyncio.wait(self._work, timeout=grace.total_seconds())
            for task in pending:
                log.error("work_cut_off", call_id=self.lease.call_id)
                task.cancel()

    def say(self, words: str, *, allow_interruptions: bool = True) -> SpeechHandle:
        """Say *words* in this call's session, with the sound they had before if they had one.

        Raises RuntimeError when the session closes already.
        """
        if self.session is None:
            raise RuntimeError("no session talks with the caller")
        if pcm := self.sound(words):
            return self.session.say(
                words, audio=frames_of(pcm), allow_interruptions=allow_interruptions
            )
        return self.session.say(words, allow_interruptions=allow_interruptions)

    # The end ------------------------------------------------------------------------------

    def end(self, reason: EndReason) -> None:
        """Say that the call is over. The first reason counts."""
        if not self._over.done():
            self._over.set_result(reason)

    @property
    def is_over(self) -> bool:
        """Whether the call is over already."""
        return self._over.done()

    async def why(self, reason: EndReason) -> EndReason:
        """What it means that the other side left for *reason*: a caller handed over has not hung up."""
        if self.handing_over is None or reason is EndReason.AGENT_HANGUP:
            return reason
        # The carrier takes the caller away a moment before it tells that it connected them.
        await asyncio.wait([self.handing_over], timeout=_CONNECTED.total_seconds())
        done = self.handing_over.done() and self.handing_over.result()
        return EndReason.TRANSFERRED if done else reason

    async def over(self) -> EndReason:
        """Wait until the call is over, and why."""
        return await asyncio.shield(self._over)

    async def say_goodbye(self, context: RunContext["Conversation"]) -> None:
        """Let the words said with the tool be heard to the last syllable, then end the call.

        A model that hung up without a word has the profile's farewell said for it.
        """
        await context.wait_for_playout()
        if not any(item.type == "message" for item in context.speech_handle.chat_items):
            await self.say(self.body.farewell, allow_interruptions=False)
        await asyncio.sleep(self.options.hangup_grace.total_seconds())
        self.end(EndReason.AGENT_HANGUP)

    # Silence ------------------------------------------------------------------------------

    def watch(self, session: AgentSession["Conversation"]) -> None:
        """Follow who is talking, so that silence can be told from a pause in a sentence."""

        def on_user(event: UserStateChangedEvent) -> None:
            self._note("user", busy=event.new_state == "speaking")

        def on_agent(event: AgentStateChangedEvent) -> None:
            self._note("agent", busy=event.new_state in ("thinking", "speaking", "initializing"))

        self.session = session
        session.on("user_state_changed", on_user)
        session.on("agent_state_changed", on_agent)

    def stir(self) -> None:
        """The caller did something that is not speech: pressed a key."""
        self._user_stirred = True
        self._moved.set()

    def _note(self, who: str, *, busy: bool) -> None:
        self._busy[who] = busy
        if who == "user" and busy:
            self._user_stirred = True
        self._moved.set()

    async def mind_silence(self) -> None:
        """Ask, ask again, say goodbye, hang up: when the caller stays silent. Runs until cancelled."""
        asked = 0
        while True:
            if not await self._silent_for(self.body.limits.silence_s):
                continue
            if self._user_stirred:
                asked, self._user_stirred = 0, False
            if asked < len(self.body.silence_prompts):
                await self.say(self.body.silence_prompts[asked])
                asked += 1
            else:
                await self.say(self.body.silence_farewell, allow_interruptions=False)
                await asyncio.sleep(self.options.hangup_grace.total_seconds())
                self.end(EndReason.SILENCE)
                return

    # The longest a call may take ----------------------------------------------------------

    async def mind_limit(self) -> None:
        """Warn the caller in time, at a pause; when the time is up say goodbye and hang up."""
        limits, loop = self.body.limits, asyncio.get_running_loop()
        # Also of a call that another agent began.
        end = loop.time() + limits.max_call_s - self.line.position_ms() / 1000
        if 0 < limits.warn_before_end_s < limits.max_call_s:
            await asyncio.sleep(max(0.0, end - limits.warn_before_end_s - loop.time()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    while not await self._silent_for(PAUSE.total_seconds()):
                        pass
                with contextlib.suppress(RuntimeError):  # the session closes already
                    self.say(self.body.end_warning)
        await asyncio.sleep(max(0.0, end - loop.time()))
        if self.away:
            self.line.resume()  # else the farewell would wait behind the music
        with contextlib.suppress(RuntimeError):
            await heard(self.say(self.body.farewell, allow_interruptions=False))
        await asyncio.sleep(self.options.hangup_grace.total_seconds())
        self.end(EndReason.MAX_DURATION)

    async def _silent_for(self, seconds: float) -> bool:
        """Whether neither side stirs for *seconds* while nobody is talking or thinking."""
        self._moved.clear()
        idle = not any(self._busy.values()) and not self._work
        try:
            await asyncio.wait_for(self._moved.wait(), timeout=seconds if idle else None)
        except TimeoutError:
            return not self._work
        return False
