"""The sandbox's OpenAI Realtime, met by OpenAI's own client, by LiveKit's plugin and by a bare websocket."""

import asyncio
import base64
import json
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import openai
import pytest
import pytest_asyncio
import uvicorn
from livekit import rtc
from livekit.agents import APIConnectOptions, function_tool, llm
from livekit.agents.utils import http_context
from livekit.plugins.openai.realtime import RealtimeModel
from openai.types.realtime.realtime_audio_input_turn_detection import ServerVad
from openai.types.realtime.realtime_server_event import RealtimeServerEvent
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.routing import Mount

from trunkline.agent.realtime import Realtime
from trunkline.kit.audio import mulaw_decode, mulaw_encode
from trunkline.profiles.realtime import OpenaiRealtime
from trunkline.sandbox import realtime
from trunkline.sandbox.brain import Brain
from trunkline.sandbox.callers import sandbox_providers
from trunkline.sandbox.ears import Ears
from trunkline.sandbox.faults import Fault
from trunkline.sandbox.options import Delays, SandboxOptions
from trunkline.sandbox.realtime_audio import alaw_decode, alaw_encode
from trunkline.sandbox.voice import Voice

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINES = Path(realtime.__file__).parent / "lines"
BOUND_S = 20
"""No answer takes nearly as long; a test that waits for one fails then instead of hanging."""
AT_ONCE = Delays(*(timedelta(0),) * 4)
PROMPT = "Now: 2026-11-21 14:05 Saturday (America/New_York)\nCaller: Dana Whitfield"
PLANS = "what plans do you have"
CALL_BACK = {
    "type": "function",
    "name": "request_callback",
    "description": "Have a person call back.",
    "parameters": {
        "type": "object",
        "properties": {"date": {"type": "string"}, "reason": {"type": "string"}},
        "required": ["date", "reason"],
    },
}


def line(text: str) -> bytes:
    """A recorded line as the telephone brings it: 16 bit, 8 kHz."""
    with wave.open(str(LINES / f"{text.replace(' ', '_')}.wav")) as file:
        return mulaw_decode(mulaw_encode(file.readframes(file.getnframes())))


