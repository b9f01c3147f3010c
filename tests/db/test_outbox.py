"""Events are written with their change, and every reader sees all of them in one order."""

import asyncio
import contextlib
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from trunkline.events import CallAnswered, CallEvent, ToolFailed, TranscriptReady
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.outbox import publish as outbox
from trunkline.outbox.listen import commits
from trunkline.outbox.models import EventRow
from trunkline.outbox.record import as_bytes, record

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

WRITERS, CALLS, EVENTS_EACH = 20, 6, 8


@pytest.fixture
async def wide_db(db_url: str) -> AsyncIterator[Database]:
    """The database with a connection for each of twenty writers, two publishers and a reader."""
    database = open_database(DatabaseOptions(db_url, pool_size=25))
    yield database
    await database.close()


def _subject(number: int) -> str:
    return f"call_{number}"


async def test_a_reader_misses_nothing_while_twenty_write(wide_db: Database, now: datetime) -> None:
    """Writers commit after random delays, two publishers compete, a reader polls each millisecond by
    position: it gets every event once, without a gap, and each call's events in the order of seq."""
    total = WRITERS * EVENTS_EACH
    done = asyncio.Event()

    async def write(number: int) -> None:
        # Seeded per writer. The delay lies between the insert and the commit: it is what makes a later
        # transaction overtake an earlier one.
        dice = random.Random(number)
        for index in range(EVENTS_EACH):
            async with wide_db.work() as session:
                subject = _subject(dice.randrange(CALLS))
                event = ToolFailed(subject, f"run_{number}_{index}", "move_deal", "refused")
                # Clocks of several machines disagree by some milliseconds.
                await record(session, event, now=now + timedelta(milliseconds=dice.randrange(50)))
                await asyncio.sleep(dice.random() * 0.004)  # pace: the delay of the commit

    async def keep_publishing() -> None:
        while not done.is_set():
            async with wide_db.work() as session:
                await outbox.publish(session, limit=7)
            await asyncio.sleep(0.001)  # pace: lets the writers in

    async def keep_reading() -> list[EventRow]:
        seen: list[EventRow] = []
        while len(seen) < total:
            async with wide_db.look() as session:
                after = seen[-1].position if seen else 0
                seen += await outbox.read(session, after=after or 0, limit=50)
            await asyncio.sleep(0.001)  # pace: the reader's poll
        return seen

    publishers = [asyncio.create_task(keep_publishing()) for _ in range(2)]
    async with asyncio.timeout(60):
        reader = asyncio.create_task(keep_reading())
        await asyncio.gather(*(write(number) for number in range(WRITERS)))
        seen = await reader
    done.set()
    await asyncio.gather(*publishers)

    assert len({row.id for row in seen}) == total
    assert [row.position for row in seen] == list(range(1, total + 1))
    order: dict[str, list[int]] = defaultdict(list)
    for row in seen:
        order[row.subject].append(row.seq)
    assert len(order) == CALLS
    for numbers in order.values():
        assert numbers == list(range(1, len(numbers) + 1))
    # Nothing is left over, and no position was given twice.
    async with wide_db.look() as session:
        assert not await outbox.waiting(session)
        assert await outbox.read(session, after=total) == []


async def test_an_undone_change_leaves_no_event(db: Database, now: datetime) -> None:
    """When the transaction fails, its event is gone with it, and the next one takes its seq."""
    with contextlib.suppress(ZeroDivisionError):
        async with db.work() as session:
            await record(session, CallAnswered("call_1", ring_ms=1), now=now)
            raise ZeroDivisionError
    async with db.work() as session:
        row = await record(session, CallAnswered("call_1", ring_ms=2), now=now)
    assert row.seq == 1
    async with db.work() as session:
        published = await outbox.publish(session)
    assert [event.body["data"]["ring_ms"] for event in published] == [2]


async def test_a_reader_sees_nothing_before_it_is_published(db: Database, now: datetime) -> None:
    """A committed event has no position until the publisher gives it one."""
    async with db.work() as session:
        await record(session, TranscriptReady("call_1", turns=3), now=now)
    async with db.look() as session:
        assert await outbox.read(session) == []
        assert await outbox.waiting(session)
    async with db.work() as session:
        assert len(await outbox.publish(session)) == 1
    async with db.look() as session:
        assert [row.position for row in await outbox.read(session)] == [1]
        assert not await outbox.waiting(session)


