"""The sandbox's Cartesia, met by LiveKit's own plugin and by bare HTTP and websocket clients."""

import asyncio
import base64
import io
import json
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any

import aiohttp
import httpx
import numpy as np
import numpy.typing as npt
import pytest
import pytest_asyncio
import uvicorn
from livekit.agents import APIConnectOptions, APIError, APIStatusError
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.plugins import cartesia as plugin
from starlette.applications import Starlette
from starlette.routing import Mount

from trunkline.sandbox.cartesia import routes
from trunkline.sandbox.faults import Fault
from trunkline.sandbox.options import Delays, SandboxOptions
from trunkline.sandbox.voice import Chunk, Speaker, UnknownLanguage, Voice, Word

pytestmark = pytest.mark.asyncio(loop_scope="module")

AT_ONCE = Delays(tts_first_byte=timedelta(0))
KEY = {"X-API-Key": "sandbox", "Cartesia-Version": "2025-04-16"}
NEWER = {**KEY, "Cartesia-Version": "2026-03-01"}
NO_RETRY = APIConnectOptions(max_retry=0, timeout=10)
BOUND_S = 20
"""No answer takes nearly as long; a test that waits for one fails then instead of hanging."""


def options(*faults: str, delays: Delays = AT_ONCE) -> SandboxOptions:
    return SandboxOptions(delays=delays, faults=tuple(Fault.parse(fault) for fault in faults))


def request(text: str, **changes: object) -> dict[str, Any]:
    """A generation request as LiveKit's plugin writes it."""
    output = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}
    return {
        "model_id": "sonic-3",
        "voice": {"mode": "id", "id": "any"},
        "output_format": output,
        "language": "en",
        "transcript": text,
        **changes,
    }


def output(encoding: str, rate_hz: int = 16000, container: str = "raw") -> dict[str, object]:
    return {"container": container, "encoding": encoding, "sample_rate": rate_hz}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def voice() -> AsyncIterator[Voice]:
    voice = await Voice.start()
    yield voice
    await voice.close()


@asynccontextmanager
async def serving(speaker: Speaker, *faults: str, delays: Delays = AT_ONCE) -> AsyncIterator[str]:
    """The routes on a real port; gives what a client takes as its base URL."""
    app = Starlette(
        routes=[Mount("/cartesia", routes=routes(speaker, options(*faults, delays=delays)))]
    )
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=0
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/cartesia"
    finally:
        await server.shutdown()


@dataclass
class Socket:
    """A websocket client that speaks bare JSON."""

    ws: aiohttp.ClientWebSocketResponse

    async def send(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            await self.ws.send_str(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.ws.receive_str(timeout=BOUND_S))
        return message

    async def until_done(self, *context_ids: str) -> list[dict[str, Any]]:
        """Everything up to the last message of each of these contexts."""
        missing, messages = set(context_ids), list[dict[str, Any]]()
        while missing:
            messages.append(await self.receive())
            if messages[-1]["done"]:
                missing.discard(messages[-1].get("context_id", ""))
        return messages


@asynccontextmanager
async def connected(base: str, headers: dict[str, str] = KEY) -> AsyncIterator[Socket]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{base}/tts/websocket", headers=headers) as ws,
    ):
        yield Socket(ws)


def pcm(messages: list[dict[str, Any]], context_id: str) -> bytes:
    chunks = (m["data"] for m in messages if m["type"] == "chunk" and m["context_id"] == context_id)
    return b"".join(base64.b64decode(chunk) for chunk in chunks)


def loudness(audio: bytes) -> float:
    """Root mean square of 16 bit samples."""
    return float(np.sqrt(np.mean(np.frombuffer(audio, "<i2").astype(float) ** 2)))


async def post(base: str, body: object, headers: dict[str, str] = KEY) -> httpx.Response:
    async with httpx.AsyncClient(timeout=BOUND_S) as http:
        return await http.post(f"{base}/tts/bytes", json=body, headers=headers)


