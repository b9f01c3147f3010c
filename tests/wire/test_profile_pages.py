"""The pages of profiles, numbers and keys, over forms alone."""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import select

from trunkline.access import queries as access
from trunkline.access.models import Audit
from trunkline.kit.blobs import Blobs
from trunkline.kit.db import Database
from trunkline.profiles import queries
from trunkline.profiles.body import ProfileBody
from trunkline.profiles.choices import OpenaiVoice
from trunkline.profiles.text import write
from trunkline.web.app import create_app
from trunkline.web.dashboard.profile_form import PLAIN
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.wire.conftest import Browse

NAME, PATH = "Front desk", "/profiles/Front%20desk"


@pytest.fixture
async def pages(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime, browse: "Browse"
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser, and the profile "Front desk" behind a number."""
    async with sqlite_db.work() as session:
        await make.profile(session, name=NAME)
    app = create_app(
        sqlite_db, blobs, WebOptions(login=False), clock=lambda: now + timedelta(minutes=1)
    )
    async with browse(app) as client:
        yield client


def form(body: ProfileBody, **changes: object) -> dict[str, object]:
    """What the browser sends of the plain form."""
    fields: dict[str, object] = {name: getattr(body, name) for name in PLAIN}
    fields |= {"silence_prompts": "\n".join(body.silence_prompts), "tools": list(body.tools)}
    return {**fields, **changes}


def text_in(page: str) -> str:
    """The file in a page's form."""
    found = re.search(r'name="text"[^>]*>(.*?)</textarea>', page, re.S)
    assert found is not None
    import html

    return html.unescape(found[1])


async def published(db: Database) -> tuple[int, ProfileBody]:
    async with db.look() as session:
        owner = await queries.named(session, NAME)
        version, body = await queries.published(session, owner.id)
    return version.version, body


async def test_a_draft_is_reviewed_and_then_published(
    pages: httpx.AsyncClient, sqlite_db: Database, make: "Make"
) -> None:
    """The plain form shows what would change; only then is it published, and the audit tells of it."""
    _, body = await published(sqlite_db)
    assert "Northwind sells internet" in (await pages.get(PATH)).text
    review = await pages.post(f"{PATH}/review", data=form(body, farewell="Bye for now."))
    assert review.status_code == 200
    assert "<code>farewell</code>" in review.text
    assert "Bye for now." in review.text
    assert (await published(sqlite_db))[0] == 1  # nothing yet
    draft = {"name": NAME, "base": "1", "text": text_in(review.text)}
    answer = await pages.post("/profiles/publish", data=draft)
    assert answer.headers["location"] == f"{PATH}?done=published"
    version, now_says = await published(sqlite_db)
    assert (version, now_says.farewell) == (2, "Bye for now.")
    assert now_says.instructions == body.instructions
    async with sqlite_db.look() as session:
        assert await session.scalar(select(Audit.action)) == "profile.published"
    old = (await pages.get(f"{PATH}/versions/1")).text
    assert "Publish version 1 again" in old
    assert (await pages.get(f"{PATH}/versions/7")).status_code == 404


HOURS = {
    "hours-0-days": ["mon", "fri"],
    "hours-0-opens": "09:00",
    "hours-0-closes": "17:30",
    "hours-1-opens": "",
    "hours-1-closes": "",
}
PERSON = {
    "transfers-0-name": "Sales",
    "transfers-0-number": "+1 202-555-0123",
    "transfers-0-when": "They want to buy.",
    "transfers-0-mode": "cold",
    "transfers-0-ring_s": "",
    "transfers-1-name": "",
    "transfers-1-number": "",
    "transfers-1-when": "",
    "transfers-1-mode": "warm",
    "transfers-1-ring_s": "",
}
VOICE = {"voice_provider": "openai", "voice": "coral", "voice_speed": "1.1"}


async def test_voice_hours_and_people_have_fields(
    pages: httpx.AsyncClient, sqlite_db: Database
) -> None:
    """Rows that are filled in count, empty ones don't; what the form doesn't show stays."""
    _, body = await published(sqlite_db)
    tools = [*body.tools, "transfer_to_person"]
    review = await pages.post(
        f"{PATH}/review", data=form(body, tools=tools, **HOURS, **PERSON, **VOICE)
    )
    assert review.status_code == 200
    draft = {"name": NAME, "base": "1", "text": text_in(review.text)}
    await pages.post("/profiles/publish", data=draft)
    _, now_says = await published(sqlite_db)
    assert [row.model_dump() for row in now_says.hours] == [
        {"days": ["mon", "fri"], "opens": "09:00", "closes": "17:30"}
    ]
    (sales,) = now_says.transfers
    assert (sales.name, sales.number, sales.mode, sales.ring_s) == (
        "Sales",
        "+12025550123",
        "cold",
        25,
    )
    assert isinstance(now_says.tts, OpenaiVoice)
    assert (now_says.tts.voice, now_says.tts.speed) == ("coral", 1.1)
    assert (now_says.stt, now_says.llm, now_says.limits) == (body.stt, body.llm, body.limits)

    page = (await pages.get(PATH)).text
    assert 'name="hours-0-opens" value="09:00"' in page
    assert 'name="transfers-0-number" value="+12025550123"' in page
    assert 'name="transfers-2-name" value=""' in page, "empty rows to fill in"
    blank = dict.fromkeys((*HOURS, *PERSON), "")
    review = await pages.post(f"{PATH}/review", data=form(now_says, **blank, base="2"))
    draft = {"name": NAME, "base": "2", "text": text_in(review.text)}
    await pages.post("/profiles/publish", data=draft)
    _, now_says = await published(sqlite_db)
    assert (now_says.hours, now_says.transfers) == ([], [])


async def test_who_publishes_second_sees_what_changed(
    pages: httpx.AsyncClient, sqlite_db: Database
) -> None:
    """Two edit one profile: the second is shown the first one's changes and loses nothing typed."""
    _, body = await published(sqlite_db)
    mine = write(body.model_copy(update={"farewell": "My goodbye."}))
    theirs = write(body.model_copy(update={"company": "Southwind"}))
    await pages.post("/profiles/publish", data={"name": NAME, "base": "1", "text": theirs})
    late = await pages.post("/profiles/publish", data={"name": NAME, "base": "1", "text": mine})
    assert late.status_code == 409
    assert "What they changed" in late.text
    assert "Southwind" in late.text
    assert "My goodbye." in text_in(late.text)
    assert (await published(sqlite_db))[1].company == "Southwind"
    again = {"name": NAME, "base": "2", "text": text_in(late.text)}
    assert (await pages.post("/profiles/publish", data=again)).status_code == 303
    assert (await published(sqlite_db))[1].farewell == "My goodbye."


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"greeting": "Hello {nick}"}, "greeting"),
        ({"farewell": ""}, "farewell"),
        (
            {"hours-0-days": ["mon"], "hours-0-opens": "25:00", "hours-0-closes": "9"},
            "hours.0.opens",
        ),
        ({"hours-0-days": ["mon"], "hours-0-opens": "", "hours-0-closes": ""}, "hours.0.opens"),
        ({**PERSON, "transfers-0-number": "12"}, "transfers.0.number"),
        ({**PERSON, "transfers-0-ring_s": "long"}, "transfers.0.ring_s"),
        ({"voice_provider": "openai", "voice": "nobody"}, "tts.voice"),
        ({"voice_provider": "cartesia", "voice": "", "voice_speed": "fast"}, "tts"),
    ],
)
async def test_what_will_not_do_is_named_and_kept(
    pages: httpx.AsyncClient, sqlite_db: Database, change: dict[str, object], says: str
) -> None:
    """The form comes back, names the field, and holds all that was typed."""
    _, body = await published(sqlite_db)
    data = form(body, **{"agent_name": "Marvin", **change})
    answer = await pages.post(f"{PATH}/review", data=data)
    assert answer.status_code == 422
    assert says in answer.text
    assert 'value="Marvin"' in answer.text


