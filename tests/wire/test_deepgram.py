"""The sandbox's Deepgram, met by LiveKit's plugin, by ``deepgram-sdk`` and by a bare websocket client."""

import asyncio
import os
import signal
import sys
import wave
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped]
import pytest
import pytest_asyncio
import uvicorn
from deepgram import AsyncDeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from deepgram.listen.v1.types import ListenV1Metadata, ListenV1Results, ListenV1SpeechStarted
from livekit import rtc
from livekit.agents import APIConnectOptions, APIStatusError, stt
from livekit.plugins import deepgram as plugin
from starlette.applications import Starlette
from starlette.routing import Mount

from trunkline.errors import Unavailable
from trunkline.kit.audio import mulaw_decode, mulaw_encode
from trunkline.kit.processes import ChildDied
from trunkline.sandbox import ears as ears_module
from trunkline.sandbox.brain import Brain
from trunkline.sandbox.deepgram import IDLE, routes
from trunkline.sandbox.ears import Ears, Final, Listener, Word
from trunkline.sandbox.faults import Fault
from trunkline.sandbox.options import Delays, SandboxOptions

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINES = Path(ears_module.__file__).parent / "lines"
RATE_HZ = 8000
KEY = {"Authorization": "Token sandbox"}
NO_RETRY = APIConnectOptions(max_retry=0, timeout=10)
AT_ONCE = Delays(stt_final=timedelta(0))
QUIET = bytes(RATE_HZ)  # half a second
BOUND_S = 20
"""No answer takes nearly as long; a test that waits for one fails then instead of hanging."""


def line(text: str) -> bytes:
    """A recorded line as the telephone brings it, between half seconds of silence."""
    with wave.open(str(LINES / f"{text.replace(' ', '_')}.wav")) as file:
        return QUIET + mulaw_decode(mulaw_encode(file.readframes(file.getnframes()))) + QUIET


def url(base: str, **query: object) -> str:
    given = {"model": "nova-3", "encoding": "linear16", "sample_rate": RATE_HZ, **query}
    pairs = "&".join(f"{name}={value}" for name, value in given.items() if value is not None)
    return f"{base}/v1/listen?{pairs}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ears() -> AsyncIterator[Ears]:
    ears = await Ears.start(Brain.load().grammar())
    yield ears
    await ears.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=BOUND_S)) as session:
        yield session


@asynccontextmanager
async def serving(
    ears: Listener, *faults: str, delays: Delays = AT_ONCE, idle: timedelta = IDLE
) -> AsyncIterator[str]:
    """The routes on a real port; gives what stands before a client's ``/v1/listen``."""
    options = SandboxOptions(delays=delays, faults=tuple(Fault.parse(fault) for fault in faults))
    app = Starlette(routes=[Mount("/deepgram", routes=routes(ears, options, idle=idle))])
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=0
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/deepgram"
    finally:
        await server.shutdown()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def base(ears: Ears) -> AsyncIterator[str]:
    async with serving(ears) as base:
        yield base


