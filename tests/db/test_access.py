"""API keys, on both databases."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import inspect

from trunkline.access import queries, service
from trunkline.access.models import ApiKey
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.db import Database

S = timedelta(seconds=1)
DAY = timedelta(days=1)


async def test_a_key_is_shown_once_and_kept_as_a_hash(db: Database, now: datetime) -> None:
    """The key is ``tl_`` and 43 characters; the database holds its hash and last four, not itself."""
    async with db.work() as session:
        made, token = await service.add_key(
            session, name="  Zapier ", scopes=["recordings:read", "calls:read"], now=now
        )
    assert token.startswith("tl_")
    assert len(token) == 46
    async with db.look() as session:
        found = await queries.key_for(session, token, now=now)
        assert found is not None
        assert (found.id, found.name) == (made.id, "Zapier")
        assert found.scopes == ["calls:read", "recordings:read"]
        stored = {attr.key: getattr(found, attr.key) for attr in inspect(ApiKey).column_attrs}
        assert found.last4 == token[-4:]
        assert not any(token in str(value) for value in stored.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda token: "",  # nothing at all
        lambda token: token[:-1],  # cut off
        lambda token: token + "A",  # too long
        lambda token: token.upper(),  # the letters' case counts
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),  # one character off
        lambda token: token.removeprefix("tl_"),  # without its mark
        lambda token: token + "\n",  # as read from a file
    ],
)
async def test_what_is_not_exactly_the_key_is_none(
    db: Database, now: datetime, change: Callable[[str], str]
) -> None:
    """Only the key itself opens anything."""
    async with db.work() as session:
        _, token = await service.add_key(session, name="x", scopes=["calls:read"], now=now)
        assert await queries.key_for(session, change(token), now=now) is None


async def test_a_revoked_key_opens_nothing(db: Database, now: datetime) -> None:
    """A revoked key is refused at once, stays listed, and the first revocation's time stays."""
    async with db.work() as session:
        key, token = await service.add_key(session, name="x", scopes=["calls:read"], now=now)
        await service.revoke_key(session, key.id, now=now)
        await service.revoke_key(session, key.id, now=now + S)
        assert await queries.key_for(session, token, now=now) is None
        (listed,) = await queries.keys(session)
        assert listed.revoked_at == now
        with pytest.raises(NotFound):
            await service.revoke_key(session, "key_nothing", now=now)


async def test_a_key_ends(db: Database, now: datetime) -> None:
    """At its end it opens nothing, without anybody doing anything; one without an end lasts."""
    async with db.work() as session:
        key, token = await service.add_key(
            session, name="x", scopes=["calls:read"], lasts=30 * DAY, now=now
        )
        _, lasting = await service.add_key(session, name="y", scopes=["calls:read"], now=now)
        assert key.expires_at == now + 30 * DAY
        assert await queries.key_for(session, token, now=now + 30 * DAY - S) is not None
        assert await queries.key_for(session, token, now=now + 30 * DAY) is None
        assert await queries.key_for(session, lasting, now=now + 9_000 * DAY) is not None
        for wrong in (timedelta(0), -DAY, 3651 * DAY):
            with pytest.raises(Invalid, match="1 to 3650 days"):
                await service.add_key(
                    session, name="x", scopes=["calls:read"], lasts=wrong, now=now
                )


async def test_a_key_is_replaced_without_a_gap(db: Database, now: datetime) -> None:
    """The new key may do the same and lasts as long; the old works for the overlap, not past its end."""
    async with db.work() as session:
        old, token = await service.add_key(
            session, name="x", scopes=["calls:read"], lasts=30 * DAY, now=now
        )
        at = now + 20 * DAY
        new, fresh = await service.rotate_key(session, old.id, overlap=DAY, now=at)
        assert (new.name, new.scopes, new.expires_at) == ("x", ["calls:read"], at + 30 * DAY)
        for when, works in ((at + DAY - S, True), (at + DAY, False)):
            assert (await queries.key_for(session, token, now=when) is not None) == works
            assert await queries.key_for(session, fresh, now=when) is not None
        with pytest.raises(Conflict, match="opens nothing"):
            await service.rotate_key(session, old.id, overlap=DAY, now=at + DAY)
        await service.rotate_key(session, new.id, overlap=7 * DAY, now=at + 29 * DAY)
        assert new.expires_at == at + 30 * DAY
        with pytest.raises(Invalid, match="30 days"):
            await service.rotate_key(session, new.id, overlap=31 * DAY, now=at)
        with pytest.raises(NotFound):
            await service.rotate_key(session, "key_nothing", overlap=DAY, now=at)


async def test_use_is_noted_at_most_once_a_minute(db: Database, now: datetime) -> None:
    """A busy key writes its last use once a minute, however often it is used in between."""
    seen = []
    async with db.work() as session:
        key, _ = await service.add_key(session, name="x", scopes=["calls:read"], now=now)
    for at in (now, now + 59 * S, now + 60 * S, now + 61 * S):
        async with db.work() as session:
            due = service.use_is_due(await session.get_one(ApiKey, key.id), now=at)
            await service.note_use(session, key.id, now=at)
            row = await session.get_one(ApiKey, key.id, populate_existing=True)
            seen.append((due, row.last_used_at))
    assert seen == [
        (True, now),
        (False, now),
        (True, now + 60 * S),
        (False, now + 60 * S),
    ]


@pytest.mark.parametrize(
    ("name", "scopes", "says"),
    [
        ("", ["calls:read"], "name"),  # who uses it?
        ("x" * 101, ["calls:read"], "100"),  # longer than its column
        ("x", [], "choose from calls:read"),  # a key for nothing
        ("x", ["calls:read", "calls:writ"], "calls:writ is no scope"),  # a slip of the hand
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(
    sqlite_db: Database, now: datetime, name: str, scopes: list[str], says: str
) -> None:
    """A key needs a name and scopes that exist; the error says which."""
    async with sqlite_db.work() as session:
        with pytest.raises(Invalid, match=says):
            await service.add_key(session, name=name, scopes=scopes, now=now)
