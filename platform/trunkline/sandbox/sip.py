"""A telephone call as livekit-sip brings it into a LiveKit room: the same participant, without SIP.

It follows what was observed of livekit-sip 1.10.0: a participant of kind SIP that is there at once, with
its attributes; ringing until a track of the agent is subscribed; then ``active`` and a track of its own;
keys as SIP DTMF packets; ``hangup`` and leaving when the caller puts the receiver down. A dispatch rule's
part, the room with its agent, comes with the token, as it does there. Its sound passes G.711.
"""

import asyncio
import contextlib
import time
import uuid
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from livekit import rtc

from trunkline.agent.audio import FRAME_S, InStep
from trunkline.desk.sip import AGENT, NUMBER_ATTRIBUTE
from trunkline.kit.livekit import LiveKitOptions
from trunkline.sandbox.line_faults import SOUND, Faults, Wire
from trunkline.sandbox.loopback import Party
from trunkline.sandbox.sip_leg import BYE, Leg, hear, token

_AUDIBLE = 150
"""Highest sample of a frame above which the agent is heard: far above µ-law's idle noise."""


@dataclass(frozen=True)
class Dial:
    """One call that comes in, as trunk and dispatch rule see it."""

    room: str
    from_raw: str | None
    """As the carrier writes it; None or empty when the carrier sends none."""
    to_raw: str
    number: str | None = None
    """What the rule says was dialled (``trunkline.number``); None: a rule without that attribute."""
    hidden: bool = False
    """The rule has ``hide_phone_number``: neither number is told, and the identity is a hash."""
    late: timedelta | None = None
    """Attributes beyond the identity come this long after the participant; None: with it."""
    agent: str | None = AGENT
    """The agent that the rule dispatches; None: a rule that names none."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """Further ones: mapped headers, rule attributes, ``sip.twilio.callSid``."""
    faults: Faults = SOUND
    """What is wrong with the caller's line."""
    frames: int = 1
    """The caller's sound goes both ways in pieces of so many 20 ms: where many callers share a machine
    with what they call, five take a third of the work."""
    prompt: bool = False
    """Nothing of the caller's sound waits on its way for the sake of smoothness, which would be measured as
    25 to 45 ms of whoever answers; on a busy machine it is less even."""

    @property
    def identity(self) -> str:
        """The participant's identity."""
        if self.hidden:
            return f"sip_{uuid.uuid5(uuid.NAMESPACE_OID, self.room).hex[:12]}"
        return f"sip_{self.from_raw or 'anonymous'}"

    def told(self) -> dict[str, str]:
        """All attributes, ringing."""
        call = uuid.uuid5(uuid.NAMESPACE_OID, self.room).hex
        given = {
            "sip.callID": f"SCL_{call[:12]}",
            "sip.callIDFull": f"{call}@127.0.0.1",
            "sip.callTag": call[:10],
            "sip.trunkID": "ST_sandbox",
            "sip.ruleID": "SDR_sandbox",
            "sip.hostname": "127.0.0.1",
            "sip.callStatus": "ringing",
        }
        if not self.hidden:
            given["sip.trunkPhoneNumber"] = self.to_raw
            if self.from_raw:
                given["sip.phoneNumber"] = self.from_raw
        if self.number is not None:
            given[NUMBER_ATTRIBUTE] = self.number
        return {**given, **self.attributes}


@dataclass(frozen=True)
class Over:
    """How a call went at the caller's end."""

    how: str
    """``caller`` or ``agent`` hung up, ``gave up`` ringing, ``transferred`` by REFER, or ``lost``."""
    rang_ms: int | None
    """From the participant's joining to the subscription of the agent's track, which is the 200 OK."""
    first_sound_ms: int | None
    """From the 200 OK to the first frame of the agent that can be heard."""


