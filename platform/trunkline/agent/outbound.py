"""Calls that we place: the callee's line, and the first words to whoever answers."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from livekit import rtc
from livekit.agents import AgentSession, UserInputTranscribedEvent
from livekit.agents.voice import SpeechHandle

from trunkline.agent import persona, phrases
from trunkline.agent.amd import Listener, Who
from trunkline.agent.arrival import Arrival
from trunkline.agent.room import PICK_UP, TRACK, RoomLine
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Call
from trunkline.kit.livekit import LiveKitFailed, LiveKitOptions, SipFailed, open_livekit
from trunkline.profiles.behaviour import Outbound

if TYPE_CHECKING:
    from trunkline.agent.consult import Switchboard
    from trunkline.agent.conversation import Conversation

log = structlog.get_logger()

CALLEE = "callee"

_MACHINE_LIMIT = timedelta(seconds=60)
"""A machine that has not begun to record after so long is given up."""
_WATCH = timedelta(seconds=25)
"""So long after the answer its words or a beep still show that a person was a machine."""
_ASKS = timedelta(seconds=10)
"""So long after it has begun, an opening that was broken off may have been spoken to a service that screens
calls: the longest announcements take so long. Later "who is calling?" is a person's question."""
_UNDISTURBED = timedelta(milliseconds=1500)
"""The end of the callee's "hello" must not cut the opening off."""
_SCREENED_TWICE = 2

_OUTCOMES = {
    404: EndReason.INVALID_NUMBER,
    408: EndReason.NO_ANSWER,
    480: EndReason.NO_ANSWER,
    484: EndReason.INVALID_NUMBER,
    486: EndReason.BUSY,
    487: EndReason.NO_ANSWER,
    600: EndReason.BUSY,
    603: EndReason.REJECTED,
    604: EndReason.INVALID_NUMBER,
    607: EndReason.REJECTED,
    608: EndReason.REJECTED,
}


def outcome(status: int | None) -> EndReason:
    """What a final SIP status (RFC 3261 §21; 607 RFC 8197, 608 RFC 8688) says of a call that we placed."""
    return _OUTCOMES.get(status or 0, EndReason.TRUNK_ERROR)


class CalleeLine(RoomLine):
    """The line to somebody whom we call: ``answer`` dials them and waits until they have picked up."""

    def __init__(
        self,
        room: rtc.Room,
        call: Call,
        delete_room: Callable[[], Awaitable[None]],
        livekit: LiveKitOptions,
        *,
        ringing: timedelta,
        longest: timedelta,
        board: "Switchboard | None" = None,
    ) -> None:
        arrival = Arrival(
            room=room.name,
            channel="sip",
            from_raw=call.from_number,
            to_raw=call.to_number or "",
            direction="outbound",
            participant=CALLEE,
            reason=call.reason,
        )
        super().__init__(room, CALLEE, arrival, delete_room, board)
        self._livekit, self._ringing, self._longest = livekit, ringing, longest
        # Ringing and announcements come before the answer (early media); nobody speaks to us yet.
        self._is_open = False
        self._gone: EndReason | None = None
        room.on("participant_attributes_changed", self._on_attributes)

    async def answer(self) -> bool:
        """Dial, and wait until somebody has picked up. False: nobody has, and ``ended`` says why."""
        track = rtc.LocalAudioTrack.create_audio_track(TRACK, self._source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        over = asyncio.create_task(self.ended())
        dialling: asyncio.Task[EndReason | None] = asyncio.create_task(self._dial())
        try:
            # While it rings, so that the first words find their way open.
            async with asyncio.timeout(PICK_UP.total_seconds()):
                publication = await self._room.local_participant.publish_track(track, options)
            await asyncio.wait([dialling, over], return_when=asyncio.FIRST_COMPLETED)
            if not dialling.done():
                return False
            reason = dialling.result() or self._gone
            if reason is not None:
                self._end(reason)
                return False
            self._is_open = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PICK_UP.total_seconds()):
                    await publication.wait_for_subscription()
        except (TimeoutError, rtc.participant.PublishTrackError) as error:
            log.error("not_dialled", room=self._room.name, error=type(error).__name__)
            self._end(EndReason.LINE_LOST)
            return False
        finally:
            over.cancel()
            dialling.cancel()
        self._answered = time.time()
        self._clock = asyncio.create_task(self._run(), name="callee's line")
        return True

    async def _dial(self) -> EndReason | None:
        """None once they have answered, otherwise why they have not."""
        number = self._arrival.from_raw
        try:
            async with open_livekit(self._livekit) as livekit:
                trunk = await livekit.outbound_trunk(number)
                if trunk is None:
                    log.error(
                        "no_outbound_trunk",
                        detail="LiveKit has no outbound trunk that may show this number; set "
                        "TRUNKLINE_OUTBOUND_ADDRESS for sip/trunks/outbound.yaml, list the number "
                        "there, and run: trunkline sip apply",
                    )
                    return EndReason.TRUNK_ERROR
                await livekit.dial(
                    room=self._room.name,
                    trunk=trunk,
                    to=self._arrival.to_raw,
                    caller_id=number,
                    identity=CALLEE,
                    ringing=self._ringing,
                    max_duration=self._longest,
                )
        except SipFailed as error:
            log.info("not_answered", status=error.status, reason=error.reason)
            return outcome(error.status)
        except LiveKitFailed as error:
            log.error("not_dialled", detail=str(error))
            return EndReason.TRUNK_ERROR
        return None

    def _on_attributes(self, changed: Any, participant: rtc.Participant) -> None:
        if participant.identity == CALLEE:
            self._is_open |= participant.attributes.get("sip.callStatus") == "active"

    def _on_left(self, participant: rtc.RemoteParticipant) -> None:
        if participant.identity != CALLEE:
            return
        if self._answered is None:
            # The answer to our dialling knows better: busy from declined.
            self._gone = EndReason.CALLEE_HANGUP
        elif participant.disconnect_reason == rtc.DisconnectReason.CLIENT_INITIATED:
            self._end(EndReason.CALLEE_HANGUP)
        else:
            super()._on_left(participant)

    async def _stop(self) -> None:
        self._room.off("participant_attributes_changed", self._on_attributes)
        await super()._stop()


