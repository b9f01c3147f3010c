"""The sandbox's Flux, Aura and OpenAI audio, met by the providers' own clients and by LiveKit's plugins."""

import asyncio
import base64
import io
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import pytest_asyncio
from deepgram import AsyncDeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from livekit import rtc
from livekit.agents import APIConnectOptions, APIError, APIStatusError, inference
from livekit.agents.llm import ChatContext
from livekit.agents.stt import STT, SpeechEventType, StreamAdapter
from livekit.agents.tts import TTS
from livekit.agents.utils import http_context

from trunkline.agent.models import plugins
from trunkline.agent.options import AgentOptions
from trunkline.kit.audio import mulaw_decode, mulaw_encode
from trunkline.kit.processes import spawn
from trunkline.profiles.choices import (
    AzureChat,
    DeepgramAura,
    DeepgramFlux,
    OpenaiTranscription,
    OpenaiVoice,
    SttChoice,
    TtsChoice,
)
from trunkline.sandbox import ears as ears_module
from trunkline.sandbox.callers import sandbox_providers

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINES = Path(ears_module.__file__).parent / "lines"
RATE_HZ = 8000
FRAME = RATE_HZ // 50
ONCE = APIConnectOptions(max_retry=0, timeout=10)
BOUND_S = 30
"""No answer takes nearly as long; a test that waits for one fails then instead of hanging."""
LEAVE = "i would like to leave a message"
GOODBYE = "no that is all goodbye"


def line(text: str) -> bytes:
    """A recorded line as the telephone brings it, between half seconds of silence."""
    with wave.open(str(LINES / f"{text.replace(' ', '_')}.wav")) as file:
        spoken = mulaw_decode(mulaw_encode(file.readframes(file.getnframes())))
    return bytes(RATE_HZ) + spoken + bytes(RATE_HZ)


@asynccontextmanager
async def serving(*faults: str) -> AsyncIterator[str]:
    """The sandbox's server as a process of its own; gives its root."""
    quick = [f"--delay={name}=0" for name in ("stt_final", "llm_first_token", "tts_first_byte")]
    struck = [f"--fault={fault}" for fault in faults]
    child = await spawn("trunkline.sandbox.server", *quick, *struck)
    try:
        yield f"http://127.0.0.1:{await child.ready(timedelta(seconds=60))}"
    finally:
        await child.stop(timedelta(seconds=3))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def root() -> AsyncIterator[str]:
    async with serving() as root:
        yield root


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def http() -> AsyncIterator[None]:
    async with http_context.open():
        yield


def providers(root: str) -> AgentOptions:
    return sandbox_providers(int(root.rpartition(":")[2]), "sandbox")


def sdk(root: str, key: str = "sandbox") -> AsyncDeepgramClient:
    base = f"{root}/deepgram"
    ws = base.replace("http", "ws", 1)
    return AsyncDeepgramClient(
        api_key=key,
        environment=DeepgramClientEnvironment(base=base, production=ws, agent=ws, agent_rest=base),
        timeout=BOUND_S,
    )


def official(root: str, key: str = "sandbox") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{root}/openai/v1", api_key=key, max_retries=0)


async def hear(
    choice: SttChoice, root: str, *texts: str, ends: bool = True
) -> list[tuple[SpeechEventType, str]]:
    """What LiveKit's plugin makes of *texts*: kinds and words, as the session gets them; up to the first
    final words of a plugin that never ends (*ends*)."""
    plugin: STT[Any] = plugins.recogniser(choice, "en", providers(root))
    if not plugin.capabilities.streaming:
        plugin = StreamAdapter(stt=plugin, vad=inference.VAD(model="silero"))
    got = []
    async with asyncio.timeout(BOUND_S), plugin.stream(conn_options=ONCE) as stream:
        for pcm in map(line, texts):
            for at in range(0, len(pcm), 2 * FRAME):
                piece = pcm[at : at + 2 * FRAME].ljust(2 * FRAME, b"\0")
                stream.push_frame(rtc.AudioFrame(piece, RATE_HZ, 1, FRAME))
        stream.end_input()
        async for event in stream:
            got.append((event.type, event.alternatives[0].text if event.alternatives else ""))
            if not ends and event.type is SpeechEventType.FINAL_TRANSCRIPT:
                break
    return got


