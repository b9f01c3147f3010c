"""Saved views of the list of calls under /v1."""

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from trunkline.access import queries as access_queries
from trunkline.access import service as access
from trunkline.calls import views
from trunkline.calls.review import By
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

MARIA = By("usr_1", "Maria Santos")


@pytest.fixture
async def api(db: Database, tmp_path: Path, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    """A program on another machine, without a key."""
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    app = create_app(db, blobs, WebOptions(), clock=lambda: now)
    far = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=far, base_url="https://trunkline.example") as client:
        yield client


async def a_key(db: Database, now: datetime, name: str, *scopes: str) -> tuple[str, dict[str, str]]:
    async with db.work() as session:
        key, token = await access.add_key(session, name=name, scopes=scopes, now=now)
    return key.id, {"Authorization": f"Bearer {token}"}


async def test_a_key_keeps_views_and_takes_them_back(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """PUT keeps filters under a name, the same name replaces them, the list has them, DELETE takes them
    back; each stands in the audit, and the filters work as they are given."""
    key_id, header = await a_key(db, now, "crm", "calls:read", "calls:write")
    made = await api.put(
        "/v1/views/To  review", json={"query": "?tag=vip&utm_source=x"}, headers=header
    )
    assert made.status_code == 200
    view = made.json()
    assert view == {
        "id": view["id"],
        "name": "To review",
        "query": "tag=vip",  # what asks nothing is left out
        "shared": False,
        "mine": True,
        "owner": "crm",
        "created_at": "2026-01-15T09:30:00Z",
    }
    again = await api.put(
        "/v1/views/To review", json={"query": "q=refund+%22new+plan%22", "shared": True}, headers=header
    )  # fmt: skip
    assert again.json() == {**view, "query": "q=refund+%22new+plan%22", "shared": True}
    listed = (await api.get("/v1/views", headers=header)).json()
    assert listed == {"data": [again.json()], "next_cursor": None}
    assert (await api.get(f"/v1/calls?{again.json()['query']}", headers=header)).status_code == 200
    gone = [await api.delete(f"/v1/views/{view['id']}", headers=header) for _ in range(2)]
    assert [answer.status_code for answer in gone] == [204, 404]
    by_name = await api.put("/v1/views/Gone soon", json={"query": ""}, headers=header)
    gone = [await api.delete("/v1/views/Gone soon", headers=header) for _ in range(2)]
    assert [answer.status_code for answer in gone] == [204, 404]
    async with db.look() as session:
        told = await access_queries.audit(session, actor_id=key_id, limit=10)
    assert [(line.action, line.subject) for line in told] == [
        ("view.removed", by_name.json()["id"]),
        ("view.saved", by_name.json()["id"]),
        ("view.removed", view["id"]),
        ("view.saved", view["id"]),
        ("view.saved", view["id"]),
    ]


async def test_somebody_elses_views_are_seen_when_shared_and_never_touched(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """What a person or another key keeps for itself is not there; what they share is, but stays theirs."""
    _, mine = await a_key(db, now, "crm", "calls:read", "calls:write")
    _, theirs = await a_key(db, now, "bot", "calls:read", "calls:write")
    async with db.work() as session:
        shared = await views.save(
            session, name="Everybody's", query="tag=a", shared=True, by=MARIA, now=now
        )
        own = await views.save(
            session, name="Maria's", query="tag=b", shared=False, by=MARIA, now=now
        )
    other = (await api.put("/v1/views/Bot", json={"query": ""}, headers=theirs)).json()
    listed = (await api.get("/v1/views", headers=mine)).json()["data"]
    assert [(one["name"], one["mine"], one["owner"]) for one in listed] == [
        ("Everybody's", False, "Maria Santos")
    ]
    for view_id in (shared.id, own.id, other["id"], "Everybody's", "Maria's", "call_x", "☎"):
        answer = await api.delete(f"/v1/views/{view_id}", headers=mine)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), view_id
    replaced = await api.put("/v1/views/Everybody's", json={"query": "tag=z"}, headers=mine)
    assert replaced.json()["id"] != shared.id
    async with db.look() as session:
        kept = await views.seen_by(session, MARIA.id)
    assert [(view.name, view.query) for view in kept] == [
        ("Everybody's", "tag=a"),
        ("Maria's", "tag=b"),
    ]


async def test_views_are_paged(api: httpx.AsyncClient, db: Database, now: datetime) -> None:
    """Going from cursor to cursor shows each once; a cursor of another list is refused."""
    _, header = await a_key(db, now, "crm", "calls:read", "calls:write")
    for n in range(3):
        await api.put(f"/v1/views/V{n}", json={"query": ""}, headers=header)
    first = (await api.get("/v1/views?limit=2", headers=header)).json()
    assert len(first["data"]) == 2
    rest = (
        await api.get("/v1/views", params={"cursor": first["next_cursor"]}, headers=header)
    ).json()
    assert {one["name"] for one in first["data"] + rest["data"]} == {"V0", "V1", "V2"}
    assert rest["next_cursor"] is None
    assert (await api.get("/v1/views?cursor=abc", headers=header)).status_code == 422


@pytest.mark.parametrize(
    ("name", "body", "status", "says"),
    [
        ("x" * 61, {"query": ""}, 422, "1 to 60 characters"),
        ("%20", {"query": ""}, 422, "1 to 60 characters"),
        ("V", {}, 422, "body.query"),
        ("V", {"query": "q=" + "x" * 3000}, 422, "body.query"),
        ("V", {"query": "direction=sideways"}, 422, "direction"),
        ("V", {"query": "q=(("}, 422, "word is missing"),
        ("V", {"query": "profile=Nobody"}, 404, "no profile 'Nobody'"),
        ("V", {"query": "", "shared": "yes"}, 422, "body.shared"),
        ("V", {"query": "", "public": True}, 422, "body.public"),
    ],
)
async def test_a_view_that_cannot_be_shown_is_not_kept(
    api: httpx.AsyncClient,
    db: Database,
    now: datetime,
    name: str,
    body: dict[str, object],
    status: int,
    says: str,
) -> None:
    """Filters that the list would refuse are refused when they are to be kept, in the same words."""
    _, header = await a_key(db, now, "crm", "calls:read", "calls:write")
    answer = await api.put(f"/v1/views/{name}", json=body, headers=header)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["detail"]
    assert (await api.get("/v1/views", headers=header)).json()["data"] == []


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v1/views", "calls:read"),
        ("PUT", "/v1/views/V", "calls:write"),
        ("DELETE", "/v1/views/view_x", "calls:write"),
    ],
)
async def test_each_needs_its_scope(
    api: httpx.AsyncClient, db: Database, now: datetime, method: str, path: str, scope: str
) -> None:
    """A key with all scopes but the one is refused by its name."""
    _, header = await a_key(
        db, now, "other", *(one for one in access.KEY_SCOPES if one != scope)
    )  # fmt: skip
    answer = await api.request(method, path, headers=header, json={"query": ""})
    assert answer.status_code == 403
    assert scope in answer.json()["detail"]