class Opening:
    """The first words, to a person, a machine or a service that asks who is calling.

    *say_opening* says what was prepared while it rang. Until a person is there the agent answers nothing
    by itself (``Conversation.holding``).
    """

    def __init__(
        self,
        talk: "Conversation",
        session: AgentSession[Any],
        say_opening: Callable[[], SpeechHandle],
    ) -> None:
        assert talk.body.outbound is not None
        self._talk, self._session, self._say_opening = talk, session, say_opening
        self._outbound: Outbound = talk.body.outbound
        self._listener = Listener(phrases.language_of(talk.body))
        self._heard = asyncio.Event()
        self._text, self._screened = "", 0
        self._opening: SpeechHandle | None = None
        self._opened_ms = 0
        talk.holding = True
        session.on("user_input_transcribed", self._on_words)

    def hear(self, pcm: bytes) -> None:
        """The next 20 ms of the far end."""
        self._listener.hear(pcm)
        self._heard.set()

    async def greet(self) -> None:
        """Until a person begins to hear the opening; a call that a machine has answered is ended."""
        while (who := await self._who()) is Who.SCREENING:
            if self._screened == _SCREENED_TWICE:
                await self._over(EndReason.REJECTED)
            self._screened += 1
            await self._say(
                self._outbound.screening or phrases.template(self._talk.body, "screening")
            )
            self._text = ""
            self._listener.again()
        if who is Who.MACHINE:
            await self._leave_message()
        self._opening, self._opened_ms = self._say_opening(), self._listener.position_ms
        self._talk.holding = False

    async def watch(self) -> bool:
        """See whether who was taken for a person is none: whether ``greet`` has to find out once more."""
        assert self._opening is not None
        if not await self._mistaken_by(_UNDISTURBED):
            self._talk.scribe.end_overheard()
            with contextlib.suppress(RuntimeError):
                self._opening.allow_interruptions = True
            if not await self._mistaken_by(_WATCH):
                self._session.off("user_input_transcribed", self._on_words)
                return False
        self._talk.holding = True
        with contextlib.suppress(RuntimeError):
            await self._session.interrupt(force=True)
        return True

    def _on_words(self, event: UserInputTranscribedEvent) -> None:
        self._listener.read(f"{self._text} {event.transcript}")
        if event.is_final:
            self._text = f"{self._text} {event.transcript}".strip()
        if self._mistaken:
            # At once: else the model would answer these very words.
            self._talk.holding = True

    @property
    def _mistaken(self) -> bool:
        """Whether the opening was said to a machine or, not heard to its end, to a service that asks."""
        if (said := self._opening) is None:
            return False
        since = timedelta(milliseconds=self._listener.position_ms - self._opened_ms)
        unheard = said.interrupted or not said.done()
        asked = self._listener.screening and unheard and since <= _ASKS
        return self._listener.machine or asked

    async def _mistaken_by(self, span: timedelta) -> bool:
        """Wait until *span* after the opening's beginning, or until it shows that it was a mistake."""
        until = self._opened_ms + span / timedelta(milliseconds=1)
        while not self._mistaken and self._listener.position_ms < until:
            await self._next()
        return self._mistaken

    async def _next(self) -> None:
        await self._heard.wait()
        self._heard.clear()

    async def _who(self) -> Who:
        # One who screens us lets us wait for the person without a word.
        while (who := self._listener.who) is None or (
            who is Who.PERSON and self._screened and self._listener.silent
        ):
            await self._next()
        return who

    async def _leave_message(self) -> None:
        talk, message = self._talk, self._outbound.voicemail
        async with talk.db.work() as work:
            await calls.note_voicemail(
                work,
                talk.lease,
                action="leave_message" if message else "hang_up",
                offset_ms=talk.line.position_ms(),
                now=talk.clock(),
            )
        if message is None:
            await self._over(EndReason.VOICEMAIL)
            return
        until = self._listener.position_ms + _MACHINE_LIMIT / timedelta(milliseconds=1)
        while not self._listener.recording:
            if self._listener.position_ms >= until:
                await self._over(EndReason.VOICEMAIL)
            await self._next()
        talk.scribe.end_overheard()
        await self._say(message)
        await asyncio.sleep(talk.options.hangup_grace.total_seconds())
        await self._over(EndReason.VOICEMAIL_LEFT)

    async def _over(self, reason: EndReason) -> None:
        """The call is over for *reason*; whoever ends it cancels us."""
        self._talk.end(reason)
        await asyncio.Event().wait()

    async def _say(self, text: str) -> None:
        talk = self._talk
        said = persona.fill(text, talk.body, talk.reception, talk.line.arrival.reason)
        speech = self._session.say(said, allow_interruptions=False)
        # Bounded: awaiting a speech may swallow its cancellation.
        await asyncio.wait(
            [asyncio.ensure_future(speech.wait_for_playout())],
            timeout=_MACHINE_LIMIT.total_seconds(),
        )
