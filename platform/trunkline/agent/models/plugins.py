"""From a profile's choice to LiveKit's plugin of that provider; nothing is connected yet."""

import functools
import ssl
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx  # what openai and its plugin are built on
import openai as openai_client
from livekit.agents import llm, stt, tts
from livekit.plugins import cartesia, deepgram, openai

from trunkline.agent.clauses import Clauses
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.options import AgentOptions
from trunkline.profiles.choices import (
    AzureChat,
    CartesiaVoice,
    DeepgramAura,
    DeepgramFlux,
    DeepgramNova,
    LlmChoice,
    OpenaiChat,
    OpenaiTranscription,
    OpenaiVoice,
    SttChoice,
    TtsChoice,
)
from trunkline.profiles.realtime import AzureRealtime, RealtimeChoice

STT_RATE_HZ = LINE_RATE_HZ
"""The telephone's own rate: a higher one would double the bytes to the recogniser and add no sound."""

_DEEPGRAM = "https://api.deepgram.com"
_OPENAI = "https://api.openai.com/v1"
_CARTESIA = "https://api.cartesia.ai"

_TIMEOUT = httpx.Timeout(connect=3.0, read=5.0, write=5.0, pool=5.0)
"""Where a plugin names no timeout of its own. Seconds."""
_KEEP_ALIVE_S = 120


def recogniser(choice: SttChoice, language: str, options: AgentOptions) -> stt.STT[Any]:
    """Who hears *language* (BCP 47)."""
    match choice:
        case DeepgramNova():
            terms: dict[str, Any] = {"keyterm": list(choice.keyterms)} if choice.keyterms else {}
            return deepgram.STT(
                api_key=options.deepgram.api_key,
                base_url=address(choice, options),
                model=choice.model,
                language=language,
                sample_rate=STT_RATE_HZ,
                endpointing_ms=choice.endpointing_ms,
                **terms,
            )
        case DeepgramFlux():
            given: dict[str, Any] = {"keyterm": list(choice.keyterms)} if choice.keyterms else {}
            if choice.eager_eot_threshold is not None:
                given["eager_eot_threshold"] = choice.eager_eot_threshold
            if choice.model == "flux-general-multi":
                given["language_hint"] = [language.split("-")[0]]
            return deepgram.STTv2(
                api_key=options.deepgram.api_key,
                base_url=address(choice, options),
                model=choice.model,
                sample_rate=STT_RATE_HZ,
                audio_chunk_duration_ms=80,
                eot_threshold=choice.eot_threshold,
                eot_timeout_ms=choice.eot_timeout_ms,
                **given,
            )
        case OpenaiTranscription():
            prompt: dict[str, Any] = {"prompt": choice.prompt} if choice.prompt else {}
            return openai.STT(
                client=_client(address(choice, options), options),
                model=choice.model,
                language=language.split("-")[0],
                use_realtime=choice.mode == "realtime",
                turn_detection={
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 600,
                    "silence_duration_ms": choice.silence_ms,
                },
                **prompt,
            )


def thinker(choice: LlmChoice, options: AgentOptions) -> llm.LLM[Any]:
    """Who answers."""
    given: dict[str, Any] = {}
    if choice.temperature is not None:
        given["temperature"] = choice.temperature
    if choice.max_tokens is not None:
        given["max_completion_tokens"] = choice.max_tokens
    match choice:
        case OpenaiChat():
            if choice.reasoning_effort is not None:
                given["reasoning_effort"] = choice.reasoning_effort
            return openai.LLM(
                client=_client(address(choice, options), options),
                model=choice.model,
                # Servers other than OpenAI mostly know no strict schemas.
                _strict_tool_schema=choice.base_url is None,
                **given,
            )
        case AzureChat():
            return openai.LLM(client=_azure(choice, options), model=choice.deployment, **given)


def speaker(choice: TtsChoice, language: str, options: AgentOptions) -> tts.TTS[Any]:
    """Who speaks *language* (BCP 47)."""
    given: dict[str, Any] = {} if choice.speed is None else {"speed": choice.speed}
    match choice:
        case CartesiaVoice():
            return cartesia.TTS(
                api_key=options.cartesia.api_key,
                base_url=address(choice, options),
                model=choice.model,
                voice=choice.voice,
                language=language.split("-")[0],
                tokenizer=Clauses(),
                **given,
            )
        case OpenaiVoice():
            if choice.instructions:
                given["instructions"] = choice.instructions
            return openai.TTS(
                client=_client(address(choice, options), options),
                model=choice.model,
                voice=choice.voice,
                response_format="pcm",
                **given,
            )
        case DeepgramAura():
            return deepgram.TTS(
                api_key=options.deepgram.api_key,
                base_url=address(choice, options),
                model=choice.voice,
                **given,
            )


