"""What is said of a profile whose provider refuses its choice: when it is saved, by doctor, at start-up."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

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
        ({}, {"openai_api_key": "old"}, "llm.model: 127.0.0.1 refuses the key (401)"),
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
