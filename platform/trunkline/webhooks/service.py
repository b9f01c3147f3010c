"""The verbs of webhooks: keep endpoints, make deliveries of events, claim them, settle what came of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from trunkline.errors import Invalid
from trunkline.events import EndpointDisabled, EndpointTest
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.outbox.models import EventRow
from trunkline.outbox.record import as_bytes, record
from trunkline.webhooks import filters, queries, retry, signing
from trunkline.webhooks.models import Attempt, Delivery, Endpoint

PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"

MAX_URL_CHARS = 2_000
_MAX_DESCRIPTION_CHARS = 200
_MAX_ERROR_CHARS = 300


async def add_endpoint(
    session: AsyncSession,
    *,
    url: str,
    events: Sequence[str],
    description: str | None = None,
    now: datetime,
) -> tuple[Endpoint, str]:
    """A new endpoint and its signing secret, which is to be shown this once.

    It gets what is published from now on. Raises Invalid when the address or an event's name will not do.
    """
    if description is not None and len(description) > _MAX_DESCRIPTION_CHARS:
        raise Invalid(f"a description has at most {_MAX_DESCRIPTION_CHARS} characters")
    secret = signing.new_secret()
    endpoint = Endpoint(
        id=new_id("whk", now=now),
        url=checked_url(url),
        description=description,
        events=filters.checked(events),
        secret=secret,
        enabled=True,
        created_at=now,
    )
    session.add(endpoint)
    await session.flush()
    return endpoint, secret


def checked_url(url: str) -> str:
    """*url*, if a delivery can be sent there. Raises Invalid with what to write instead.

    The address itself is never repeated in the message: it may hold a key.
    """
    if len(url) > MAX_URL_CHARS:
        raise Invalid(f"the address is {len(url)} characters long; at most {MAX_URL_CHARS} may be")
    try:
        # The same parser that will send, so that both see the same host.
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        raise Invalid("that is no web address; write https://host/path") from None
    if parsed.scheme not in ("https", "http"):
        raise Invalid("the address must begin with https:// or http://")
    if not parsed.host:
        raise Invalid("the address names no host; write https://host/path")
    if parsed.userinfo:
        raise Invalid(
            "the address holds a user name or password; leave it out, "
            "deliveries are proved by their signature"
        )
    if parsed.port is not None and not 1 <= parsed.port <= 65_535:
        raise Invalid("the address names no possible port; leave it out or write 1 to 65535")
    return url


async def set_enabled(
    session: AsyncSession,
    endpoint_id: str,
    enabled: bool,
    *,
    reason: str = "switched off by hand",
    now: datetime,
) -> Endpoint:
    """Switch an endpoint on or off; nothing happens if it is so already. Raises NotFound.

    Off: nothing more is sent to it, new events pass it by, and ``endpoint.disabled`` tells the others
    why. What waited for it goes on waiting and is sent when it is switched on again.
    """
    endpoint = await queries.endpoint(session, endpoint_id)
    # One statement decides, so that of two that switch it off at once only one tells of it.
    changed = await session.scalar(
        update(Endpoint)
        .where(Endpoint.id == endpoint_id, Endpoint.enabled.is_(not enabled))
        .values(enabled=enabled, disabled_reason=None if enabled else reason)
        .returning(Endpoint.id)
    )
    if changed and not enabled:
        await record(session, EndpointDisabled(endpoint_id=endpoint_id, reason=reason), now=now)
    await session.refresh(endpoint)
    return endpoint


async def fan_out(session: AsyncSession, events: Sequence[EventRow], *, now: datetime) -> int:
    """Make a delivery of each event for each enabled endpoint that wants it; return how many were made.

    To be called in the transaction that publishes the events. Doing it twice makes nothing twice.
    """
    if not events:
        return 0
    enabled = [row for row in await queries.endpoints(session) if row.enabled]
    rows = [
        {
            "id": new_id("dlv", now=now),
            "endpoint_id": endpoint.id,
            "event_id": event.id,
            "event_type": event.type,
            "subject": event.subject,
            "state": PENDING,
            "attempts": 0,
            "next_at": now,
            "created_at": now,
        }
        for event in events
        for endpoint in enabled
        if _is_for(event, endpoint)
    ]
    if not rows:
        return 0
    made = await session.scalars(
        insert_for(session, Delivery)
        .on_conflict_do_nothing(index_elements=[Delivery.endpoint_id, Delivery.event_id])
        .returning(Delivery.id),
        rows,
    )
    return len(made.all())


def _is_for(event: EventRow, endpoint: Endpoint) -> bool:
    if event.type == EndpointTest.type:
        return event.subject == endpoint.id
    return filters.wants(endpoint.events, event.type)


@dataclass(frozen=True)
class Claimed:
    """A delivery that is ours to attempt until its lease ends."""

    delivery_id: str
    endpoint_id: str
    url: str
    secrets: tuple[str, ...]
    """All that sign; the endpoint's current one first."""
    event_id: str
    event_type: str
    number: int
    """Which attempt this is, from 1."""
    leased_until: datetime
    body: bytes


