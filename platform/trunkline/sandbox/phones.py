"""Telephones at the far end: what happens when one is called, and the participant livekit-sip makes of it.

A ``Phone`` says what a number does: answer, be busy, decline, ring for ever. A ``Callee`` is one call to it,
a participant of kind SIP in a real room that behaves as observed of livekit-sip 1.10.0: it joins at once with
``sip.callStatus`` dialing, then ringing, its track published already (early media); ``active`` once it
answers; after a refusal it leaves with USER_REJECTED two seconds later, after ringing out with
USER_UNAVAILABLE.
"""

import asyncio
import contextlib
import uuid
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from livekit import rtc

from trunkline.agent.audio import FRAME, FRAME_S, SILENCE, InStep
from trunkline.kit.livekit import LiveKitOptions
from trunkline.sandbox.line_faults import SOUND, Faults, Wire
from trunkline.sandbox.loopback import Party
from trunkline.sandbox.sip_leg import BYE, Leg, hear, token

STAYS = timedelta(seconds=2)
"""How long a participant who refused stays in the room."""


@dataclass(frozen=True)
class Phone:
    """What a number does when it is called."""

    rings: timedelta | None = timedelta(milliseconds=200)
    """Rings this long, then answers or refuses; None rings for ever."""
    refuses: tuple[int, str] | None = None
    """The SIP status and its phrase with which it refuses; None: it answers."""
    who: Callable[[], Party] | None = None
    """Whoever picks up; None: somebody who listens and says nothing."""
    early_media: bytes = b""
    """What is heard before it answers, PCM16 at LINE_RATE_HZ: an announcement."""
    faults: Faults = SOUND
    """What is wrong with its line."""


ANSWERS = Phone()
BUSY = Phone(refuses=(486, "Busy Here"))
DECLINES = Phone(refuses=(603, "Decline"))
RINGS_OUT = Phone(rings=None)
UNKNOWN = Phone(timedelta(0), (404, "Not Found"))
UNREACHABLE = Phone(refuses=(480, "Temporarily Unavailable"))
TRUNK_DOWN = Phone(timedelta(0), (503, "Service Unavailable"))


class Listener:
    """Somebody who hears and says nothing."""

    def ringing(self) -> bool:
        """Waits for ever."""
        return True

    def exchange(self, heard: bytes) -> bytes | None:
        """Says nothing."""
        return SILENCE

    def pressed(self) -> str:
        """Presses nothing."""
        return ""


