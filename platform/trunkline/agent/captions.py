"""What is said, live in the room: LiveKit's own transcription streams and the agent's state.

Topic ``lk.transcription`` and attribute ``lk.agent.state`` as https://docs.livekit.io/agents/build/text/ has
them, so that any LiveKit client shows captions. The line does itself what RoomIO would: the session knows of
no room. The caller's interim words come as they are heard, each again in whole under one segment; the
agent's come word by word with their sound. Card numbers are taken out of both.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from livekit import rtc
from livekit.agents import AgentSession, AgentStateChangedEvent, UserInputTranscribedEvent, io

from trunkline.kit.redact import redact, settled

log = structlog.get_logger()

TOPIC = "lk.transcription"
STATE = "lk.agent.state"
_SEND_S = 2.0
"""How long LiveKit may take for one piece; captions never hold up a call."""


class Captions:
    """The captions of one call in *room*, whose far end is the participant *far*."""

    def __init__(self, room: rtc.Room, far: str) -> None:
        self._room, self._far = room, far
        self._queue: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._sending: asyncio.Task[None] | None = None
        self._said = _segment()
        self._heard = _segment()
        self._writer: rtc.TextStreamWriter | None = None
        self._open = ""
        """Digits that the agent says, which may become those of a card."""

    def follow(self, session: AgentSession[Any]) -> None:
        """Publish what *session* hears and does, until it is closed."""
        self._sending = asyncio.create_task(self._send(), name="captions")

        def on_state(event: AgentStateChangedEvent) -> None:
            self._queue.put_nowait(lambda: self._state(event.new_state))

        def on_words(event: UserInputTranscribedEvent) -> None:
            if event.transcript.strip():
                self._caller(redact(event.transcript), final=event.is_final)

        session.on("agent_state_changed", on_state)
        session.on("user_input_transcribed", on_words)

    def before(self, heard: io.TextOutput) -> io.TextOutput:
        """The agent's words on their way to *heard*."""
        return _Spoken(self, heard)

    async def aclose(self) -> None:
        """Stop; what was not sent yet is not sent."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    def agent_says(self, words: str) -> None:
        """Words of the agent whose sound is played now; digits come once they are known to be no card's."""
        text = self._open + words
        cut = settled(text)
        said, self._open = redact(text[:cut]), text[cut:]
        if said:
            self._queue.put_nowait(lambda: self._speak(said))

    def agent_ends(self) -> None:
        """The agent has ended, or was cut off."""
        rest, self._open = redact(self._open), ""
        if rest:
            self._queue.put_nowait(lambda: self._speak(rest))
        self._queue.put_nowait(self._end)

    def _caller(self, text: str, *, final: bool) -> None:
        segment = self._heard
        if final:
            self._heard = _segment()
        self._queue.put_nowait(lambda: self._whole(segment, text, final=final))

    async def _send(self) -> None:
        while True:
            send = await self._queue.get()
            if not self._room.isconnected():
                continue
            try:
                async with asyncio.timeout(_SEND_S):
                    await send()
            except Exception as error:
                # Whoever reads along misses a line; the call is not theirs to disturb.
                log.debug("caption_not_sent", error=type(error).__name__)
                self._writer = None

    async def _state(self, state: str) -> None:
        await self._room.local_participant.set_attributes({STATE: state})

    async def _whole(self, segment: str, text: str, *, final: bool) -> None:
        attributes = self._attributes(segment, self._far, final=final)
        writer = await self._room.local_participant.stream_text(
            topic=TOPIC, sender_identity=self._far, attributes=attributes
        )
        await writer.write(text)
        await writer.aclose()

    async def _speak(self, words: str) -> None:
        if self._writer is None:
            self._said = _segment()
            us = self._room.local_participant.identity
            attributes = self._attributes(self._said, us, final=False)
            self._writer = await self._room.local_participant.stream_text(
                topic=TOPIC, sender_identity=us, attributes=attributes
            )
        await self._writer.write(words)

    async def _end(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            us = self._room.local_participant.identity
            await writer.aclose(attributes=self._attributes(self._said, us, final=True))

    def _attributes(self, segment: str, identity: str, *, final: bool) -> dict[str, str]:
        found = {"lk.segment_id": segment, "lk.transcription_final": str(final).lower()}
        if track := self._track(identity):
            found["lk.transcribed_track_id"] = track
        return found

    def _track(self, identity: str) -> str | None:
        who: Any = self._room.remote_participants.get(identity, self._room.local_participant)
        with contextlib.suppress(AttributeError):
            for publication in who.track_publications.values():
                if publication.kind == rtc.TrackKind.KIND_AUDIO:
                    return str(publication.sid)
        return None


class _Spoken(io.TextOutput):
    def __init__(self, captions: Captions, heard: io.TextOutput) -> None:
        super().__init__(label="Captions", next_in_chain=heard)
        self._captions, self._heard_by = captions, heard

    async def capture_text(self, text: str) -> None:
        """Pass on, and publish."""
        self._captions.agent_says(str(text))
        await self._heard_by.capture_text(text)

    def flush(self) -> None:
        """The reply is over."""
        self._captions.agent_ends()
        self._heard_by.flush()


def _segment() -> str:
    return f"SG_{uuid.uuid4().hex[:12]}"
