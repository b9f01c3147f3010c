"""Second and third choices: what comes when the first one fails, over the providers' own protocols."""

import asyncio
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from livekit import rtc
from livekit.agents import APIConnectOptions, APIError
from livekit.agents.llm import ChatContext
from livekit.agents.stt import SpeechEventType
from livekit.agents.testing import fake_job_context
from livekit.agents.types import USERDATA_TIMED_TRANSCRIPT
from livekit.agents.utils import http_context

from trunkline.agent.models import plugins, roster
from trunkline.agent.models.breaker import STALE_S, Breaker
from trunkline.agent.models.bridge import AFTER_S
from trunkline.agent.models.team import Team, assemble
from trunkline.agent.options import ProviderAccess
from trunkline.kit.audio import mulaw_decode, mulaw_encode
from trunkline.kit.clock import utc_now
from trunkline.kit.processes import spawn
from trunkline.profiles.choices import OpenaiChat
from trunkline.sandbox import ears as ears_module
from trunkline.sandbox.callers import sandbox_providers

if TYPE_CHECKING:
    from tests.conftest import Make

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINES = Path(ears_module.__file__).parent / "lines"
RATE_HZ = 8000
FRAME = RATE_HZ // 50
PATIENT = APIConnectOptions(max_retry=0, timeout=6)
BOUND_S = 30
"""Nothing takes nearly as long; a test that waits for it fails then instead of hanging."""
LEAVE = "i would like to leave a message"
FALLBACK: dict[str, Any] = {
    "stt": [{"provider": "openai"}],
    "llm": [{"model": "gpt-4o-mini"}],
    "tts": [{"provider": "deepgram", "voice": "aura-2-thalia-en"}],
    "first_token_ms": 300,
    "first_audio_ms": 300,
    "hearing_ms": 500,
}


@asynccontextmanager
async def serving(*faults: str) -> AsyncIterator[int]:
    quick = [f"--delay={name}=0" for name in ("stt_final", "llm_first_token", "tts_first_byte")]
    struck = [f"--fault={fault}" for fault in faults]
    child = await spawn("trunkline.sandbox.server", *quick, *struck)
    try:
        yield int(await child.ready(timedelta(seconds=60)))
    finally:
        await child.stop(timedelta(seconds=3))


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def http() -> AsyncIterator[None]:
    async with http_context.open():
        yield


@asynccontextmanager
async def team(
    make: "Make", folder: Path, *faults: str, gone: str | None = None, **fallback: Any
) -> AsyncIterator[Team]:
    """The models of a profile with a second choice for each part; *gone* is refused the connection."""
    async with serving(*faults) as port:
        options = sandbox_providers(port, "sandbox")
        nowhere = ProviderAccess("sandbox", "http://127.0.0.1:9/v1/listen")
        options = replace(options, breaker_folder=str(folder))
        if gone == "stt":
            options = replace(options, deepgram=nowhere)
        elif gone == "tts":
            options = replace(options, cartesia=nowhere)
        models = assemble(make.body(fallback={**FALLBACK, **fallback}), options, utc_now)
        try:
            async with asyncio.timeout(BOUND_S):
                yield models
        finally:
            await models.aclose()


async def think(models: Team, *before: str) -> str:
    context = ChatContext.empty()
    for text in before:
        context.add_message(role="user", content=text)
    context.add_message(role="user", content="hello")
    async with models.thinking.chat(chat_ctx=context, conn_options=PATIENT) as stream:
        return "".join([(c.delta.content or "") async for c in stream if c.delta])


async def speak(models: Team, *texts: str) -> tuple[float, str]:
    """Seconds of sound, and the words that were told to be in it."""
    seconds, words = 0.0, ""
    async with models.speaking.stream(conn_options=PATIENT) as stream:
        for text in texts:
            stream.push_text(text)
        stream.end_input()
        async for piece in stream:
            seconds += piece.frame.duration
            words += "".join(map(str, piece.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT) or []))
    return seconds, words