class Recorder:
    """A speaker that notes what it was asked to say and answers with 100 ms of a constant."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def synthesize(
        self, text: str, language: str, sample_rate_hz: int
    ) -> AsyncGenerator[Chunk, None]:
        self.said.append(text)
        audio = np.full(sample_rate_hz // 10, 1000, "<i2").tobytes()
        yield Chunk(audio, tuple(Word(word, 0.0, 0.1) for word in text.split()))


async def test_the_plugin_streams_speech_with_word_times(voice: Voice) -> None:
    """LiveKit's plugin gets audible speech of a plausible length, every word of the text in its
    place, and times that run on from the first sentence to the second."""
    text = "Good morning, Anna. Your order of 2,400.00 USD left our warehouse on Monday."
    async with serving(voice) as base, aiohttp.ClientSession() as session:
        tts = plugin.TTS(base_url=base, api_key="sandbox", http_session=session)
        audio, words = b"", []
        async with tts.stream(conn_options=NO_RETRY) as stream:
            stream.push_text(text[:30])
            stream.push_text(text[30:])
            stream.end_input()
            async for event in stream:
                audio += bytes(event.frame.data)
                words += event.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT, [])
                assert event.frame.sample_rate == 24000
        await tts.aclose()
    seconds = len(audio) / 2 / 24000
    assert "".join(words).strip() == text
    # From slow to fast, people say one to five words a second.
    assert len(words) / 5 < seconds < len(words)
    assert loudness(audio) > 500
    times = [time for word in words for time in (word.start_time, word.end_time)]
    assert times == sorted(times)
    assert seconds * 0.95 < times[-1] < seconds + 0.01


async def test_the_plugin_gets_a_whole_text_at_once(voice: Voice) -> None:
    """The plugin's non-streaming way, /tts/bytes, gives speech at the rate asked for."""
    async with serving(voice) as base, aiohttp.ClientSession() as session:
        tts = plugin.TTS(base_url=base, api_key="sandbox", http_session=session, sample_rate=8000)
        frame = await tts.synthesize("Thank you, goodbye.", conn_options=NO_RETRY).collect()
        await tts.aclose()
    assert frame.sample_rate == 8000
    assert 0.5 < frame.duration < 3
    assert loudness(bytes(frame.data)) > 500


async def test_the_same_text_gives_the_same_bytes(voice: Voice) -> None:
    """A sentence sounds the same whatever was said before it, also when several are asked at once."""
    async with serving(voice) as base:
        first = (await post(base, request("How can I help you?"))).content
        await post(base, request("Something else, at 16 kHz."))
        again = await asyncio.gather(*(post(base, request("How can I help you?")) for _ in "123"))
    assert [answer.content for answer in again] == [first] * 3


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("That is 2,400.00 USD.", "That is 2,400 dollars."),  # no "point zero zero"
        ("It costs $99.50, today.", "It costs 99 dollars and 50 cents, today."),
        ("Call +4930123456.", "Call 4 9 3 0 1 2 3 4 5 6."),  # digits, not billions
    ],
)
async def test_figures_are_read_as_people_say_them(voice: Voice, written: str, meant: str) -> None:
    """Money and telephone numbers sound as if spelt out, and keep their written form as words."""
    chunks = [chunk async for chunk in voice.synthesize(written, "en", 16000)]
    spoken = [chunk.pcm async for chunk in voice.synthesize(meant, "en", 16000)]
    assert b"".join(chunk.pcm for chunk in chunks) == b"".join(spoken)
    assert " ".join(word.text for chunk in chunks for word in chunk.words) == written


async def test_a_dropped_request_is_not_spoken_to_its_end(voice: Voice) -> None:
    """Closing a request of some minutes' work lets the next one through at once.

    The voice speaks one text at a time, so without the dropping the next would run into the
    client's own timeout.
    """
    endless = voice.synthesize("and so on " * 60_000, "en", 48000)
    assert (await anext(endless)).pcm
    await endless.aclose()
    assert [chunk async for chunk in voice.synthesize("Yes.", "en", 8000)]


async def test_an_unknown_language_is_refused(voice: Voice) -> None:
    """A language the voice doesn't have is the provider's error, and others still speak."""
    async with serving(voice) as base, connected(base) as socket:
        await socket.send(request("Moin", context_id="a", language="xx"))
        (error,) = await socket.until_done("a")
        assert (error["type"], error["status_code"]) == ("error", 400)
        assert "'xx'" in error["error"]
        await socket.send(request("Grüß Gott, Frau Müller", context_id="b", language="de"))
        messages = await socket.until_done("b")
        assert loudness(pcm(messages, "b")) > 500
        assert (await post(base, request("Moin", language="xx"))).status_code == 400
    with pytest.raises(UnknownLanguage):
        await anext(voice.synthesize("x", "en us", 8000))


