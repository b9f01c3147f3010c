"""Short-lived links to recordings: what they open, for how long, and in whose name."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import select

from trunkline.access import service as access
from trunkline.access.models import Audit
from trunkline.calls import service as calls
from trunkline.kit.blobs import Blobs
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions
from trunkline.webhooks.options import EndpointOptions

if TYPE_CHECKING:
    from tests.conftest import Make
    from tests.wire.conftest import Clock

WAV = b"RIFF0123456789"
KEYS = (new_key(), new_key())


def client(db: Database, blobs: Blobs, clock: "Clock", *keys: str) -> httpx.AsyncClient:
    options = WebOptions(endpoints=EndpointOptions(keys=keys or KEYS))
    transport = httpx.ASGITransport(app=create_app(db, blobs, options, clock=clock))
    return httpx.AsyncClient(transport=transport, base_url="https://trunkline.example.com")


@pytest.fixture
async def api(
    sqlite_db: Database, blobs: Blobs, clock: "Clock"
) -> AsyncIterator[httpx.AsyncClient]:
    async with client(sqlite_db, blobs, clock) as found:
        yield found


async def a_key(db: Database, now: datetime, *scopes: str) -> tuple[str, dict[str, str]]:
    async with db.work() as session:
        key, token = await access.add_key(session, name="CRM", scopes=scopes, now=now)
    return key.id, {"Authorization": f"Bearer {token}"}


async def a_recording(db: Database, blobs: Blobs, make: "Make", now: datetime) -> str:
    async with db.work() as session:
        call = await make.call(session)
        lease = await calls.take_lease(session, call.id, now=now)
        await calls.answer(session, lease, now=now)
        await calls.open_recording(session, lease, sample_rate_hz=8000, now=now)
        await blobs.put("recordings/1.wav", WAV)
        await calls.close_recording(
            session, call.id, blob_key="recordings/1.wav", duration_ms=1000, peaks=[], now=now
        )
    return call.id


async def test_a_link_plays_for_five_minutes(
    api: httpx.AsyncClient, sqlite_db: Database, blobs: Blobs, make: "Make", clock: "Clock"
) -> None:
    """Without a key, whole or in parts, on any page, in the audit under the key that made it; then not."""
    key_id, header = await a_key(sqlite_db, clock.now, "recordings:read")
    call_id = await a_recording(sqlite_db, blobs, make, clock.now)
    made = await api.post(f"/v1/calls/{call_id}/recording/link", headers=header)
    assert made.status_code == 200, made.text
    link = made.json()
    assert link["url"].startswith(f"https://trunkline.example.com/v1/calls/{call_id}/recording/")
    expires_at = datetime.fromisoformat(link["expires_at"])
    assert expires_at == clock.now + timedelta(minutes=5)
    clock.now = expires_at - timedelta(seconds=1)
    whole = await api.get(link["url"])
    assert (whole.status_code, whole.content) == (200, WAV)
    assert whole.headers["cross-origin-resource-policy"] == "cross-origin"
    part = await api.get(link["url"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, WAV[4:8])
    async with sqlite_db.look() as session:
        heard = (await session.scalars(select(Audit))).all()
    assert [(one.actor_id, one.action, one.subject) for one in heard] == [
        (key_id, "recording.heard", call_id)
    ]
    clock.now = expires_at
    late = await api.get(link["url"])
    assert (late.status_code, late.json()["code"]) == (403, "link_refused")


async def test_a_link_opens_nothing_else(
    api: httpx.AsyncClient, sqlite_db: Database, blobs: Blobs, make: "Make", clock: "Clock"
) -> None:
    """Another call, a later end, another name or another signature: refused."""
    _, header = await a_key(sqlite_db, clock.now, "recordings:read")
    call_id = await a_recording(sqlite_db, blobs, make, clock.now)
    async with sqlite_db.work() as session:
        other = await make.call(session, room="room-2")
    made = await api.post(f"/v1/calls/{call_id}/recording/link", headers=header)
    url = httpx.URL(made.json()["url"])
    for changed in (
        url.copy_with(path=url.path.replace(call_id, other.id)),
        url.copy_set_param("expires", int(url.params["expires"]) + 1),
        url.copy_set_param("by", "key_another"),
        url.copy_set_param("signature", "0" * 64),
        url.copy_set_param("signature", "é"),
    ):
        answer = await api.get(changed)
        assert (answer.status_code, answer.json()["code"]) == (403, "link_refused"), changed
    assert (await api.get(url.copy_remove_param("signature"))).status_code == 422


async def test_a_link_ends_with_its_key(
    api: httpx.AsyncClient, sqlite_db: Database, blobs: Blobs, make: "Make", clock: "Clock"
) -> None:
    """A link of a key that was revoked plays no more; a server's former key still opens what it signed."""
    key_id, header = await a_key(sqlite_db, clock.now, "recordings:read")
    call_id = await a_recording(sqlite_db, blobs, make, clock.now)
    url = (await api.post(f"/v1/calls/{call_id}/recording/link", headers=header)).json()["url"]
    async with client(sqlite_db, blobs, clock, new_key(), *KEYS) as rotated:
        assert (await rotated.get(url)).status_code == 200
    async with client(sqlite_db, blobs, clock, new_key()) as strange:
        assert (await strange.get(url)).status_code == 403
    async with sqlite_db.work() as session:
        await access.revoke_key(session, key_id, now=clock.now)
    assert (await api.get(url)).status_code == 403


@pytest.mark.parametrize(
    ("scopes", "body", "status"),
    [
        (("calls:read",), None, 403),  # may not hear
        (("recordings:read",), {"expires_in_s": 86_400}, 422),  # not short-lived
        (("recordings:read",), {"expires_in_s": 0}, 422),
        (("recordings:read",), {"expires_in_s": 60}, 200),
    ],
)
async def test_who_gets_a_link(
    api: httpx.AsyncClient, sqlite_db: Database, blobs: Blobs, make: "Make", clock: "Clock",
    scopes: tuple[str, ...], body: dict[str, int] | None, status: int,
) -> None:  # fmt: skip
    """A key that may hear recordings, for at most an hour."""
    _, header = await a_key(sqlite_db, clock.now, *scopes)
    call_id = await a_recording(sqlite_db, blobs, make, clock.now)
    answer = await api.post(f"/v1/calls/{call_id}/recording/link", headers=header, json=body)
    assert answer.status_code == status
    missing = await api.post("/v1/calls/call_nothing/recording/link", headers=header)
    assert missing.status_code in (403, 404)
