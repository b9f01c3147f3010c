"""Merging two contacts on the pages, by forms alone."""

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import select

from trunkline.access.models import Audit
from trunkline.crm import queries
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make


@pytest.fixture
async def pages(
    sqlite_db: Database, tmp_path: Path, now: datetime
) -> AsyncIterator[httpx.AsyncClient]:
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    app = create_app(sqlite_db, blobs, WebOptions(login=False), clock=lambda: now)
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 50_000))
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://127.0.0.1:8000",
        headers={"Accept": "text/html", "Sec-Fetch-Site": "same-origin"},
    ) as client:
        yield client


async def test_two_are_merged_and_parted(
    pages: httpx.AsyncClient, sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """Likely people are proposed; the two stand side by side; the chosen name stays, calls move along; undo
    makes them two again; all is audited."""
    async with sqlite_db.work() as session:
        one = await make.contact(session, now=now)
        two = await make.contact(
            session, name="D. Whitfield", phones=["+442025550134"], company=None, now=now
        )
        far = await make.contact(session, name="Zoe", phones=["+12025559999"], now=now)
        call = await make.call(session, contact_id=two.id, now=now)
    path = f"/contacts/{one.id}"
    assert f'href="{path}/merge"' in (await pages.get(path)).text
    proposed = (await pages.get(f"{path}/merge")).text
    assert f"?with={two.id}" in proposed
    assert far.id not in proposed
    assert far.id in (await pages.get(f"{path}/merge?q=zoe")).text
    beside = (await pages.get(f"{path}/merge?with={two.id}")).text
    assert 'name="name" value="other"' in beside
    assert "1 number, 1 call, 0 deals, 0 activities" in beside
    form = {"merged_id": two.id, "name": "other"}
    merged = await pages.post(f"{path}/merge", data=form)
    assert merged.headers["location"] == f"{path}?done=merged"
    assert (await pages.post(f"{path}/merge", data=form)).status_code == 409
    same = await pages.post(f"{path}/merge", data={"merged_id": one.id})
    assert same.status_code == 422
    page = (await pages.get(path)).text
    assert "<h1>D. Whitfield</h1>" in page
    assert call.id in page
    undo = page.partition(f'action="{path}/merges/')[2].partition('"')[0]
    parted = await pages.post(f"{path}/merges/{undo}")
    assert parted.headers["location"] == f"{path}?done=parted"
    assert (await pages.post(f"{path}/merges/{undo}")).status_code == 404
    async with sqlite_db.look() as session:
        again = await queries.contact(session, two.id)
        actions = list(await session.scalars(select(Audit.action).order_by(Audit.id)))
    assert again.id == two.id
    assert [row.e164 for row in again.phones] == ["+442025550134"]
    assert actions == ["contact.merged", "change.undone"]
