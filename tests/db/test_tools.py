"""A tool runs once, in its own transactions, for a caller who may; otherwise it says so."""

from collections.abc import AsyncIterator
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from livekit.agents import ToolError
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.agent import tools
from trunkline.agent.conversation import Conversation
from trunkline.agent.options import AgentOptions, ProviderAccess
from trunkline.agent.scribe import Scribe
from trunkline.calls import queries as call_reads
from trunkline.calls import service as calls
from trunkline.calls.models import Turn
from trunkline.crm import queries as crm_reads
from trunkline.crm import service as crm
from trunkline.crm.models import Change
from trunkline.desk.arrival import receive
from trunkline.errors import Conflict
from trunkline.kit.db import Database
from trunkline.kit.money import Money
from trunkline.outbox.models import EventRow
from trunkline.sandbox.story import OUR_NUMBER, seed

if TYPE_CHECKING:
    from trunkline.crm.models import Deal

NONE = ProviderAccess("none")
OPTIONS = AgentOptions(deepgram=NONE, openai=NONE, cartesia=NONE)


class SilentLine:
    """As much of a line as a tool run touches."""

    def position_ms(self) -> int:
        return 4_000

    def offset_ms(self, wall_time: float) -> int:
        return 4_000


class Desk:
    """A call that is on, and a way to run a tool in it as the model would."""

    def __init__(self, talk: Conversation) -> None:
        self.talk = talk

    async def run(self, tool: Any, **arguments: Any) -> str:
        context = SimpleNamespace(
            userdata=self.talk, function_call=SimpleNamespace(name=tool.info.name)
        )
        result: str = await tool(context, **arguments)
        return result

    async def rows(self, query: Any) -> list[Any]:
        async with self.talk.db.look() as session:
            return list((await session.scalars(query)).all())


async def _desk(db: Database, from_raw: str, now: datetime) -> Desk:
    async with db.work() as session:
        await seed(session, now=now)
        reception = await receive(
            session, room="r", channel="test", from_raw=from_raw, to_raw=OUR_NUMBER, now=now
        )
        lease = await calls.take_lease(session, reception.call_id, now=now)
    assert reception.answering is not None
    line: Any = SilentLine()
    return Desk(
        Conversation(
            db=db,
            line=line,
            lease=lease,
            reception=reception,
            body=reception.answering.body,
            options=OPTIONS,
            scribe=Scribe(db, lease, line, lambda: now),
            clock=lambda: now,
        )
    )


@pytest.fixture
async def dana(db: Database, now: datetime) -> AsyncIterator[Desk]:
    """A call of Dana's, who has one open deal."""
    desk = await _desk(db, "+12025550134", now)
    yield desk
    await desk.talk.scribe.aclose()


@pytest.fixture
async def nobody(db: Database, now: datetime) -> AsyncIterator[Desk]:
    """A call with a withheld number."""
    desk = await _desk(db, "anonymous", now)
    yield desk
    await desk.talk.scribe.aclose()


MOVE = tools.move_deal_for(("qualified", "proposal", "won", "lost"))


async def open_deals(desk: Desk) -> "list[Deal]":
    async with desk.talk.db.look() as session:
        return list(await crm_reads.open_deals(session, desk.talk.contact_id or ""))


async def test_a_repeat_gets_the_first_success(dana: Desk) -> None:
    """The same tool with the same arguments changes things once, however often the model asks."""
    first = await dana.run(tools.log_activity, kind="note", summary="Wants the bigger plan.")
    again = await dana.run(tools.log_activity, kind="note", summary="Wants the bigger plan.")
    assert first == again == "Logged a note."
    call_id = dana.talk.lease.call_id
    assert len(await dana.rows(select(Change).where(Change.call_id == call_id))) == 1


async def test_a_change_carries_its_evidence(dana: Desk) -> None:
    """The ledger names the call, the run and the event; the deal is the caller's own."""
    told = await dana.run(MOVE, stage="won", which=None)
    assert told == "Office Fiber moved from proposal to won."
    (change,) = await dana.rows(select(Change).where(Change.field == "stage"))
    assert (change.before, change.after, change.source) == ("proposal", "won", "call")
    async with dana.talk.db.look() as session:
        (run,) = await call_reads.tool_runs(session, dana.talk.lease.call_id)
    assert (change.tool_run_id, run.state) == (run.id, "ok")
    (event,) = await dana.rows(
        select(EventRow).where(
            EventRow.type == "deal.updated", EventRow.subject == dana.talk.lease.call_id
        )
    )
    assert event.body["data"]["evidence"]["call_id"] == dana.talk.lease.call_id


@pytest.mark.parametrize("which", [0, 2, 99, -1])
async def test_a_deal_that_is_not_the_callers(which: int, dana: Desk) -> None:
    """A number that the model made up finds nothing and moves nothing."""
    with pytest.raises(ToolError, match="I can't find that one"):
        await dana.run(MOVE, stage="won", which=which)
    assert [deal.stage for deal in await open_deals(dana)] == ["proposal"]


