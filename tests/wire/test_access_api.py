"""People, keys and the audit under /v1, to be read by programs."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from trunkline.access import service as access
from trunkline.access.models import ApiKey
from trunkline.access.roles import MAY, Role
from trunkline.errors import Invalid
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

S = timedelta(seconds=1)


@pytest.fixture
async def api(db: Database, tmp_path: Path, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    """A program on another machine, without a key."""
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    app = create_app(db, blobs, WebOptions(), clock=lambda: now)
    far = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=far, base_url="https://trunkline.example") as client:
        yield client


async def a_key(
    db: Database, now: datetime, *scopes: str, name: str = "partner"
) -> tuple[ApiKey, dict[str, str]]:
    async with db.work() as session:
        key, token = await access.add_key(session, name=name, scopes=scopes, now=now)
    return key, {"Authorization": f"Bearer {token}"}


async def somebody(db: Database, name: str, role: Role, now: datetime) -> str:
    """An account; its id."""
    async with db.work() as session:
        _, token = await access.invite(
            session, role=role, email=f"{name}@example.com", by=None, now=now
        )
        user = await access.accept(
            session, token, email="", name=name, password_hash="$argon2id$secret", now=now
        )
    return user.id


async def test_people_are_listed_without_their_passwords(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """GET /v1/users pages through everybody in the order in which they came, also who is shut out, and
    tells nothing with which anybody could log in."""
    ids = [
        await somebody(db, name, role, now + at * S)
        for at, (name, role) in enumerate((("zoe", Role.OWNER), ("ann", Role.VIEWER), ("bo", Role.MANAGER)))
    ]  # fmt: skip
    async with db.work() as session:
        await access.disable(session, ids[1], now=now)
    _, header = await a_key(db, now, "people:read")
    first = await api.get("/v1/users", params={"limit": 2}, headers=header)
    rest = await api.get(
        "/v1/users", params={"limit": 2, "cursor": first.json()["next_cursor"]}, headers=header
    )
    assert [one["id"] for one in first.json()["data"] + rest.json()["data"]] == ids
    assert rest.json()["next_cursor"] is None
    ann = first.json()["data"][1]
    assert ann == {
        "id": ids[1],
        "name": "ann",
        "email": "ann@example.com",
        "role": "viewer",
        "created_at": "2026-01-15T09:30:01Z",
        "last_login_at": None,
        "disabled_at": "2026-01-15T09:30:00Z",
    }
    assert "argon2" not in first.text + rest.text


async def test_keys_are_listed_but_never_shown(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """GET /v1/keys tells who uses each, what it may do, when it was used and when it ends; not the key."""
    old, gone = await a_key(db, now - 9 * S, "calls:read", "events:read", name="Old")
    mine, header = await a_key(db, now, "keys:read")
    async with db.work() as session:
        await access.revoke_key(session, old.id, now=now)
    await api.get("/v1/me", headers=header)
    first = await api.get("/v1/keys", params={"limit": 1}, headers=header)
    (shown,) = first.json()["data"]
    assert shown == {
        "id": old.id,
        "name": "Old",
        "last4": gone["Authorization"][-4:],
        "scopes": ["calls:read", "events:read"],
        "created_at": "2026-01-15T09:29:51Z",
        "last_used_at": None,
        "expires_at": None,
        "revoked_at": "2026-01-15T09:30:00Z",
    }
    word = first.json()["next_cursor"]
    rest = (await api.get("/v1/keys", params={"cursor": word}, headers=header)).json()
    (one,) = rest["data"]
    assert (one["id"], one["last_used_at"]) == (mine.id, "2026-01-15T09:30:00Z")
    assert rest["next_cursor"] is None
    for token in (gone["Authorization"], header["Authorization"]):
        assert token.removeprefix("Bearer ") not in first.text
        assert access.digest(token.removeprefix("Bearer ")) not in first.text


async def test_the_audit_is_read_by_pages_and_filters(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """GET /v1/audit has the latest first; what, by whom, to what and when narrow it together."""
    noted = [
        ("usr_1", "recording.heard", "call_1"),
        ("usr_2", "recording.heard", "call_2"),
        ("usr_1", "call.tagged", "call_2"),
    ]
    async with db.work() as session:
        for at, (who, action, subject) in enumerate(noted):
            await access.note(
                session,
                actor_id=who, actor="Maria", action=action, subject=subject,
                details={"at": at}, address="198.51.100.7", now=now + at * S,
            )  # fmt: skip
    _, header = await a_key(db, now, "audit:read")

    async def seen(**query: str | int) -> list[int]:
        answer = await api.get("/v1/audit", params=query, headers=header)
        assert answer.status_code == 200, answer.text
        return [line["details"]["at"] for line in answer.json()["data"]]

    assert await seen() == [2, 1, 0]
    assert await seen(action="recording.heard") == [1, 0]
    assert await seen(actor_id="usr_1") == [2, 0]
    assert await seen(subject="call_2", actor_id="usr_2") == [1]
    assert await seen(since="2026-01-15T10:30:01+01:00") == [2, 1]  # another zone, the same moment
    assert await seen(since="2026-01-15T09:30:01Z", until="2026-01-15T09:30:02Z") == [1]
    assert await seen(action="'; drop table audit; --") == []
    page = (await api.get("/v1/audit", params={"limit": 2}, headers=header)).json()
    assert len(page["data"]) == 2
    assert await seen(limit=2, cursor=page["next_cursor"]) == [0]
    (line,) = (await api.get("/v1/audit?action=call.tagged", headers=header)).json()["data"]
    assert {name: line[name] for name in ("actor_id", "actor", "subject", "address", "at")} == {
        "actor_id": "usr_1",
        "actor": "Maria",
        "subject": "call_2",
        "address": "198.51.100.7",
        "at": "2026-01-15T09:30:02Z",
    }


@pytest.mark.parametrize(
    "moment", ["0.5", "1768469400", "2026-01-15", "2026-01-15T09:30:00", "now"]
)
async def test_a_moment_is_written_with_its_zone(
    api: httpx.AsyncClient, db: Database, now: datetime, moment: str
) -> None:
    """A number, a day, and an hour of nobody knows where are refused."""
    _, header = await a_key(db, now, "audit:read")
    answer = await api.get(f"/v1/audit?since={moment}", headers=header)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert "query.since" in answer.json()["detail"]


@pytest.mark.parametrize("what", ["users", "keys", "audit"])
@pytest.mark.parametrize("query", ["cursor=abc", "limit=1000000000", "cursor=aTF8Y2FsbF8x"])
async def test_a_bad_page_is_refused(
    api: httpx.AsyncClient, db: Database, now: datetime, what: str, query: str
) -> None:
    """A cursor of another list, or none at all, and a limit beyond a page are told in words."""
    _, header = await a_key(db, now, "people:read", "keys:read", "audit:read")
    answer = await api.get(f"/v1/{what}?{query}", headers=header)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/v1/users", "people:read"),
        ("/v1/keys", "keys:read"),
        ("/v1/audit", "audit:read"),
    ],
)
async def test_each_needs_its_scope_by_name(
    api: httpx.AsyncClient, db: Database, now: datetime, path: str, scope: str
) -> None:
    """All other scopes do not open it, and a key of which nothing was said does not have it."""
    _, others = await a_key(db, now, *(one for one in access.KEY_SCOPES if one != scope))
    answer = await api.get(path, headers=others)
    assert answer.status_code == 403
    assert scope in answer.json()["detail"]
    assert scope not in access.READS


async def test_no_key_may_make_keys_or_people(db: Database, now: datetime) -> None:
    """Scopes with which a key could give itself all others are refused to every key."""
    for scope in ("keys:write", "people:write"):
        async with db.work() as session:
            with pytest.raises(Invalid, match=f"{scope} is no scope"):
                await access.add_key(session, name="x", scopes=[scope], now=now)


def test_whoever_makes_keys_may_see_them() -> None:
    """Each role that may write people or keys may read them, and so may give that right to a program."""
    for scopes in MAY.values():
        for what in ("keys", "people"):
            assert f"{what}:write" not in scopes or f"{what}:read" in scopes
    assert not MAY[Role.MANAGER] & {"keys:read", "people:read", "audit:read"}


async def test_me_tells_when_the_key_ends(
    api: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """A program sees in time that it needs another key."""
    async with db.work() as session:
        _, token = await access.add_key(
            session, name="x", scopes=["calls:read"], lasts=timedelta(days=30), now=now
        )
    me = (await api.get("/v1/me", headers={"Authorization": f"Bearer {token}"})).json()
    assert me["expires_at"] == "2026-02-14T09:30:00Z"
