"""Transfers as they are stored, on SQLite and on PostgreSQL."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from trunkline.calls import queries, service
from trunkline.calls.lifecycle import EndReason
from trunkline.errors import IllegalTransition, StaleLease
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow

if TYPE_CHECKING:
    from tests.conftest import Make

S = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("outcome", "state", "ended"),
    [("busy", "talking", 2 * S), ("answered", "transferring", 9 * S)],
)
async def test_what_comes_of_a_transfer(
    db: Database, make: "Make", now: datetime, outcome: str, state: str, ended: timedelta
) -> None:
    """The leg keeps number, times and outcome, also past the call's end; the event tells it once."""
    async with db.work() as session:
        call = await make.call(session, now=now)
        lease = await service.take_lease(session, call.id, now=now)
        with pytest.raises(IllegalTransition):  # nobody talks yet
            await service.begin_transfer(session, lease, kind="warm", number="+1", now=now)
        await service.answer(session, lease, now=now)
        leg = await service.begin_transfer(
            session, lease, kind="warm", number="+12025550188", now=now + S
        )
        assert call.state == "transferring"
        await service.finish_transfer(
            session, lease, leg.id, kind="warm", name="Support", outcome=outcome, reason="a bill",
            now=now + 2 * S,
        )  # fmt: skip
        assert call.state == state
        await service.end(session, call.id, EndReason.TRANSFERRED, now=now + 9 * S)
    async with db.look() as session:
        stored = (await queries.legs(session, call.id))[-1]
        assert (stored.kind, stored.number, stored.outcome) == ("consult", "+12025550188", outcome)
        assert stored.ended_at == now + ended
        rows = await session.scalars(select(EventRow).where(EventRow.type == "call.transferred"))
        (row,) = rows.all()
        told = row.body["data"]
        assert (told["kind"], told["to_name"], told["outcome"]) == ("warm", "Support", outcome)


async def test_hold(db: Database, make: "Make", now: datetime) -> None:
    """A caller who talks can be held, and is talked to again; in any other state nothing changes."""
    async with db.work() as session:
        call = await make.call(session, now=now)
        lease = await service.take_lease(session, call.id, now=now)
        await service.hold(session, lease)
        assert call.state == "ringing"
        await service.answer(session, lease, now=now)
        for verb, state in (
            (service.hold, "held"),
            (service.hold, "held"),
            (service.resume, "talking"),
            (service.resume, "talking"),
            (service.hold, "held"),
        ):
            await verb(session, lease)
            assert call.state == state
        # The agent that takes over a caller on hold talks to them.
        newer = await service.take_lease(session, call.id, now=now)
        await service.answer(session, newer, now=now)
        assert call.state == "talking"
        with pytest.raises(StaleLease):
            await service.hold(session, lease)
