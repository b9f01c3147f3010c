"""Other systems have people called: POST /v1/calls and the call of a task."""

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from trunkline.access import service as access
from trunkline.calls import service as calls
from trunkline.crm import queries as crm_reads
from trunkline.crm import service as crm
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make

DANA = "+12025550134"


@pytest.fixture
async def api(
    sqlite_db: Database, tmp_path: Path, now: datetime, make: "Make"
) -> AsyncIterator[httpx.AsyncClient]:
    """A program with a key that may have people called, and a profile that calls."""
    async with sqlite_db.work() as session:
        _, token = await access.add_key(
            session, name="crm", scopes=["calls:read", "calls:write"], now=now
        )
        outbound: dict[str, Any] = {"opening": "Hello {first_name}.", "hours": []}
        await make.profile(session, body=make.body(outbound=outbound))
        await make.contact(session)
    app = create_app(
        sqlite_db, open_blobs(BlobOptions(str(tmp_path / "blobs"))), WebOptions(), lambda: now
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://trunkline",
        headers={"Authorization": f"Bearer {token}"},
    ) as client:
        yield client


async def test_a_call_is_asked_for_once(api: httpx.AsyncClient) -> None:
    """A request sent twice with one Idempotency-Key is one call, which can be fetched."""
    asked = {"to": DANA, "reason": "your new line"}
    answers = [
        await api.post("/v1/calls", json=asked, headers={"Idempotency-Key": "k-1"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201], answers[0].text
    first, second = (answer.json() for answer in answers)
    assert first == second
    assert (first["state"], first["direction"], first["to_number"]) == ("queued", "outbound", DANA)
    assert (first["contact"]["name"], first["reason"]) == ("Dana Whitfield", "your new line")
    got = (await api.get(f"/v1/calls/{first['id']}")).json()
    assert (got["due_at"], got["attempt"], got["retry_of"]) == (first["due_at"], 1, None)
    assert len((await api.get("/v1/calls")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"to": "12"}, 422, "invalid"),
        ({"to": DANA, "phone": 1}, 422, "invalid"),
        ({}, 422, "invalid"),
        ({"to": DANA, "profile": "Nobody"}, 404, "not_found"),
        ({"activity_id": "act_nothing"}, 404, "not_found"),
    ],
)
async def test_a_request_that_will_not_do(
    asked: dict[str, Any], status: int, code: str, api: httpx.AsyncClient
) -> None:
    """What cannot be called is told by status and code, and nothing is queued."""
    answer = await api.post("/v1/calls", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await api.get("/v1/calls")).json()["data"] == []


async def test_do_not_call(api: httpx.AsyncClient, sqlite_db: Database, now: datetime) -> None:
    """A contact who does not want to be called is refused with 409 and a code of its own."""
    async with sqlite_db.work() as session:
        dana = await crm_reads.contact_by_number(session, DANA)
        assert dana is not None
        cause = crm.Cause(source="api")
        await crm.update_contact(session, dana.id, {"do_not_call": True}, cause=cause, now=now)
    answer = await api.post("/v1/calls", json={"to": DANA})
    assert (answer.status_code, answer.json()["code"]) == (409, "do_not_call")
    assert (await api.get(answer.json()["type"])).status_code == 200, "the code is explained"


async def test_a_task_is_called_for(
    api: httpx.AsyncClient, sqlite_db: Database, now: datetime
) -> None:
    """A call back that was asked for is made from its task; a second one at the same time is not."""
    async with sqlite_db.work() as session:
        dana = await crm_reads.contact_by_number(session, DANA)
        assert dana is not None
        task = await crm.log_activity(
            session, kind="task", summary="Call back: the invoice", contact_id=dana.id, due_at=now,
            cause=crm.Cause(source="api"), now=now,
        )  # fmt: skip
    answer = await api.post(f"/v1/activities/{task.id}/call", json={})
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["to_number"], told["activity_id"], told["reason"]) == (
        DANA,
        task.id,
        "the invoice",
    )
    again = await api.post(f"/v1/activities/{task.id}/call", json={})
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


async def test_a_key_that_may_not(
    api: httpx.AsyncClient, sqlite_db: Database, now: datetime
) -> None:
    """Having people called needs the scope calls:write."""
    async with sqlite_db.work() as session:
        _, token = await access.add_key(session, name="reader", scopes=["calls:read"], now=now)
    answer = await api.post(
        "/v1/calls", json={"to": DANA}, headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 403


async def test_how_a_call_was_let_in(
    api: httpx.AsyncClient, sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """The list and the call tell the door's decision, its reason, and how far the carrier vouches."""
    async with sqlite_db.work() as session:
        call = await make.call(session, now=now)
        call.attestation = "B"
        await calls.decide_door(session, call.id, kind="capacity", reason="all 2 lines are busy")
        placed = await make.call(session, room="room-2", direction="outbound", now=now)
    keys = ("attestation", "door", "door_reason", "attempt", "retry_of", "reason")
    expected = {
        call.id: ["B", "capacity", "all 2 lines are busy", 1, None, None],
        placed.id: [None, None, None, 1, None, None],
    }
    listed = {one["id"]: one for one in (await api.get("/v1/calls")).json()["data"]}
    assert {id: [one[key] for key in keys] for id, one in listed.items()} == expected
    one = (await api.get(f"/v1/calls/{call.id}")).json()
    assert [one[key] for key in keys] == expected[call.id]
    described = (await api.get("/openapi.json")).json()["components"]["schemas"]["CallDetail"]
    for key in keys:
        assert described["properties"][key]["description"], key