class SipCall:
    """One such call, made by *party*; ``run`` it, and wait for its stages from another task."""

    def __init__(self, options: LiveKitOptions, dial: Dial, party: Party) -> None:
        self._options, self._dial, self._party = options, dial, party
        self._room = rtc.Room()
        self._ringing, self._answered = asyncio.Event(), asyncio.Event()
        self._gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._joined = self._picked_up = 0.0
        self._first_sound: float | None = None
        self._leg, self._wire = Leg(self._room, dial.frames, prompt=dial.prompt), Wire(dial.faults)
        self._heard = InStep(reserve=0 if dial.prompt else 1)
        self._hearing: asyncio.Task[None] | None = None
        self.worst_lag_s = 0.0
        """How late the latest frame was sent."""
        self.keys = ""
        """Keys that the agent sent, in the order in which they came."""

    async def wait_ringing(self) -> None:
        """Wait until the participant is in the room."""
        await self._ringing.wait()

    async def wait_answered(self) -> None:
        """Wait for the 200 OK."""
        await self._answered.wait()

    async def run(self) -> Over:
        """Call, talk, and stay until somebody hangs up."""
        room, dial = self._room, self._dial
        room.on("track_subscribed", self._on_track)
        room.on("disconnected", self._on_disconnected)
        room.on("data_received", self._on_data)
        room.on("sip_dtmf_received", self._on_dtmf)
        told = dial.told()
        known = {} if dial.late is not None else told
        agents = [dial.agent] if dial.agent else []
        await room.connect(
            self._options.url, token(self._options, dial.room, dial.identity, known, agents)
        )
        self._joined = time.time()
        if (joined := room.local_participant.joined_at) is not None:
            self._joined = joined.timestamp()
        self._ringing.set()
        later = asyncio.create_task(self._tell(told)) if dial.late is not None else None
        try:
            how = await self._ring() or await self._talk()
        finally:
            tasks = [task for task in (later, self._hearing) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not self._gone.done() or self._gone.result() == "transferred":
                await self._leg.status("hangup")
            await room.disconnect()
            await self._leg.aclose()
        return Over(how, self._ms(self._joined, self._picked_up), self._first_ms())

    async def _ring(self) -> str | None:
        """None once the call is answered; otherwise how it ended."""
        tick = asyncio.get_running_loop().time()
        while not self._answered.is_set():
            if self._gone.done():
                return self._gone.result()
            if not self._party.ringing():
                return "gave up"
            tick += FRAME_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(tick):
                    await self._answered.wait()
        return None

    async def _talk(self) -> str:
        await self._leg.status("active")
        await self._leg.publish()
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not self._gone.done():
            due += FRAME_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.worst_lag_s = max(self.worst_lag_s, loop.time() - due)
            said = self._party.exchange(self._wire.hear(self._heard.take()))
            if said is None:
                return "caller"
            await self._leg.say(self._wire.say(said))
            await self._leg.press(self._party.pressed())
        return self._gone.result()

    # The room -------------------------------------------------------------------------------

    def _on_track(self, track: rtc.Track, publication: Any, who: rtc.RemoteParticipant) -> None:
        if not isinstance(track, rtc.RemoteAudioTrack):
            return
        if self._answered.is_set():  # another agent has taken the call over
            if self._hearing is not None:
                self._hearing.cancel()
            self._hearing = asyncio.create_task(hear(track, self._hear, self._dial.frames))
            return
        self._picked_up = time.time()
        self._hearing = asyncio.create_task(hear(track, self._hear, self._dial.frames))
        self._answered.set()

    def _on_disconnected(self, reason: Any = None) -> None:
        if not self._gone.done():
            deleted = reason == rtc.DisconnectReason.ROOM_DELETED
            self._gone.set_result("agent" if deleted else "lost")

    def _on_data(self, packet: rtc.DataPacket) -> None:
        # The carrier has connected the caller elsewhere after a REFER, and says BYE on this line.
        if packet.topic == BYE and not self._gone.done():
            self._gone.set_result("transferred")

    def _on_dtmf(self, dtmf: rtc.SipDTMF) -> None:
        self.keys += dtmf.digit

    def _hear(self, pcm: bytes) -> None:
        if self._first_sound is None and max(array("h", pcm), default=0) > _AUDIBLE:
            self._first_sound = time.time()
        self._heard.push(pcm)

    async def _tell(self, attributes: dict[str, str]) -> None:
        assert self._dial.late is not None
        await asyncio.sleep(self._dial.late.total_seconds())
        await self._leg.tell(attributes)

    def _first_ms(self) -> int | None:
        return self._ms(self._picked_up, self._first_sound or 0.0)

    @staticmethod
    def _ms(begin: float, end: float) -> int | None:
        return round((end - begin) * 1000) if begin and end else None
