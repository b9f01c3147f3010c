"""Endpoints and deliveries over the API: made, changed, tried, followed, repaired."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from trunkline.access import service as access
from trunkline.access.models import IdempotencyKey
from trunkline.courier import Courier
from trunkline.events import SAMPLES, Event
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.crypt import Sealer
from trunkline.kit.db import Database
from trunkline.outbox.publish import publish
from trunkline.outbox.record import record
from trunkline.sandbox.receiver import Receiver
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions
from trunkline.webhooks import claims, outcomes, service
from trunkline.webhooks.models import Endpoint
from trunkline.webhooks.options import CourierOptions, EndpointOptions

KEYS = ("WkWhWz3kX0gGgCkM4wDRoJrEkXIcrQPpP5cWbqkqW5M=",)
SAMPLE = {sample.type: sample for sample in SAMPLES}
NEW = {"url": "https://example.com/hooks", "events": ["call.*"]}


def client_of(
    db: Database, folder: Path, now: datetime, endpoints: EndpointOptions | None
) -> httpx.AsyncClient:
    blobs = open_blobs(BlobOptions(str(folder / "blobs")))
    app = create_app(db, blobs, WebOptions(endpoints=endpoints), lambda: now)
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711))
    return httpx.AsyncClient(transport=transport, base_url="https://trunkline.example")


@pytest.fixture
async def token(db: Database, now: datetime) -> str:
    async with db.work() as session:
        _, token = await access.add_key(
            session, name="ops", scopes=["webhooks:read", "webhooks:write"], now=now
        )
    return token


@pytest.fixture
async def api(
    db: Database, tmp_path: Path, now: datetime, token: str
) -> AsyncIterator[httpx.AsyncClient]:
    """A program that may read and write webhooks."""
    async with client_of(db, tmp_path, now, EndpointOptions(KEYS)) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        yield client


async def made(api: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await api.post("/v1/endpoints", json={**NEW, **fields})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def happen(db: Database, *events: Event, now: datetime) -> None:
    """Each is recorded, published and made into deliveries, as the courier does it."""
    async with db.work() as session:
        for event in events:
            await record(session, event, now=now)
    await fan_out(db, now=now)


async def fan_out(db: Database, *, now: datetime) -> None:
    async with db.work() as session:
        await service.fan_out(session, await publish(session), now=now)


async def attempt(db: Database, status: int, *, now: datetime) -> int:
    """Answer all that is due with *status*; how many there were."""
    async with db.work() as session:
        claimed = await claims.claim(
            session, sealer=Sealer(KEYS), limit=50, lease=timedelta(seconds=4), now=now
        )
        came = [
            outcomes.Outcome(
                each,
                started_at=now,
                ms=41,
                request_headers={"webhook-id": each.event_id},
                status=status,
                response_headers={"content-type": "text/plain"},
                response_body=b"answered",
            )
            for each in claimed
        ]
        await outcomes.settle(session, came, jitter=lambda: 1.0, now=now)
    return len(claimed)


async def deliveries(api: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await api.get("/v1/deliveries", params=params)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def assert_problem(answer: httpx.Response, status: int, code: str, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert says.lower() in answer.json()["detail"].lower()


# --- endpoints ---------------------------------------------------------------------------------


async def test_an_endpoint_is_made_and_its_secret_shown_once(
    api: httpx.AsyncClient, db: Database
) -> None:
    """The answer has the secret; no later one has it, nor the values of its headers."""
    endpoint = await made(api, headers={"Authorization": "Bearer abc"}, description="Warehouse")
    secret = endpoint.pop("secret")
    assert secret.startswith("whsec_")
    assert endpoint["header_names"] == ["authorization"]
    got = await api.get(f"/v1/endpoints/{endpoint['id']}")
    listed = await api.get("/v1/endpoints")
    assert got.json() == endpoint
    assert listed.json() == {"data": [endpoint], "next_cursor": None}
    assert secret not in got.text + listed.text
    assert "Bearer abc" not in got.text + listed.text
    async with db.look() as session:
        row = await session.get_one(Endpoint, endpoint["id"])
    assert secret not in row.secret
    assert Sealer(KEYS).open(row.secret) == secret


async def test_a_lost_answer_can_be_asked_for_again(api: httpx.AsyncClient, db: Database) -> None:
    """Repeated under its Idempotency-Key the creation gives the same secret, which is kept sealed."""
    headers = {"Idempotency-Key": "e1"}
    first = await api.post("/v1/endpoints", json=NEW, headers=headers)
    again = await api.post("/v1/endpoints", json=NEW, headers=headers)
    assert (first.content, again.headers["idempotent-replayed"]) == (again.content, "true")
    assert len((await api.get("/v1/endpoints")).json()["data"]) == 1
    async with db.look() as session:
        kept = await session.scalar(select(IdempotencyKey.body))
    assert first.json()["secret"] not in (kept or "")


async def test_a_change_sets_what_is_given(api: httpx.AsyncClient) -> None:
    """What is left out stays; enabled switches off and on."""
    endpoint = await made(api, description="Warehouse", rate_per_s=20)
    path = f"/v1/endpoints/{endpoint['id']}"
    changed = (await api.patch(path, json={"events": ["deal.*"], "rate_per_s": None})).json()
    del endpoint["secret"]
    assert changed.pop("version") != endpoint.pop("version")
    assert changed == {**endpoint, "events": ["deal.*"], "rate_per_s": None}
    off = (await api.patch(path, json={"enabled": False})).json()
    assert (off["enabled"], off["disabled_reason"]) == (False, "switched off by hand")
    on = (await api.patch(path, json={"enabled": True})).json()
    del on["version"]
    assert on == changed


async def test_of_two_changes_at_once_the_second_is_told_of_the_first(
    api: httpx.AsyncClient,
) -> None:
    """With If-Match a change is made only to what was read; else it says what is different and changes
    nothing."""
    endpoint = await made(api, headers={"authorization": "Bearer 1"})
    path, seen = f"/v1/endpoints/{endpoint['id']}", endpoint["version"]
    first = {"url": "https://example.com/new", "headers": {"x-key": "2"}}
    done = await api.patch(path, json=first, headers={"if-match": f'"{seen}"'})
    assert done.status_code == 200
    late = {"events": ["deal.*"]}
    answer = await api.patch(path, json=late, headers={"if-match": seen})
    assert_problem(answer, 409, "conflict", "the address (now https://example.com/new)")
    assert_problem(answer, 409, "conflict", "the headers (now x-key)")
    assert "the events" not in answer.json()["detail"]
    unchanged = (await api.get(path)).json()
    assert unchanged == done.json()
    again = await api.patch(path, json=late, headers={"if-match": unchanged["version"]})
    assert again.json()["events"] == ["deal.*"]
    assert (await api.patch(path, json=late, headers={"if-match": "*"})).status_code == 200
    answer = await api.patch(path, json=late, headers={"if-match": "W/1"})
    assert_problem(answer, 422, "invalid", "no version of an endpoint")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"url": "http://example.com/hooks"}, "https"),
        ({"url": "https://127.0.0.1/hooks"}, "loopback"),
        ({"url": "https://user:pw@example.com/"}, "user name or password"),
        ({"url": "https://example.com:22/"}, "port"),
        ({"url": "https://example.com/" + "x" * 2_000}, "at most 2000"),
        ({"url": "ftp://example.com"}, "https"),
        ({"events": ["call.endde"]}, "did you mean 'call.ended'"),
        ({"events": []}, "at least one event"),
        ({"headers": {"webhook-id": "x"}}, "set by the delivery itself"),
        ({"headers": {"a b": "x"}}, "no name of a header"),
        ({"format": "xml"}, "body.format"),
        ({"format": "retell", "events": ["deal.updated"]}, "retell"),
        ({"rate_per_s": 0}, "rate limit"),
        ({"nonsense": 1}, "body.nonsense"),
    ],
)
async def test_what_cannot_be_an_endpoint_is_told_in_words(
    api: httpx.AsyncClient, fields: dict[str, Any], says: str
) -> None:
    """The same check guards making and changing, and a refusal changes nothing."""
    assert_problem(await api.post("/v1/endpoints", json={**NEW, **fields}), 422, "invalid", says)
    endpoint = await made(api)
    path = f"/v1/endpoints/{endpoint['id']}"
    assert_problem(await api.patch(path, json=fields), 422, "invalid", says)
    assert len((await api.get("/v1/endpoints")).json()["data"]) == 1
    del endpoint["secret"]
    assert (await api.get(path)).json() == endpoint


async def test_a_deleted_endpoint_is_gone(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """It is not found again, gets nothing more, and its deliveries stay in the log."""
    endpoint = await made(api)
    await happen(db, SAMPLE["call.ended"], now=now)
    path = f"/v1/endpoints/{endpoint['id']}"
    assert (await api.delete(path)).status_code == 204
    assert_problem(await api.get(path), 404, "not_found", endpoint["id"])
    assert_problem(await api.delete(path), 404, "not_found", endpoint["id"])
    await happen(db, SAMPLE["call.started"], now=now)
    assert [row["state"] for row in await deliveries(api)] == ["failed"]


async def test_a_secret_is_rotated_with_an_overlap(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """The new secret signs at once, the old one as long as was asked for."""
    endpoint = await made(api)
    path = f"/v1/endpoints/{endpoint['id']}/rotate"
    rotated = (await api.post(path, json={"overlap_s": 60})).json()
    assert rotated["old_secret_until"] == "2026-01-15T09:31:00Z"
    await happen(db, SAMPLE["call.ended"], now=now)
    async with db.work() as session:
        (claimed,) = await claims.claim(
            session, sealer=Sealer(KEYS), limit=1, lease=timedelta(seconds=4), now=now
        )
    assert claimed.secrets == (rotated["secret"], endpoint["secret"])
    assert (await api.post(path)).json()["old_secret_until"] == "2026-01-16T09:30:00Z"
    assert_problem(await api.post(path, json={"overlap_s": -1}), 422, "invalid", "overlap_s")


# --- trying it out -----------------------------------------------------------------------------


async def test_tests_and_samples_go_to_one_endpoint(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """Whatever its filter, and to no other; a sample says that it is one."""
    endpoint = await made(api, events=["deal.updated"], send_test=True)
    await made(api, url="https://example.com/other", events=["*"])
    path = f"/v1/endpoints/{endpoint['id']}"
    test = await api.post(f"{path}/test")
    sample = await api.post(f"{path}/sample", json={"type": "call.ended"})
    assert (test.status_code, sample.status_code) == (202, 202)
    await fan_out(db, now=now)
    rows = await deliveries(api)
    assert {row["endpoint_id"] for row in rows} == {endpoint["id"]}
    assert [row["event_type"] for row in rows].count("endpoint.test") == 2
    assert sample.json()["event_id"] in {row["event_id"] for row in rows}
    wrong = await api.post(f"{path}/sample", json={"type": "call.endde"})
    assert_problem(wrong, 422, "invalid", "did you mean 'call.ended'")
    await api.patch(path, json={"enabled": False})
    assert_problem(await api.post(f"{path}/test"), 409, "conflict", "switch it on first")


# --- deliveries --------------------------------------------------------------------------------


async def test_a_delivery_tells_of_every_attempt(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """What was sent, what came back, how long it took, and when the next one is due."""
    await made(api)
    await happen(db, SAMPLE["call.ended"], now=now)
    assert await attempt(db, 500, now=now) == 1
    (row,) = await deliveries(api)
    assert (row["state"], row["attempt_count"], row["last_status"]) == ("pending", 1, 500)
    assert row["next_at"] == "2026-01-15T09:30:05Z"
    detail = (await api.get(f"/v1/deliveries/{row['id']}")).json()
    (tried,) = detail.pop("attempts")
    assert detail == row
    assert tried == {
        "number": 1,
        "started_at": "2026-01-15T09:30:00Z",
        "ms": 41,
        "status": 500,
        "error": None,
        "request_headers": {"webhook-id": row["event_id"]},
        "response_headers": {"content-type": "text/plain"},
        "response_body": "answered",
        "next_at": "2026-01-15T09:30:05Z",
    }
    assert await attempt(db, 200, now=now + timedelta(seconds=5)) == 1
    (row,) = await deliveries(api)
    assert (row["state"], row["next_at"]) == ("delivered", None)
    assert row["delivered_at"] == "2026-01-15T09:30:05Z"


async def test_deliveries_are_filtered_and_paged(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """By endpoint, state, type and subject; following next_cursor gives each once, newest first."""
    one = await made(api, events=["*"])
    two = await made(api, url="https://example.com/two", events=["deal.updated"])
    await happen(
        db, SAMPLE["call.ended"], SAMPLE["deal.updated"], SAMPLE["endpoint.disabled"], now=now
    )
    everything = await deliveries(api)
    assert len(everything) == 4
    for params, count in (
        ({"endpoint_id": one["id"]}, 3),
        ({"endpoint_id": two["id"]}, 1),
        ({"type": "deal.updated"}, 2),
        ({"subject": SAMPLE["call.ended"].subject}, 3),  # the deal was moved in that call
        ({"state": "pending"}, 4),
        ({"state": "failed"}, 0),
    ):
        assert len(await deliveries(api, **params)) == count, params
    seen, cursor = [], None
    for _ in range(2):
        page = (
            await api.get(
                "/v1/deliveries", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
            )
        ).json()
        seen += page["data"]
        cursor = page["next_cursor"]
    assert (seen, cursor) == (everything, None)
    assert_problem(await api.get("/v1/deliveries?state=lost"), 422, "invalid", "query.state")
    assert_problem(await api.get("/v1/deliveries?cursor=abc"), 422, "invalid", "cursor")


async def test_one_can_be_sent_again(api: httpx.AsyncClient, db: Database, now: datetime) -> None:
    """Also what arrived; the same event under the same webhook-id, as a new attempt."""
    await made(api)
    await happen(db, SAMPLE["call.ended"], now=now)
    await attempt(db, 200, now=now)
    (row,) = await deliveries(api)
    answer = await api.post(f"/v1/deliveries/{row['id']}/resend")
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    assert await attempt(db, 200, now=now) == 1
    (again,) = await deliveries(api)
    assert (again["event_id"], again["attempt_count"]) == (row["event_id"], 2)
    missing = await api.post("/v1/deliveries/dlv_none/resend")
    assert_problem(missing, 404, "not_found", "dlv_none")


async def test_what_failed_since_then_is_recovered(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """All dead letters since a moment are sent again, once however often the request is repeated."""
    endpoint = await made(api)
    await happen(db, SAMPLE["call.started"], SAMPLE["call.ended"], now=now)
    await attempt(db, 410, now=now)
    assert {row["state"] for row in await deliveries(api)} != {"delivered"}
    path = f"/v1/endpoints/{endpoint['id']}"
    since = {"since": "2026-01-15T10:00:00+01:00"}
    assert_problem(await api.post(f"{path}/recover", json=since), 409, "conflict", "switch it on")
    await api.patch(path, json={"enabled": True})
    failed = len(await deliveries(api, state="failed"))
    assert failed
    answers = [
        await api.post(f"{path}/recover", json=since, headers={"Idempotency-Key": "r1"})
        for _ in range(2)
    ]
    assert [answer.json() for answer in answers] == [{"count": failed}] * 2
    assert await deliveries(api, state="failed") == []
    later = await api.post(f"{path}/recover", json={"since": "2026-01-16T00:00:00Z"})
    assert later.json() == {"count": 0}
    for vague in ("2026-01-15T10:00:00", "2026-01-15", 0, True):
        answer = await api.post(f"{path}/recover", json={"since": vague})
        assert_problem(answer, 422, "invalid", "body.since")


async def test_a_new_endpoint_can_be_told_what_was(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """A replay sends what happened before the endpoint was there, filtered by type, time and subject."""
    await happen(db, SAMPLE["call.started"], SAMPLE["call.ended"], SAMPLE["deal.updated"], now=now)
    endpoint = await made(api, events=["*"])
    path = f"/v1/endpoints/{endpoint['id']}/replay"
    none = await api.post(path, json={"until": "2026-01-15T09:00:00Z"})
    assert none.json() == {"count": 0, "next_cursor": None}
    some = await api.post(path, json={"events": ["call.ended"], "since": "2026-01-15T09:00:00Z"})
    assert some.json() == {"count": 1, "next_cursor": None}
    rest = await api.post(path, json={"subject": SAMPLE["call.ended"].subject})
    assert rest.status_code == 202
    assert sorted(row["event_type"] for row in await deliveries(api)) == [
        "call.ended", "call.started", "deal.updated",
    ]  # fmt: skip
    wrong = await api.post(path, json={"events": ["call.endde"]})
    assert_problem(wrong, 422, "invalid", "did you mean")
    assert_problem(await api.post(path, json={"cursor": "x"}), 422, "invalid", "cursor")


# --- REST hooks --------------------------------------------------------------------------------

HOOK = {"target_url": "https://hooks.zapier.com/hooks/standard/1/abc", "event": "call.ended"}


async def test_a_hook_is_subscribed_and_unsubscribed(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """POST gives an id, events go there, DELETE ends it; what else the tool sends is let pass."""
    answer = await api.post("/v1/hooks", json={**HOOK, "zap_id": 7})
    assert answer.status_code == 201
    hook = answer.json()
    assert set(hook) == {"id", "secret"}
    await happen(db, SAMPLE["call.ended"], SAMPLE["call.started"], now=now)
    (row,) = await deliveries(api)
    assert (row["endpoint_id"], row["url"]) == (hook["id"], HOOK["target_url"])
    assert (await api.delete(f"/v1/hooks/{hook['id']}")).status_code == 204
    assert_problem(await api.delete(f"/v1/hooks/{hook['id']}"), 404, "not_found", hook["id"])


async def test_hooks_are_listed_without_secrets(api: httpx.AsyncClient) -> None:
    """What was subscribed is there until it is unsubscribed; endpoints and secrets are not among it."""
    await made(api)
    hook = (await api.post("/v1/hooks", json={**HOOK, "ignored_sources": ["zapier"]})).json()
    answer = await api.get("/v1/hooks")
    [listed] = answer.json()["data"]
    assert listed["id"] == hook["id"]
    assert (listed["target_url"], listed["event"]) == (HOOK["target_url"], HOOK["event"])
    assert (listed["ignored_sources"], listed["enabled"]) == (["zapier"], True)
    assert "whsec_" not in answer.text
    await api.delete(f"/v1/hooks/{hook['id']}")
    assert (await api.get("/v1/hooks")).json() == {"data": [], "next_cursor": None}


@pytest.mark.parametrize("path", ["/v1/endpoints", "/v1/hooks"])
async def test_endpoints_and_hooks_are_paged(api: httpx.AsyncClient, path: str) -> None:
    """Going from cursor to cursor shows each once, however the others lie between; whoever says nothing gets
    all; a cursor that is none of ours is refused."""
    mine = []
    for _ in range(3):
        endpoint = (await made(api))["id"]
        hook = (await api.post("/v1/hooks", json=HOOK)).json()["id"]
        mine += [hook] if path == "/v1/hooks" else [endpoint, hook]
    await api.delete(f"{path}/{mine.pop()}")
    whole = (await api.get(path)).json()
    assert {one["id"] for one in whole["data"]} == set(mine)
    assert whole["next_cursor"] is None
    seen: list[str] = []
    cursor: str | None = None
    while len(seen) < len(mine):
        page = (
            await api.get(path, params={"limit": 1} | ({"cursor": cursor} if cursor else {}))
        ).json()
        assert len(page["data"]) == 1
        seen += [one["id"] for one in page["data"]]
        cursor = page["next_cursor"]
    assert (seen, cursor) == ([one["id"] for one in whole["data"]], None)
    assert_problem(await api.get(f"{path}?cursor=abc"), 422, "invalid", "cursor")


async def test_a_receiver_that_is_gone_ends_its_hook(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """410 removes a hook, so that the tool's side and ours agree."""
    hook = (await api.post("/v1/hooks", json=HOOK)).json()
    await happen(db, SAMPLE["call.ended"], now=now)
    await attempt(db, 410, now=now)
    assert_problem(await api.get(f"/v1/endpoints/{hook['id']}"), 404, "not_found", hook["id"])


