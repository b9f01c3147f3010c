"""What is said of a profile whose provider refuses its choice: when it is saved, by doctor, at start-up."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
import structlog

from trunkline.doctor import models
from trunkline.errors import Invalid, Misconfigured
from trunkline.kit.db import Database
from trunkline.kit.processes import spawn
from trunkline.profiles import service
from trunkline.profiles.body import read
from trunkline.sandbox.cartesia import NO_VOICE
from trunkline.settings import Settings

if TYPE_CHECKING:
    from tests.conftest import Make

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def root() -> AsyncIterator[str]:
    child = await spawn("trunkline.sandbox.server")
    try:
        yield f"http://127.0.0.1:{await child.ready(timedelta(seconds=60))}"
    finally:
        await child.stop(timedelta(seconds=3))


def settings(root: str, **given: Any) -> Settings:
    return Settings.load(
        env_file=None,
        **{
            "deepgram_api_key": "sandbox",
            "deepgram_base_url": f"{root}/deepgram/v1/listen",
            "openai_api_key": "sandbox",
            "openai_base_url": f"{root}/openai/v1",
            "cartesia_api_key": "sandbox",
            "cartesia_base_url": f"{root}/cartesia",
            **given,
        },
    )


async def test_a_profile_whose_providers_have_it_all(make: "Make", root: str) -> None:
    """Nothing is said against what every provider has."""
    assert await models.refused(settings(root), make.body()) == []


@pytest.mark.parametrize(
    ("fields", "given", "says"),
    [
        ({"tts": {"voice": NO_VOICE}}, {}, f"tts.voice: '{NO_VOICE}' is not there at 127.0.0.1"),
        (
            {"stt": {"model": "nova-9"}},
            {},
            "stt.model: 'nova-9' is not there at 127.0.0.1, which has",
        ),
        (
            {},
            {"openai_api_key": "old"},
            "llm.provider: 127.0.0.1 refuses the key in OPENAI_API_KEY (401): it is wrong, expired or for "
            "another region",
        ),
        (
            {},
            {"openai_api_key": "sandbox-eu"},
            "llm.provider: the key in OPENAI_API_KEY is for another region, set OPENAI_BASE_URL",
        ),
        (
            {"stt": {"provider": "deepgram-flux"}},
            {"deepgram_api_key": "old"},
            "stt.provider: 127.0.0.1 refuses the key in DEEPGRAM_API_KEY (401)",
        ),
        ({"llm": {"model": "gpt-4.1-none"}}, {}, "llm.model: 'gpt-4.1-none' is not there"),
        (
            {"realtime": {"provider": "openai", "model": "gpt-realtime-none"}},
            {},
            "realtime.model: 'gpt-realtime-none' is not there at 127.0.0.1 for Realtime",
        ),
        (
            {"fallback": {"tts": [{"provider": "deepgram", "voice": "aura-2-nobody-en"}]}},
            {},
            "fallback.tts.0.voice: 'aura-2-nobody-en' is not there",
        ),
    ],
)
async def test_what_a_provider_refuses_is_told(
    make: "Make", root: str, fields: dict[str, Any], given: dict[str, Any], says: str
) -> None:
    """The provider is asked without cost, and the sentence names the field."""
    told = await models.refused(settings(root, **given), make.body(**fields))
    assert [says in one for one in told] == [True]


async def test_a_realtime_model_is_asked_for_a_session(make: "Make", root: str) -> None:
    """A session is opened and set as the profile wants it: what is refused names its field, and nothing is
    said against one that begins."""
    keyed = settings(root)
    for turns in ("server_vad", "semantic_vad", "local"):
        body = make.body(realtime={"provider": "openai", "turns": {"by": turns}, "max_tokens": 500})
        assert await models.refused(keyed, body) == []
    host = root.removeprefix("http://")
    own = settings(root, trunkline_model_keys=f'{{"{host}": "sandbox"}}')
    wrong = make.body(
        realtime={"provider": "openai", "base_url": f"{root}/openai/v1", "voice": "nobody"}
    )
    [told] = await models.refused(own, wrong)
    assert told.startswith("realtime.voice: 127.0.0.1 refuses it: Invalid value: 'nobody'")
    other = settings(
        root, openai_base_url=f"{root}/elsewhere/v1", trunkline_model_keys='{"x": "y"}'
    )
    nowhere = make.body(realtime={"provider": "openai", "base_url": "http://127.0.0.1:9/v1"})
    async with httpx.AsyncClient() as client:
        verdict = await models.judge(client, other, nowhere)
    assert any("realtime: 127.0.0.1 cannot be reached" in doubt for doubt in verdict.doubts)
    azure = {"provider": "azure", "endpoint": root, "deployment": "ours"}
    [told] = models.known_faults(settings(root), make.body(realtime=azure))
    assert (
        told == f"realtime.provider: azure needs a key for {host}, set it in TRUNKLINE_MODEL_KEYS"
    )
    [told] = await models.refused(own, make.body(realtime={**azure, "deployment": "a-none"}))
    assert "realtime.deployment: 'a-none' is not there" in told
    assert await models.refused(own, make.body(realtime=azure)) == []


async def test_a_wrong_key_for_realtime(make: "Make", root: str) -> None:
    """The key that a session is refused for is named, beside the pipeline's own."""
    body = make.body(realtime={"provider": "openai"})
    told = await models.refused(settings(root, openai_api_key="old"), body)
    assert [one.partition(":")[0] for one in told] == ["llm.provider", "realtime.provider"]


