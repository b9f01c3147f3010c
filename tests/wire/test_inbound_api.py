"""What other systems push: contacts, deals and activities under their own ids, each request done once."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import delete, func, select

from trunkline.access import queries as access_queries
from trunkline.access import service as access
from trunkline.access.idempotency import KEEP
from trunkline.access.models import IdempotencyKey
from trunkline.crm import queries
from trunkline.crm import service as crm
from trunkline.crm.models import Activity, Contact, Deal, Pipeline
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.wire.conftest import Clock

DANA = {
    "source": "hubspot",
    "external_id": "48213",
    "name": "Dana Whitfield",
    "phones": ["(202) 555-0134"],
    "region": "US",
    "company": "Whitfield Bakery",
    "tags": ["vip"],
}
FIBER = {
    "source": "hubspot",
    "external_id": "9001",
    "contact": {"external_id": "48213"},
    "title": "Office Fiber",
    "amount_minor": 240_000,
    "currency": "USD",
}
NOTE = {
    "source": "hubspot",
    "external_id": "n-1",
    "kind": "note",
    "summary": "Goes ahead.",
    "contact": {"external_id": "48213"},
    "deal": {"external_id": "9001"},
}


@pytest.fixture
async def api(db: Database, tmp_path: Path, clock: "Clock") -> AsyncIterator[httpx.AsyncClient]:
    """A program with a key that may read and write the CRM, and a pipeline to work with."""
    async with db.work() as session:
        _, token = await access.add_key(
            session, name="sync", scopes=["contacts:read", "contacts:write"], now=clock.now
        )
        await crm.create_pipeline(
            session,
            name="Sales",
            stages=[crm.Stage("proposal"), crm.Stage("won", "won"), crm.Stage("lost", "lost")],
            now=clock.now,
        )
    app = create_app(db, open_blobs(BlobOptions(str(tmp_path / "blobs"))), WebOptions(), clock)
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="https://trunkline.example",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


async def push(
    api: httpx.AsyncClient, what: str, body: dict[str, Any], key: str | None = None
) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    return await api.post(f"/v1/{what}:upsert", json=body, headers=headers)


async def pushed(api: httpx.AsyncClient, what: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await push(api, what, body)
    assert answer.status_code in (200, 201), answer.text
    told: dict[str, Any] = answer.json()
    assert told["created"] is (answer.status_code == 201)
    return told


async def events(db: Database) -> list[tuple[str, dict[str, Any]]]:
    async with db.look() as session:
        rows = await session.scalars(select(EventRow).order_by(EventRow.id))
        return [(row.type, row.body["data"]) for row in rows]


async def count(db: Database, table: Any) -> int:
    async with db.look() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0


def assert_problem(answer: httpx.Response, status: int, code: str, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert says.lower() in answer.json()["detail"].lower()


# --- contacts ----------------------------------------------------------------------------------


async def test_a_contact_is_made_once_and_then_updated(
    api: httpx.AsyncClient, db: Database
) -> None:
    """The first push makes it (201), the next sets what it names and leaves the rest (200)."""
    first = await pushed(api, "contacts", DANA)
    assert first["created"]
    second = await pushed(
        api,
        "contacts",
        {"source": "hubspot", "external_id": "48213", "email": "dana@example.com"},
    )
    contact = second["contact"]
    assert contact["id"] == first["contact"]["id"]
    assert contact["name"] == "Dana Whitfield"
    assert contact["phones"] == [{"e164": "+12025550134", "label": None}]
    assert (contact["company"], contact["tags"]) == ("Whitfield Bakery", ["vip"])
    assert contact["email"] == "dana@example.com"
    assert contact["external_ids"] == {"hubspot": "48213"}
    assert (await api.get(f"/v1/contacts/{contact['id']}")).json() == contact
    created, updated = await events(db)
    assert (created[0], created[1]["source"]) == ("contact.created", "hubspot")
    assert (updated[0], updated[1]["source"]) == ("contact.updated", "hubspot")
    assert updated[1]["changes"] == {"email": [None, "dana@example.com"]}
    async with db.look() as session:
        ledger = await queries.changes_of(session, "contact", contact["id"])
    assert [(row.field, row.source) for row in ledger] == [("*", "hubspot"), ("email", "hubspot")]


async def test_a_push_that_changes_nothing_says_nothing(
    api: httpx.AsyncClient, db: Database
) -> None:
    """The same contact sent again and again leaves one event and one ledger row."""
    for _ in range(3):
        await pushed(api, "contacts", DANA)
    assert len(await events(db)) == 1


async def test_a_caller_we_know_is_found_by_number(
    api: httpx.AsyncClient, db: Database, make: "Make"
) -> None:
    """A contact that a call made is linked to the other system's id, not made twice."""
    async with db.work() as session:
        known = await make.contact(session, phones=["+12025550134"])
    told = await pushed(api, "contacts", DANA)
    assert (told["created"], told["contact"]["id"]) == (False, known.id)
    by_id = await pushed(
        api, "contacts", {"source": "hubspot", "external_id": "48213", "name": "D. Whitfield"}
    )
    assert by_id["contact"]["id"] == known.id