async def test_an_endpoint_is_no_hook(api: httpx.AsyncClient) -> None:
    """A tool that unsubscribes cannot remove somebody's endpoint by mistake."""
    endpoint = await made(api)
    answer = await api.delete(f"/v1/hooks/{endpoint['id']}")
    assert_problem(answer, 404, "not_found", "is no hook")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"target_url": "https://10.0.0.1/"}, "private"),  # our own network
        ({"event": "call.endde"}, "did you mean"),
        ({"event": None}, "body.event"),
    ],
)
async def test_a_wrong_hook_is_refused(
    api: httpx.AsyncClient, fields: dict[str, Any], says: str
) -> None:
    """In a sentence that the tool shows to whoever sets it up."""
    assert_problem(await api.post("/v1/hooks", json={**HOOK, **fields}), 422, "invalid", says)


# --- who may -----------------------------------------------------------------------------------

WRITES = [
    ("POST", "/v1/endpoints"),
    ("PATCH", "/v1/endpoints/whk_x"),
    ("DELETE", "/v1/endpoints/whk_x"),
    ("POST", "/v1/endpoints/whk_x/rotate"),
    ("POST", "/v1/endpoints/whk_x/test"),
    ("POST", "/v1/endpoints/whk_x/sample"),
    ("POST", "/v1/endpoints/whk_x/recover"),
    ("POST", "/v1/endpoints/whk_x/replay"),
    ("POST", "/v1/deliveries/dlv_x/resend"),
    ("POST", "/v1/hooks"),
    ("DELETE", "/v1/hooks/whk_x"),
]
READS = [
    ("GET", "/v1/endpoints"),
    ("GET", "/v1/endpoints/whk_x"),
    ("GET", "/v1/deliveries"),
    ("GET", "/v1/deliveries/dlv_x"),
]