def at_24k(pcm: bytes, *, before_ms: int = 300, after_ms: int = 700) -> bytes:
    """8 kHz audio at 24 kHz, between silence."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    steps = np.arange(3 * len(samples)) / 3
    wide = np.interp(steps, np.arange(len(samples)), samples).astype("<i2").tobytes()
    return bytes(48 * before_ms) + wide + bytes(48 * after_ms)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ears() -> AsyncIterator[Ears]:
    ears = await Ears.start(Brain.load().grammar())
    yield ears
    await ears.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def voice() -> AsyncIterator[Voice]:
    voice = await Voice.start()
    yield voice
    await voice.close()


@pytest.fixture
def serving(ears: Ears, voice: Voice) -> Any:
    """``async with serving("realtime:401", session_s=1) as base``: the routes on a real port."""

    @asynccontextmanager
    async def serve(*faults: str, session_s: float = 3600) -> AsyncIterator[str]:
        options = SandboxOptions(
            delays=AT_ONCE,
            faults=tuple(Fault.parse(fault) for fault in faults),
            realtime_session=timedelta(seconds=session_s),
        )
        routes = realtime.routes(Brain.load(), ears, voice, options)
        app = Starlette(routes=[Mount("/openai", routes=routes)])
        config = uvicorn.Config(
            app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            async with asyncio.timeout(BOUND_S):
                yield f"http://127.0.0.1:{port}"
        finally:
            await server.shutdown()

    return serve


class Talk:
    """A connection of the official client: what it sends, and the events it reads until one comes."""

    def __init__(self, connection: Any) -> None:
        self.to = connection
        self.events: list[Any] = []

    async def until(self, kind: str) -> Any:
        async for event in self.to:
            self.events.append(event)
            if event.type == kind:
                return event
        raise AssertionError(f"the connection ended before {kind}")

    def of(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.type == kind]

    async def say(self, pcm: bytes) -> None:
        for at in range(0, len(pcm), 4800):
            piece = base64.b64encode(pcm[at : at + 4800]).decode()
            await self.to.input_audio_buffer.append(audio=piece)

    async def set(self, *, detection: Any = None, **session: Any) -> Any:
        audio = session.pop("audio", {})
        heard = {
            "turn_detection": detection,
            "transcription": {"model": "gpt-4o-mini-transcribe"},
            **audio.pop("input", {}),
        }
        wish = {"type": "realtime", "instructions": PROMPT, "audio": {"input": heard, **audio}}
        await self.to.session.update(session={**wish, **session})
        return await self.until("session.updated")

    async def ask(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        await self.to.conversation.item.create(
            item={"type": "message", "role": "user", "content": content}
        )


@asynccontextmanager
async def talking(base: str, key: str = "sandbox") -> AsyncIterator[Talk]:
    client = openai.AsyncOpenAI(api_key=key, base_url=f"{base}/openai/v1")
    async with client, client.realtime.connect(model="gpt-realtime") as connection:
        talk = Talk(connection)
        await talk.until("session.created")
        yield talk


async def test_a_caller_is_heard_and_answered_in_sound_and_words(serving: Any) -> None:
    """Server VAD tells the turn, its words come, and the answer comes as audio with its transcript."""
    async with serving() as base, talking(base) as talk:
        updated = await talk.set(detection={"type": "server_vad", "silence_duration_ms": 400})
        assert updated.session.audio.input.turn_detection.threshold == 0.5
        await talk.say(at_24k(line(PLANS)))
        done = await talk.until("response.done")

        (started,) = talk.of("input_audio_buffer.speech_started")
        (stopped,) = talk.of("input_audio_buffer.speech_stopped")
        assert started.audio_start_ms < 350  # less the padding, and the line's own first silence
        assert 1200 < stopped.audio_end_ms - started.audio_start_ms < 3000
        (heard,) = talk.of("conversation.item.input_audio_transcription.completed")
        assert heard.transcript == "What plans do you have?"
        assert heard.item_id == started.item_id
        assert heard.usage.total_tokens > 10
        deltas = talk.of("conversation.item.input_audio_transcription.delta")
        assert "".join(one.delta for one in deltas) == heard.transcript

        words = "".join(one.delta for one in talk.of("response.output_audio_transcript.delta"))
        assert words.startswith("We have three plans.") or "plan" in words
        (told,) = talk.of("response.output_audio_transcript.done")
        assert told.transcript == words == done.response.output[0].content[0].transcript
        sound = b"".join(
            base64.b64decode(one.delta) for one in talk.of("response.output_audio.delta")
        )
        assert 0.2 < len(words.split()) / (len(sound) / 48_000) / 10 < 0.45  # two to four a second
        assert done.response.status == "completed"
        usage = done.response.usage
        assert usage.output_token_details.audio_tokens == pytest.approx(len(sound) / 2400, abs=3)
        assert usage.total_tokens == usage.input_tokens + usage.output_tokens
        (limits,) = talk.of("rate_limits.updated")
        assert {limit.name for limit in limits.rate_limits} == {"requests", "tokens"}


async def test_every_event_is_as_the_client_has_it_typed(serving: Any) -> None:
    """Each event, read strictly, is one of the official client's types with all its fields."""
    adapter: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
    async with (
        serving() as base,
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{base}/openai/v1/realtime?model=gpt-realtime",
            headers={"Authorization": "Bearer sandbox"},
        ) as ws,
    ):
        for event in (
            {
                "type": "session.update",
                "session": {
                    "type": "realtime",
                    "instructions": PROMPT,
                    "tools": [CALL_BACK],
                    "audio": {"input": {"transcription": {"model": "whisper-1"}}},
                },
            },
            {
                "type": "input_audio_buffer.append",
                "audio": base64.b64encode(at_24k(line("please call me back tomorrow"))).decode(),
            },
        ):
            await ws.send_json(event)
        kinds = set()
        while "response.done" not in kinds:
            data = (await ws.receive()).data
            event = adapter.validate_python(json.loads(data))
            assert type(event).model_fields["type"].annotation is not None
            assert set(json.loads(data)) <= set(type(event).model_fields), data
            kinds.add(event.type)
        assert "response.function_call_arguments.done" in kinds
        assert "conversation.item.input_audio_transcription.completed" in kinds


