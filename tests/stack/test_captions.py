"""What any LiveKit client in the room of a call can read along, over a real livekit-server."""

import asyncio
from typing import TYPE_CHECKING, Any, cast

from livekit import api, rtc
from livekit.agents import AgentSession, AgentStateChangedEvent, UserInputTranscribedEvent, io

from trunkline.agent.captions import STATE, TOPIC, Captions

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

BOUND_S = 60


class Sink(io.TextOutput):
    """Where the words go on to."""

    def __init__(self) -> None:
        super().__init__(label="Sink", next_in_chain=None)
        self.text = ""

    async def capture_text(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        self.text += "|"


class Reader:
    """A plain client that notes what it reads: who, segment, final, words."""

    def __init__(self) -> None:
        self.room = rtc.Room()
        self.said: list[tuple[str, str, str, str]] = []
        self.states: list[str] = []
        self.news = asyncio.Event()
        self._reading: set[asyncio.Task[None]] = set()
        self.room.register_text_stream_handler(TOPIC, self._on_stream)
        self.room.on("participant_attributes_changed", self._on_attributes)

    def _on_stream(self, stream: rtc.TextStreamReader, sender: str) -> None:
        task = asyncio.create_task(self._read(stream, sender))
        self._reading.add(task)

    async def _read(self, stream: rtc.TextStreamReader, sender: str) -> None:
        text = await stream.read_all()
        known = stream.info.attributes or {}
        self.said.append((sender, known["lk.segment_id"], known["lk.transcription_final"], text))
        self.news.set()

    def _on_attributes(self, changed: dict[str, str], participant: rtc.Participant) -> None:
        if STATE in changed:
            self.states.append(changed[STATE])
            self.news.set()

    async def until(self, said: int, states: int) -> None:
        """Wait for so many of each."""
        async with asyncio.timeout(BOUND_S):
            while len(self.said) < said or len(self.states) < states:
                self.news.clear()
                await self.news.wait()


async def _join(
    server: "LiveKitServer", room: rtc.Room, identity: str, kind: str = "standard"
) -> None:
    options = server.options
    grants = api.VideoGrants(room_join=True, room="captions", can_update_own_metadata=True)
    token = api.AccessToken(options.api_key, options.api_secret).with_identity(identity)
    # Only an agent may speak in another's name, as livekit-server checks.
    token = token.with_kind(cast("Any", kind))
    await room.connect(options.url, token.with_grants(grants).to_jwt())


async def test_a_plain_client_reads_along(livekit_server: "LiveKitServer") -> None:
    """The caller's interim words and then the final ones are one segment, under the caller's name; the
    agent's words are a stream that ends when the agent does; the state is the agent's attribute."""
    agent, caller, reader, sink = rtc.Room(), rtc.Room(), Reader(), Sink()
    await _join(livekit_server, agent, "agent", kind="agent")
    await _join(livekit_server, caller, "caller")
    await _join(livekit_server, reader.room, "reader")
    session: AgentSession[None] = AgentSession(vad=None)
    captions = Captions(agent, "caller")
    captions.follow(session)
    words = captions.before(sink)
    try:
        for text, final in (("where does", False), ("where does my order", False), ("", False)):
            session.emit(
                "user_input_transcribed", UserInputTranscribedEvent(transcript=text, is_final=final)
            )
        session.emit(
            "user_input_transcribed",
            UserInputTranscribedEvent(transcript="Where does my order stand?", is_final=True),
        )
        for old, new in (("listening", "thinking"), ("thinking", "speaking")):
            session.emit(
                "agent_state_changed",
                AgentStateChangedEvent.model_validate({"old_state": old, "new_state": new}),
            )
        for word in ("It ", "is on ", "its way."):
            await words.capture_text(word)
        words.flush()
        for word in ("Your card ", "4111 ", "1111 ", "1111 ", "1111 ", "and ", "flat ", "12"):
            await words.capture_text(word)
        words.flush()
        session.emit(
            "user_input_transcribed",
            UserInputTranscribedEvent(transcript="My card is 4111 1111 1111 1111", is_final=True),
        )
        await reader.until(said=6, states=2)
    finally:
        await captions.aclose()
        for room in (agent, caller, reader.room):
            await room.disconnect()
    theirs = [one for one in reader.said if one[0] == "caller"]
    assert [(final, text) for _, _, final, text in theirs[:3]] == [
        ("false", "where does"),
        ("false", "where does my order"),
        ("true", "Where does my order stand?"),
    ]
    assert len({segment for _, segment, _, _ in theirs[:3]}) == 1
    assert theirs[3][1] != theirs[0][1]
    assert "4111" not in theirs[3][3]
    assert [(who, text) for who, _, _, text in reader.said if who == "agent"] == [
        ("agent", "It is on its way."),
        ("agent", "Your card [card] and flat 12"),
    ]
    assert reader.states == ["thinking", "speaking"]
    assert sink.text == "It is on its way.|Your card 4111 1111 1111 1111 and flat 12|"
