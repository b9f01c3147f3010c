"""What every participant of livekit-sip does in a room, whoever called whom.

``sandbox.sip.SipCall`` is a call that comes in, ``sandbox.phones.Callee`` one that goes out.
"""

from collections.abc import Callable, Mapping, Sequence

from livekit import api, rtc

from trunkline.agent.audio import FRAME
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.kit.livekit import LiveKitOptions

BYE = "sandbox.bye"
"""Topic of the packet that makes a participant leave: their carrier has connected them elsewhere."""

DTMF_CODES = {key: code for code, key in enumerate("0123456789*#ABCD")}
"""RFC 4733, table 4."""


def token(
    options: LiveKitOptions,
    room: str,
    identity: str,
    attributes: Mapping[str, str],
    agents: Sequence[str] | None = None,
) -> str:
    """A pass into *room* for a participant of kind SIP. With *agents*, also an empty list, it brings a
    dispatch rule's part: the room is configured, and these are sent for."""
    made = (
        api.AccessToken(options.api_key, options.api_secret)
        .with_identity(identity)
        .with_kind("sip")
        .with_attributes(dict(attributes))
        .with_grants(api.VideoGrants(room_join=True, room=room, can_update_own_metadata=True))
    )
    if agents is not None:
        sent_for = [api.RoomAgentDispatch(agent_name=agent) for agent in agents]
        made = made.with_room_config(
            api.RoomConfiguration(empty_timeout=30, departure_timeout=20, agents=sent_for)
        )
    return made.to_jwt()


class Leg:
    """The participant's own side of *room*: its status, its voice and its keys.

    Its voice goes out in pieces of so many frames; *prompt*, each is encoded as it comes instead of by a
    timer of WebRTC's.
    """

    def __init__(self, room: rtc.Room, frames: int = 1, *, prompt: bool = False) -> None:
        self._me, self._frames = room, frames
        self._said = bytearray()
        self._prompt = prompt
        self._source = rtc.AudioSource(LINE_RATE_HZ, 1, queue_size_ms=0 if prompt else 200)

    async def tell(self, attributes: Mapping[str, str]) -> None:
        """Change attributes."""
        await self._me.local_participant.set_attributes(dict(attributes))

    async def status(self, status: str, **more: str) -> None:
        """Change ``sip.callStatus``; *more* attributes, named without ``sip.``, come with it."""
        told = {f"sip.{name}": value for name, value in more.items()}
        await self.tell({"sip.callStatus": status, **told})

    async def publish(self) -> None:
        """Publish the voice."""
        track = rtc.LocalAudioTrack.create_audio_track("sip", self._source)
        # As clear as livekit-sip's own Opus: at WebRTC's default for speech the ears mishear some lines.
        options = rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False)
        options.audio_encoding.max_bitrate = 64_000
        await self._me.local_participant.publish_track(track, options)

    async def say(self, pcm: bytes) -> None:
        """The voice's next 20 ms."""
        self._said += pcm
        if len(self._said) < 2 * FRAME * self._frames:
            return
        said, self._said = bytes(self._said), bytearray()
        # Without a queue WebRTC takes 10 ms at a time.
        size = FRAME if self._prompt else len(said)
        for at in range(0, len(said), size):
            piece = said[at : at + size]
            frame = rtc.AudioFrame(piece, LINE_RATE_HZ, 1, len(piece) // 2)
            await self._source.capture_frame(frame)

    async def press(self, keys: str) -> None:
        """Press keys: one packet each, however often RFC 4733 repeats it on the line."""
        for key in keys:
            await self._me.local_participant.publish_dtmf(code=DTMF_CODES[key], digit=key)

    async def aclose(self) -> None:
        """Free the voice; harmless when done twice."""
        await self._source.aclose()


async def hear(track: rtc.RemoteAudioTrack, push: Callable[[bytes], None], frames: int = 1) -> None:
    """Give each 20 ms of *track*, as PCM16 at LINE_RATE_HZ, to *push* until it ends.

    They come in pieces of so many *frames*.
    """
    stream = rtc.AudioStream.from_track(
        track=track, sample_rate=LINE_RATE_HZ, num_channels=1, frame_size_ms=20 * frames
    )
    try:
        async for event in stream:
            pcm = bytes(event.frame.data)
            for at in range(0, len(pcm), 2 * FRAME):
                push(pcm[at : at + 2 * FRAME])
    finally:
        await stream.aclose()