async def test_a_function_is_called_and_its_output_answered(serving: Any) -> None:
    """A tool comes as a function_call item with its arguments; its output leads to the next answer."""
    async with serving() as base, talking(base) as talk:
        await talk.set(tools=[CALL_BACK], output_modalities=["text"])
        await talk.ask("Please call me back tomorrow.")
        await talk.to.response.create()
        done = await talk.until("response.done")
        (call,) = [item for item in done.response.output if item.type == "function_call"]
        assert call.name == "request_callback"
        assert json.loads(call.arguments)["date"] == "2026-11-22"
        pieces = [one.delta for one in talk.of("response.function_call_arguments.delta")]
        assert "".join(pieces) == call.arguments
        await talk.to.conversation.item.create(
            item={
                "type": "function_call_output",
                "call_id": call.call_id,
                "output": "A callback is booked for 2026-11-22 09:00.",
            }
        )
        await talk.to.response.create()
        done = await talk.until("response.done")
        assert done.response.output[0].content[0].text


async def test_a_caller_who_breaks_in_cancels_the_answer(serving: Any) -> None:
    """Speech cancels a response in progress as turn_detected, when the turn detection says so."""
    async with serving() as base, talking(base) as talk:
        await talk.set(detection={"type": "server_vad"})
        await talk.say(at_24k(line(PLANS)) + at_24k(line("wait what are your opening hours")))
        first = await talk.until("response.done")
        second = await talk.until("response.done")
        assert first.response.status == "cancelled"
        assert first.response.status_details.reason == "turn_detected"
        assert second.response.status == "completed"


async def test_what_was_not_heard_is_cut_from_the_item(serving: Any) -> None:
    """A truncated item loses its transcript, and the model goes on from what was heard."""
    async with serving() as base, talking(base) as talk:
        await talk.set()
        await talk.ask("What plans do you have?")
        await talk.to.response.create()
        done = await talk.until("response.done")
        item_id = done.response.output[0].id
        await talk.to.conversation.item.truncate(item_id=item_id, content_index=0, audio_end_ms=900)
        cut = await talk.until("conversation.item.truncated")
        assert cut.audio_end_ms == 900
        await talk.to.conversation.item.retrieve(item_id=item_id)
        item = (await talk.until("conversation.item.retrieved")).item
        assert item.content[0].transcript is None
        await talk.to.conversation.item.truncate(
            item_id=item_id, content_index=0, audio_end_ms=60_000
        )
        assert "already shorter" in (await talk.until("error")).error.message


async def test_a_response_may_differ_from_its_session(serving: Any) -> None:
    """Modalities, token cap, instructions, metadata and conversation are a response's own."""
    async with serving() as base, talking(base) as talk:
        await talk.set()
        await talk.ask("What plans do you have?")
        await talk.to.response.create(
            response={"output_modalities": ["text"], "max_output_tokens": 5, "metadata": {"a": "b"}}
        )
        done = (await talk.until("response.done")).response
        assert (done.status, done.status_details.reason) == ("incomplete", "max_output_tokens")
        assert done.usage.output_token_details.text_tokens == 6
        assert not talk.of("response.output_audio.delta")
        assert done.metadata == {"a": "b"}
        before = len(talk.of("conversation.item.added"))
        await talk.to.response.create(
            response={
                "conversation": "none",
                "output_modalities": ["text"],
                "input": [
                    {
                        "type": "message",
                        "role": "user",
                        "content": [{"type": "input_text", "text": "hello"}],
                    }
                ],
            }
        )
        done = (await talk.until("response.done")).response
        assert done.output[0].content[0].text.startswith("Hello")
        assert len(talk.of("conversation.item.added")) == before


async def test_a_cancelled_response_says_so(serving: Any) -> None:
    """response.cancel ends the one in progress; without one it is refused with its event's id."""
    async with serving() as base, talking(base) as talk:
        await talk.set()
        await talk.to.response.cancel(event_id="mine")
        refused = await talk.until("error")
        assert refused.error.event_id == "mine"
        assert refused.error.message.startswith("Cancellation failed")
        await talk.ask("What plans do you have?")
        await talk.to.response.create()
        await talk.to.response.create(event_id="twice")
        error = (await talk.until("error")).error
        assert (error.code, error.event_id) == ("conversation_already_has_active_response", "twice")
        await talk.to.response.cancel()
        done = await talk.until("response.done")
        assert done.response.status_details.reason == "client_cancelled"


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"audio": {"output": {"voice": "nobody"}}}, "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 3}}}, "session.audio.output.speed"),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"audio": {"input": {"format": {"type": "audio/mp3"}}}},
            "session.audio.input.format.type",
        ),
        ({"max_output_tokens": 0}, "session.max_output_tokens"),
        ({"output_modalities": ["video"]}, "session.output_modalities"),
        ({"temperature": 0.8}, "session.temperature"),
        ({"type": "transcription"}, "session.type"),
    ],
)
async def test_wrong_settings_are_refused_by_name(
    serving: Any, session: dict[str, Any], param: str
) -> None:
    """A setting that is not one is answered by an error that names it and the client's event."""
    async with serving() as base, talking(base) as talk:
        await talk.to.send(
            {"type": "session.update", "event_id": "e1", "session": {"type": "realtime", **session}}
        )
        error = (await talk.until("error")).error
        assert (error.param, error.event_id) == (param, "e1")