def line(text: str) -> list[rtc.AudioFrame]:
    with wave.open(str(LINES / f"{text.replace(' ', '_')}.wav")) as file:
        spoken = mulaw_decode(mulaw_encode(file.readframes(file.getnframes())))
    pcm = bytes(RATE_HZ) + spoken + bytes(2 * RATE_HZ)
    pieces = [pcm[at : at + 2 * FRAME] for at in range(0, len(pcm) - 2 * FRAME, 2 * FRAME)]
    return [rtc.AudioFrame(piece, RATE_HZ, 1, FRAME) for piece in pieces]


async def hear(models: Team, text: str) -> str:
    """The first final words that come of *text*, spoken while the session knows of it."""
    async with models.hearing.stream(conn_options=PATIENT) as stream:
        models.hearing.speaking(now=True)
        for frame in line(text):
            stream.push_frame(frame)
        spoke = models.hearing.spoke_at_s
        assert spoke is not None
        models.hearing.spoke_at_s = spoke - 2  # it took two seconds to say
        models.hearing.speaking(now=False)
        async for event in stream:
            if event.type is SpeechEventType.FINAL_TRANSCRIPT and event.alternatives[0].text:
                return event.alternatives[0].text
    return ""


# Thinking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stall", "500", "401", "429", "reset", "empty"])
async def test_another_model_answers(make: "Make", tmp_path: Path, kind: str) -> None:
    """Whatever is wrong with the first model, the second one's answer comes, whole and once."""
    async with team(make, tmp_path, f"llm/gpt-4.1-mini:{kind}") as models:
        answer = await think(models)
        assert answer.count("How can I help you?") == 1
        assert models.served()["llm"] == "openai gpt-4o-mini"


async def test_a_model_that_is_well_answers_itself(make: "Make", tmp_path: Path) -> None:
    """Nothing changes while nothing is wrong."""
    async with team(make, tmp_path) as models:
        assert await think(models)
        assert models.served()["llm"] == "openai gpt-4.1-mini"
        [first, _] = models.thinking.roster.candidates
        assert not models.thinking.roster.is_down(first)


async def test_a_caller_who_waits_hears_a_word(make: "Make", tmp_path: Path) -> None:
    """Where a model is late and the caller has waited long enough, a word comes before the answer, in the
    same reply; not where it is well."""
    async with team(make, tmp_path, "llm/gpt-4.1-mini:stall@2") as models:
        bridge, now_s = models.thinking.bridge, asyncio.get_running_loop().time()
        bridge.caller(now_s + BOUND_S, speaks=False)
        assert (await think(models)).startswith("Hello")
        bridge.caller(now_s - AFTER_S, speaks=False)
        assert (await think(models, "hello")).startswith("One moment. Hello")
        assert models.served()["llm"] == "openai gpt-4o-mini"


async def test_all_models_gone(make: "Make", tmp_path: Path) -> None:
    """When nobody is left it is one error, which the session takes for final."""
    async with team(make, tmp_path, "llm:500") as models:
        told: list[Any] = []
        models.thinking.on("error", told.append)
        with pytest.raises(APIError):
            await think(models)
        assert [error.recoverable for error in told] == [False]
        sentence = str(models.failure("llm", ValueError()))
        assert "(openai gpt-4.1-mini)" in sentence
        assert "answered with an error (500)" in sentence