async def speak(choice: TtsChoice, root: str, text: str, *, streamed: bool = False) -> int:
    """How many milliseconds of sound LiveKit's plugin gets for *text*."""
    plugin: TTS[Any] = plugins.speaker(choice, "en", providers(root))
    milliseconds = 0.0
    try:
        async with asyncio.timeout(BOUND_S):
            if streamed:
                async with plugin.stream(conn_options=ONCE) as stream:
                    stream.push_text(text)
                    stream.end_input()
                    async for piece in stream:
                        milliseconds += piece.frame.duration * 1000
            else:
                async with plugin.synthesize(text, conn_options=ONCE) as whole:
                    async for piece in whole:
                        milliseconds += piece.frame.duration * 1000
    finally:
        await plugins.close(plugin)
    return round(milliseconds)


# Flux -------------------------------------------------------------------------------------------


async def test_the_plugin_hears_turns_from_flux(root: str) -> None:
    """Words so far, an early end to prepare the answer for, and the end of the turn, in this order."""
    got = await hear(DeepgramFlux(), root, LEAVE)
    kinds = [kind for kind, _ in got if kind is not SpeechEventType.RECOGNITION_USAGE]
    assert kinds[0] is SpeechEventType.START_OF_SPEECH
    assert SpeechEventType.INTERIM_TRANSCRIPT in kinds
    assert kinds[-3:] == [
        SpeechEventType.PREFLIGHT_TRANSCRIPT,
        SpeechEventType.FINAL_TRANSCRIPT,
        SpeechEventType.END_OF_SPEECH,
    ]
    assert [text for kind, text in got if kind is SpeechEventType.FINAL_TRANSCRIPT] == [LEAVE]


async def test_flux_without_an_early_end(root: str) -> None:
    """Where no eager threshold is asked for, no early end is told of."""
    got = await hear(DeepgramFlux(eager_eot_threshold=None), root, LEAVE, GOODBYE)
    assert SpeechEventType.PREFLIGHT_TRANSCRIPT not in [kind for kind, _ in got]
    finals = [text for kind, text in got if kind is SpeechEventType.FINAL_TRANSCRIPT]
    assert " ".join(finals) == f"{LEAVE} {GOODBYE}"


async def test_deepgrams_sdk_hears_turns(root: str) -> None:
    """Deepgram's own client parses every message into its own types, numbered without a gap."""
    pcm = line(LEAVE)
    async with (
        asyncio.timeout(BOUND_S),
        sdk(root).listen.v2.connect(
            model="flux-general-en",
            encoding="linear16",
            sample_rate=RATE_HZ,
            eager_eot_threshold=0.4,
        ) as connection,
    ):
        for at in range(0, len(pcm), 1280):
            await connection.send_media(pcm[at : at + 1280])
        await connection.send_close_stream()
        got: list[Any] = [message async for message in connection]
    assert [message.sequence_id for message in got] == list(range(len(got)))
    assert got[0].type == "Connected"
    events = [message.event for message in got[1:]]
    assert (events[0], events[-2:]) == ("StartOfTurn", ["EagerEndOfTurn", "EndOfTurn"])
    assert (got[-1].transcript, got[-1].trigger, got[-1].turn_index) == (LEAVE, "model", 0)
    assert got[-1].audio_window_end > got[-1].audio_window_start > 0


async def test_flux_refuses_what_deepgram_refuses(root: str) -> None:
    """A wrong key is 401; a model that is no Flux, or thresholds out of bounds, are 400."""
    with pytest.raises(ApiError) as refused:
        async with sdk(root, "wrong").listen.v2.connect(model="flux-general-en"):
            pass
    assert refused.value.status_code == 401
    wrong: list[dict[str, Any]] = [
        {"model": "nova-3"},
        {"model": "flux-general-en", "eot_threshold": 2},
        {"model": "flux-general-en", "eot_threshold": 0.5, "eager_eot_threshold": 0.8},
    ]
    for query in wrong:
        with pytest.raises(ApiError) as refused:
            async with sdk(root).listen.v2.connect(**query):
                pass
        assert refused.value.status_code == 400