async def test_by_hand_without_turn_detection(serving: Any) -> None:
    """With turn detection off nothing happens by itself: commit makes the item, clear forgets."""
    async with serving() as base, talking(base) as talk:
        await talk.set()
        await talk.to.input_audio_buffer.commit()
        error = (await talk.until("error")).error
        assert error.code == "input_audio_buffer_commit_empty"
        await talk.say(at_24k(line("hello")))
        await talk.to.input_audio_buffer.clear()
        await talk.until("input_audio_buffer.cleared")
        await talk.say(at_24k(line(PLANS)))
        await talk.to.input_audio_buffer.commit()
        await talk.to.response.create()
        await talk.until("response.done")
        assert not talk.of("input_audio_buffer.speech_started")
        (heard,) = talk.of("conversation.item.input_audio_transcription.completed")
        assert heard.transcript == "What plans do you have?"


async def test_semantic_detection_waits_for_sense(serving: Any) -> None:
    """Words that make sense end the turn after a breath; others after what the eagerness allows."""
    async with serving() as base, talking(base) as talk:
        await talk.set(detection={"type": "semantic_vad", "eagerness": "high"})
        await talk.say(at_24k(line(PLANS), after_ms=400))
        await talk.until("response.done")
        await talk.say(at_24k(line("the quick brown fox jumps over the lazy dog"), after_ms=2300))
        await talk.until("input_audio_buffer.speech_stopped")
        first, second = talk.of("input_audio_buffer.speech_stopped")
        starts = talk.of("input_audio_buffer.speech_started")
        assert first.audio_end_ms - starts[0].audio_start_ms < 2500
        assert second.audio_end_ms - starts[1].audio_start_ms > 4000


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
async def test_telephone_formats(serving: Any, kind: str) -> None:
    """G.711 in and out, both laws, is understood and is speech."""
    to, back = (mulaw_encode, mulaw_decode) if kind == "audio/pcmu" else (alaw_encode, alaw_decode)
    async with serving() as base, talking(base) as talk:
        form = {"format": {"type": kind}}
        await talk.set(detection={"type": "server_vad"}, audio={"input": form, "output": form})
        await talk.say(to(bytes(4800) + line(PLANS) + bytes(11_200)))
        await talk.until("response.done")
        (heard,) = talk.of("conversation.item.input_audio_transcription.completed")
        assert heard.transcript == "What plans do you have?"
        sound = b"".join(
            base64.b64decode(one.delta) for one in talk.of("response.output_audio.delta")
        )
        level = float(np.abs(np.frombuffer(back(sound), dtype="<i2").astype(int)).mean())
        assert 300 < level < 10_000  # speech, neither hiss nor full scale


async def test_a_faster_voice_takes_less_time(serving: Any) -> None:
    """Speed changes how long the same words take."""
    lengths = []
    async with serving() as base:
        for speed in (1.0, 1.5):
            async with talking(base) as talk:
                await talk.set(audio={"output": {"speed": speed, "voice": "marin"}})
                await talk.ask("What plans do you have?")
                await talk.to.response.create()
                done = await talk.until("response.done")
                lengths.append(done.response.usage.output_token_details.audio_tokens)
    assert 0.55 < lengths[1] / lengths[0] < 0.85


async def test_a_session_ends_after_its_time(serving: Any) -> None:
    """The end is told by an error event, then the connection closes."""
    async with serving(session_s=0.2) as base, talking(base) as talk:
        error = (await talk.until("error")).error
        assert error.code == "session_expired"
        with pytest.raises(AssertionError, match="ended before"):
            await talk.until("session.updated")


