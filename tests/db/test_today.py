"""Today at a glance, on both databases."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.crm import queries as crm_queries
from trunkline.crm import service as crm
from trunkline.desk.today import today
from trunkline.kit.db import Database

if TYPE_CHECKING:
    from tests.conftest import Make

HOUR = timedelta(hours=1)


async def test_a_day(db: Database, make: "Make", now: datetime) -> None:
    """What was won, who is on the line, what needs somebody; yesterday and taken-back moves don't count."""
    async with db.work() as session:
        await make.profile(session, now=now)
        sold = await make.deal(session, now=now)
        contact = await crm_queries.contact(session, sold.contact_id or "")
        undone = await make.deal(session, contact=contact, title="Shop Fiber", now=now)
        for room, began in (("old", now - 24 * HOUR), ("early", now - HOUR), ("live", now)):
            call = await make.call(session, room=room, channel="sip", now=began)
            lease = await calls.take_lease(session, call.id, now=began)
            await calls.answer(session, lease, now=began)
            if room != "live":
                await calls.end(session, call.id, EndReason.CALLER_HANGUP, now=began + HOUR / 4)
        for deal in (sold, undone):
            await crm.move_deal(session, deal.id, "won", cause=crm.Cause("person"), now=now)
        await crm.move_deal(session, undone.id, "lost", cause=crm.Cause("person"), now=now)
        await crm.log_activity(
            session,
            kind="task",
            summary="Call back.",
            contact_id=sold.contact_id,
            due_at=now - HOUR,
            cause=crm.Cause("person"),
            now=now - 2 * HOUR,
        )
    async with db.look() as session:
        found = await today(session, now=now)
    # 09:30 in London is 04:30 in New York, where the profile is.
    assert (found.zone, found.since.isoformat()) == (
        "America/New_York",
        "2026-01-15T05:00:00+00:00",
    )
    assert (found.tiles.calls, found.tiles.answered) == (2, 2)
    assert [row.state for row in found.live] == ["talking"]
    assert found.live_count == 1
    assert found.won == [(240_000, "USD")]
    assert found.tasks_due == 1
    assert found.answers


async def test_an_empty_house(db: Database, now: datetime) -> None:
    """Without a profile the day is UTC's, and nobody answers."""
    async with db.look() as session:
        found = await today(session, now=now)
    assert (found.zone, found.answers, found.live_count) == ("UTC", False, 0)
    assert (found.won, found.reply_ms, found.tiles.calls) == ([], None, 0)