def label(choice: SttChoice | LlmChoice | TtsChoice) -> str:
    """How people are told of *choice*: its provider and model."""
    match choice:
        case AzureChat():
            return f"azure {choice.deployment}"
        case DeepgramAura():
            return f"deepgram {choice.voice}"
        case _:
            return f"{choice.provider} {choice.model}"


def address(choice: SttChoice | LlmChoice | TtsChoice, options: AgentOptions) -> str:
    """Where the provider of *choice* is reached, as its plugin wants it."""
    match choice:
        case DeepgramNova():
            return f"{_deepgram(options)}/v1/listen"
        case DeepgramFlux():
            # The plugin dials what it is given; only http would be turned into ws by aiohttp's client.
            return f"{_deepgram(options)}/v2/listen"
        case DeepgramAura():
            return f"{_deepgram(options)}/v1/speak"
        case CartesiaVoice():
            return options.cartesia.base_url or _CARTESIA
        case AzureChat():
            return choice.endpoint
        case _:
            return choice.base_url or options.openai.base_url or _OPENAI


def _deepgram(options: AgentOptions) -> str:
    return (options.deepgram.base_url or _DEEPGRAM).rstrip("/").removesuffix("/v1/listen")


def host_of(base_url: str) -> str:
    """The host, and the port if one is given: under which a server's key is set."""
    return urlsplit(base_url).netloc.lower()


def realtime_address(choice: RealtimeChoice, options: AgentOptions) -> str:
    """Where a speech-to-speech model is reached; of Azure's the resource."""
    if isinstance(choice, AzureRealtime):
        return choice.endpoint
    return choice.base_url or options.openai.base_url or _OPENAI


def key(base_url: str, options: AgentOptions) -> str:
    """The key for *base_url*: only that of its host, since whoever writes profiles may name any."""
    host = host_of(base_url)
    if host == host_of(options.openai.base_url or _OPENAI):
        return options.openai.api_key
    return options.model_keys.get(host, "none")


def _client(base_url: str, options: AgentOptions) -> openai_client.AsyncClient:
    return openai_client.AsyncClient(
        api_key=key(base_url, options), base_url=base_url, max_retries=0, http_client=_http()
    )


def _azure(choice: AzureChat, options: AgentOptions) -> openai_client.AsyncAzureOpenAI:
    return openai_client.AsyncAzureOpenAI(
        api_key=options.model_keys.get(host_of(choice.endpoint), "none"),
        azure_endpoint=choice.endpoint,
        azure_deployment=choice.deployment,
        api_version=choice.api_version,
        max_retries=0,
        http_client=_http(),
    )


@functools.cache
def tls() -> ssl.SSLContext:
    """Whom to trust. Reading the certificates takes 20 ms, which each call would spend anew."""
    return httpx.create_ssl_context()


def _http() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=_TIMEOUT,
        follow_redirects=False,
        # What the client is told of TLS goes to its own transport, and not to one that is given.
        transport=_Noticing(
            verify=tls(),
            limits=httpx.Limits(max_connections=50, keepalive_expiry=_KEEP_ALIVE_S),
        ),
        event_hooks={"request": [_nothing_of_ours]},
    )


on_bytes: ContextVar[Callable[[], None] | None] = ContextVar("on_bytes", default=None)
"""Called in whatever task asks a server over HTTP, for each piece of the answer's body: a model that sends a
long tool call piece by piece is at work, though its plugin tells nothing until the last of them."""


class _Noticing(httpx.AsyncHTTPTransport):
    """Tells ``on_bytes`` of each piece of an answer."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*; as its class says."""
        answer = await super().handle_async_request(request)
        tell = on_bytes.get()
        if tell is not None and isinstance(answer.stream, httpx.AsyncByteStream):
            answer.stream = _Told(answer.stream, tell)
        return answer


class _Told(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, tell: Callable[[], None]) -> None:
        self._stream, self._tell = stream, tell

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._tell()
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _nothing_of_ours(request: httpx.Request) -> None:
    """Take out what the plugin tells every vendor: the ids of room, job, agent and session.

    livekit-agents 1.8.9 adds them in ``inference/_utils.py`` to whatever server is asked.
    """
    for name in [name for name in request.headers if name.lower().startswith("x-livekit-")]:
        del request.headers[name]
    request.headers["user-agent"] = "trunkline"


async def close(plugin: llm.LLM[Any] | stt.STT[Any] | tts.TTS[Any]) -> None:
    """Close *plugin*, and the client we made for it, which it takes for somebody else's."""
    await plugin.aclose()
    client = getattr(plugin, "_client", None)
    if isinstance(client, openai_client.AsyncClient):
        await client.close()