@pytest.mark.parametrize(
    ("faults", "key", "status"),
    [((), "wrong", 401), (("realtime:401",), "sandbox", 401), (("realtime:429",), "sandbox", 429)],
)
async def test_connections_that_are_refused(
    serving: Any, faults: tuple[str, ...], key: str, status: int
) -> None:
    """A wrong key and a fault for every turn refuse the upgrade with the provider's own status."""
    async with serving(*faults) as base, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await http.ws_connect(
                f"{base}/openai/v1/realtime?model=m", headers={"Authorization": f"Bearer {key}"}
            )
        assert refused.value.status == status


async def test_a_response_that_fails(serving: Any) -> None:
    """A fault for a turn lets its response fail with the error's code, or breaks the connection."""
    async with serving("realtime:429@1", "realtime:reset@2") as base, talking(base) as talk:
        await talk.set()
        await talk.ask("hello")
        await talk.to.response.create()
        done = (await talk.until("response.done")).response
        assert (done.status, done.status_details.error.code) == ("failed", "rate_limit_exceeded")
        await talk.ask("hello")
        await talk.to.response.create()
        with pytest.raises((openai.OpenAIError, Exception), match=r"ended|closed|close frame"):
            await talk.until("response.done")


@pytest.mark.parametrize("path", ["v1/realtime?model=phone", "realtime?deployment=phone"])
async def test_azures_address(serving: Any, path: str) -> None:
    """Azure's two forms, with the key in its own header, lead to a session."""
    async with (
        serving() as base,
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{base}/openai/{path}", headers={"api-key": "sandbox"}) as ws,
    ):
        created = await ws.receive_json()
        assert (created["type"], created["session"]["model"]) == ("session.created", "phone")


async def test_a_transcription_session_only_hears(serving: Any) -> None:
    """With intent=transcription speech becomes words and nothing is answered."""
    async with (
        serving() as base,
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{base}/openai/v1/realtime?intent=transcription",
            headers={"Authorization": "Bearer sandbox"},
        ) as ws,
    ):
        assert (await ws.receive_json())["session"]["type"] == "transcription"
        sound = base64.b64encode(at_24k(line(PLANS))).decode()
        await ws.send_json({"type": "input_audio_buffer.append", "audio": sound})
        kinds: list[str] = []
        while not kinds or not kinds[-1].endswith("completed"):
            kinds.append((await ws.receive_json())["type"])
        await ws.send_json({"type": "response.create"})
        assert (await ws.receive_json())["type"] == "error"
        assert not any(kind.startswith("response") for kind in kinds)


# Our model over LiveKit's plugin ------------------------------------------------------------


async def test_our_model_is_set_in_mid_call_and_for_one_response(serving: Any) -> None:
    """Instructions, tools and the rest of a session are changed while it is on; a response that we ask for
    has the profile's own instructions and cap; what the provider says of its limits is kept."""
    choice = OpenaiRealtime(max_tokens=900, reply_instructions="Be brief.", reply_max_tokens=200)
    async with serving() as base, http_context.open():
        port = int(base.rpartition(":")[2])
        model = Realtime(choice, "en", sandbox_providers(port, "sandbox"))
        session = model.session()
        sent: list[dict[str, Any]] = []
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        session.on("openai_client_event_queued", lambda event: sent.append(event))
        session.on("openai_server_event_received", told.put_nowait)

        async def until(kind: str) -> dict[str, Any]:
            while (event := await told.get())["type"] != kind:
                pass
            return event

        try:
            begun = (await until("session.updated"))["session"]
            assert begun["max_output_tokens"] == 900
            await session.update_instructions(PROMPT)
            assert (await until("session.updated"))["session"]["instructions"] == PROMPT
            await session.update_tools([request_callback])
            [tool] = (await until("session.updated"))["session"]["tools"]
            assert tool["name"] == "request_callback"
            model.update_options(speed=1.2, tool_choice="none")
            changed = (await until("session.updated"))["session"]
            assert (changed["audio"]["output"]["speed"], changed["tool_choice"]) == (1.2, "none")

            reply = session.generate_reply(instructions="Greet the caller.")
            created = (await until("response.created"))["response"]
            assert created["max_output_tokens"] == 200
            await reply
            [asked] = [event for event in sent if event["type"] == "response.create"]
            assert asked["response"]["instructions"].splitlines()[-2:] == [
                "Greet the caller.",
                "Be brief.",
            ]
            await until("response.done")
            assert {limit.name for limit in model.limits} == {"requests", "tokens"}

            await session.update_instructions("Say nothing of prices.")
            again = (await until("session.updated"))["session"]
            assert again["instructions"] == "Say nothing of prices."
        finally:
            await session.aclose()
            await model.aclose()