async def test_encodings_carry_the_same_sound(voice: Voice) -> None:
    """Float and µ-law hold what the 16 bit samples hold; a WAV file holds it with its header."""
    text = "One, two, three."

    async def fetch(encoding: str, container: str = "raw") -> bytes:
        body = request(text, output_format=output(encoding, container=container))
        answer = await post(base, body)
        assert answer.status_code == 200
        return answer.content

    async with serving(voice) as base:
        plain, wav = await fetch("pcm_s16le"), await fetch("pcm_s16le", "wav")
        floats, codes = await fetch("pcm_f32le"), await fetch("pcm_mulaw")
        mulaw_wav = await fetch("pcm_mulaw", "wav")
    samples = np.frombuffer(plain, "<i2").astype(np.int32)
    assert np.array_equal(np.frombuffer(floats, "<f4") * 32768, samples)
    # Within half a step of its octave, the coarsest being 1024 wide; silence is exact.
    error = np.abs(decode_mulaw(codes) - samples)
    assert np.all(error <= np.maximum(8, np.abs(samples) / 16))
    with wave.open(io.BytesIO(wav)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        assert file.readframes(file.getnframes()) == plain
    assert mulaw_wav[-len(codes) :] == codes


def decode_mulaw(codes: bytes) -> npt.NDArray[np.int32]:
    """G.711's own decoding, to check the encoding against."""
    code = ~np.frombuffer(codes, np.uint8) & 0xFF
    octave, step = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = ((step << 3) + 132 << octave) - 132
    return np.where(code & 0x80, -magnitude, magnitude)


async def test_contexts_share_a_connection(voice: Voice) -> None:
    """Two replies at once keep apart, their pieces run on in time, and each says when it is done."""
    piece = {"add_timestamps": True, "max_buffer_delay_ms": 0}
    async with serving(voice) as base, connected(base) as socket:
        await socket.send(
            request("First half, ", context_id="a", **piece, **{"continue": True}),
            request("Another reply.", context_id="b", **piece),
            request("second half.", context_id="a", **piece, **{"continue": False}),
        )
        messages = await socket.until_done("a", "b")
    assert [m["context_id"] for m in messages if m["type"] == "done"].count("a") == 1
    times = [
        list(zip(*(m["word_timestamps"][key] for key in ("words", "start", "end")), strict=True))
        for m in messages
        if m["type"] == "timestamps" and m["context_id"] == "a"
    ]
    words = [word for batch in times for word in batch]
    assert [word for word, _, _ in words] == ["First", "half,", "second", "half."]
    assert all(before[2] <= after[1] for before, after in pairwise(words))
    assert words[-1][2] == pytest.approx(len(pcm(messages, "a")) / 2 / 16000, abs=0.01)
    assert loudness(pcm(messages, "b")) > 500


async def test_text_is_held_until_a_sentence_is_whole() -> None:
    """With Cartesia's default buffering single tokens are spoken as sentences; flush speaks what
    there is and says so; a delay of zero speaks each piece as it comes."""
    more = {"continue": True}
    recorder = Recorder()
    async with serving(recorder) as base, connected(base) as socket:
        tokens = [request(text, context_id="a", **more) for text in ("Hello", " there", ". And")]
        await socket.send(*tokens, request("", context_id="a", flush=True, **more))
        messages = [await socket.receive()]
        while messages[-1]["type"] != "flush_done":
            messages.append(await socket.receive())
        await socket.send(request(" bye", context_id="a"))
        messages += await socket.until_done("a")
        eager = {"context_id": "b", "max_buffer_delay_ms": 0, **more}
        await socket.send(request("one ", **eager), request("two", **eager))
        await socket.send(request(" ", **{**eager, "continue": False}))
        await socket.until_done("b")
    assert recorder.said == ["Hello there. And", " bye", "one ", "two"]
    assert [m["flush_id"] for m in messages if m["type"] == "flush_done"] == [1]
    assert [m["flush_id"] for m in messages if m["type"] == "chunk"] == [1, 2, 2]


async def test_held_text_is_spoken_when_its_time_is_over() -> None:
    """Half a sentence is spoken without a flush once max_buffer_delay_ms has passed."""
    recorder = Recorder()
    async with serving(recorder) as base, connected(base) as socket:
        half = {"context_id": "a", "continue": True, "max_buffer_delay_ms": 20}
        await socket.send(request("Let me see", **half))
        assert (await socket.receive())["type"] == "chunk"
    assert recorder.said == ["Let me see"]


async def test_cancel_drops_what_has_not_begun() -> None:
    """After a cancel nothing more of the context is spoken, and it is told as done."""
    recorder = Recorder()
    async with serving(recorder) as base, connected(base) as socket:
        await socket.send(
            request("Let me think", context_id="a", **{"continue": True}),
            {"context_id": "a", "cancel": True},
            {"context_id": "unheard-of", "cancel": True},
        )
        assert [m["type"] for m in await socket.until_done("a")] == ["done"]
    assert recorder.said == []


async def test_the_first_audio_waits_as_long_as_told() -> None:
    """With a delay of an hour to the first byte nothing is spoken while other frames are answered;
    without one it is."""
    recorder = Recorder()
    slow = Delays(tts_first_byte=timedelta(hours=1))
    async with serving(recorder, delays=slow) as base, connected(base) as socket:
        await socket.send(request("Late.", context_id="a"), request("...", context_id="b"))
        assert {m["context_id"] for m in await socket.until_done("b")} == {"b"}
        assert recorder.said == []
    async with serving(recorder) as base, connected(base) as socket:
        await socket.send(request("Prompt.", context_id="a"))
        await socket.until_done("a")
    assert recorder.said == ["Prompt."]


async def test_a_voice_that_is_gone_is_the_providers_error() -> None:
    """When the voice's process has died, requests get status 500 and the server lives on."""
    voice = await Voice.start()
    await voice.close()
    async with serving(voice) as base, connected(base) as socket:
        assert (await post(base, request("Hello."))).status_code == 500
        for context_id in ("a", "b"):
            await socket.send(request("Hello.", context_id=context_id))
            (error,) = await socket.until_done(context_id)
            assert (error["type"], error["status_code"]) == ("error", 500)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"X-API-Key": "sandbox"}, ""),
        ({"Authorization": "Bearer sandbox"}, ""),
        ({}, "?api_key=sandbox"),
        ({}, "?access_token=sandbox"),  # a browser cannot set headers on a websocket
    ],
)
async def test_the_key_is_taken_where_cartesia_takes_it(
    headers: dict[str, str], query: str
) -> None:
    """Each documented place for the key lets a websocket in."""
    version = {"Cartesia-Version": "2025-04-16"}
    async with (
        serving(Recorder()) as base,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{base}/tts/websocket{query}", headers={**headers, **version}) as ws,
    ):
        assert not ws.closed