async def test_a_small_batch_never_splits_a_call_in_the_wrong_place(
    db: Database, now: datetime
) -> None:
    """Even when a later event was stamped earlier, a cut-off batch takes the one with the lower seq."""
    async with db.work() as session:
        for step in range(4):
            event = TranscriptReady("call_1", turns=step)
            await record(session, event, now=now - timedelta(seconds=step))
    published: list[EventRow] = []
    for _ in range(2):
        async with db.work() as session:
            published += await outbox.publish(session, limit=2)
    assert [row.seq for row in published] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        'quotes " and \\ backslashes',
        "Zoë Łukasz 東京 🎧",
        "half a pair \ud83d",  # a model can stream one; UTF-8 cannot hold it
        "line\u2028separator and a tab\t",
        "nul \x00 in the middle",
    ],
    ids=["plain", "quotes", "unicode", "surrogate", "separators", "nul"],
)
async def test_the_bytes_of_an_event_are_always_the_same(
    db: Database, now: datetime, text: str
) -> None:
    """As it was recorded and as it is read back, an event gives the same bytes: compact UTF-8, type first."""
    async with db.work() as session:
        row = await record(session, ToolFailed("call_1", "run_1", "look_up", text), now=now)
        written = as_bytes(row)
        await outbox.publish(session)
    async with db.look() as session:
        [stored] = await outbox.read(session)
    assert as_bytes(stored) == written
    assert written.startswith(
        b'{"type":"tool.failed","timestamp":"2026-01-15T09:30:00.000Z","data":{"call_id":"call_1"'
    )
    assert written.endswith(b'"seq":1}}')
    assert json.loads(written)["data"]["error"] == text


class Endless(CallEvent):
    """An event with a number that JSON has no word for."""

    type = "test.endless"

    def data(self) -> dict[str, float]:
        return {"ratio": float("inf")}


async def test_what_json_cannot_write_is_refused_where_it_is_written(
    db: Database, now: datetime
) -> None:
    """A body that nobody could read fails in the writer's transaction, not at every reader."""
    with pytest.raises(ValueError, match="JSON compliant"):
        async with db.work() as session:
            await record(session, Endless("call_1"), now=now)
    async with db.look() as session:
        assert not await outbox.waiting(session)


async def test_a_commit_by_another_wakes_the_listener(db_url: str, now: datetime) -> None:
    """Whoever commits an event, through whichever engine, a listener on the same database is told."""
    ours, theirs = open_database(DatabaseOptions(db_url)), open_database(DatabaseOptions(db_url))
    try:
        async with asyncio.timeout(60), contextlib.aclosing(commits(ours)) as news:
            await anext(news)  # the start
            for turns in range(3):
                async with theirs.work() as session:
                    await record(session, TranscriptReady("call_1", turns=turns), now=now)
                await anext(news)
    finally:
        await ours.close()
        await theirs.close()


async def test_a_commit_in_the_same_process_is_heard_without_a_look(
    sqlite_db: Database, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite too a commit wakes who listens through the same database at once; an undone one does not."""
    monkeypatch.setattr("trunkline.outbox.listen._POLL_S", 3600.0)
    monkeypatch.setattr("trunkline.outbox.listen._BUSY_POLL_S", 3600.0)
    async with asyncio.timeout(60), contextlib.aclosing(commits(sqlite_db)) as news:
        await anext(news)  # the start
        heard = asyncio.create_task(anext(news))
        with contextlib.suppress(ZeroDivisionError):
            async with sqlite_db.work() as session:
                await record(session, TranscriptReady("call_1", turns=1), now=now)
                raise ZeroDivisionError
        assert not heard.done()
        async with sqlite_db.work() as session:
            await record(session, TranscriptReady("call_1", turns=2), now=now)
        await heard


async def test_a_connection_that_broke_while_it_rested_is_replaced(
    postgres_server: "PostgresServer", monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the server was away, who comes next gets a connection that works, and sees nothing of it."""
    monkeypatch.setattr("trunkline.kit.db._TRUSTED_S", 0.0)
    name = postgres_server.clone()
    db = open_database(DatabaseOptions(postgres_server.url(name)))
    try:
        async with db.look() as first, db.look() as second:
            pids = {await each.scalar(text("SELECT pg_backend_pid()")) for each in (first, second)}
        for pid in pids:
            postgres_server.execute(f"SELECT pg_terminate_backend({pid}, 5000)")
        async with db.look() as first, db.look() as second:
            after = {await each.scalar(text("SELECT pg_backend_pid()")) for each in (first, second)}
        assert len(pids) == len(after) == 2
        assert not pids & after
    finally:
        await db.close()
        postgres_server.drop(name)