# LiveKit's plugin ---------------------------------------------------------------------------


@function_tool
async def request_callback(date: str, reason: str) -> str:
    """Have a person call back."""
    return f"A callback is booked for {date}."


@asynccontextmanager
async def plugged(base: str, **options: Any) -> AsyncIterator[llm.RealtimeSession[Any]]:
    detection = ServerVad(type="server_vad", create_response=True, interrupt_response=True)
    async with aiohttp.ClientSession() as http:
        given: dict[str, Any] = {"turn_detection": detection, "voice": "marin", **options}
        if "azure_deployment" in given:
            model = RealtimeModel.with_azure(
                azure_endpoint=base, api_key="sandbox", http_session=http, **given
            )
        else:
            model = RealtimeModel(
                base_url=f"{base}/openai/v1",
                api_key="sandbox",
                http_session=http,
                conn_options=APIConnectOptions(max_retry=3, retry_interval=0.1),
                **given,
            )
        session = model.session()
        await session.update_instructions(PROMPT)
        try:
            yield session
        finally:
            await session.aclose()


def push(session: llm.RealtimeSession[Any], pcm: bytes) -> None:
    for at in range(0, len(pcm), 1600):
        piece = pcm[at : at + 1600]
        session.push_audio(rtc.AudioFrame(piece, 8000, 1, len(piece) // 2))


def coming(session: llm.RealtimeSession[Any], kind: Any) -> "asyncio.Future[Any]":
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def come(event: Any) -> None:
        if not future.done():
            future.set_result(event)

    session.on(kind, come)
    return future


@pytest.mark.parametrize("extra", [{}, {"azure_deployment": "phone"}], ids=["openai", "azure"])
async def test_the_plugin_hears_and_speaks(serving: Any, extra: dict[str, Any]) -> None:
    """LiveKit's plugin, unchanged, at OpenAI's and at Azure's address: speech in, speech and words out."""
    async with serving() as base, plugged(base, **extra) as session:
        made = coming(session, "generation_created")
        push(session, bytes(4800) + line(PLANS) + bytes(11_200))
        message = await anext(aiter((await made).message_stream))
        words = "".join([str(piece) async for piece in message.text_stream])
        frames = [frame async for frame in message.audio_stream]
        assert "plan" in words
        assert sum(frame.duration for frame in frames) > 2
        assert await message.modalities == ["audio", "text"]


async def test_the_plugin_runs_a_tool(serving: Any) -> None:
    """A function call reaches the plugin whole, and its output in the context is answered."""
    async with serving() as base, plugged(base, modalities=["text"]) as session:
        await session.update_tools([request_callback])
        context = session.chat_ctx.copy()
        context.add_message(role="user", content="Please call me back tomorrow.")
        await session.update_chat_ctx(context)
        made = await session.generate_reply()
        call = await anext(aiter(made.function_stream))
        assert call.name == "request_callback"
        context = session.chat_ctx.copy()
        context.insert(
            llm.FunctionCallOutput(
                name=call.name,
                call_id=call.call_id,
                output="A callback is booked for 2026-11-22 09:00.",
                is_error=False,
            )
        )
        await session.update_chat_ctx(context)
        message = await anext(aiter((await session.generate_reply()).message_stream))
        assert "".join([str(piece) async for piece in message.text_stream])


async def test_the_plugin_reconnects_with_the_conversation(serving: Any) -> None:
    """When a session expires the plugin's next one knows what was said before."""
    async with serving(session_s=2) as base, plugged(base) as session:
        context = session.chat_ctx.copy()
        context.add_message(role="user", content="Please call me back tomorrow.")
        await session.update_chat_ctx(context)
        await coming(session, "session_reconnected")
        message = await anext(aiter((await session.generate_reply()).message_stream))
        words = "".join([str(piece) async for piece in message.text_stream])
        assert "call back" in words  # without the tool it says that it can't