class Client:
    """A bare websocket client that notes what it gets."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.got: list[dict[str, Any]] = []

    async def say(self, *messages: bytes | str) -> None:
        """Send audio, or control messages by their type."""
        for message in messages:
            if isinstance(message, bytes):
                for start in range(0, len(message), 800):
                    await self.socket.send_bytes(message[start : start + 800])
            else:
                await self.socket.send_json({"type": message})

    async def until(self, **wanted: object) -> dict[str, Any]:
        """Receive until a message has these fields."""
        async with asyncio.timeout(BOUND_S):
            while True:
                message = await self.socket.receive_json()
                self.got.append(message)
                if wanted.items() <= message.items():
                    return dict(message)

    async def until_closed(self) -> int | None:
        """Receive until the server ends it; the close code, 1006 for a broken connection."""
        async with asyncio.timeout(BOUND_S):
            async for message in self.socket:
                self.got.append(message.json())
        return self.socket.close_code

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.got]

    @property
    def finals(self) -> list[str]:
        return [transcript(message) for message in self.got if message.get("is_final")]


def transcript(message: dict[str, Any]) -> str:
    text: str = message["channel"]["alternatives"][0]["transcript"]
    return text


@asynccontextmanager
async def connected(
    http: aiohttp.ClientSession, base: str, **query: object
) -> AsyncIterator[Client]:
    async with http.ws_connect(url(base, **query), headers=KEY) as socket:
        yield Client(socket)


# --- LiveKit's plugin ----------------------------------------------------------------------------


async def play(stream: stt.SpeechStream, pcm: bytes) -> None:
    """Feed audio in 20 ms frames, in real time, as a room does."""
    size = RATE_HZ // 50 * 2
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    for number, start in enumerate(range(0, len(pcm) - size + 1, size)):
        stream.push_frame(rtc.AudioFrame(pcm[start : start + size], RATE_HZ, 1, size // 2))
        wait_s = began_s + (number + 1) / 50 - loop.time()
        await asyncio.sleep(wait_s)  # pace: 20 ms of audio take 20 ms


HEARD = {
    "where does my order stand": "Where does my order stand?",
    "my internet has been down since monday": "My internet has been down since Monday.",
    "wait what are your opening hours": "Wait what are your opening hours?",
    "the quick brown fox jumps over the lazy dog": None,  # not in the grammar
}


async def test_livekits_plugin_hears_the_lines(base: str, http: aiohttp.ClientSession) -> None:
    """In real time, four callers at once: start, interim, final with word times, end; other words end
    without a transcript."""
    model = plugin.STT(base_url=f"{base}/v1/listen", api_key="sandbox", http_session=http)

    async def converse(text: str) -> list[stt.SpeechEvent]:
        async with asyncio.timeout(BOUND_S), model.stream(conn_options=NO_RETRY) as stream:
            await play(stream, line(text))
            stream.end_input()
            return [event async for event in stream]

    heard = await asyncio.gather(*(converse(text) for text in HEARD))
    for events, wanted in zip(heard, HEARD.values(), strict=True):
        kinds = [event.type for event in events]
        assert kinds[0] == stt.SpeechEventType.START_OF_SPEECH
        finals = [e for e in events if e.type == stt.SpeechEventType.FINAL_TRANSCRIPT]
        assert [final.alternatives[0].text for final in finals] == ([wanted] if wanted else [])
        assert stt.SpeechEventType.END_OF_SPEECH in kinds
        for final in finals:
            best = final.alternatives[0]
            assert stt.SpeechEventType.INTERIM_TRANSCRIPT in kinds
            assert 0 < best.confidence <= 1
            assert 0.4 < best.start_time < best.end_time < 4
            assert best.words is not None
            assert " ".join(best.words) == wanted


async def test_livekits_plugin_transcribes_a_recording(
    base: str, http: aiohttp.ClientSession
) -> None:
    """Its batch mode works, too."""
    model = plugin.STT(base_url=f"{base}/v1/listen", api_key="sandbox", http_session=http)
    pcm = line("thank you goodbye")
    event = await model.recognize(
        rtc.AudioFrame(pcm, RATE_HZ, 1, len(pcm) // 2), conn_options=NO_RETRY
    )
    assert event.alternatives[0].text == "Thank you goodbye."


async def test_livekits_plugin_is_told_a_wrong_key(base: str, http: aiohttp.ClientSession) -> None:
    """A wrong key is status 401, which the plugin doesn't try again."""
    model = plugin.STT(base_url=f"{base}/v1/listen", api_key="wrong", http_session=http)

    async def converse() -> None:
        async with asyncio.timeout(BOUND_S), model.stream() as stream:
            stream.end_input()
            async for _ in stream:
                pass

    with pytest.raises(APIStatusError) as refused:
        await converse()
    assert (refused.value.status_code, refused.value.retryable) == (401, False)


# --- deepgram-sdk --------------------------------------------------------------------------------


def sdk(base: str, key: str = "sandbox") -> AsyncDeepgramClient:
    ws = base.replace("http", "ws", 1)
    return AsyncDeepgramClient(
        api_key=key,
        environment=DeepgramClientEnvironment(base=base, production=ws, agent=ws, agent_rest=base),
        timeout=BOUND_S,
    )