async def test_a_wrong_key_is_told_to_the_plugin(voice: Voice) -> None:
    """The plugin sees status 401, which it doesn't retry, on both of its ways."""
    async with serving(voice) as base, aiohttp.ClientSession() as session:
        tts = plugin.TTS(base_url=base, api_key="wrong", http_session=session)
        with pytest.raises(APIStatusError) as refused:
            await tts.synthesize("Hello", conn_options=NO_RETRY).collect()
        assert (refused.value.status_code, refused.value.retryable) == (401, False)
        async with tts.stream(conn_options=NO_RETRY) as stream:
            stream.push_text("Hello there.")
            stream.end_input()
            with pytest.raises(APIStatusError) as refused:
                async for _ in stream:
                    pass
        assert refused.value.status_code == 401
        await tts.aclose()


async def test_the_version_is_required_and_shapes_errors() -> None:
    """Without Cartesia-Version there is an error; up to 2026-03-01 errors are text, then JSON."""
    async with serving(Recorder()) as base:
        missing = await post(base, request("Hi"), {"X-API-Key": "sandbox"})
        assert missing.status_code == 400
        assert "Cartesia-Version header is required" in missing.text
        text = await post(base, request("Hi", model_id=""))
        assert (text.status_code, text.text) == (400, "Invalid model: model_id is required.")
        shaped = await post(base, request("Hi", model_id=""), NEWER)
        assert shaped.json()["title"] == "Invalid model"
        assert shaped.json().keys() == {"error_code", "title", "message", "request_id"}
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(base, {"X-API-Key": "sandbox"}):
                pass
        assert refused.value.status == 400
        async with connected(base, NEWER) as socket:
            await socket.send(request("Hi", context_id="a", model_id=""))
            error = await socket.receive()
            assert (error["title"], error["context_id"]) == ("Invalid model", "a")


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ("{", "Invalid JSON"),
        (b"\x80\x81", "Invalid JSON"),  # audio sent to the wrong end
        ("[1]", "must be a JSON object"),
        (json.dumps(request("Hi", voice="anna")), "Invalid voice"),
        (json.dumps(request("Hi", output_format=None)), "output_format is required"),
        (json.dumps(request("Hi", output_format=output("opus"))), "encoding must be one of"),
        (json.dumps(request("Hi", output_format=output("pcm_s16le", 1))), "sample_rate must be"),
        (json.dumps(request("Hi", output_format=output("pcm_s16le", container="wav"))), "raw"),
        (json.dumps({**request("Hi"), "transcript": 7}), "transcript must be a string"),
        (json.dumps(request("Hi", language=["en"])), "Invalid language"),
        (json.dumps(request("...")), "transcript empty or contains only punctuation"),
        (json.dumps(request("Hi", context_id="a b")), "Invalid context"),
        (json.dumps(request("Hi", context_id="open", language="de")), "same voice and format"),
    ],
)
async def test_a_malformed_frame_leaves_the_connection(frame: str | bytes, said: str) -> None:
    """A frame that makes no sense gets Cartesia's error message, and the next one is answered."""
    async with serving(Recorder()) as base, connected(base) as socket:
        await socket.send(request("I am", context_id="open", **{"continue": True}))
        send = socket.ws.send_str if isinstance(frame, str) else socket.ws.send_bytes
        await send(frame)  # type: ignore[arg-type]
        error = await socket.receive()
        assert (error["type"], error["done"], error["status_code"]) == ("error", True, 400)
        assert said in error["error"]
        await socket.send(request(" here.", context_id="open"))
        assert (await socket.until_done("open"))[-1]["type"] == "done"


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_a_fault_strikes_the_nth_reply(status: int) -> None:
    """With tts:STATUS@2 the second context of a connection gets that error, its neighbours speak."""
    recorder = Recorder()
    async with serving(recorder, f"tts:{status}@2") as base, connected(base, NEWER) as socket:
        await socket.send(*(request(f"Reply {n}.", context_id=str(n)) for n in (1, 2, 3)))
        messages = await socket.until_done("1", "2", "3")
    (error,) = [message for message in messages if message["context_id"] == "2"]
    assert (error["type"], error["status_code"]) == ("error", status)
    assert sorted(recorder.said) == ["Reply 1.", "Reply 3."]