async def test_one_contact_may_be_known_to_several_systems(api: httpx.AsyncClient) -> None:
    """Each system has its own id for it; the same id of another system is somebody else."""
    first = await pushed(api, "contacts", DANA)
    second = await pushed(api, "contacts", {**DANA, "source": "zendesk", "external_id": "z-9"})
    assert second["contact"]["external_ids"] == {"hubspot": "48213", "zendesk": "z-9"}
    other = await pushed(
        api, "contacts", {"source": "zendesk", "external_id": "48213", "name": "Eve"}
    )
    assert other["contact"]["id"] != first["contact"]["id"]


async def test_equal_pushes_at_once_make_one(api: httpx.AsyncClient, db: Database) -> None:
    """Of many that send the same new contact at the same moment, one makes it and the others find it."""
    answers = await asyncio.gather(*(push(api, "contacts", DANA) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 201]
    assert len({answer.json()["contact"]["id"] for answer in answers}) == 1
    assert await count(db, Contact) == 1


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({}, 422, "invalid", "say which contact"),  # nobody at all
        ({"name": "Eve"}, 422, "invalid", "say which contact"),  # would be made again and again
        ({"external_id": "  "}, 422, "invalid", "at least 1 character"),  # blank
        ({"phones": ["12"], "region": "US"}, 422, "invalid", "too short"),
        ({"phones": ["2025550134"]}, 422, "invalid", "country code"),  # which country?
        ({"id": "con_none"}, 404, "not_found", "no contact"),
        ({"external_id": "1", "source": "call"}, 422, "invalid", "own"),  # pretends to be us
        ({"external_id": "1", "source": "Hub Spot"}, 422, "invalid", "no name of a source"),
        ({"external_id": "1", "email": "dana"}, 422, "invalid", "no email address"),
        ({"external_id": "1", "nmae": "Dana"}, 422, "invalid", "body.nmae"),  # misspelt
        ({"external_id": "2", "source": "hubspot", "phones": ["+12025550134"]}, 409, "conflict",
         "is '48213' in hubspot, not '2'"),  # two of theirs share one of our contacts
        ({"phones": ["+12025550134", "+12025550177"]}, 409, "conflict", "different contacts"),
        ({"external_id": "48213", "source": "hubspot", "phones": ["+12025550177"]}, 409, "conflict",
         "belongs to contact"),  # somebody else's number
        ({"id": "PETER", "external_id": "48213", "source": "hubspot"}, 409, "conflict",
         "hubspot calls"),  # id and external id disagree
    ],
)  # fmt: skip
async def test_a_push_that_cannot_be_is_refused_whole(
    api: httpx.AsyncClient,
    db: Database,
    body: dict[str, Any],
    status: int,
    code: str,
    says: str,
) -> None:
    """It is told in a sentence, and nothing of it stays."""
    await pushed(api, "contacts", DANA)
    peter = await pushed(api, "contacts", {"phones": ["+12025550177"], "name": "Peter"})
    before = await events(db)
    answer = await push(
        api, "contacts", {k: peter["contact"]["id"] if v == "PETER" else v for k, v in body.items()}
    )
    assert_problem(answer, status, code, says)
    assert "5550134" not in answer.text
    assert await events(db) == before
    assert await count(db, Contact) == 2


# --- deals and activities ----------------------------------------------------------------------