async def test_deepgrams_sdk_hears_a_line(base: str) -> None:
    """Deepgram's own client parses every message into its own types."""
    pcm = line("i would like to leave a message")
    got = []
    async with (
        asyncio.timeout(BOUND_S),
        sdk(base).listen.v1.connect(
            model="nova-3",
            encoding="linear16",
            sample_rate=RATE_HZ,
            interim_results="true",
            vad_events="true",
        ) as connection,
    ):
        await connection.send_keep_alive()
        for start in range(0, len(pcm), 800):
            await connection.send_media(pcm[start : start + 800])
        await connection.send_finalize()
        await connection.send_close_stream()
        got = [message async for message in connection]
    assert isinstance(got[0], ListenV1SpeechStarted)
    assert isinstance(got[-1], ListenV1Metadata)
    assert got[-1].duration == pytest.approx(len(pcm) / 2 / RATE_HZ, abs=0.001)
    finals = [m for m in got if isinstance(m, ListenV1Results) and m.is_final]
    assert [final.channel.alternatives[0].transcript for final in finals] == [
        "i would like to leave a message",
        "",  # the answer to Finalize
    ]
    assert [(final.speech_final, final.from_finalize) for final in finals] == [
        (True, False),
        (True, True),
    ]
    assert finals[0].metadata.model_info.name
    assert finals[0].start + finals[0].duration == pytest.approx(finals[1].start)


async def test_deepgrams_sdk_transcribes_a_recording(base: str) -> None:
    """A WAV is transcribed in one request."""
    recording = (LINES / "no_that_is_all_goodbye.wav").read_bytes()
    answer: Any = await sdk(base).listen.v1.media.transcribe_file(request=recording)
    best = answer.results.channels[0].alternatives[0]
    assert best.transcript == "no that is all goodbye"
    assert [word.word for word in best.words] == best.transcript.split()


async def test_deepgrams_sdk_is_told_a_wrong_key(base: str) -> None:
    """A wrong key is status 401 for a stream and for a recording."""
    with pytest.raises(ApiError) as refused:
        async with sdk(base, "wrong").listen.v1.connect(model="nova-3"):
            pass
    assert refused.value.status_code == 401
    with pytest.raises(ApiError) as refused:
        await sdk(base, "wrong").listen.v1.media.transcribe_file(request=b"RIFF")
    assert (refused.value.status_code, refused.value.body["err_code"]) == (401, "INVALID_AUTH")


# --- the protocol itself -------------------------------------------------------------------------


async def handshake(
    http: aiohttp.ClientSession, address: str, key: str = "Token sandbox"
) -> tuple[int, dict[str, Any]]:
    """Status and body of an upgrade that is refused."""
    headers = {
        "Authorization": key,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "c2FuZGJveCBzYW5kYm94IQ==",
    }
    async with http.get(address, headers=headers) as answer:
        body = await answer.json()
        assert answer.headers["dg-request-id"] == body["request_id"]
        assert answer.headers["dg-error"] == body["err_msg"]
        return answer.status, body


@pytest.mark.parametrize(
    ("key", "query", "status", "code"),
    [
        ("Token wrong", {}, 401, "INVALID_AUTH"),
        ("sandbox", {}, 401, "INVALID_AUTH"),  # no scheme
        ("Bearer sandbox", {"encoding": "opus"}, 400, "Bad Request"),  # Bearer is let in
        ("Token sandbox", {"sample_rate": 44100}, 400, "Bad Request"),
        ("Token sandbox", {"sample_rate": "fast"}, 400, "Bad Request"),
        ("Token sandbox", {"channels": 2}, 400, "Bad Request"),
        ("Token sandbox", {"utterance_end_ms": "-1"}, 400, "Bad Request"),
    ],
)
async def test_an_upgrade_that_cannot_be_is_refused(
    base: str,
    http: aiohttp.ClientSession,
    key: str,
    query: dict[str, object],
    status: int,
    code: str,
) -> None:
    """A wrong key or format is an HTTP error with Deepgram's body, before any stream."""
    got, body = await handshake(http, url(base, **query), key)
    assert (got, body["err_code"]) == (status, code)


async def test_a_recording_that_is_none_is_refused(base: str, http: aiohttp.ClientSession) -> None:
    """Bytes that are no WAV are Deepgram's 400, with the reason."""
    async with http.post(f"{base}/v1/listen", headers=KEY, data=b"no audio") as answer:
        body = await answer.json()
    assert (answer.status, body["err_code"]) == (400, "Bad Request")
    assert "failed to process audio" in body["err_msg"]


async def test_only_what_was_asked_for_is_told(base: str, http: aiohttp.ClientSession) -> None:
    """Without the flags there is neither SpeechStarted nor an interim result nor punctuation, and
    speech_final is false when endpointing is off."""
    async with connected(http, base, endpointing="false") as client:
        await client.say(line("thank you goodbye"), "CloseStream")
        assert await client.until_closed() == 1000
    assert client.kinds == ["Results", "Metadata"]
    assert client.finals == ["thank you goodbye"]
    assert client.got[0]["speech_final"] is False
    assert "punctuated_word" not in client.got[0]["channel"]["alternatives"][0]["words"][0]