@pytest.mark.parametrize(
    ("method", "path", "missing"),
    [(*each, "webhooks:write") for each in WRITES] + [(*each, "webhooks:read") for each in READS],
)
async def test_each_route_asks_for_its_scope(
    sqlite_db: Database, tmp_path: Path, now: datetime, method: str, path: str, missing: str
) -> None:
    """Without a key 401, with one of another scope 403, whatever the body or the id."""
    other = "webhooks:read" if missing == "webhooks:write" else "webhooks:write"
    async with sqlite_db.work() as session:
        _, token = await access.add_key(session, name="x", scopes=[other], now=now)
    async with client_of(sqlite_db, tmp_path, now, EndpointOptions(KEYS)) as client:
        assert_problem(await client.request(method, path, json={}), 401, "unauthorized", "key")
        client.headers["Authorization"] = f"Bearer {token}"
        assert_problem(await client.request(method, path, json={}), 403, "forbidden", missing)


async def test_without_a_key_for_secrets_none_is_made(
    db: Database, tmp_path: Path, now: datetime, token: str
) -> None:
    """A server that could not seal a secret refuses, and says no more than that it is its own fault."""
    async with client_of(db, tmp_path, now, None) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        answer = await client.post("/v1/endpoints", json=NEW)
        assert (answer.status_code, answer.json()["code"]) == (500, "misconfigured")
        assert (await client.get("/v1/endpoints")).json() == {"data": [], "next_cursor": None}