async def test_a_new_profile_is_written_from_the_example(pages: httpx.AsyncClient) -> None:
    """The page begins with a whole profile; a file that is none is refused with its place."""
    page = await pages.get("/profiles/new")
    made = await pages.post(
        "/profiles/publish", data={"name": "Night", "base": "0", "text": text_in(page.text)}
    )
    assert made.headers["location"] == "/profiles/Night?done=published"
    assert "Night" in (await pages.get("/profiles")).text
    file = await pages.get("/profiles/Night/profile.yaml")
    assert file.headers["content-type"].startswith("application/yaml")
    wrong = await pages.post("/profiles/publish", data={"name": "X", "base": "0", "text": "a: ["})
    assert wrong.status_code == 422
    assert "The file is no YAML" in wrong.text
    taken = {"name": NAME, "base": "0", "text": text_in(page.text)}
    assert (await pages.post("/profiles/publish", data=taken)).status_code == 409


async def test_a_number_gets_its_profile(pages: httpx.AsyncClient, sqlite_db: Database) -> None:
    """Added, renamed, removed; what is no number is said, and what was typed stays."""
    data = {
        "number": "+4930123456",
        "profile": NAME,
        "label": "Berlin",
        "timezone": "Europe/Berlin",
    }
    assert (await pages.post("/numbers", data=data)).headers["location"] == "/numbers?done=saved"
    page = (await pages.get("/numbers?done=saved")).text
    assert "Berlin" in page
    assert "trunkline sip apply" in page
    wrong = await pages.post("/numbers", data={**data, "number": "030 12", "label": "Kept"})
    assert wrong.status_code == 422
    assert 'value="Kept"' in wrong.text
    async with sqlite_db.look() as session:
        row = await queries.find_number(session, "+4930123456")
    assert row is not None
    await pages.post(f"/numbers/{row[0].id}/remove")
    async with sqlite_db.look() as session:
        assert await queries.find_number(session, "+4930123456") is None
    assert (await pages.post("/numbers/num_nothing/remove")).status_code == 404


async def test_a_key_is_shown_once_and_taken_back(
    pages: httpx.AsyncClient, sqlite_db: Database
) -> None:
    """The answer to the form shows it; no other page does. Taken back it is marked so."""
    assert "no program can use the API" in (await pages.get("/keys")).text
    nothing = await pages.post("/keys", data={"name": "Sync"})
    assert nothing.status_code == 422
    assert 'value="Sync"' in nothing.text
    made = await pages.post("/keys", data={"name": "Sync", "scopes": ["calls:read"]})
    token = re.search(r"tl_[A-Za-z0-9_-]{20,}", made.text)
    assert token is not None
    assert made.headers["cache-control"] == "no-store"
    assert token[0] not in (await pages.get("/keys")).text
    async with sqlite_db.look() as session:
        (key,) = await access.keys(session)
    await pages.post(f"/keys/{key.id}/revoke")
    page = (await pages.get("/keys?done=revoked")).text
    assert "taken back" in page
    assert "opens nothing any more" in page
