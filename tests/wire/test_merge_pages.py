"""Merging two contacts on the pages, by forms alone."""

from datetime import datetime
from typing import TYPE_CHECKING

import httpx
from sqlalchemy import select

from trunkline.access.models import Audit
from trunkline.crm import queries
from trunkline.kit.db import Database

if TYPE_CHECKING:
    from tests.conftest import Make


async def test_two_are_merged_and_parted(
    client: httpx.AsyncClient, sqlite_db: Database, make: "Make", now: datetime
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
    assert f'href="{path}/merge"' in (await client.get(path)).text
    proposed = (await client.get(f"{path}/merge")).text
    assert f"?with={two.id}" in proposed
    assert far.id not in proposed
    assert far.id in (await client.get(f"{path}/merge?q=zoe")).text
    beside = (await client.get(f"{path}/merge?with={two.id}")).text
    assert 'name="name" value="other"' in beside
    assert "1 number, 1 call, 0 deals, 0 activities" in beside
    form = {"merged_id": two.id, "name": "other"}
    merged = await client.post(f"{path}/merge", data=form)
    assert merged.headers["location"] == f"{path}?done=merged"
    assert (await client.post(f"{path}/merge", data=form)).status_code == 409
    same = await client.post(f"{path}/merge", data={"merged_id": one.id})
    assert same.status_code == 422
    page = (await client.get(path)).text
    assert "<h1>D. Whitfield</h1>" in page
    assert call.id in page
    undo = page.partition(f'action="{path}/merges/')[2].partition('"')[0]
    parted = await client.post(f"{path}/merges/{undo}")
    assert parted.headers["location"] == f"{path}?done=parted"
    assert (await client.post(f"{path}/merges/{undo}")).status_code == 404
    async with sqlite_db.look() as session:
        again = await queries.contact(session, two.id)
        actions = list(await session.scalars(select(Audit.action).order_by(Audit.id)))
    assert again.id == two.id
    assert [row.e164 for row in again.phones] == ["+442025550134"]
    assert actions == ["contact.merged", "change.undone"]