# Aura -------------------------------------------------------------------------------------------

AURA = DeepgramAura(voice="aura-2-thalia-en")


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_plugin_speaks_with_aura(root: str, streamed: bool) -> None:
    """By request and over a websocket the same words give about the same sound."""
    assert 500 < await speak(AURA, root, "Good morning to you.", streamed=streamed) < 3000


async def test_deepgrams_sdk_speaks(root: str) -> None:
    """Deepgram's own client gets a WAV for a text, and its characters counted."""
    answer = sdk(root).speak.v1.audio.generate(text="Good morning.", model="aura-2-thalia-en")
    audio = b"".join([piece async for piece in answer])
    with wave.open(io.BytesIO(audio)) as file:
        assert (file.getframerate(), file.getnchannels()) == (24000, 1)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.abs(samples.astype(int)).max() > 1000
    with pytest.raises(ApiError) as refused:
        async for _ in sdk(root).speak.v1.audio.generate(text="Hello.", model="aura-nobody"):
            pass
    assert refused.value.status_code == 400


# OpenAI's audio ---------------------------------------------------------------------------------


async def test_the_plugin_transcribes_whole_utterances(root: str) -> None:
    """An utterance is sent when it is over, and comes back as its final words."""
    got = await hear(OpenaiTranscription(), root, LEAVE)
    assert [t for kind, t in got if kind is SpeechEventType.FINAL_TRANSCRIPT] == [LEAVE]


async def test_the_plugin_transcribes_as_it_is_spoken(root: str) -> None:
    """Over OpenAI's realtime transcription: words so far, and each utterance's final words."""
    got = await hear(OpenaiTranscription(mode="realtime"), root, LEAVE, ends=False)
    [final] = [text for kind, text in got if kind is SpeechEventType.FINAL_TRANSCRIPT]
    assert final.lower().rstrip(".") == LEAVE
    assert any(kind is SpeechEventType.INTERIM_TRANSCRIPT and text for kind, text in got)


async def test_openais_client_transcribes_as_it_is_spoken(root: str) -> None:
    """OpenAI's own client, in a session that only hears, gets the words in pieces and as a whole."""
    sound = np.frombuffer(line(LEAVE), "<i2")
    at_24k = np.repeat(sound, 3).astype("<i2").tobytes()
    async with (
        official(root) as client,
        asyncio.timeout(BOUND_S),
        client.realtime.connect(extra_query={"intent": "transcription"}) as session,
    ):
        wish: Any = {
            "type": "transcription",
            "audio": {
                "input": {
                    "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
                    "turn_detection": {"type": "server_vad", "silence_duration_ms": 400},
                }
            },
        }
        await session.session.update(session=wish)
        for at in range(0, len(at_24k), 48_000):
            piece = base64.b64encode(at_24k[at : at + 48_000]).decode()
            await session.input_audio_buffer.append(audio=piece)
        deltas, kinds = "", []
        async for event in session:
            kinds.append(event.type)
            if event.type == "conversation.item.input_audio_transcription.delta":
                deltas += event.delta or ""
            if event.type == "conversation.item.input_audio_transcription.completed":
                whole = event.transcript
                break
    assert "session.updated" in kinds
    assert deltas == whole
    assert whole.lower().rstrip(".") == LEAVE