async def test_finalize_gives_what_there_is(base: str, http: aiohttp.ClientSession) -> None:
    """Finalize in the middle of speech gives a final at once and says so; the stream goes on."""
    async with connected(http, base) as client:
        await client.say(line("hello").removesuffix(QUIET), "Finalize")
        final = await client.until(type="Results", from_finalize=True)
        assert transcript(final) == "hello"
        await client.say(line("thank you goodbye"))
        await client.until(type="Results", from_finalize=False)
        await client.say("CloseStream")
        await client.until_closed()
    assert client.finals == ["hello", "thank you goodbye"]


async def test_close_stream_gives_the_rest_first(base: str, http: aiohttp.ClientSession) -> None:
    """CloseStream, or the empty message that older clients send, gives the last result and the metadata;
    what comes after it is ignored."""
    for empty in (False, True):
        async with connected(http, base) as client:
            await client.say(line("hello").removesuffix(QUIET))
            await (client.socket.send_bytes(b"") if empty else client.say("CloseStream"))
            await client.say(QUIET, "CloseStream")
            assert await client.until_closed() == 1000
        assert client.finals == ["hello"]
        assert client.kinds[-1] == "Metadata"


async def test_utterance_end_follows_silence(base: str, http: aiohttp.ClientSession) -> None:
    """With utterance_end_ms the silence after the last word is told once per utterance."""
    async with connected(http, base, utterance_end_ms=1000, interim_results="true") as client:
        for _ in range(2):
            await client.say(line("thank you goodbye"))
            final = await client.until(type="Results", is_final=True)
            await client.say(QUIET * 4)
            end = await client.until(type="UtteranceEnd")
            words = final["channel"]["alternatives"][0]["words"]
            assert end["last_word_end"] == words[-1]["end"]
        await client.say("CloseStream")
        await client.until_closed()
    assert client.kinds.count("UtteranceEnd") == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("audio?", "Expecting value"),  # no JSON
        ('{"kind": "KeepAlive"}', "type"),
        ('["KeepAlive"]', "list indices"),
        ('{"type": "KeepAlive "}', "unknown variant `KeepAlive `"),
    ],
)
async def test_a_message_that_makes_no_sense_is_told(
    base: str, http: aiohttp.ClientSession, text: str, why: str
) -> None:
    """It is Deepgram's SchemaError with the message itself, and the stream stays open."""
    async with connected(http, base) as client:
        await client.socket.send_str(text)
        error = await client.until(type="Error")
        assert (error["variant"], error["message"]) == ("SchemaError", text)
        assert why in error["description"]
        await client.say(line("hello"))
        assert transcript(await client.until(type="Results")) == "hello"


@pytest.mark.parametrize(
    ("query", "audio"),
    [
        ({"encoding": None}, QUIET),  # a container is expected, and this is none
        ({}, b"\0\0\0"),  # half a sample
    ],
)
async def test_what_is_no_audio_closes_the_stream(
    base: str, http: aiohttp.ClientSession, query: dict[str, object], audio: bytes
) -> None:
    """Bytes that cannot be decoded as audio end the stream with 1008."""
    async with connected(http, base, **query) as client:
        await client.say(audio)
        assert await client.until_closed() == 1008


async def test_an_idle_stream_is_closed_and_keepalive_keeps_it(
    ears: Ears, http: aiohttp.ClientSession
) -> None:
    """Without audio or a text message the stream is closed with 1011; KeepAlive counts as one."""
    idle = timedelta(seconds=0.5)
    async with serving(ears, idle=idle) as base, connected(http, base) as client:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for _ in range(3):
            await asyncio.sleep(idle.total_seconds() / 2)  # pace: half the idle time, thrice
            await client.say("KeepAlive")
        assert await client.until_closed() == 1011
        assert loop.time() - began_s > 2 * idle.total_seconds()


class Instant:
    """Ears that know what was said as soon as any audio comes: one word that ends at *end_s*."""

    def __init__(self, end_s: float) -> None:
        self._final = Final((Word("hello", 0.0, end_s, 1.0),), 0.0, end_s)
        self._events: asyncio.Queue[Final | None] = asyncio.Queue()

    async def stream(self, sample_rate_hz: int) -> "Instant":
        return self

    async def send(self, pcm: bytes) -> None:
        await self._events.put(self._final)

    async def finalize(self) -> None:
        raise AssertionError("nobody asks for it")

    async def end(self) -> None:
        await self._events.put(None)

    async def close(self) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[Final]:
        while event := await self._events.get():
            yield event