async def test_a_pipeline_is_made_and_deals_go_into_it(api: httpx.AsyncClient) -> None:
    """With its stages in order; sent again under its key it is made once, and it is listed by name."""
    body = {"name": "Care", "stages": [{"name": "new"}, {"name": "kept", "outcome": "won"}]}
    first, again = [
        await api.post("/v1/pipelines", json=body, headers={"Idempotency-Key": "care"})
        for _ in range(2)
    ]
    care = {
        "name": "Care",
        "stages": [{"name": "new", "outcome": "open"}, {"name": "kept", "outcome": "won"}],
    }
    assert (first.status_code, first.json(), again.json()) == (201, care, care)
    listed = (await api.get("/v1/pipelines")).json()["data"]
    assert [each["name"] for each in listed] == ["Care", "Sales"]
    assert listed[0] == care
    deal = (await pushed(api, "deals", {**FIBER, "contact": None, "pipeline": "Care"}))["deal"]
    assert (deal["pipeline"], deal["stage"]) == ("Care", "new")


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "Sales", "stages": [{"name": "a"}]}, 409, "already"),
        ({"name": "X", "stages": []}, 422, "stages"),
        ({"name": "X", "stages": [{"name": "a"}, {"name": "A"}]}, 422, "a name of its own"),
        ({"name": " ", "stages": [{"name": "a"}]}, 422, "name"),
        ({"name": "X", "stages": [{"name": "a", "outcome": "maybe"}]}, 422, "outcome"),
    ],
)
async def test_a_pipeline_that_cannot_be_is_refused(
    api: httpx.AsyncClient, body: dict[str, Any], status: int, says: str
) -> None:
    """A name that is taken, no stages, two of one name, no such outcome: said, and nothing is made."""
    answer = await api.post("/v1/pipelines", json=body)
    assert (answer.status_code, says in answer.text) == (status, True), answer.text
    assert len((await api.get("/v1/pipelines")).json()["data"]) == 1


async def test_without_a_pipeline_a_deal_is_told_to_wait_for_one(
    api: httpx.AsyncClient, db: Database
) -> None:
    """A fresh installation has none: the answer says what to do first."""
    async with db.work() as session:
        await session.execute(delete(Pipeline))
    answer = await push(api, "deals", {**FIBER, "contact": None})
    assert answer.status_code == 422
    assert "there is none yet; make one first" in answer.json()["detail"]


async def test_a_deal_follows_the_other_system(api: httpx.AsyncClient, db: Database) -> None:
    """Made in the first stage of the only pipeline, then moved: one event tells of all that changed."""
    dana = await pushed(api, "contacts", DANA)
    made = await pushed(api, "deals", FIBER)
    deal = made["deal"]
    assert (made["created"], deal["pipeline"], deal["stage"]) == (True, "Sales", "proposal")
    assert deal["contact_id"] == dana["contact"]["id"]
    won = {"source": "hubspot", "external_id": "9001", "stage": "won", "amount_minor": 250_000}
    moved = await pushed(api, "deals", won)
    assert (moved["created"], moved["deal"]["outcome"]) == (False, "won")
    type_, data = (await events(db))[-1]
    assert (type_, data["source"]) == ("deal.updated", "hubspot")
    assert data["before"] == {"stage": "proposal", "amount_minor": 240_000}
    assert data["after"] == {"stage": "won", "amount_minor": 250_000}
    assert (await api.get(f"/v1/deals/{deal['id']}")).json() == moved["deal"]


async def test_a_deal_that_a_call_made_can_be_linked(
    api: httpx.AsyncClient, db: Database, make: "Make"
) -> None:
    """Sent with our id, it gets their id and is found by that from then on."""
    async with db.work() as session:
        deal = await make.deal(session, pipeline="Ours")
    await pushed(api, "deals", {"source": "hubspot", "id": deal.id, "external_id": "77"})
    told = await pushed(api, "deals", {"source": "hubspot", "external_id": "77", "title": "Fiber"})
    assert (told["created"], told["deal"]["id"], told["deal"]["title"]) == (False, deal.id, "Fiber")