async def test_openais_client_transcribes(root: str) -> None:
    """OpenAI's own client gets the text, or its pieces one after another."""
    recording = ("line.wav", (LINES / "no_that_is_all_goodbye.wav").read_bytes())
    async with official(root) as client:
        whole = await client.audio.transcriptions.create(file=recording, model="gpt-4o-transcribe")
        pieces = await client.audio.transcriptions.create(
            file=recording, model="gpt-4o-transcribe", stream=True
        )
        got: list[Any] = [event async for event in pieces]
        with pytest.raises(openai.BadRequestError, match="corrupted"):
            await client.audio.transcriptions.create(file=("x.wav", b"x"), model="whisper-1")
    async with official(root, "wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.audio.transcriptions.create(file=recording, model="whisper-1")
    assert whole.text == GOODBYE
    assert got[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in got if event.type.endswith("delta")) == GOODBYE


@pytest.mark.parametrize("model", ["tts-1", "gpt-4o-mini-tts"])
async def test_the_plugin_speaks_with_openai(root: str, model: str) -> None:
    """As bytes (tts-1) and as server-sent events (the newer models)."""
    voice = OpenaiVoice(model=model, voice="alloy")
    assert 500 < await speak(voice, root, "Good morning to you.") < 3000


@pytest.mark.parametrize("kind", ["mp3", "wav", "pcm"])
async def test_openais_client_speaks(root: str, kind: Any) -> None:
    """OpenAI's own client gets sound in each form."""
    async with official(root) as client:
        answer = await client.audio.speech.create(
            input="Good morning.", model="tts-1", voice="alloy", response_format=kind
        )
    assert len(answer.content) > 2000
    assert answer.content[:4] == b"RIFF" or kind != "wav"


async def test_azures_form_of_the_chat(root: str) -> None:
    """A deployment is asked under its own path with Azure's header, and answers as OpenAI does."""
    options = providers(root)
    choice = AzureChat(endpoint=f"{root}/openai", deployment="front-desk", max_tokens=50)
    host = plugins.host_of(choice.endpoint)
    keyed = AgentOptions(
        options.deepgram, options.openai, options.cartesia, model_keys={host: "sandbox"}
    )
    context = ChatContext.empty()
    context.add_message(role="user", content="hello")

    async def ask(given: AgentOptions) -> str:
        model = plugins.thinker(choice, given)
        try:
            async with model.chat(chat_ctx=context, conn_options=ONCE) as stream:
                return "".join([(c.delta.content or "") async for c in stream if c.delta])
        finally:
            await plugins.close(model)

    assert await ask(keyed)
    with pytest.raises(APIStatusError) as refused:
        await ask(options)  # the key of OpenAI is not sent there
    assert refused.value.status_code == 401


# Faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_a_status_is_told_as_the_provider_tells_it(status: int) -> None:
    """Each protocol answers with the status that was asked for; the model that is spared is well."""
    spared = f"tts/tts-1:{status}"
    async with serving(f"stt:{status}", spared) as root:
        with pytest.raises(APIStatusError) as refused:
            await hear(DeepgramFlux(), root, LEAVE)
        assert refused.value.status_code == status
        async with official(root) as client:
            with pytest.raises(openai.APIStatusError) as answered:
                await client.audio.speech.create(input="Hi.", model="tts-1", voice="alloy")
            assert answered.value.status_code == status
            if status != 401:
                assert answered.value.response.headers["Retry-After"] == "1"
            fine = await client.audio.speech.create(input="Hi.", model="tts-2", voice="alloy")
        assert len(fine.content) > 1000


async def test_audio_that_is_empty_or_too_fast() -> None:
    """Nothing at all is an error of the plugin; audio at half the rate is half as long."""
    async with serving(
        "tts/aura-2-thalia-en:empty", "tts/aura-2-luna-en:wrong-rate", "stt:no-final"
    ) as root:
        with pytest.raises(APIError):
            await speak(AURA, root, "Good morning to you.")
        half = await speak(DeepgramAura(voice="aura-2-luna-en"), root, "Good morning to you.")
        whole = await speak(DeepgramAura(voice="aura-2-zeus-en"), root, "Good morning to you.")
        assert half == pytest.approx(whole / 2, rel=0.1)
        got = await hear(DeepgramFlux(), root, LEAVE)
        assert got
        assert SpeechEventType.FINAL_TRANSCRIPT not in [kind for kind, _ in got]
