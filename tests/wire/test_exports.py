"""Exporting calls over HTTP: by a program with its key, and by a person on the page."""

from datetime import datetime
from typing import TYPE_CHECKING

import httpx
from sqlalchemy import select

from trunkline.access import service as access
from trunkline.access.models import Audit
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.blobs import Blobs
from trunkline.kit.db import Database

if TYPE_CHECKING:
    from tests.conftest import Make


async def test_by_a_program(
    client: httpx.AsyncClient, sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """202 and an id; 409 until it is written; then the file, which another key does not get."""
    async with sqlite_db.work() as session:
        await make.call(session, now=now)
        _, token = await access.add_key(session, name="sync", scopes=["calls:read"], now=now)
        _, other = await access.add_key(session, name="other", scopes=["calls:read"], now=now)
    mine = {"Authorization": f"Bearer {token}"}
    asked = await client.post(
        "/v1/calls/exports", json={"query": "direction=inbound"}, headers=mine
    )
    assert (asked.status_code, asked.json()["state"]) == (202, "queued")
    path = f"/v1/calls/exports/{asked.json()['id']}"
    assert (await client.get(f"{path}/file", headers=mine)).status_code == 409
    await Guardian(sqlite_db, blobs, GuardianOptions(), clock=lambda: now).write_exports()
    done = (await client.get(path, headers=mine)).json()
    assert (done["state"], done["rows"]) == ("done", 1)
    file = await client.get(f"{path}/file", headers=mine)
    assert file.headers["content-type"] == "text/csv; charset=utf-8"
    assert file.text.startswith("id,started_at,direction")
    assert len(file.text.splitlines()) == 2
    theirs = {"Authorization": f"Bearer {other}"}
    assert (await client.get(path, headers=theirs)).status_code == 404
    wrong = await client.post("/v1/calls/exports", json={"query": "answered=maybe"}, headers=mine)
    assert wrong.status_code == 422


async def test_by_a_person(
    client: httpx.AsyncClient, sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """A button on the list; the page of exports says how far it is and leads to the file; all is audited."""
    assert "You have not exported any calls yet." in (await client.get("/calls/exports")).text
    async with sqlite_db.work() as session:
        await make.call(session, now=now)
    assert 'action="/calls/exports"' in (await client.get("/calls")).text
    answer = await client.post("/calls/exports", data={"query": "", "bom": "true"})
    assert answer.headers["location"] == "/calls/exports"
    assert "Queued" in (await client.get("/calls/exports")).text
    await Guardian(sqlite_db, blobs, GuardianOptions(), clock=lambda: now).write_exports()
    page = (await client.get("/calls/exports")).text
    path = page.partition('href="/calls/exports/')[2].partition('"')[0]
    file = await client.get(f"/calls/exports/{path}")
    assert file.content.startswith(b"\xef\xbb\xbfid,")
    async with sqlite_db.look() as session:
        actions = list(await session.scalars(select(Audit.action).order_by(Audit.id)))
    assert actions == ["calls.exported", "export.fetched"]