async def test_each_change_by_the_api_can_be_undone(api: httpx.AsyncClient, db: Database) -> None:
    """Every field of the ledger goes back; a deal taken back whole can be pushed anew."""
    await pushed(api, "contacts", DANA)
    deal = (await pushed(api, "deals", {**FIBER, "contact": None}))["deal"]
    change = {"title": "X", "stage": "won", "amount_minor": 1, "currency": "EUR"}
    change |= {"contact": {"external_id": "48213"}}
    await pushed(api, "deals", {"source": "hubspot", "external_id": "9001", **change})
    task = {**NOTE, "kind": "task", "due_at": "2026-02-01T10:00:00+01:00", "deal": None}
    act = (await pushed(api, "activities", task))["activity"]
    await pushed(
        api,
        "activities",
        {"source": "hubspot", "external_id": "n-1", "summary": "Later", "done": True}
        | {"due_at": "2026-02-02T10:00:00Z"},
    )
    person = crm.Cause("person")
    async with db.work() as session:
        for entity, id_ in (("deal", deal["id"]), ("activity", act["id"])):
            for row in (await queries.changes_of(session, entity, id_))[1:]:
                await crm.undo(
                    session, row.id, cause=person, now=datetime.fromisoformat(act["created_at"])
                )
    assert (await api.get(f"/v1/deals/{deal['id']}")).json() == deal
    assert (await api.get(f"/v1/activities/{act['id']}")).json() == act
    fresh = (await pushed(api, "deals", {**FIBER, "external_id": "9002"}))["deal"]
    async with db.work() as session:
        (made,) = await queries.changes_of(session, "deal", fresh["id"])
        await crm.undo(session, made.id, cause=person, now=made.created_at)
    assert (await pushed(api, "deals", {**FIBER, "external_id": "9002"}))["created"]


async def test_an_activity_is_logged_once_per_external_id(
    api: httpx.AsyncClient, db: Database
) -> None:
    """With an external id it is made once and updated; without one every push is a new one."""
    await pushed(api, "contacts", DANA)
    await pushed(api, "deals", FIBER)
    made = await pushed(api, "activities", NOTE)
    again = await pushed(api, "activities", {**NOTE, "summary": "Goes ahead in May."})
    assert (made["created"], again["created"]) == (True, False)
    assert again["activity"]["summary"] == "Goes ahead in May."
    loose = {"kind": "note", "summary": "Loose"}
    assert (await pushed(api, "activities", loose))["created"]
    assert (await pushed(api, "activities", loose))["created"]
    logged = [data for type_, data in await events(db) if type_ == "activity.logged"]
    assert [data["source"] for data in logged] == ["hubspot", "api", "api"]


async def test_a_task_is_done_and_opened_again(api: httpx.AsyncClient, clock: "Clock") -> None:
    """done sets the moment once, and takes it back."""
    task = {"external_id": "t", "kind": "task", "summary": "Call", "due_at": "2026-02-01T10:00:00Z"}
    assert (await pushed(api, "activities", task))["activity"]["done_at"] is None
    first = (await pushed(api, "activities", {"external_id": "t", "done": True}))["activity"]
    clock.now += timedelta(hours=1)
    second = (await pushed(api, "activities", {"external_id": "t", "done": True}))["activity"]
    assert first["done_at"] == second["done_at"] == "2026-01-15T09:30:00Z"
    reopened = await pushed(api, "activities", {"external_id": "t", "done": False})
    assert reopened["activity"]["done_at"] is None


async def test_card_numbers_are_blacked_out(api: httpx.AsyncClient, db: Database) -> None:
    """A card number in free text reaches neither row nor event."""
    note = {"kind": "note", "summary": "Paid with 4111 1111 1111 1111 today"}
    told = await pushed(api, "activities", note)
    assert "4111" not in told["activity"]["summary"]
    assert "4111" not in str(await events(db))


