"""The list of calls: what a manager sees of each at a glance, over all domains.

However many calls a page has, it takes the same number of queries.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ScalarSelect, Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import review, search
from trunkline.calls.filters import Filters
from trunkline.calls.lifecycle import State
from trunkline.calls.models import Call, Recording, ToolRun, Turn
from trunkline.calls.queries import Cursor
from trunkline.calls.query import Query
from trunkline.calls.search import Snippet
from trunkline.crm.models import Change, Contact
from trunkline.profiles.models import Number
from trunkline.webhooks.models import Delivery

EVERYTHING = Filters()


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
    test: bool
    """Placed to try something, or demo data."""
    transferred: bool
    crm_failed: bool
    """A tool that writes to the CRM failed, and did not succeed after that."""
    review: str | None
    """needed, done or None."""
    reviewed_by: str | None
    reviewed_at: datetime | None
    tags: tuple[str, ...]
    attestation: str | None = None
    """How far the carrier vouches for the caller's number: A, B or C."""
    door: str | None = None
    """How a call that came in was let in or turned away, a ``desk.door.Kind``; None before that."""
    door_reason: str | None = None
    """Why, in words."""
    snippets: tuple[Snippet, ...] = ()
    """Where it was said what was searched for."""

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
    searched_back_to: datetime | None = None
    """How far back a search has looked that stopped before the page was full."""

    @property
    def live(self) -> bool:
        """Whether any of them goes on."""
        return any(call.live for call in self.calls)


@dataclass(frozen=True)
class Tiles:
    """What there is to say of all calls of a list together."""

    calls: int
    more: bool
    """Whether these are only the newest of more."""
    answered: int
    median_ms: int | None
    crm_failed: int
    deals_moved: int
    """Stages changed and not changed back."""


async def page(
    session: AsyncSession,
    filters: Filters = EVERYTHING,
    wanted: Query | None = None,
    *,
    before: Cursor | None = None,
    limit: int = 50,
) -> CallListPage:
    """At most *limit* calls, newest first, beginning after the call *before*."""
    found = await search.page(session, filters, wanted, before=before, limit=limit)
    shown = await rows(session, found.calls)
    said = await search.snippets(session, wanted, [one.id for one in shown]) if wanted else {}
    return CallListPage(
        calls=tuple(replace(one, snippets=said.get(one.id, ())) for one in shown),
        next=found.next,
        searched_back_to=found.searched_back_to,
    )


async def tiles(
    session: AsyncSession, filters: Filters = EVERYTHING, wanted: Query | None = None
) -> Tiles:
    """The sums over the calls that ``page`` finds on all of its pages."""

    def moved(ids: Select[Any]) -> ScalarSelect[int]:
        return (
            select(func.count(Change.id))
            .where(
                Change.entity == "deal",
                Change.field == "stage",
                Change.undone_at.is_(None),
                Change.call_id.in_(ids),
            )
            .scalar_subquery()
        )

    sums = await search.sums(session, filters, wanted, beside=moved)
    return Tiles(sums.calls, sums.more, sums.answered, sums.median_ms, sums.crm_failed, sums.beside)


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
    tags = await review.tags_of(session, ids)
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
            duration_ms=call.duration_ms,
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
            test=call.test,
            transferred=call.transferred,
            crm_failed=call.crm_failed,
            review=call.review,
            reviewed_by=call.reviewed_by,
            reviewed_at=call.reviewed_at,
            tags=tags.get(call.id, ()),
        )
        for call in found
    ]


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
