"""Bringing a file of contacts over HTTP: by a program with its key, and by a person on the pages."""

from datetime import datetime

import httpx
import pytest
from sqlalchemy import select

from trunkline.access import service as access
from trunkline.access.models import Audit
from trunkline.crm import queries
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.blobs import Blobs
from trunkline.kit.db import Database

FILE = "Name,Phone\nDana Whitfield,(202) 555-0134\n=cmd(),12\n".encode("utf-16")


@pytest.fixture
def work(sqlite_db: Database, blobs: Blobs, now: datetime) -> Guardian:
    return Guardian(sqlite_db, blobs, GuardianOptions(), clock=lambda: now)


async def test_by_a_program(
    client: httpx.AsyncClient, sqlite_db: Database, work: Guardian, now: datetime
) -> None:
    """202 and an id; a dry run tells what would become of each row, `run` begins it; the rows that failed
    are a file in which nothing is a formula."""
    async with sqlite_db.work() as session:
        _, token = await access.add_key(session, name="sync", scopes=["contacts:write"], now=now)
        _, reads = await access.add_key(session, name="look", scopes=["contacts:read"], now=now)
    mine = {"Authorization": f"Bearer {token}", "Idempotency-Key": "one"}
    asked = await client.post(
        "/v1/contacts/imports?dry_run=true&region=US", content=FILE, headers=mine
    )
    again = await client.post(
        "/v1/contacts/imports?dry_run=true&region=US", content=FILE, headers=mine
    )
    assert (asked.status_code, asked.json()["state"]) == (202, "checking")
    assert again.json()["id"] == asked.json()["id"]
    path = f"/v1/contacts/imports/{asked.json()['id']}"
    del mine["Idempotency-Key"]
    await work.run_imports()
    checked = (await client.get(path, headers=mine)).json()
    assert (checked["state"], checked["made"], checked["failed"]) == ("checked", 1, 1)
    assert (checked["encoding"], checked["columns"]) == ("utf-16", ["name", "phone"])
    assert checked["errors"][0]["line"] == 3
    assert (await client.post(f"{path}/run", headers=mine)).status_code == 202
    assert (await client.post(f"{path}/run", headers=mine)).status_code == 409
    await work.run_imports()
    assert (await client.get(path, headers=mine)).json()["state"] == "done"
    file = await client.get(f"{path}/errors", headers=mine)
    assert file.headers["content-type"] == "text/csv; charset=utf-8"
    assert file.content.decode("utf-8-sig").splitlines()[1].endswith(",'=cmd(),12")
    async with sqlite_db.look() as session:
        found = await queries.contact_by_number(session, "+12025550134")
    assert found is not None
    assert found.source == "import"
    theirs = {"Authorization": f"Bearer {reads}"}
    assert (await client.get(path, headers=theirs)).status_code == 403


@pytest.mark.parametrize(
    ("query", "content", "says"),
    [
        ("", b"", "send the file as the body"),
        ("", b"Name,Shoe size\nDana,42\n", "say which column holds numbers"),
        ("columns=name", FILE, "the file has 2 columns"),
        ("region=ZZ", FILE, "'ZZ' is no country"),
        ("source=demo", FILE, "Trunkline's own"),
        ("", b"PK\x03\x04\x00\x00", "save it as CSV"),
    ],
)
async def test_what_will_not_do_is_told_at_once(
    client: httpx.AsyncClient,
    sqlite_db: Database,
    now: datetime,
    query: str,
    content: bytes,
    says: str,
) -> None:
    """422 with what to do; nothing is kept."""
    async with sqlite_db.work() as session:
        _, token = await access.add_key(session, name="sync", scopes=["contacts:write"], now=now)
    answer = await client.post(
        f"/v1/contacts/imports?{query}",
        content=content,
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 422
    assert says.lower() in answer.json()["detail"].lower()
    async with sqlite_db.look() as session:
        assert (await session.scalars(select(Audit.id))).all() == []


async def test_by_a_person(
    client: httpx.AsyncClient, sqlite_db: Database, blobs: Blobs, work: Guardian, now: datetime
) -> None:
    """A form takes the file, the next says what its columns hold; the check shows counts and faults, a button
    begins; a wrong choice is said; all is audited."""
    assert "/contacts/imports" in (await client.get("/contacts")).text
    missing = await client.post("/contacts/imports", files={"file": ("", b"")})
    assert missing.status_code == 422
    assert "Choose a file first" in missing.text
    empty = await client.post("/contacts/imports", files={"file": ("a.csv", b"")})
    assert "The file is empty" in empty.text
    brought = await client.post("/contacts/imports", files={"file": ("people.csv", FILE)})
    path = brought.headers["location"]
    assert "What the columns hold" in (await client.get(path)).text
    wrong = await client.post(f"{path}/columns", data={"column": ["name", "name"], "region": "US"})
    assert (wrong.status_code, "cannot both hold name" in wrong.text) == (422, True)
    form = {"column": ["name", "phone"], "region": "us", "on_match": "update"}
    assert (await client.post(f"{path}/columns", data=form)).headers["location"] == path
    assert "0 of 2 rows" in (await client.get(path)).text
    await work.run_imports()
    page = (await client.get(path)).text
    assert "Import 1 contact<" in page
    assert "<strong>Line 3</strong> Number: &#39;12&#39; is too short" in page
    assert "What the columns hold" in (await client.get(f"{path}?columns=change")).text
    assert (await client.post(f"{path}/run")).headers["location"] == path
    assert (await client.post(f"{path}/discard")).status_code == 409
    await work.run_imports()
    assert "Imported" in (await client.get(path)).text
    assert "Dana Whitfield" in (await client.get("/contacts")).text
    file = await client.get(f"{path}/errors.csv")
    assert file.content.startswith(b"\xef\xbb\xbfline,error,Name,Phone\r\n3,")
    other = await client.post("/contacts/imports", files={"file": ("more.csv", FILE)})
    away = other.headers["location"]
    assert (await client.post(f"{away}/stop")).status_code == 409
    assert (await client.post(f"{away}/discard")).headers["location"] == "/contacts/imports"
    assert (await client.get(away)).status_code == 404
    assert not await blobs.exists(f"imports/{away.rpartition('/')[2]}.csv")
    async with sqlite_db.look() as session:
        actions = list(await session.scalars(select(Audit.action).order_by(Audit.id)))
    assert actions == ["import.checked", "contacts.imported", "import.discarded"]