@pytest.mark.parametrize(
    ("what", "body", "status", "says"),
    [
        ("deals", {"title": "X", "currency": "USD"}, 422, "say which deal"),
        ("deals", {"external_id": "1"}, 422, "needs title and currency"),
        ("deals", {"external_id": "1", "title": "X", "currency": "usd"}, 422, "body.currency"),
        ("deals", {**FIBER, "external_id": "1", "amount_minor": -1}, 422, "body.amount_minor"),
        ("deals", {**FIBER, "external_id": "1", "amount_minor": 2**63}, 422, "body.amount_minor"),
        ("deals", {**FIBER, "external_id": "1", "stage": "sold"}, 422, "proposal, won, lost"),
        ("deals", {**FIBER, "external_id": "1", "pipeline": "No"}, 422, "there are: Sales"),
        ("deals", {**FIBER, "external_id": "1", "contact": {}}, 422, "by id, external_id or phone"),
        ("deals", {**FIBER, "contact": {"external_id": "no"}}, 404, "hubspot calls 'no'"),
        ("deals", {**FIBER, "pipeline": "Other"}, 422, "stays there"),
        ("activities", {"external_id": "1"}, 422, "needs kind and summary"),
        ("activities", {"kind": "task", "summary": "X"}, 422, "time it is due"),
        ("activities", {"kind": "task", "summary": "X", "due_at": "2026-02-01T10:00:00"}, 422,
         "body.due_at"),  # no zone
        ("activities", {"kind": "task", "summary": "X", "due_at": "0001-01-01T00:00:00+14:00"}, 422,
         "out of range"),  # before the first year, in UTC
        ("activities", {"kind": "note", "summary": "X", "done": True}, 422, "only a task"),
        ("activities", {"kind": "fax", "summary": "X"}, 422, "body.kind"),
        ("activities", {**NOTE, "kind": "meeting"}, 422, "kind of activity"),
        ("activities", {**NOTE, "external_id": "2", "deal": {"id": "deal_x"}}, 404, "no deal"),
    ],
)  # fmt: skip
async def test_a_wrong_deal_or_activity_is_refused_whole(
    api: httpx.AsyncClient, db: Database, what: str, body: dict[str, Any], status: int, says: str
) -> None:
    """It is told in a sentence, and nothing of it stays: no row, no link, no event."""
    await pushed(api, "contacts", DANA)
    await pushed(api, "deals", FIBER)
    await pushed(api, "activities", NOTE)
    before = await events(db)
    assert_problem(
        await push(api, what, body), status, "not_found" if status == 404 else "invalid", says
    )
    assert await events(db) == before
    assert (await count(db, Deal), await count(db, Activity)) == (1, 1)


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize(
    ("what", "field"),
    [
        ("contacts", "name"),
        ("contacts", "company"),
        ("contacts", "email"),
        ("contacts", "external_id"),
        ("contacts", "id"),
        ("deals", "title"),
        ("deals", "stage"),
        ("deals", "pipeline"),
        ("activities", "summary"),
        ("activities", "external_id"),
    ],
)
async def test_no_text_breaks_the_server(
    api: httpx.AsyncClient, db: Database, what: str, field: str, text: str
) -> None:
    """What a database cannot store, NUL or half a surrogate pair, is refused and never answered with 500."""
    bases: dict[str, dict[str, Any]] = {
        "contacts": DANA,
        "deals": {**FIBER, "contact": None},
        "activities": {"kind": "note", "summary": "x"},
    }
    body = json.dumps({**bases[what], field: text})
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    answer = await api.post(f"/v1/{what}:upsert", content=body, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.is_success:  # SQLite can hold NUL
        assert db.dialect == "sqlite"


@pytest.mark.parametrize("body", ["", "{", "[" * 100_000, "null", "[]", '"x"', "NaN"])
async def test_a_body_that_is_none_is_refused(api: httpx.AsyncClient, body: str) -> None:
    """Broken off, nested without end, or not an object: told in a sentence."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k"}
    answer = await api.post("/v1/contacts:upsert", content=body, headers=headers)
    assert_problem(answer, 422, "invalid", "body")


# --- once --------------------------------------------------------------------------------------


async def test_the_same_request_is_answered_alike_and_done_once(
    api: httpx.AsyncClient, db: Database
) -> None:
    """A retry with the same key and body gets the first answer, also when the JSON is written otherwise."""
    note = {"kind": "note", "summary": "Goes ahead."}
    first = await push(api, "activities", note, key="n1")
    again = await push(api, "activities", dict(reversed(note.items())), key="n1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await count(db, Activity) == 1
    assert (await push(api, "activities", note, key="n2")).json() != first.json()


async def test_equal_requests_at_once_are_done_once(api: httpx.AsyncClient, db: Database) -> None:
    """Five at the same moment under one key: one does the work, all get its answer."""
    note = {"kind": "note", "summary": "Goes ahead."}
    answers = await asyncio.gather(*(push(api, "activities", note, key="n1") for _ in range(5)))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert await count(db, Activity) == 1


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("activities", {"kind": "note", "summary": "Something else."}),  # another body
        ("contacts", {"external_id": "1"}),  # another address
    ],
)
async def test_a_key_belongs_to_one_request(
    api: httpx.AsyncClient, db: Database, what: str, body: dict[str, Any]
) -> None:
    """The same key with another request is refused and does nothing."""
    await push(api, "activities", {"kind": "note", "summary": "Goes ahead."}, key="n1")
    answer = await push(api, what, body, key="n1")
    assert_problem(answer, 422, "idempotency_key_reused", "new key")
    assert (await count(db, Activity), await count(db, Contact)) == (1, 0)


async def test_what_failed_may_be_tried_again(api: httpx.AsyncClient) -> None:
    """An error is not remembered: once its cause is gone, the same request works."""
    deal = {**FIBER, "external_id": "1"}
    assert (await push(api, "deals", deal, key="d1")).status_code == 404
    await pushed(api, "contacts", DANA)
    assert (await push(api, "deals", deal, key="d1")).status_code == 201


async def test_keys_of_two_programs_never_meet(
    api: httpx.AsyncClient, db: Database, clock: "Clock"
) -> None:
    """Another program's request under the same word is a request of its own."""
    async with db.work() as session:
        _, other = await access.add_key(
            session, name="other", scopes=["contacts:write"], now=clock.now
        )
    note = {"kind": "note", "summary": "Goes ahead."}
    first = await push(api, "activities", note, key="n1")
    api.headers["Authorization"] = f"Bearer {other}"
    second = await push(api, "activities", note, key="n1")
    assert first.json()["activity"]["id"] != second.json()["activity"]["id"]


async def test_after_a_day_the_key_is_forgotten(
    api: httpx.AsyncClient, db: Database, clock: "Clock"
) -> None:
    """Old answers are removed as new ones come; the key then makes a new request."""
    note = {"kind": "note", "summary": "Goes ahead."}
    for n in range(3):
        await push(api, "activities", note, key=f"n{n}")
    clock.now += KEEP
    answer = await push(api, "activities", note, key="n1")
    assert "idempotent-replayed" not in answer.headers
    assert await count(db, IdempotencyKey) == 1
    assert await count(db, Activity) == 4


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_has_a_sane_length(api: httpx.AsyncClient, key: str) -> None:
    """An empty or overlong key is told, not cut."""
    answer = await api.post(
        "/v1/activities:upsert",
        json={"kind": "note", "summary": "X"},
        headers={"Idempotency-Key": key},
    )
    assert_problem(answer, 422, "invalid", "header.idempotency-key")


# --- scopes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["contacts", "deals", "activities"])
async def test_reading_is_not_writing(
    api: httpx.AsyncClient, db: Database, clock: "Clock", what: str
) -> None:
    """A key that may only read is refused before its body is looked at, and the other way round."""
    async with db.work() as session:
        _, reads = await access.add_key(session, name="r", scopes=["contacts:read"], now=clock.now)
        _, writes = await access.add_key(
            session, name="w", scopes=["contacts:write"], now=clock.now
        )
    api.headers["Authorization"] = f"Bearer {reads}"
    assert_problem(await push(api, what, {"external_id": "1"}), 403, "forbidden", "contacts:write")
    api.headers["Authorization"] = f"Bearer {writes}"
    assert_problem(await api.get(f"/v1/{what}/x_1"), 403, "forbidden", "contacts:read")


async def test_lists_are_paged_without_gap_or_repeat(api: httpx.AsyncClient) -> None:
    """Contacts, deals and activities come in the order they were made, page after page."""
    for kind, push in (("contacts", DANA), ("deals", FIBER), ("activities", NOTE)):
        made = []
        for number in range(5):
            body = {**push, "external_id": f"n{number}", "phones": [f"+120255501{number:02}"]}
            if kind != "contacts":
                del body["phones"]
                body["contact"] = {"external_id": "n0"}
            if kind == "activities":
                body["deal"] = {"external_id": "n0"}
            answer = await api.post(f"/v1/{kind}:upsert", json=body)
            assert answer.status_code == 201, answer.text
            made.append(next(v["id"] for v in answer.json().values() if isinstance(v, dict)))
        seen, cursor, pages = [], None, 0
        while pages == 0 or cursor:
            query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
            page = (await api.get(f"/v1/{kind}", params=query)).json()
            seen += [row["id"] for row in page["data"]]
            cursor, pages = page["next_cursor"], pages + 1
        assert seen == made
        assert pages == 3
        full = (await api.get(f"/v1/{kind}", params={"limit": len(made)})).json()
        assert full["next_cursor"] is None


async def test_who_said_that_somebody_is_not_to_be_called(
    api: httpx.AsyncClient, db: Database, clock: "Clock"
) -> None:
    """The contact says it, with the reason and the moment; the audit has it once, however often it is
    sent."""
    told = {**DANA, "do_not_call": True, "do_not_call_reason": "Asked on 12 May"}
    before = (await pushed(api, "contacts", DANA))["contact"]
    assert (before["do_not_call_by"], before["do_not_call_at"]) == (None, None)
    for _ in range(2):
        contact = (await pushed(api, "contacts", told))["contact"]
        assert (contact["do_not_call_reason"], contact["do_not_call_by"]) == (
            "Asked on 12 May",
            "sync",
        )
        assert contact["do_not_call_at"] == "2026-01-15T09:30:00Z"
        clock.now += timedelta(minutes=1)
    async with db.look() as session:
        lines = await access_queries.audit(session, limit=10)
    assert [(one.action, one.actor, one.subject, one.details) for one in lines] == [
        ("contact.do_not_call", "sync", contact["id"], {"reason": "Asked on 12 May"})
    ]


async def test_a_list_finds_one_by_what_another_system_calls_it(api: httpx.AsyncClient) -> None:
    """By source and external id: the one, or none; half of the pair is refused with what is missing."""
    for kind, push in (("contacts", DANA), ("deals", FIBER), ("activities", NOTE)):
        assert (await api.post(f"/v1/{kind}:upsert", json=push)).status_code == 201
        pair = {"source": "hubspot", "external_id": str(push["external_id"])}
        [found] = (await api.get(f"/v1/{kind}", params=pair)).json()["data"]
        assert found["external_ids"] == {"hubspot": push["external_id"]}
        other = {**pair, "source": "salesforce"}
        assert (await api.get(f"/v1/{kind}", params=other)).json()["data"] == []
        half = await api.get(f"/v1/{kind}", params={"external_id": "48213"})
        assert half.status_code == 422
        assert "go together" in half.json()["detail"]


async def test_lists_are_narrowed(api: httpx.AsyncClient) -> None:
    """By number, by contact, by outcome, by deal; what matches nothing is an empty page."""
    dana = (await api.post("/v1/contacts:upsert", json=DANA)).json()["contact"]["id"]
    deal = (await api.post("/v1/deals:upsert", json=FIBER)).json()["deal"]["id"]
    note = (await api.post("/v1/activities:upsert", json=NOTE)).json()["activity"]["id"]
    for path, found in (
        ("contacts?number=%2B12025550134", [dana]),
        ("contacts?number=%2B12025550199", []),
        (f"deals?contact_id={dana}", [deal]),
        ("deals?contact_id=con_none", []),
        ("deals?outcome=open", [deal]),
        ("deals?outcome=won", []),
        (f"activities?contact_id={dana}", [note]),
        (f"activities?deal_id={deal}", [note]),
        ("activities?call_id=call_none", []),
    ):
        page = (await api.get(f"/v1/{path}")).json()
        assert [row["id"] for row in page["data"]] == found, path
    assert (await api.get("/v1/contacts?number=what")).status_code == 422
    assert (await api.get("/v1/contacts?cursor=what")).status_code == 422


# --- one person twice, and the ledger -------------------------------------------------------------


async def test_two_contacts_become_one(api: httpx.AsyncClient, db: Database) -> None:
    """The old id leads to the other, by redirect when read, silently when written to; repeats do no harm."""
    dana = (await pushed(api, "contacts", DANA))["contact"]
    other = (await pushed(api, "contacts", {"name": "D. Whitfield", "phones": ["+12025550177"]}))[
        "contact"
    ]
    asked = {"json": {"merged_id": other["id"]}, "headers": {"Idempotency-Key": "merge-1"}}
    for _ in range(2):
        answer = await api.post(f"/v1/contacts/{dana['id']}/merge", **asked)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
    told = answer.json()
    assert answer.headers["idempotent-replayed"] == "true"
    assert told["merged_id"] == other["id"]
    assert {phone["e164"] for phone in told["contact"]["phones"]} >= {"+12025550177"}
    old = await api.get(f"/v1/contacts/{other['id']}")
    assert (old.status_code, old.json()) == (307, {"merged_into": dana["id"]})
    assert (await api.get(old.headers["location"])).json()["id"] == dana["id"]
    changed = await pushed(api, "contacts", {"id": other["id"], "email": "dana@new.example"})
    assert (changed["created"], changed["contact"]["id"]) == (False, dana["id"])
    listed = (await api.get("/v1/contacts")).json()["data"]
    assert [each["id"] for each in listed] == [dana["id"]]
    assert [type_ for type_, _ in await events(db)].count("contact.merged") == 1

    undone = await api.post(f"/v1/changes/{told['change_id']}/undo")
    assert undone.status_code == 200, undone.text
    assert (await api.get(f"/v1/contacts/{other['id']}")).json()["name"] == "D. Whitfield"
    again = await api.post(f"/v1/changes/{told['change_id']}/undo")
    assert_problem(again, 409, "conflict", "undone already")


async def test_likely_duplicates(api: httpx.AsyncClient) -> None:
    """Somebody of the same name is suggested."""
    dana = (await pushed(api, "contacts", DANA))["contact"]
    twin = (await pushed(api, "contacts", {"name": "DANA whitfield", "phones": ["+12025550177"]}))[
        "contact"
    ]
    found = (await api.get(f"/v1/contacts/{dana['id']}/duplicates")).json()["data"]
    assert [each["id"] for each in found] == [twin["id"]]
    assert_problem(
        await api.get("/v1/contacts/con_none/duplicates"), 404, "not_found", "no contact"
    )


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        ({}, 422, "invalid", "merged_id"),
        ({"merged_id": "con_none"}, 404, "not_found", "no contact con_none"),
        ({"merged_id": "itself"}, 422, "invalid", "with itself"),
        ({"merged_id": "con_none", "source": "person"}, 422, "invalid", "trunkline's own"),
    ],
)
async def test_a_merge_that_cannot_be(
    api: httpx.AsyncClient, body: dict[str, Any], status: int, code: str, says: str
) -> None:
    """It is refused in a sentence."""
    dana = (await pushed(api, "contacts", DANA))["contact"]["id"]
    if body.get("merged_id") == "itself":
        body = {"merged_id": dana}
    answer = await api.post(f"/v1/contacts/{dana}/merge", json=body)
    told = answer.json()
    assert (answer.status_code, told["code"]) == (status, code)
    assert says in str(told).lower()