async def test_a_stalled_reply_is_never_answered() -> None:
    """With tts:stall@1 the first context stays silent while the second is spoken."""
    recorder = Recorder()
    async with serving(recorder, "tts:stall@1") as base, connected(base) as socket:
        await socket.send(*(request(f"Reply {n}.", context_id=str(n)) for n in (1, 2)))
        assert {m["context_id"] for m in await socket.until_done("2")} == {"2"}
    assert recorder.said == ["Reply 2."]


async def test_a_reset_breaks_the_connection() -> None:
    """With tts:reset@1 the connection ends without a closing handshake."""
    async with serving(Recorder(), "tts:reset@1") as base, connected(base) as socket:
        await socket.send(request("Reply.", context_id="a"))
        assert (await socket.ws.receive(timeout=BOUND_S)).type == aiohttp.WSMsgType.CLOSED
        assert socket.ws.close_code == aiohttp.WSCloseCode.ABNORMAL_CLOSURE


@pytest.mark.parametrize("status", [401, 429, 500])
async def test_a_fault_for_every_turn_refuses_the_upgrade(status: int) -> None:
    """With tts:STATUS neither the websocket nor /tts/bytes lets anything through."""
    async with serving(Recorder(), f"tts:{status}") as base:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with connected(base):
                pass
        assert refused.value.status == status
        assert (await post(base, request("Hi"))).status_code == status


async def test_reset_and_stall_for_every_turn() -> None:
    """With tts:reset every connection breaks; with tts:stall none is ever answered."""
    impatient = httpx.Timeout(BOUND_S, read=0.2)
    async with serving(Recorder(), "tts:reset") as base:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(base, request("Hi"))
        async with connected(base) as socket:
            assert (await socket.ws.receive(timeout=BOUND_S)).type == aiohttp.WSMsgType.CLOSED
    async with serving(Recorder(), "tts:stall") as base:
        async with httpx.AsyncClient(timeout=impatient, headers=KEY) as http:
            with pytest.raises(httpx.ReadTimeout):
                await http.post(f"{base}/tts/bytes", json=request("Hi"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), connected(base):
                pass


@pytest.mark.parametrize(
    ("fault", "spoken"),
    [
        ("tts:500@1", [False, True]),
        ("tts:reset@1", [False, False]),  # it connects anew, where the first reply is struck again
    ],
)
async def test_the_plugin_sees_a_fault(voice: Voice, fault: str, spoken: list[bool]) -> None:
    """The plugin raises an error for a struck reply, and speaks the next one if it may."""

    async def speaks(tts: plugin.TTS) -> bool:
        async with tts.stream(conn_options=NO_RETRY) as stream:
            stream.push_text("Hello there.")
            stream.end_input()
            try:
                audio = b"".join([bytes(event.frame.data) async for event in stream])
            except APIError:
                return False
        return loudness(audio) > 500

    async with serving(voice, fault) as base, aiohttp.ClientSession() as session:
        tts = plugin.TTS(base_url=base, api_key="sandbox", http_session=session)
        assert [await speaks(tts) for _ in spoken] == spoken
        await tts.aclose()
