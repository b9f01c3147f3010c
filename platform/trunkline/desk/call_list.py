"""The list of calls: what a manager sees of each at a glance, over all domains.

However many calls a page has, it takes the same number of queries.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import queries as calls
from trunkline.calls.lifecycle import State
from trunkline.calls.models import Call, Recording, ToolRun, Turn
from trunkline.calls.queries import Cursor
from trunkline.crm.models import Change, Contact
from trunkline.profiles.models import Number
from trunkline.webhooks.models import Delivery


@dataclass(frozen=True)
class Person:
    """A contact as it is named beside a call."""

    id: str
    name: str | None


@dataclass(frozen=True)
class DeliveryCount:
    """How many webhook deliveries of a call are in which state."""

    pending: int = 0
    delivered: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.pending + self.delivered + self.failed


@dataclass(frozen=True)
class CallRow:
    """One call in the list."""

    id: str
    direction: str
    channel: str
    state: str
    end_reason: str | None
    from_number: str | None
    """E.164; None when the caller withheld it."""
    to_number: str | None
    number_label: str | None
    """What our own number of this call is called."""
    contact: Person | None
    started_at: datetime
    answered_at: datetime | None
    ended_at: datetime | None
    duration_ms: int | None
    """From the answer to the end; None when nobody answered or the call goes on."""
    turn_count: int
    change_count: int
    """CRM fields changed, and things made, by this call."""
    failed_tool_count: int
    """Tool runs that did not do what was wanted."""
    delivery_count: DeliveryCount
    recorded: bool
    """Whether there is something to listen to."""
    reason: str | None
    """Why we call; calls that we place only, as is what follows."""
    activity_id: str | None
    """The task it is made for."""
    due_at: datetime | None
    """While it is queued: when it is dialled, or tried again."""
    attempt: int
    """Which of the calls to reach the same person it is."""
    retry_of: str | None
    """The first of them; None for that one."""
    attestation: str | None = None
    """How far the carrier vouches for the caller's number: A, B or C."""
    door: str | None = None
    """How a call that came in was let in or turned away, a ``desk.door.Kind``; None before that."""
    door_reason: str | None = None
    """Why, in words."""

    @property
    def live(self) -> bool:
        """Whether the call goes on."""
        return self.state != State.ENDED

    @property
    def far_number(self) -> str | None:
        """The number at the other end: the caller's, or the one we called."""
        return self.from_number if self.direction == "inbound" else self.to_number

    @property
    def our_number(self) -> str | None:
        """Our own number in this call."""
        return self.to_number if self.direction == "inbound" else self.from_number


@dataclass(frozen=True)
class CallListPage:
    """Some calls, newest first, and where the next page begins."""

    calls: tuple[CallRow, ...]
    next: Cursor | None
    """None when these are the oldest."""

    @property
    def live(self) -> bool:
        """Whether any of them goes on."""
        return any(call.live for call in self.calls)


async def page(
    session: AsyncSession, *, before: Cursor | None = None, limit: int = 50
) -> CallListPage:
    """At most *limit* calls, newest first, beginning after the call *before*."""
    found = await calls.page(session, before=before, limit=limit + 1)
    shown = found[:limit]
    last = shown[-1] if len(found) > limit else None
    return CallListPage(
        calls=tuple(await rows(session, shown)),
        next=Cursor(last.started_at, last.id) if last else None,
    )


async def rows(session: AsyncSession, found: Sequence[Call]) -> list[CallRow]:
    """What is known of each of these calls, in their order."""
    ids = [call.id for call in found]
    people = await _people(session, {call.contact_id for call in found if call.contact_id})
    labels = await _labels(session, {n for c in found for n in (c.from_number, c.to_number) if n})
    turns = await _count(session, Turn, ids)
    changes = await _count(session, Change, ids)
    failed_tools = await _failed_tools(session, ids)
    deliveries = await _deliveries(session, ids)
    recorded = await _recorded(session, ids)
    return [
        CallRow(
            id=call.id,
            direction=call.direction,
            channel=call.channel,
            state=call.state,
            end_reason=call.end_reason,
            from_number=call.from_number,
            to_number=call.to_number,
            number_label=labels.get(
                (call.to_number if call.direction == "inbound" else call.from_number) or ""
            ),
            contact=people.get(call.contact_id or ""),
            started_at=call.started_at,
            answered_at=call.answered_at,
            ended_at=call.ended_at,
            duration_ms=_duration_ms(call),
            turn_count=turns.get(call.id, 0),
            change_count=changes.get(call.id, 0),
            failed_tool_count=failed_tools.get(call.id, 0),
            delivery_count=deliveries.get(call.id, DeliveryCount()),
            recorded=call.id in recorded,
            reason=call.reason,
            activity_id=call.activity_id,
            due_at=call.due_at if call.state == State.QUEUED else None,
            attempt=call.attempt,
            attestation=call.attestation,
            door=call.door,
            door_reason=call.door_reason,
            retry_of=call.retry_of,
        )
        for call in found
    ]


def _duration_ms(call: Call) -> int | None:
    if call.answered_at is None or call.ended_at is None:
        return None
    return (call.ended_at - call.answered_at) // timedelta(milliseconds=1)


async def _people(session: AsyncSession, ids: set[str]) -> dict[str, Person]:
    found = await session.execute(select(Contact.id, Contact.name).where(Contact.id.in_(ids)))
    return {contact_id: Person(contact_id, name) for contact_id, name in found}


async def _labels(session: AsyncSession, numbers: set[str]) -> dict[str, str | None]:
    found = await session.execute(select(Number.e164, Number.label).where(Number.e164.in_(numbers)))
    return {row.e164: row.label for row in found}


async def _count(
    session: AsyncSession, table: type[Turn] | type[Change], ids: Sequence[str]
) -> dict[str, int]:
    counted = await session.execute(
        select(table.call_id, func.count()).where(table.call_id.in_(ids)).group_by(table.call_id)
    )
    return {call_id: number for call_id, number in counted if call_id is not None}


async def _failed_tools(session: AsyncSession, ids: Sequence[str]) -> dict[str, int]:
    # "repeated" is no failure: an equal run had done it already.
    counted = await session.execute(
        select(ToolRun.call_id, func.count())
        .where(ToolRun.call_id.in_(ids), ToolRun.state == "error", ToolRun.error != "repeated")
        .group_by(ToolRun.call_id)
    )
    return {row[0]: row[1] for row in counted}


async def _deliveries(session: AsyncSession, ids: Sequence[str]) -> dict[str, DeliveryCount]:
    counted = await session.execute(
        select(Delivery.subject, Delivery.state, func.count())
        .where(Delivery.subject.in_(ids))
        .group_by(Delivery.subject, Delivery.state)
    )
    states: dict[str, dict[str, int]] = defaultdict(dict)
    for call_id, state, number in counted:
        states[call_id][state] = number
    return {
        call_id: DeliveryCount(
            pending=by_state.get("pending", 0),
            delivered=by_state.get("delivered", 0),
            failed=by_state.get("failed", 0),
        )
        for call_id, by_state in states.items()
    }


async def _recorded(session: AsyncSession, ids: Sequence[str]) -> set[str]:
    found = await session.scalars(
        select(Recording.call_id).where(Recording.call_id.in_(ids), Recording.blob_key.is_not(None))
    )
    return set(found)
