"""A telephone line that is a LiveKit room: its SIP participant is the caller, our track is the agent.

livekit-sip answers the call (200 OK) when a track of the agent is subscribed, so publishing is
picking up and deleting the room is hanging up (facts observed with livekit-sip 1.10.0). RoomIO is not
used: both directions run on one 20 ms clock, which also gives the recording two sides in step.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import structlog
from livekit import rtc
from livekit.agents import AgentSession, io

from trunkline.agent.arrival import Arrival, from_sip
from trunkline.agent.audio import FRAME, FRAME_S, SILENCE, EchoGate, InStep, Intake, Playout
from trunkline.agent.captions import Captions
from trunkline.agent.heard import Heard
from trunkline.agent.line import LINE_RATE_HZ, Consultation, Tap
from trunkline.agent.music import hold_music
from trunkline.agent.pickup import note
from trunkline.calls.lifecycle import EndReason
from trunkline.desk.sip import is_complete
from trunkline.errors import Unavailable

if TYPE_CHECKING:
    from trunkline.agent.consult import Switchboard

log = structlog.get_logger()

TRACK = "agent"

JOIN = timedelta(seconds=10)
"""How long the caller's participant may take to be in the room that was made for it."""
LATE = timedelta(seconds=1)
"""How long attributes that come after the participant are waited for; the caller hears ringing."""
PICK_UP = timedelta(seconds=10)
"""How long the subscription to our track may take; livekit-server's own limit is longer."""

_DIGIT = timedelta(milliseconds=250)
"""From one key to the next. livekit-sip sends each as a tone of its own; telephones need 40 ms of tone
and 40 ms of pause at least (ITU-T Q.24), answering machines rather more."""

_CODES = {key: code for code, key in enumerate("0123456789*#ABCD")}
"""Key → event code (RFC 4733, table 4)."""

_AHEAD = 3
"""Frames given to WebRTC before they are due: 60 ms bridge a delay of our event loop. They are taken back
when a reply is cut or pauses."""

_Reason = rtc.DisconnectReason

_REASONS = {
    _Reason.CLIENT_INITIATED: EndReason.CALLER_HANGUP,
    _Reason.USER_UNAVAILABLE: EndReason.NO_ANSWER,
    _Reason.USER_REJECTED: EndReason.REJECTED,
    _Reason.SIP_TRUNK_FAILURE: EndReason.TRUNK_ERROR,
}
"""Why the other side is gone. Everything else (a SIP node that died, a room that somebody deleted, no
reason at all, which agents#4455 saw) is a lost line."""


def end_reason(reason: int | None, *, answered: bool) -> EndReason:
    """What LiveKit's *reason* for a participant's leaving says of the call."""
    found = _REASONS.get(reason, EndReason.LINE_LOST)  # type: ignore[call-overload]
    if found is EndReason.CALLER_HANGUP and not answered:
        return EndReason.CANCELLED
    assert isinstance(found, EndReason)
    return found


class NoCaller(Exception):
    """No SIP participant came into the room, or it left before anything was known of it."""


async def arrive(
    room: rtc.Room,
    delete_room: Callable[[], Awaitable[None]],
    *,
    join: timedelta = JOIN,
    late: timedelta = LATE,
    board: "Switchboard | None" = None,
) -> "RoomLine":
    """The line of the connected *room*, once its caller is there and told whom they call.

    Attributes that come late are waited for, but not for ever: what is not known then stays so.
    *delete_room* must end the room for everybody. Raises NoCaller.
    """
    changed = asyncio.Event()

    def on_change(*args: Any) -> None:
        changed.set()

    watched = (
        "participant_connected",
        "participant_disconnected",
        "participant_attributes_changed",
        "disconnected",
    )
    for name in watched:
        room.on(name, on_change)  # type: ignore[arg-type]
    try:
        caller = None
        async with asyncio.timeout(join.total_seconds()):
            while (caller := _caller_in(room)) is None:
                if not room.isconnected():
                    raise NoCaller(f"the room {room.name} was closed before anybody came")
                await _next(changed)
        try:
            async with asyncio.timeout(late.total_seconds()):
                while not is_complete(caller.attributes) and _caller_in(room) is caller:
                    await _next(changed)
        except TimeoutError:
            log.warning("attributes_missing", room=room.name, known=sorted(caller.attributes)[:20])
    except TimeoutError:
        raise NoCaller(f"nobody came into the room {room.name}") from None
    finally:
        for name in watched:
            room.off(name, on_change)  # type: ignore[arg-type]
    arrival = from_sip(room.name, caller.identity, caller.attributes)
    line = RoomLine(room, caller.identity, arrival, delete_room, board)
    line.take_up(caller)
    return line


async def _next(changed: asyncio.Event) -> None:
    await changed.wait()
    changed.clear()


