"""API keys, on both databases."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import inspect

from trunkline.access import queries, service
from trunkline.access.models import ApiKey
from trunkline.errors import Invalid, NotFound
from trunkline.kit.db import Database

S = timedelta(seconds=1)


async def test_a_key_is_shown_once_and_kept_as_a_hash(db: Database, now: datetime) -> None:
    """The key is ``tl_`` and 43 characters; the database holds its hash and last four, not itself."""
    async with db.work() as session:
        made, token = await service.add_key(
            session, name="  Zapier ", scopes=["recordings:read", "calls:read"], now=now
        )
    assert token.startswith("tl_")
    assert len(token) == 46
    async with db.look() as session:
        found = await queries.key_for(session, token)
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
        assert await queries.key_for(session, change(token)) is None


async def test_a_revoked_key_opens_nothing(db: Database, now: datetime) -> None:
    """A revoked key is refused at once, stays listed, and the first revocation's time stays."""
    async with db.work() as session:
        key, token = await service.add_key(session, name="x", scopes=["calls:read"], now=now)
        await service.revoke_key(session, key.id, now=now)
        await service.revoke_key(session, key.id, now=now + S)
        assert await queries.key_for(session, token) is None
        (listed,) = await queries.keys(session)
        assert listed.revoked_at == now
        with pytest.raises(NotFound):
            await service.revoke_key(session, "key_nothing", now=now)


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