@dataclass
class Placed:
    """One call to a phone or one transfer to it, and what became of it."""

    number: str
    room: str
    identity: str
    caller_id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    heard: bytearray = field(default_factory=bytearray)
    """What the phone heard since it answered, PCM16 at LINE_RATE_HZ."""
    said: bytearray = field(default_factory=bytearray)
    """What was said into it, frame by frame beside ``heard``."""
    keys: str = ""
    """Keys that the other side sent."""
    outcome: str | None = None
    """``answered``, ``refused``, ``rang out`` or ``cancelled``; of a transfer ``transferred``."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the call is over."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class Callee:
    """One call to *phone*; ``join`` and then ``answer`` it."""

    def __init__(self, options: LiveKitOptions, phone: Phone, placed: Placed) -> None:
        self._options, self._phone, self.placed = options, phone, placed
        self._party: Party = phone.who() if phone.who else Listener()
        self._room = rtc.Room()
        self._leg, self._wire = Leg(self._room), Wire(phone.faults)
        self._heard: dict[str, InStep] = {}
        self._hearing: dict[str, asyncio.Task[None]] = {}
        self._gone = asyncio.Event()
        self._bye = False
        self._talking: asyncio.Task[None] | None = None
        self.call_id = f"SCL_{uuid.uuid4().hex[:12]}"

    async def join(self, attributes: Mapping[str, str]) -> str:
        """Be in the room, ringing. Returns the participant's sid."""
        room = self._room
        room.on("track_subscribed", self._on_track)
        room.on("track_unsubscribed", self._on_track_gone)
        room.on("sip_dtmf_received", self._on_dtmf)
        room.on("data_received", self._on_data)
        room.on("disconnected", lambda *_: self._gone.set())
        given = {"sip.callID": self.call_id, "sip.callStatus": "dialing", **attributes}
        placed = self.placed
        await room.connect(
            self._options.url, token(self._options, placed.room, placed.identity, given)
        )
        await self._leg.publish()
        await self._leg.status("ringing")
        return room.local_participant.sid

    async def answer(self, ringing: timedelta) -> tuple[int, str] | None:
        """Ring at most for *ringing*, then do what the phone does. None: answered; else status and phrase."""
        rings = self._phone.rings
        patience = ringing if rings is None else min(ringing, rings)
        media = asyncio.create_task(self._play(self._phone.early_media))
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await self._gone.wait()
        except TimeoutError:
            pass
        finally:
            media.cancel()
            await asyncio.gather(media, return_exceptions=True)
        if self._gone.is_set():
            await self._end("cancelled")
            return 487, "Request Terminated"
        if rings is None or rings > ringing:
            await self._end("rang out", rtc.DisconnectReason.USER_UNAVAILABLE)
            return 408, "Request Timeout"
        if self._phone.refuses is not None:
            self.placed.outcome = "refused"
            self._talking = asyncio.create_task(self._leave_later())
            return self._phone.refuses
        full = uuid.uuid4().hex
        await self._leg.status("active", callIDFull=full, callTag=full[:10])
        self.placed.outcome = "answered"
        self.placed.answered.set()
        self._talking = asyncio.create_task(self._talk(), name="callee")
        return None

    async def aclose(self) -> None:
        """Put the receiver down, whatever the phone was doing."""
        if self._talking is not None:
            self._talking.cancel()
            await asyncio.gather(self._talking, return_exceptions=True)
        await self._end(self.placed.outcome or "cancelled")

    # The talk -------------------------------------------------------------------------------

    async def _talk(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while not (self._gone.is_set() or self._bye):
                due += FRAME_S
                await asyncio.sleep(max(0.0, due - loop.time()))
                heard = self._wire.hear(self._mixed())
                said = self._party.exchange(heard)
                if said is None:
                    break
                self.placed.heard += heard
                self.placed.said += said
                await self._leg.say(self._wire.say(said))
                await self._leg.press(self._party.pressed())
        finally:
            await self._end("answered")

    async def _play(self, pcm: bytes) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for start in range(0, len(pcm), 2 * FRAME):
            due += FRAME_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            frame = pcm[start : start + 2 * FRAME].ljust(2 * FRAME, b"\0")
            await self._leg.say(self._wire.say(frame))

    def _mixed(self) -> bytes:
        """This tick of all tracks in the room, as livekit-sip's mixer adds them."""
        mixed = array("h", SILENCE)
        for track in self._heard.values():
            for at, sample in enumerate(array("h", track.take())):
                mixed[at] = max(-32768, min(32767, mixed[at] + sample))
        return mixed.tobytes()

    async def _leave_later(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STAYS.total_seconds()):
                await self._gone.wait()
        await self._end("refused", rtc.DisconnectReason.USER_REJECTED)

    async def _end(
        self,
        outcome: str,
        reason: rtc.DisconnectReason.ValueType = rtc.DisconnectReason.CLIENT_INITIATED,
    ) -> None:
        self.placed.outcome = self.placed.outcome or outcome
        if self.placed.over.is_set():
            return
        self.placed.over.set()
        for task in self._hearing.values():
            task.cancel()
        await asyncio.gather(*self._hearing.values(), return_exceptions=True)
        if not self._gone.is_set():
            with contextlib.suppress(Exception):  # the room may vanish at this very moment
                await self._leg.status("hangup")
        await self._room.disconnect(reason=reason)
        await self._leg.aclose()

    # The room -------------------------------------------------------------------------------

    def _on_track(self, track: rtc.Track, publication: Any, who: rtc.RemoteParticipant) -> None:
        if isinstance(track, rtc.RemoteAudioTrack):
            heard = self._heard[track.sid] = InStep()
            self._hearing[track.sid] = asyncio.create_task(hear(track, heard.push))

    def _on_track_gone(self, track: rtc.Track, *_: Any) -> None:
        self._heard.pop(track.sid, None)
        task = self._hearing.pop(track.sid, None)
        if task is not None:
            task.cancel()

    def _on_data(self, packet: rtc.DataPacket) -> None:
        # After a REFER: their carrier has connected them elsewhere, and says BYE on this line.
        self._bye |= packet.topic == BYE

    def _on_dtmf(self, dtmf: rtc.SipDTMF) -> None:
        self.placed.keys += dtmf.digit
