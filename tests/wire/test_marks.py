"""Review, tags and comments: over the API and from the forms of the pages."""

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI

from trunkline.access import queries
from trunkline.access import service as access
from trunkline.calls import review
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.dashboard.words import AUDIT
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.wire.conftest import Browse


@pytest.fixture
def app(sqlite_db: Database, tmp_path: Path, now: datetime) -> FastAPI:
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    return create_app(sqlite_db, blobs, WebOptions(login=False), lambda: now)


@pytest.fixture
async def api(app: FastAPI, sqlite_db: Database, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    async with sqlite_db.work() as session:
        _, token = await access.add_key(
            session, name="crm", scopes=["calls:read", "calls:write"], now=now
        )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://trunkline",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


@pytest.fixture
async def page(app: FastAPI, browse: "Browse") -> AsyncIterator[httpx.AsyncClient]:
    async with browse(app) as client:
        yield client


@pytest.fixture
async def call_id(sqlite_db: Database, make: "Make") -> str:
    async with sqlite_db.work() as session:
        return (await make.call(session)).id


async def actions(db: Database) -> list[str]:
    async with db.look() as session:
        return sorted(row.action for row in await queries.audit(session, limit=100))


async def test_over_the_api(api: httpx.AsyncClient, sqlite_db: Database, call_id: str) -> None:
    """Each verb answers with what the call has now; what changed nothing is not in the audit."""
    path = f"/v1/calls/{call_id}"
    for _ in range(2):
        done = await api.put(f"{path}/review", json={"review": "done"})
        tagged = await api.put(f"{path}/tags/Billing")
    assert (done.status_code, done.json()["review"], done.json()["reviewed_by"]) == (
        200,
        "done",
        "crm",
    )
    assert tagged.json()["tags"] == ["billing"]
    headers = {"Idempotency-Key": "k-1"}
    for _ in range(2):
        written = await api.post(
            f"{path}/comments", json={"text": "Fine.", "offset_ms": 7}, headers=headers
        )
        assert written.status_code == 201, written.text
    gone = await api.delete(f"{path}/tags/billing")
    assert gone.json()["tags"] == []
    assert [one["text"] for one in (await api.get(f"{path}/marks")).json()["comments"]] == ["Fine."]
    told = await actions(sqlite_db)
    assert told == ["call.commented", "call.review", "call.tagged", "call.untagged"]
    assert set(told) <= set(AUDIT)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "review", {"review": "perhaps"}, 422),
        ("PUT", "review", {}, 422),
        ("PUT", "tags/" + "x" * 41, None, 422),
        ("PUT", "tags/a,b", None, 422),
        ("POST", "comments", {"text": ""}, 422),
        ("POST", "comments", {"text": "x", "offset_ms": -1}, 422),
        ("POST", "comments", {"text": "x", "offset_ms": 10**12}, 422),
    ],
)
async def test_what_cannot_be_said(
    api: httpx.AsyncClient, call_id: str, method: str, path: str, body: object, status: int
) -> None:
    """It is refused with a problem, and nothing is kept."""
    answer = await api.request(method, f"/v1/calls/{call_id}/{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, "invalid")
    marks = (await api.get(f"/v1/calls/{call_id}/marks")).json()
    assert (marks["review"], marks["tags"], marks["comments"]) == (None, [], [])


async def test_from_the_pages(page: httpx.AsyncClient, sqlite_db: Database, call_id: str) -> None:
    """A form does it and leads back to where it stood, never to another site."""
    path = f"/calls/{call_id}"
    back = {"back": "/calls?review=needed"}
    for where, form in (
        ("review", {"review": "needed"}),
        ("tags", {"tag": "VIP"}),
        ("tags", {"tag": "slow"}),
        ("tags/remove", {"tag": "slow"}),
        ("comments", {"text": "Look at 0:42", "offset_ms": "42000"}),
    ):
        answer = await page.post(f"{path}/{where}", data=form | back)
        assert (answer.status_code, answer.headers["location"]) == (303, back["back"]), where
    away = await page.post(f"{path}/review", data={"review": "", "back": "https://evil.example"})
    assert away.headers["location"] == path
    async with sqlite_db.look() as session:
        marks = await review.marks(session, call_id)
    assert (marks.review, marks.tags) == (None, ("vip",))
    (comment,) = marks.comments
    assert (comment.text, comment.offset_ms) == ("Look at 0:42", 42_000)
    await page.post(f"{path}/comments/{comment.id}/remove")
    async with sqlite_db.look() as session:
        assert not (await review.marks(session, call_id)).comments
    assert set(await actions(sqlite_db)) <= set(AUDIT)
    assert (await page.post(f"{path}/review", data={"review": "maybe"})).status_code == 422