async def test_a_model_is_taken_back(
    make: "Make", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that failed in the second turn is tried with a word of ours and answers the next turn."""
    monkeypatch.setattr(roster, "PROBE_EVERY_S", 0.1)
    async with team(make, tmp_path, "llm/gpt-4.1-mini:500@2") as models:
        await think(models, "hello")
        assert models.served()["llm"] == "openai gpt-4o-mini"
        await models.thinking.roster.settled()
        await think(models)
        assert models.served()["llm"] == "openai gpt-4.1-mini"


# Speaking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stall", "500", "401", "reset", "empty"])
async def test_another_voice_speaks(make: "Make", tmp_path: Path, kind: str) -> None:
    """Whatever is wrong with the first voice, the second says every word once."""
    async with team(make, tmp_path, f"tts/sonic-2:{kind}") as models:
        seconds, words = await speak(models, "Good ", "morning. ", "How can I help you?")
        assert words.split() == ["Good", "morning.", "How", "can", "I", "help", "you?"]
        assert 1 < seconds < 6
        assert models.served()["tts"] == "deepgram aura-2-thalia-en"


async def test_a_voice_that_refuses_the_connection(make: "Make", tmp_path: Path) -> None:
    """A refused connection is no wait at all, for a reply and for a sentence made beforehand."""
    async with team(make, tmp_path, gone="tts") as models:
        seconds, _ = await speak(models, "Good morning.")
        assert seconds > 0.3
        async with models.speaking.synthesize("Good morning.", conn_options=PATIENT) as whole:
            assert sum([piece.frame.duration async for piece in whole]) > 0.3


async def test_a_voice_that_is_well_tells_each_word(make: "Make", tmp_path: Path) -> None:
    """The first voice's words keep their own times."""
    async with team(make, tmp_path) as models:
        _, words = await speak(models, "Good morning to you.")
        assert words.split() == ["Good", "morning", "to", "you."]
        assert models.served()["tts"] == "cartesia sonic-2"


@pytest.mark.parametrize("faults", [(), ("tts/sonic-2:500",)])
async def test_the_word_is_heard_before_the_answer_is_there(
    make: "Make", tmp_path: Path, faults: tuple[str, ...]
) -> None:
    """The word sounds while nothing is known of what comes behind it, in each of the voices."""
    async with team(make, tmp_path, *faults) as models:
        async with models.speaking.stream(conn_options=PATIENT) as stream:
            stream.push_text("One moment.")
            pieces = aiter(stream)
            assert (await anext(pieces)).frame.duration > 0
            stream.push_text(" Hello to you.")
            stream.end_input()
            words = ""
            async for piece in pieces:
                words += "".join(map(str, piece.frame.userdata[USERDATA_TIMED_TRANSCRIPT]))
        assert words.rstrip().endswith("Hello to you.")


async def test_a_word_whose_sound_is_there_asks_no_voice(make: "Make", tmp_path: Path) -> None:
    """It is heard, with its text, though no voice gives a sound; a reply that only begins like it waits."""
    async with team(make, tmp_path, "tts:stall") as models:
        models.speaking.sound = lambda words: bytes(RATE_HZ) if words == "One moment." else None
        seconds, words = await speak(models, "One moment. ")
        assert (round(seconds, 1), words) == (0.5, "One moment.")
        with pytest.raises(APIError):
            await speak(models, "One moment, I am looking.")


async def test_a_word_where_the_second_voice_is_late_too(make: "Make", tmp_path: Path) -> None:
    """Who has waited for one voice in vain is not left without a word for the next."""
    async with team(make, tmp_path, "tts:stall") as models:
        models.speaking.sound = lambda words: bytes(RATE_HZ)
        heard: list[rtc.AudioFrame] = []

        async def listen() -> None:
            async with models.speaking.stream(conn_options=PATIENT) as stream:
                stream.push_text("Hello to you.")
                stream.end_input()
                async for piece in stream:
                    heard.append(piece.frame)

        with pytest.raises(APIError):
            await listen()
        words = [word for one in heard for word in one.userdata[USERDATA_TIMED_TRANSCRIPT]]
        seconds = sum(one.duration for one in heard)
        assert ("".join(words).strip(), round(seconds, 1)) == ("One moment.", 0.5)


async def test_an_answer_goes_on_behind_a_word_whose_sound_is_there(
    make: "Make", tmp_path: Path
) -> None:
    """The voice says the rest, and only that."""
    async with team(make, tmp_path) as models:
        models.speaking.sound = lambda words: bytes(RATE_HZ)
        _, words = await speak(models, "One moment. ", "Hello to you.")
        assert "".join(words.split()) == "Onemoment.Hellotoyou."


# Hearing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stall", "500", "reset", "no-final"])
async def test_another_recogniser_hears_it_again(make: "Make", tmp_path: Path, kind: str) -> None:
    """What the first one did not hear is not lost: the second gets the same words from their start."""
    async with team(make, tmp_path, f"stt/nova-3:{kind}") as models:
        assert await hear(models, LEAVE) == LEAVE
        assert models.served()["stt"] == "openai gpt-4o-mini-transcribe"


async def test_a_recogniser_that_refuses_the_connection(make: "Make", tmp_path: Path) -> None:
    """A refused connection costs nothing but the second one's own time."""
    async with team(make, tmp_path, gone="stt") as models:
        assert await hear(models, LEAVE) == LEAVE


async def test_all_recognisers_gone(make: "Make", tmp_path: Path) -> None:
    """It is one final error, so that the caller is not talking to the deaf."""
    async with team(make, tmp_path, "stt:500") as models:
        told: list[Any] = []
        models.hearing.on("error", told.append)
        with pytest.raises(APIError):
            await hear(models, LEAVE)
        assert [error.recoverable for error in told] == [False]


async def test_a_bug_in_a_plugin_does_not_deafen(
    make: "Make", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is none of the plugin's own kind changes the recogniser like any other."""
    async with team(make, tmp_path) as models:
        first = models.hearing.roster.candidates[0].plugin

        def broken(**_: Any) -> Any:
            raise KeyError("channel")

        monkeypatch.setattr(first, "stream", broken)
        assert await hear(models, LEAVE) == LEAVE
        assert models.served()["stt"] == "openai gpt-4o-mini-transcribe"


# Across calls -----------------------------------------------------------------------------------


async def test_the_next_call_knows(make: "Make", tmp_path: Path) -> None:
    """A choice that failed in one call is not waited for in the next one of the same worker."""
    async with serving("llm/gpt-4.1-mini:stall") as port:
        options = sandbox_providers(port, "sandbox")
        shared = replace(options, breaker_folder=str(tmp_path))
        body = make.body(fallback=FALLBACK)
        one, two = (assemble(body, shared, utc_now) for _ in range(2))
        try:
            await think(one)
            [first, second] = two.thinking.roster.order()
            assert (first.label, second.label) == ("openai gpt-4o-mini", "openai gpt-4.1-mini")
        finally:
            await one.aclose()
            await two.aclose()


async def test_a_breaker_that_nobody_looks_after(tmp_path: Path) -> None:
    """Once nobody has tried it for a while the choice counts as well again; one call tries at a time."""
    now = utc_now()
    breaker = Breaker(tmp_path, lambda: now)
    assert not breaker.is_open("x")
    breaker.trip("x")
    assert breaker.is_open("x")
    assert not breaker.claim("x", 3)
    now += timedelta(seconds=4)
    assert breaker.claim("x", 3)
    assert not breaker.claim("x", 3)
    now += timedelta(seconds=STALE_S + 1)
    assert not breaker.is_open("x")
    breaker.trip("x")
    breaker.reset("x")
    assert not breaker.is_open("x")
    unwritable = Breaker(Path("/dev/null/x"), lambda: now)
    unwritable.trip("x")  # costs nothing but the memory
    assert not unwritable.is_open("x")


# Privacy ----------------------------------------------------------------------------------------


async def test_a_vendor_learns_nothing_of_ours() -> None:
    """No id of room, job, agent or session goes out with a request, and the key only to its host."""
    seen: list[dict[str, str]] = []

    async def note(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.json_response({"error": {"message": "no"}}, status=400)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", note)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        choice = OpenaiChat(model="llama3", base_url=f"http://127.0.0.1:{port}/v1")
        options = sandbox_providers(9, "our-own-key")
        model = plugins.thinker(choice, options)
        context = ChatContext.empty()
        context.add_message(role="user", content="hello")
        with fake_job_context(job_metadata="{}"):
            stream = model.chat(chat_ctx=context, conn_options=PATIENT)
        with pytest.raises(APIError):
            await stream.collect()
        await stream.aclose()
        await plugins.close(model)
    finally:
        await runner.cleanup()
    [headers] = seen
    assert [name for name in headers if "livekit" in name] == []
    assert "livekit" not in str(headers).lower()
    assert headers["authorization"] == "Bearer none"