async def test_the_final_is_not_faster_than_it_may_be(http: aiohttp.ClientSession) -> None:
    """However fast the ears are, the final comes no sooner than stt_final after the last word."""
    delays = Delays(stt_final=timedelta(seconds=0.5))
    async with serving(Instant(end_s=0.4), delays=delays) as base, connected(http, base) as client:
        loop = asyncio.get_running_loop()
        # Half a second of audio, of which the last 0.1 s came after the word.
        began_s = loop.time()
        await client.socket.send_bytes(QUIET)
        await client.until(type="Results", is_final=True)
        assert loop.time() - began_s >= 0.4


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("stt:401", 401, "INVALID_AUTH"),
        ("stt:429", 429, "TOO_MANY_REQUESTS"),
        ("stt:500", 500, "INTERNAL_SERVER_ERROR"),
    ],
)
async def test_a_fault_for_every_turn_strikes_the_upgrade(
    ears: Ears, http: aiohttp.ClientSession, fault: str, status: int, code: str
) -> None:
    """401, 429 and 500 are Deepgram's own answers, to a stream and to a recording."""
    async with serving(ears, fault) as base:
        got, body = await handshake(http, url(base))
        assert (got, body["err_code"]) == (status, code)
        async with http.post(f"{base}/v1/listen", headers=KEY, data=b"") as answer:
            assert answer.status == status


@pytest.mark.parametrize(
    ("fault", "finals", "closed"),
    [
        ("stt:500@2", ["hello"], 1011),
        ("stt:429@1", [], 1011),
        ("stt:reset@2", ["hello"], 1006),
        ("stt:reset", [], 1006),
        ("llm:500@2", ["hello", "thank you goodbye"], 1000),  # another provider's
    ],
)
async def test_a_fault_strikes_its_turn(
    ears: Ears, http: aiohttp.ClientSession, fault: str, finals: Sequence[str], closed: int
) -> None:
    """The nth utterance has no final: the stream is closed, or breaks without a close frame."""
    async with serving(ears, fault) as base, connected(http, base) as client:
        try:
            await client.say(line("hello"), line("thank you goodbye"), "CloseStream")
        except aiohttp.ClientConnectionResetError:
            assert closed != 1000
        assert await client.until_closed() == closed
    assert client.finals == finals


async def test_a_stalled_stream_says_nothing_more(ears: Ears, http: aiohttp.ClientSession) -> None:
    """From its turn on there are no results, no end and no close; what came before was answered."""
    async with serving(ears, "stt:stall@2") as base, connected(http, base) as client:
        await client.say(line("hello"))
        await client.until(type="Results", is_final=True)
        await client.say(line("thank you goodbye"), "CloseStream")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.socket.receive()
    assert client.finals == ["hello"]


# --- the process ---------------------------------------------------------------------------------


async def test_a_wrong_grammar_is_told() -> None:
    """Ears that cannot use their grammar don't start, and say why."""
    with pytest.raises(ChildDied, match="dictionary lacks xyzzyx"):
        await Ears.start("#JSGF V1.0;\ngrammar g;\npublic <a> = yes | xyzzyx;")


async def test_ears_that_are_gone_are_told(http: aiohttp.ClientSession) -> None:
    """When the process dies under a stream, the stream is closed with 1011, and the next is refused."""
    ears = await Ears.start(Brain.load().grammar())
    async with serving(ears) as base:
        async with connected(http, base) as client:
            await client.say(line("hello"))
            await client.until(type="Results")
            await ears.close()
            assert await client.until_closed() == 1011
        with pytest.raises(Unavailable):
            await ears.stream(RATE_HZ)
        assert (await handshake(http, url(base)))[0] == 500


PARENT = """
import asyncio
from trunkline.sandbox.brain import Brain
from trunkline.sandbox.ears import Ears

async def main():
    ears = await Ears.start(Brain.load().grammar())
    stream = await ears.stream(8000)
    await stream.send(bytes(8000))
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_no_ears_outlive_their_parent() -> None:
    """After kill -9 of the parent, in the middle of a stream, its ears are gone."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async with asyncio.timeout(BOUND_S):
        assert await parent.stdout.readline() == b"up\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 1
    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, timeout=BOUND_S)
    assert not alive