async def test_azures_deployment_is_asked_for_without_cost(make: "Make", root: str) -> None:
    """A request without messages tells whether a deployment is there; a key that is none is refused."""
    host = root.removeprefix("http://")
    keyed = settings(root, trunkline_model_keys=f'{{"{host}": "sandbox"}}')
    azure = {"provider": "azure", "endpoint": f"{root}/openai", "deployment": "ours"}
    assert await models.refused(keyed, make.body(llm=azure)) == []
    [told] = await models.refused(keyed, make.body(llm={**azure, "deployment": "ours-none"}))
    assert told == "llm.deployment: 'ours-none' is not there at 127.0.0.1"
    wrong = settings(root, trunkline_model_keys=f'{{"{host}": "old"}}')
    [told] = await models.refused(wrong, make.body(llm=azure))
    assert "llm.provider: 127.0.0.1 refuses the key in TRUNKLINE_MODEL_KEYS (401)" in told


async def test_an_address_that_is_no_provider(make: "Make", root: str) -> None:
    """A base_url at which something else answers is told as one, not taken for a model's server."""

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n"
        writer.write(f"{head}Connection: close\r\n\r\nhi".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(page, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        body = make.body(llm={"model": "llama9", "base_url": f"http://127.0.0.1:{port}/v1"})
        [told] = await models.refused(settings(root), body)
    assert told == (
        "llm.base_url: 127.0.0.1 is no such provider: it answers with text/html in place of JSON"
    )


async def test_a_server_of_ones_own_is_asked_what_it_has(make: "Make", root: str) -> None:
    """A model that is not on it is a fault; one that cannot be asked is a doubt and refuses nothing."""
    host = root.removeprefix("http://")
    keyed = settings(root, trunkline_model_keys=f'{{"{host}": "sandbox"}}')
    body = make.body(llm={"model": "llama9", "base_url": f"{root}/openai/v1"})
    [told] = await models.refused(keyed, body)
    assert "llm.model: 'llama9' is not there at 127.0.0.1, which has gpt-4.1" in told
    gone = make.body(llm={"model": "llama9", "base_url": "http://127.0.0.1:9/v1"})
    async with httpx.AsyncClient() as client:
        verdict = await models.judge(client, keyed, gone)
    assert verdict.faults == ()
    assert ["llm: 127.0.0.1 cannot be reached" in doubt for doubt in verdict.doubts] == [True]


async def test_a_worker_does_not_start_with_a_profile_that_cannot_work(
    make: "Make", root: str, sqlite_db: Database, now: datetime
) -> None:
    """What is sure to fail is told at start-up, all at once, by profile and field; other calls' keys are not
    asked for."""
    async with sqlite_db.work() as session:
        await service.create_profile(session, name="Desk", body=make.body(), now=now)
    await models.at_start(settings(root), sqlite_db)
    with pytest.raises(Misconfigured) as caught:
        await models.at_start(Settings.load(env_file=None), sqlite_db)
    for key in ("DEEPGRAM_API_KEY", "OPENAI_API_KEY", "CARTESIA_API_KEY"):
        assert f"needs {key}, which is not set" in str(caught.value)
    assert "profile 'Desk': stt.provider: deepgram" in str(caught.value)


async def test_a_worker_does_not_start_with_what_its_provider_refuses(
    make: "Make", root: str, sqlite_db: Database, now: datetime
) -> None:
    """A voice that is not there and a key that is refused are told at start-up; a provider that cannot be
    reached is a warning, and the worker starts."""
    async with sqlite_db.work() as session:
        body = make.body(tts={"voice": NO_VOICE})
        await service.create_profile(session, name="Desk", body=body, now=now)
    with pytest.raises(Misconfigured) as caught:
        await models.at_start(settings(root, openai_api_key="old"), sqlite_db)
    assert "profile 'Desk': tts.voice: " in str(caught.value)
    assert "profile 'Desk': llm.provider: 127.0.0.1 refuses the key" in str(caught.value)
    gone = "http://127.0.0.1:9"
    away = settings(
        root,
        deepgram_base_url=f"{gone}/v1/listen",
        openai_base_url=f"{gone}/v1",
        cartesia_base_url=gone,
    )
    with structlog.testing.capture_logs() as logs:
        await models.at_start(away, sqlite_db)
    assert {one["event"] for one in logs} == {"provider_in_doubt"}
    assert [one["doubt"].partition(":")[0] for one in logs] == ["stt", "llm", "tts"]


async def test_a_saved_profile_names_what_no_provider_knows(
    make: "Make", sqlite_db: Database, now: datetime
) -> None:
    """A Realtime model in the pipeline is refused when the profile is published."""
    body = read({**make.body().model_dump(mode="json"), "llm": {"model": "gpt-realtime"}})
    with pytest.raises(Invalid, match=r"llm\.model: 'gpt-realtime' is a Realtime model"):
        async with sqlite_db.work() as session:
            await service.create_profile(session, name="Desk", body=body, now=now)


async def test_doctor_tells_of_each_profile(
    make: "Make", root: str, sqlite_db: Database, now: datetime
) -> None:
    """One finding per fault, or one that all is well."""
    async with sqlite_db.work() as session:
        await service.create_profile(session, name="Good", body=make.body(), now=now)
        wrong = make.body(tts={"voice": NO_VOICE})
        await service.create_profile(session, name="Wrong", body=wrong, now=now)
    async with httpx.AsyncClient() as client:
        found = await models.published(client, settings(root), sqlite_db)
    assert [(one.what, one.ok) for one in found] == [
        ("profile Good", True),
        ("profile Wrong", False),
    ]
    assert "tts.voice" in found[1].says