def _caller_in(room: rtc.Room) -> rtc.RemoteParticipant | None:
    sip = rtc.ParticipantKind.PARTICIPANT_KIND_SIP
    return next((one for one in room.remote_participants.values() if one.kind == sip), None)


class RoomLine:
    """The line to the participant *far* of *room*. Implements ``agent.line.Line``."""

    def __init__(
        self,
        room: rtc.Room,
        far: str,
        arrival: Arrival,
        delete_room: Callable[[], Awaitable[None]],
        board: "Switchboard | None" = None,
    ) -> None:
        self._room, self._caller, self._delete_room = room, far, delete_room
        self._arrival = arrival
        self._is_open = True
        """Whether what comes from the far end is heard."""
        self._board = board
        self._instead: Callable[[], bytes] | None = None
        self._onward: Callable[[bytes], None] | None = None
        self._music = itertools.cycle(hold_music())
        self._intake, self._playout = Intake(), Playout(self._take_back, self._fill)
        self._gate = EchoGate()
        self._said = InStep()
        self._source = rtc.AudioSource(LINE_RATE_HZ, 1, queue_size_ms=200)
        self._ahead: deque[bytes] = deque()
        self._tap: Tap | None = None
        self._on_digit: Callable[[str], None] = lambda digit: None
        self._answered: float | None = None
        self._frames = 0
        self._ended: asyncio.Future[EndReason] = asyncio.get_running_loop().create_future()
        self._clock: asyncio.Task[None] | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._hung_up = False
        self._captions = Captions(room, far)
        room.on("track_subscribed", self._on_track)
        room.on("sip_dtmf_received", self._on_dtmf)
        room.on("participant_disconnected", self._on_left)
        room.on("disconnected", self._on_disconnected)

    def take_up(self, caller: rtc.RemoteParticipant) -> None:
        """Begin with what *caller*, who is there already, has done before."""
        for publication in caller.track_publications.values():
            if publication.track is not None:
                self._on_track(publication.track, publication, caller)
        if caller.identity not in self._room.remote_participants:
            self._end(end_reason(caller.disconnect_reason, answered=False))

    @property
    def arrival(self) -> Arrival:
        return self._arrival

    @property
    def voice(self) -> io.AudioOutput:
        return self._playout

    async def attach(self, session: AgentSession[Any], heard: io.TextOutput) -> None:
        self._captions.follow(session)
        chain = Heard(self._playout, self._captions.before(heard))
        session.input.audio = self._intake
        session.output.audio = chain.audio
        session.output.transcription = chain.text

    async def answer(self) -> bool:
        """Publish the agent's track and wait until it is subscribed, which is when 200 OK goes out."""
        if self._clock is not None or self._ended.done():
            return self._clock is not None
        track = rtc.LocalAudioTrack.create_audio_track(TRACK, self._source)
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
        try:
            async with asyncio.timeout(PICK_UP.total_seconds()):
                publication = await self._room.local_participant.publish_track(track, options)
                note("track_published")
                subscribed = asyncio.create_task(publication.wait_for_subscription())
                over = asyncio.create_task(self.ended())
                await asyncio.wait([subscribed, over], return_when=asyncio.FIRST_COMPLETED)
                subscribed.cancel()
                over.cancel()
        except (TimeoutError, rtc.participant.PublishTrackError) as error:
            log.error("not_answered", room=self._room.name, error=type(error).__name__)
            self._end(EndReason.LINE_LOST)
        if self._ended.done():
            return False
        note("track_subscribed")
        now = time.time()
        if self._answered is None:
            self._answered = now
        self._frames = max(0, round((now - self._answered) / FRAME_S))
        self._clock = asyncio.create_task(self._run(), name="room line")
        return True

    def go_on(self, answered_at: float) -> None:
        self._answered = answered_at

    async def hang_up(self) -> None:
        self._end(EndReason.AGENT_HANGUP)
        if not self._hung_up:
            self._hung_up = True
            await self._stop()
            await self._delete_room()

    async def leave(self) -> None:
        self._end(EndReason.AGENT_LOST)
        self._hung_up = True
        await self._stop()

    def tap(self, tap: Tap | None) -> None:
        self._tap = tap

    def on_digit(self, callback: Callable[[str], None]) -> None:
        self._on_digit = callback

    async def send_digits(self, digits: str) -> None:
        for digit in digits:
            await self._room.local_participant.publish_dtmf(code=_CODES[digit], digit=digit)
            await asyncio.sleep(_DIGIT.total_seconds())

    def hold(self) -> None:
        self.patch(self._music.__next__, None)

    def resume(self) -> None:
        if self._instead is not None:
            self._instead = self._onward = None
            self._take_back()

    def patch(self, instead: Callable[[], bytes], onward: Callable[[bytes], None] | None) -> None:
        """Play the frames of *instead* in place of the session, and pass what is heard *onward* only."""
        self._instead, self._onward = instead, onward

    async def refer(self, to: str, ringing: timedelta) -> None:
        await self._outside().refer(self._room.name, self._caller, to, ringing)

    async def consult(
        self, number: str, caller_id: str | None, ringing: timedelta, longest: timedelta
    ) -> Consultation:
        return await self._outside().consult(
            self, number, caller_id=caller_id, ringing=ringing, longest=longest
        )

    def _outside(self) -> "Switchboard":
        if self._board is None:
            raise Unavailable("this line was made without a way to place calls")
        return self._board

    def position_ms(self) -> int:
        return round(self._frames * FRAME_S * 1000)

    def offset_ms(self, wall_time: float) -> int:
        if self._answered is None:
            return 0
        return max(0, round((wall_time - self._answered) * 1000))

    async def ended(self) -> EndReason:
        return await asyncio.shield(self._ended)

    def _end(self, reason: EndReason) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    # From the room --------------------------------------------------------------------------

    def _on_track(
        self, track: rtc.Track, publication: Any, participant: rtc.RemoteParticipant
    ) -> None:
        if participant.identity == self._caller and isinstance(track, rtc.RemoteAudioTrack):
            if self._hearing is not None:
                self._hearing.cancel()
            self._hearing = asyncio.create_task(self._hear(track), name="caller's track")

    def _on_dtmf(self, dtmf: rtc.SipDTMF) -> None:
        if dtmf.participant is not None and dtmf.participant.identity == self._caller:
            self._on_digit(dtmf.digit)

    def _on_left(self, participant: rtc.RemoteParticipant) -> None:
        if participant.identity == self._caller:
            answered = self._answered is not None
            self._end(end_reason(participant.disconnect_reason, answered=answered))

    def _on_disconnected(self, reason: int | None = None) -> None:
        # Of ourselves: the room was deleted, or LiveKit is out of reach for good.
        log.info("room_closed", room=self._room.name, reason=reason)
        if reason == _Reason.PARTICIPANT_REMOVED:
            # Somebody took us for dead and sent another agent, who has the caller now.
            self._hung_up = True
            self._end(EndReason.AGENT_LOST)
        self._end(EndReason.LINE_LOST)

    # Sound ----------------------------------------------------------------------------------

    async def _hear(self, track: rtc.RemoteAudioTrack) -> None:
        stream = rtc.AudioStream.from_track(
            track=track, sample_rate=LINE_RATE_HZ, num_channels=1, frame_size_ms=20
        )
        try:
            async for event in stream:
                if not self._is_open:
                    continue
                pcm = bytes(event.frame.data)
                # To the session at once, to the recording on the clock.
                heard = self._gate.heard(pcm) if self._instead is None else bytes(len(pcm))
                self._intake.push(heard)
                if self._onward is not None:
                    self._onward(pcm)
                self._said.push(pcm)
        finally:
            await stream.aclose()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while not self._ended.done():
                await self._step()
                due += FRAME_S
                await asyncio.sleep(max(0.0, due - loop.time()))
        finally:
            self._end(EndReason.LINE_LOST)
            self._intake.close()
            self._playout.close()

    async def _step(self) -> None:
        """One frame each way."""
        await self._fill()
        agent = self._ahead.popleft() if self._ahead else SILENCE
        self._gate.played(agent)
        caller = self._said.take()
        if self._tap is not None:
            self._tap(caller, agent)
        self._frames += 1

    async def _fill(self) -> None:
        """Give WebRTC what it may have ahead."""
        while self._clock is not None and len(self._ahead) < _AHEAD and not self._ended.done():
            frame = self._instead() if self._instead else self._playout.next_frame()
            if frame is None:
                break
            self._ahead.append(frame)
            await self._source.capture_frame(rtc.AudioFrame(frame, LINE_RATE_HZ, 1, FRAME))

    def _take_back(self) -> tuple[bytes, ...]:
        if self._instead is not None:
            return ()  # what the line has is not the session's
        if not self._ended.done():  # else its native part may be gone already
            self._source.clear_queue()
        frames = tuple(self._ahead)
        self._ahead.clear()
        return frames

    async def _stop(self) -> None:
        """No more sound either way, and the room is no longer listened to."""
        await self._captions.aclose()
        if self._clock is not None:
            await asyncio.wait([self._clock])
        else:
            self._intake.close()
            self._playout.close()
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.wait([self._hearing])
        for name, callback in (
            ("track_subscribed", self._on_track),
            ("sip_dtmf_received", self._on_dtmf),
            ("participant_disconnected", self._on_left),
            ("disconnected", self._on_disconnected),
        ):
            self._room.off(name, callback)  # type: ignore[arg-type]
        await self._source.aclose()
