"""The demo's past: 40 calls of every kind, which nobody hears of."""

import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls.filters import Filters
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Call, ToolRun, Turn
from trunkline.crm.models import Activity, Change, Deal
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import waiting
from trunkline.sandbox.past import PEOPLE, REACH, STORIES, fill
from trunkline.sandbox.story import seed
from trunkline.webhooks.models import Attempt, Delivery, Endpoint
from trunkline.webhooks.options import EndpointOptions
from trunkline.webhooks.service import BY_HAND

OPTIONS = EndpointOptions((new_key(),))
CARD = re.compile(r"4242|four two", re.IGNORECASE)


@pytest.fixture
async def another_db(sqlite_template: Path, tmp_path: Path) -> AsyncIterator[Database]:
    """A second database, for two fillings in one test."""
    copy = tmp_path / "another.db"
    shutil.copyfile(sqlite_template, copy)
    database = open_database(DatabaseOptions(f"sqlite+aiosqlite:///{copy}"))
    yield database
    await database.close()


async def _filled(db: Database, now: datetime) -> None:
    async with db.work() as session:
        await seed(session, now=now)
    await fill(db, now=now, endpoints=OPTIONS)


async def _all(session: AsyncSession, table: Any) -> list[Any]:
    return list((await session.scalars(select(table))).all())


async def test_forty_calls_of_every_kind(db: Database, now: datetime) -> None:
    """40 calls over 14 days, all ended and marked as demo data; each story ends as its row says."""
    await _filled(db, now)
    async with db.look() as session:
        found = await _all(session, Call)
        runs = await _all(session, ToolRun)
        turns = await _all(session, Turn)
        shown = await session.scalars(
            select(Call).where(*(part.check for part in Filters(hide_tests=True).parts()))
        )
        assert shown.all() == []
    assert len(found) == len(STORIES) == 40
    assert all(call.test and call.state == "ended" for call in found)
    assert all(now - REACH <= call.started_at <= call.ended_at < now for call in found)
    assert max(c.started_at for c in found) - min(c.started_at for c in found) >= timedelta(days=12)
    assert Counter(call.end_reason for call in found) == Counter(s.end.value for s in STORIES)
    assert {
        *(EndReason.CANCELLED, EndReason.TRANSFERRED, EndReason.VOICEMAIL_LEFT, EndReason.SILENCE),
        *(EndReason.PROVIDER_DOWN, EndReason.CALLBACK_BOOKED, EndReason.NO_ANSWER, EndReason.BUSY),
        *(EndReason.AGENT_LOST, EndReason.BLOCKED, EndReason.DO_NOT_CALL, EndReason.LINE_LOST),
    } <= {story.end for story in STORIES}
    assert {call.direction for call in found} == {"inbound", "outbound"}
    assert any(call.from_number is None for call in found)
    assert any(call.contact_id is None for call in found)
    assert any(call.crm_failed for call in found)
    assert {run.state for run in runs} == {"ok", "error"}
    assert {turn.language for turn in turns} == {"en", "de"}
    assert any(turn.interrupted for turn in turns)


async def test_the_crm_follows(db: Database, now: datetime) -> None:
    """Deals were moved and calls back booked, each with the call as evidence; the open one lies ahead."""
    await _filled(db, now)
    async with db.look() as session:
        deals = {deal.title: deal.stage for deal in await _all(session, Deal)}
        changes = await _all(session, Change)
        tasks = [task for task in await _all(session, Activity) if task.kind == "task"]
    assert deals["Clinic Fiber"] == deals["Shop Fiber"] == "won"
    assert deals["Depot Fiber"] == "proposal"
    # What the demo's own calls find is as it was.
    assert deals["Home Fiber"] == "proposal"
    moved = [change for change in changes if (change.entity, change.field) == ("deal", "stage")]
    assert len(moved) == 5
    assert all(change.call_id and change.turn_id for change in moved)
    assert [task.due_at > now for task in tasks if task.done_at is None] == [True]
    assert len(tasks) > 1


async def test_personal_data_is_not_kept(db: Database, now: datetime) -> None:
    """Card numbers, in figures and in words, are in no turn, argument, activity or event."""
    await _filled(db, now)
    async with db.look() as session:
        kept = [
            *(turn.text for turn in await _all(session, Turn)),
            *(str(run.arguments) for run in await _all(session, ToolRun)),
            *(activity.summary for activity in await _all(session, Activity)),
            *(str(event.body) for event in await _all(session, EventRow)),
        ]
    assert sum("[card]" in text for text in kept) >= 4
    assert [text for text in kept if CARD.search(text)] == []


async def test_nobody_hears_of_it(db: Database, now: datetime) -> None:
    """Every event is published, and the one endpoint there was is switched off."""
    await _filled(db, now)
    async with db.look() as session:
        assert not await waiting(session)
        (endpoint,) = await _all(session, Endpoint)
        deliveries = await _all(session, Delivery)
        attempts = await _all(session, Attempt)
        calls = {call.id for call in await _all(session, Call)}
    assert (endpoint.enabled, endpoint.disabled_reason) == (False, BY_HAND)
    assert {delivery.subject for delivery in deliveries} <= calls
    assert Counter(delivery.state for delivery in deliveries) == {
        "delivered": 3,
        "failed": 2,
        "pending": 1,
    }
    assert [sorted(a.status for a in attempts).count(code) for code in (200, 500, 503)] == [
        3,
        9,
        11,
    ]
    assert all(attempt.started_at < now for attempt in attempts)


async def test_twice_the_same(db: Database, another_db: Database, now: datetime) -> None:
    """Two fillings differ in ids alone, on whichever database."""
    tellings = []
    for one in (db, another_db):
        await _filled(one, now)
        async with one.look() as session:
            calls = await session.scalars(select(Call).order_by(Call.started_at))
            turns = await session.scalars(
                select(Turn).join(Call, Call.id == Turn.call_id).order_by(Call.started_at, Turn.seq)
            )
            events = await session.scalars(select(EventRow).order_by(EventRow.position))
            tellings.append(
                (
                    [(c.started_at, c.ended_at, c.end_reason, c.from_number) for c in calls],
                    [(t.role, t.text, t.started_ms, t.ended_ms) for t in turns],
                    Counter((e.type, e.recorded_at) for e in events),
                )
            )
    assert tellings[0] == tellings[1]


def test_the_table_is_in_order(now: datetime) -> None:
    """The oldest story first, no two at once; nobody of the demo's own calls is among the people."""
    began = [story.began(now) for story in STORIES]
    assert began == sorted(set(began))
    theirs = {f"+120255501{tail}" for tail in ("34", "45", "56", "62", "77")}
    assert not theirs & {person.number for person in PEOPLE}
    assert not theirs & {story.number for story in STORIES}