async def test_the_ledger_is_read_and_taken_back(api: httpx.AsyncClient) -> None:
    """Each change says what was before, by which key; it is taken back once, and that is a change too."""
    dana = (await pushed(api, "contacts", DANA))["contact"]["id"]
    await pushed(api, "contacts", {"id": dana, "name": "Dana W."})
    listed = (await api.get("/v1/changes", params={"entity_id": dana, "entity": "contact"})).json()
    made, renamed = listed["data"]
    assert (made["field"], renamed["field"]) == ("*", "name")
    assert (renamed["before"], renamed["after"]) == (DANA["name"], "Dana W.")
    assert (renamed["source"], renamed["actor"]) == ("api", "sync")
    answer = await api.post(
        f"/v1/changes/{renamed['id']}/undo", headers={"Idempotency-Key": "undo-1"}
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["change"]["undone_at"] is not None
    assert (told["undone_by"]["before"], told["undone_by"]["after"]) == ("Dana W.", DANA["name"])
    assert (await api.get(f"/v1/contacts/{dana}")).json()["name"] == DANA["name"]
    assert (await api.get(f"/v1/changes/{renamed['id']}")).json() == told["change"]
    refused = await api.post(f"/v1/changes/{made['id']}/undo")
    assert_problem(refused, 403, "refused", "calls may name it")
    for path in ("/v1/changes/chg_none", "/v1/changes/chg_none/undo"):
        method = "POST" if path.endswith("undo") else "GET"
        assert_problem(await api.request(method, path), 404, "not_found", "no change")


async def test_the_ledger_is_paged(api: httpx.AsyncClient) -> None:
    """A page at a time in the order of writing, without gap or repeat."""
    dana = (await pushed(api, "contacts", DANA))["contact"]["id"]
    for number in range(4):
        await pushed(api, "contacts", {"id": dana, "name": f"Dana {number}"})
    seen, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.get("/v1/changes", params=params)).json()
        seen += [each["after"] for each in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen[1:] == [f"Dana {number}" for number in range(4)]
    assert_problem(await api.get("/v1/changes?cursor=nonsense"), 422, "invalid", "cursor")