async def claim(
    session: AsyncSession,
    *,
    limit: int,
    per_endpoint: int = 4,
    in_flight: Mapping[str, int] | None = None,
    lease: timedelta,
    now: datetime,
) -> list[Claimed]:
    """Take up to *limit* deliveries that are due, for *lease*; nobody else gets them before it ends.

    No endpoint gets more than *per_endpoint* at a time, counting those *in_flight* (endpoint id → number),
    and the endpoint that has waited longest comes first: a long queue of one never hides the others.
    """
    busy = in_flight or {}
    full = [id_ for id_, number in busy.items() if number >= per_endpoint]
    first = queries.first_due()
    waiting = await session.scalars(
        select(Endpoint)
        .where(Endpoint.enabled, Endpoint.id.not_in(full), first <= now)
        .order_by(first)
        .limit(limit)
    )
    taken: list[tuple[Endpoint, str, str, int]] = []
    for endpoint in waiting.all():
        free = min(limit - len(taken), per_endpoint - busy.get(endpoint.id, 0))
        if free <= 0:
            break
        rows = await session.execute(_take(endpoint.id, limit=free, until=now + lease, now=now))
        taken += [
            (endpoint, delivery_id, event_id, attempts)
            for delivery_id, event_id, attempts in sorted(rows)
        ]
    if not taken:
        return []
    events = await session.scalars(
        select(EventRow).where(EventRow.id.in_({event_id for _, _, event_id, _ in taken}))
    )
    by_id = {event.id: event for event in events}
    return [
        Claimed(
            delivery_id=delivery_id,
            endpoint_id=endpoint.id,
            url=endpoint.url,
            secrets=(endpoint.secret,),
            event_id=event_id,
            event_type=by_id[event_id].type,
            number=attempts + 1,
            leased_until=now + lease,
            body=as_bytes(by_id[event_id]),
        )
        for endpoint, delivery_id, event_id, attempts in taken
    ]


def _take(
    endpoint_id: str, *, limit: int, until: datetime, now: datetime
) -> ReturningUpdate[str, str, int]:
    # A common table expression, because PostgreSQL may run a plain subquery more than once and so take more
    # than the limit. SQLite, where SKIP LOCKED is left out, has but one writer at a time.
    due = (
        select(Delivery.id)
        .where(Delivery.endpoint_id == endpoint_id, queries.is_pending(), Delivery.next_at <= now)
        .order_by(Delivery.next_at, Delivery.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        update(Delivery)
        .where(Delivery.id.in_(select(due.c.id)))
        .values(next_at=until)
        .returning(Delivery.id, Delivery.event_id, Delivery.attempts)
        .execution_options(synchronize_session=False)
    )


@dataclass(frozen=True)
class Outcome:
    """What one attempt came to."""

    claimed: Claimed
    started_at: datetime
    ms: int
    request_headers: dict[str, str]
    status: int | None = None
    """None when no answer came; then ``error`` says why."""
    error: str | None = None
    response_headers: dict[str, str] | None = None
    response_body: bytes = b""


async def settle(
    session: AsyncSession,
    outcomes: Sequence[Outcome],
    *,
    jitter: Callable[[], float],
    now: datetime,
) -> list[retry.Decision]:
    """Store the attempts and what follows from each, and say what that is, in the order given.

    *jitter* is asked once for each, for a number from 0 to 1. An attempt that outlived its lease is stored
    too, but it decides only if it succeeded: its delivery may by now be with another courier.
    """
    if not outcomes:
        return []
    locked = await session.scalars(
        select(Delivery)
        .where(Delivery.id.in_([outcome.claimed.delivery_id for outcome in outcomes]))
        .order_by(
            Delivery.id
        )  # always the same order, so that two couriers never wait for each other
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    by_id = {delivery.id: delivery for delivery in locked}
    decisions = []
    for outcome in outcomes:
        delivery = by_id[outcome.claimed.delivery_id]
        delivery.attempts += 1
        session.add(_attempt(outcome, number=delivery.attempts, now=now))
        decision = retry.decide(
            attempt=delivery.attempts,
            status=outcome.status,
            now=now,
            jitter=jitter(),
            retry_after=(outcome.response_headers or {}).get("retry-after"),
        )
        _apply(decision, delivery, leased_until=outcome.claimed.leased_until, now=now)
        decisions.append(decision)
    await session.flush()
    for outcome, decision in zip(outcomes, decisions, strict=True):
        if isinstance(decision, retry.GiveUp) and decision.disable:
            await set_enabled(
                session, outcome.claimed.endpoint_id, False, reason=decision.reason, now=now
            )
    return decisions


def _apply(
    decision: retry.Decision, delivery: Delivery, *, leased_until: datetime, now: datetime
) -> None:
    if delivery.state != PENDING:
        return
    leased = delivery.next_at == leased_until
    match decision:
        case retry.Delivered():
            delivery.state = DELIVERED
            delivery.delivered_at = now
        case retry.RetryAt(at) if leased:
            delivery.next_at = at
        case retry.GiveUp() if leased:
            delivery.state = FAILED


def _attempt(outcome: Outcome, *, number: int, now: datetime) -> Attempt:
    body = outcome.response_body.decode(errors="replace")
    return Attempt(
        id=new_id("att", now=now),
        delivery_id=outcome.claimed.delivery_id,
        number=number,
        started_at=outcome.started_at,
        ms=outcome.ms,
        status=outcome.status,
        error=outcome.error and outcome.error[:_MAX_ERROR_CHARS],
        request_headers=outcome.request_headers,
        response_headers=outcome.response_headers,
        # PostgreSQL's text cannot hold NUL.
        response_body=None if outcome.status is None else body.replace("\0", "\ufffd"),
    )