# --- the whole way -----------------------------------------------------------------------------


async def test_the_journey_of_an_integrator(db: Database, tmp_path: Path, token: str) -> None:
    """Create, get the test, verify it; break the receiver, see the failed attempt, mend it, resend."""
    options = EndpointOptions(KEYS, allow=("127.0.0.1",))
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    app = create_app(db, blobs, WebOptions(endpoints=options), utc_now)
    courier = asyncio.create_task(Courier(db, CourierOptions(options), jitter=lambda: 1.0).run())
    transport = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711))
    try:
        async with (
            httpx.AsyncClient(transport=transport, base_url="https://trunkline.example") as api,
            Receiver() as receiver,
        ):
            api.headers["Authorization"] = f"Bearer {token}"
            receiver.hold()
            endpoint = await made(api, url=receiver.url, events=["call.*"], send_test=True)
            receiver.secret = endpoint["secret"]
            receiver.release()
            (test,) = await receiver.until(lambda received: len(received) == 1)
            assert (test.type, test.verified) == ("endpoint.test", True)
            receiver.answer(500)
            async with db.work() as session:
                await record(session, SAMPLE["call.ended"], now=utc_now())
            await receiver.until(lambda received: len(received) == 2)
            row = await _settled(api, attempts=1)
            assert (row["state"], row["last_status"]) == ("pending", 500)
            answer = await api.post(f"/v1/deliveries/{row['id']}/resend")
            assert answer.status_code == 202
            (_, first, second) = await receiver.until(lambda received: len(received) == 3)
            assert (second.verified, second.raw) == (True, first.raw)
            assert second.event_id == first.event_id == row["event_id"]
            assert (await _settled(api, attempts=2))["state"] == "delivered"
    finally:
        courier.cancel()
        await asyncio.gather(courier, return_exceptions=True)


async def _settled(api: httpx.AsyncClient, *, attempts: int) -> dict[str, Any]:
    """The delivery of call.ended once so many attempts at it are stored."""
    async with asyncio.timeout(60):
        while True:
            for row in await deliveries(api, type="call.ended"):
                if row["attempt_count"] >= attempts:
                    return row
            await asyncio.sleep(0)
