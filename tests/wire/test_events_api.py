"""What events there are, and the log of them: gap-free, in one order, the bytes of deliveries."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from trunkline.access import service as access
from trunkline.events import (
    CATALOGUE,
    OPT_IN,
    SAMPLES,
    CallEnded,
    ContactUpdated,
    EndpointTest,
    Event,
    sample_body,
    schema,
)
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import publish
from trunkline.outbox.record import as_bytes, record
from trunkline.web import paging
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

SAMPLE = {sample.type: sample for sample in SAMPLES}


@pytest.fixture
def app(db: Database, tmp_path: Path, now: datetime) -> FastAPI:
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    return create_app(db, blobs, WebOptions(), lambda: now)


@pytest.fixture
async def api(app: FastAPI, db: Database, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    """A program that may read events."""
    async with db.work() as session:
        _, token = await access.add_key(session, name="log", scopes=["events:read"], now=now)
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="https://trunkline.example",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


async def happen(db: Database, *events: Event, now: datetime) -> list[EventRow]:
    """Each event in a transaction of its own, all published."""
    rows = []
    for event in events:
        async with db.work() as session:
            rows.append(await record(session, event, now=now))
    await publish_all(db)
    return rows


async def publish_all(db: Database) -> None:
    async with db.work() as session:
        await publish(session)


def updated(name: str, source: str = "api") -> ContactUpdated:
    return ContactUpdated("con_01kf0q8m3s7t9v1w3x5y7z9abd", source, {"name": [None, name]}, None)


async def read(api: httpx.AsyncClient, **params: Any) -> dict[str, Any]:
    answer = await api.get("/v1/events", params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ids(rows: Sequence[Any]) -> list[str]:
    return [row["id"] if isinstance(row, dict) else row.id for row in rows]


# --- the catalogue -----------------------------------------------------------------------------


async def test_the_catalogue_tells_everything_of_each_event(api: httpx.AsyncClient) -> None:
    """Name, sentence, schema and sample of every event; opt-in ones are marked."""
    listed = (await api.get("/v1/event-types")).json()["data"]
    assert [each["type"] for each in listed] == list(CATALOGUE)
    assert {each["type"] for each in listed if each["opt_in"]} == OPT_IN
    for each in listed:
        assert each["description"]
        assert each["schema"] == schema(each["type"])
        assert each["sample"] == sample_body(each["type"])


async def test_a_schema_is_published_by_itself(api: httpx.AsyncClient) -> None:
    """For tools that make types: the bare schema under its own media type."""
    answer = await api.get("/v1/event-types/deal.updated/schema")
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json() == schema("deal.updated")
    missing = await api.get("/v1/event-types/deal.sold/schema")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")


async def test_samples_are_what_happened_last(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """Made-up ones while there is none, then the last three, the newest first, never those of tests."""
    params = {"type": "contact.updated"}
    made_up = (await api.get("/v1/events/samples", params=params)).json()
    assert [each["type"] for each in made_up] == ["contact.updated"]
    rows = await happen(db, *(updated(name) for name in "abcd"), now=now)
    samples = (await api.get("/v1/events/samples", params=params)).json()
    assert [each["data"] for each in samples] == [row.body["data"] for row in rows[:0:-1]]


@pytest.mark.parametrize(
    ("type_", "status", "says"),
    [
        ("contact.updatet", 422, "did you mean 'contact.updated'"),  # misspelt
        ("contact.*", 404, "is a filter"),  # several have no one sample
    ],
)
async def test_samples_are_of_one_type(
    api: httpx.AsyncClient, type_: str, status: int, says: str
) -> None:
    """Anything but a type is told in a sentence."""
    answer = await api.get("/v1/events/samples", params={"type": type_})
    assert answer.status_code == status
    assert says in answer.json()["detail"]


# --- the log -----------------------------------------------------------------------------------


async def test_pages_give_every_event_once_in_order(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """Following next_cursor gives all there is; at the end it stays and then gives what is new."""
    rows = await happen(db, *(updated(str(n)) for n in range(5)), now=now)
    seen, cursor, more = [], None, True
    while more:
        page = await read(api, limit=2, **({"after": cursor} if cursor else {}))
        seen += ids(page["data"])
        cursor, more = page["next_cursor"], page["has_more"]
    assert seen == ids(rows)
    assert (await read(api, after=cursor))["data"] == []
    late = await happen(db, updated("late"), now=now)
    assert ids((await read(api, after=cursor))["data"]) == ids(late)


async def test_the_bytes_are_those_of_deliveries(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """Each body stands in the page, and alone under its id, exactly as the one serialiser writes it."""
    rows = await happen(db, updated("Žofie “☎” \u2028 😀"), SAMPLE["call.ended"], now=now)
    page = (await api.get("/v1/events")).content
    for row in rows:
        assert b'"body":' + as_bytes(row) + b"}" in page
        assert (await api.get(f"/v1/events/{row.id}")).content == as_bytes(row)
    assert [entry["body"] for entry in json.loads(page)["data"]] == [row.body for row in rows]


async def test_an_event_that_commits_late_is_not_skipped(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """What was recorded first but is published last comes up behind the cursor, never before it."""
    async with db.work() as session:
        first = await record(session, updated("first"), now=now)
    assert (await read(api))["data"] == []  # committed, and not yet in the one order
    await publish_all(db)
    page = await read(api)
    assert ids(page["data"]) == [first.id]
    second = await happen(db, updated("second"), now=now)
    assert ids((await read(api, after=page["next_cursor"]))["data"]) == ids(second)


async def test_the_log_is_filtered_like_an_endpoint(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """Wildcards, exact names, opt-in types only by name, and the cursor passes what was left out."""
    turn, ended, deal = SAMPLE["transcript.turn"], SAMPLE["call.ended"], SAMPLE["deal.updated"]
    rows = await happen(db, turn, ended, deal, now=now)
    for types, expected in (
        (["*"], rows[1:]),
        (["call.*", "transcript.*"], rows[1:2]),
        (["transcript.turn", "deal.updated"], [rows[0], rows[2]]),
    ):
        page = await read(api, type=types)
        assert ids(page["data"]) == ids(expected)
        assert paging.read_position(page["next_cursor"]) == 3
    answer = await api.get("/v1/events", params={"type": "call.endde"})
    assert answer.status_code == 422
    assert "did you mean 'call.ended'" in answer.json()["detail"]


async def test_nobody_needs_to_hear_their_own_echo(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """Events of an ignored source are left out, others and those without a source stay."""
    rows = await happen(
        db, updated("a", "hubspot"), updated("b", "zendesk"), SAMPLE["call.ended"], now=now
    )
    assert ids((await read(api, ignored_source="hubspot"))["data"]) == ids(rows[1:])
    both = await read(api, ignored_source=["hubspot", "zendesk"], limit=1)
    assert (both["data"], both["has_more"]) == ([], True)  # looked at, nothing for this reader


async def test_what_was_sent_on_request_did_not_happen(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """A test or sample for one endpoint is not in the log, unless tests are asked for."""
    async with db.work() as session:
        await record(session, CallEnded(**vars(SAMPLE["call.ended"])), now=now, sample_for="whk_x")
    rows = await happen(db, EndpointTest("whk_01kf0q8m3s7t9v1w3x5y7z9abp"), now=now)
    assert (await read(api))["data"] == []
    assert ids((await read(api, type="endpoint.test"))["data"]) == ids(rows)


async def test_now_is_the_end_of_the_log(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """after=now gives nothing that was, and a cursor for all that is to come."""
    await happen(db, updated("before"), now=now)
    page = await read(api, after="now")
    assert page["data"] == []
    rows = await happen(db, updated("later"), now=now)
    assert ids((await read(api, after=page["next_cursor"]))["data"]) == ids(rows)


def _word(said: str) -> str:
    return base64.urlsafe_b64encode(said.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "query",
    [
        {"after": "abc"},  # no cursor
        {"after": ""},  # an empty one
        {"after": "☎"},  # not even ASCII
        {"after": _word("e2|7")},  # of a later form
        {"after": _word("1|2026-01-15T09:30:00+00:00|call_" + "0" * 26)},  # of a list of calls
        {"after": _word("e1|-1")},  # no position
        {"after": _word("e1|" + "9" * 19)},  # more than a BIGINT holds
        {"after": "x" * 201},  # longer than any of ours
        {"wait": "31"},  # longer than proxies keep a request
        {"wait": "-1"},
        {"limit": "0"},
        {"limit": "501"},
    ],
)
async def test_a_bad_query_is_told_in_words(api: httpx.AsyncClient, query: dict[str, str]) -> None:
    """422 with a reason, never a 500 and never another page."""
    answer = await api.get("/v1/events", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


# --- waiting -----------------------------------------------------------------------------------


async def _listening(app: FastAPI) -> None:
    """Until somebody waits for the bell."""
    async with asyncio.timeout(60):
        while app.state.web.bell.waiting == 0:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)


async def test_a_waiting_reader_gets_an_event_as_it_happens(
    app: FastAPI, api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """The request stands open and is answered by the event, long before its time is over."""
    asked = [asyncio.create_task(read(api, wait=30, type="contact.*")) for _ in range(3)]
    await _listening(app)
    await happen(db, SAMPLE["call.ended"], now=now)  # not for this reader: it goes on waiting
    rows = await happen(db, updated("news"), now=now)
    async with asyncio.timeout(60):
        pages = await asyncio.gather(*asked)
    assert [ids(page["data"]) for page in pages] == [ids(rows)] * 3
    assert app.state.web.bell.waiting == 0  # and no connection is held any more


async def test_an_event_that_is_published_late_still_wakes_the_reader(
    app: FastAPI, api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """Between commit and publication a reader keeps looking."""
    async with db.work() as session:
        row = await record(session, updated("news"), now=now)
    asked = asyncio.create_task(read(api, wait=30))
    await _listening(app)
    await publish_all(db)
    async with asyncio.timeout(60):
        assert ids((await asked)["data"]) == [row.id]


async def test_waiting_ends_with_an_empty_page(api: httpx.AsyncClient) -> None:
    """When nothing happens in time the answer is empty, with a cursor to go on from."""
    page = await read(api, wait=1)
    assert (page["data"], page["has_more"]) == ([], False)
    assert (await read(api, after=page["next_cursor"]))["data"] == []


@pytest.mark.parametrize(
    "path", ["/v1/events", "/v1/events/samples?type=call.ended", "/v1/events/evt_x"]
)
async def test_the_log_needs_its_scope(
    api: httpx.AsyncClient, db: Database, now: datetime, path: str
) -> None:
    """Events hold names and numbers: a key without events:read sees the catalogue and nothing else."""
    async with db.work() as session:
        _, token = await access.add_key(session, name="x", scopes=["webhooks:read"], now=now)
    api.headers["Authorization"] = f"Bearer {token}"
    answer = await api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert (await api.get("/v1/event-types")).status_code == 200