async def test_with_several_deals_the_caller_must_choose(dana: Desk, now: datetime) -> None:
    """Without a number nothing is moved when there is more than one open deal."""
    (deal,) = await open_deals(dana)
    async with dana.talk.db.work() as session:
        await crm.create_deal(
            session,
            title="Second line",
            contact_id=deal.contact_id,
            pipeline="Sales",
            stage="qualified",
            amount=Money(10_000, "USD"),
            cause=crm.Cause(source="demo"),
            now=now,
        )
    with pytest.raises(ToolError):
        await dana.run(MOVE, stage="won", which=None)
    listed = (await dana.run(tools.find_deals)).splitlines()
    position = next(i for i, line in enumerate(listed, 1) if "Second line" in line)
    assert await dana.run(MOVE, stage="proposal", which=position) == (
        "Second line moved from qualified to proposal."
    )


@pytest.mark.parametrize("tool", [tools.look_up_contact, tools.find_deals])
async def test_nothing_is_told_to_an_unknown_caller(tool: Any, nobody: Desk) -> None:
    """What reveals records needs a number that matches one; the run is stored as refused."""
    with pytest.raises(ToolError, match="I may not do that"):
        await nobody.run(tool)
    async with nobody.talk.db.look() as session:
        (run,) = await call_reads.tool_runs(session, nobody.talk.lease.call_id)
    assert (run.state, run.error) == ("error", "refused")
    failed = await nobody.rows(select(EventRow).where(EventRow.type == "tool.failed"))
    assert [event.body["data"]["name"] for event in failed] == [run.name]


async def test_a_contact_made_in_the_call_proves_nothing(nobody: Desk) -> None:
    """Whoever says a name is not thereby known: the rung stays where it was."""
    assert await nobody.run(tools.create_contact, name="Dana Whitfield", company=None) == (
        "Contact created: Dana Whitfield."
    )
    with pytest.raises(ToolError):
        await nobody.run(tools.find_deals)


async def test_a_known_callers_name_is_never_replaced(dana: Desk) -> None:
    """A model mishears names; the record keeps the one it has."""
    told = await dana.run(tools.create_contact, name="Donna Whitefield", company=None)
    assert told == "Contact known already: Dana Whitfield."


async def test_what_fails_leaves_nothing_and_may_be_tried_again(dana: Desk) -> None:
    """The change is undone with its transaction; the failure is stored and told; a new try works."""
    context: Any = SimpleNamespace(
        userdata=dana.talk, function_call=SimpleNamespace(name="log_activity")
    )

    async def broken(session: AsyncSession, cause: crm.Cause) -> str:
        await crm.log_activity(
            session,
            kind="note",
            summary="half",
            contact_id=None,
            cause=cause,
            now=dana.talk.clock(),
        )
        raise Conflict("somebody was faster")

    with pytest.raises(ToolError, match="changed in the meantime"):
        await tools.run(context, {"summary": "half"}, broken)
    call_id = dana.talk.lease.call_id
    assert await dana.rows(select(Change).where(Change.call_id == call_id)) == []
    assert await dana.run(tools.log_activity, kind="note", summary="whole") == "Logged a note."


async def test_card_digits_never_reach_a_row(dana: Desk) -> None:
    """What the model passes on is redacted in the run's arguments, the note and the event."""
    await dana.run(tools.take_message, text="My card is 4242 4242 4242 4242, please charge it.")
    stored = [str(row.body) for row in await dana.rows(select(EventRow))]
    async with dana.talk.db.look() as session:
        stored += [
            str(r.arguments) for r in await call_reads.tool_runs(session, dana.talk.lease.call_id)
        ]
    assert any("[card]" in text for text in stored)
    assert not any("4242" in text for text in stored)


async def test_an_agent_that_was_replaced_changes_nothing(dana: Desk, now: datetime) -> None:
    """After another agent took the call over, a tool of the old one fails without a trace."""
    async with dana.talk.db.work() as session:
        await calls.take_lease(session, dana.talk.lease.call_id, now=now)
    with pytest.raises(ToolError):
        await dana.run(MOVE, stage="won", which=None)
    assert [deal.stage for deal in await open_deals(dana)] == ["proposal"]


async def test_a_card_that_is_keyed_in_is_told_to_nobody(dana: Desk) -> None:
    """Keys that might be a payment card are taken out of the transcript and of the event."""
    dana.talk.scribe.caller_pressed("4242424242424242", 5_000)
    await dana.talk.scribe.settled()
    (row,) = await dana.rows(select(EventRow).where(EventRow.type == "dtmf.received"))
    assert row.body["data"]["digits"] == "[card]"
    turns = await dana.rows(select(Turn))
    assert [turn.text for turn in turns] == ["[keys [card]]"]
