"""Claims: take deliveries that are due for as long as a lease, and renew it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.dml import ReturningUpdate

from trunkline.kit.crypt import Sealer
from trunkline.outbox.models import EventRow
from trunkline.outbox.record import encoded
from trunkline.webhooks import queries, retry
from trunkline.webhooks.models import Delivery, Endpoint
from trunkline.webhooks.queries import PENDING
from trunkline.webhooks.service import is_for, queue

_CREDIT = timedelta(milliseconds=100)
"""How much of an unused rate limit may be caught up on at once."""


@dataclass
class Claimed:
    """A delivery that is ours to attempt until its lease ends."""

    delivery_id: str
    endpoint_id: str
    url: str
    secrets: tuple[str, ...]
    """All that sign; the endpoint's current one first."""
    headers: Mapping[str, str]
    """The endpoint's own."""
    format: str
    hook: bool
    failures: int
    """Failed attempts of the endpoint in a row, as far as the claim saw."""
    event_id: str
    event_type: str
    subject: str
    number: int
    """Which attempt this is, from 1."""
    leased_until: datetime
    """Set anew by :func:`renew`."""
    body: bytes


async def claim(
    session: AsyncSession,
    *,
    sealer: Sealer,
    limit: int,
    per_endpoint: int = 8,
    in_flight: Mapping[str, int] | None = None,
    failing: bool | None = None,
    lease: timedelta,
    now: datetime,
) -> list[Claimed]:
    """Take up to *limit* deliveries that are due, for *lease*; nobody else gets them before it ends.

    No endpoint gets more than *per_endpoint* at a time, counting those *in_flight* (endpoint id → number).
    One that is failing gets one; the others come first, and of them who has waited longest: neither a
    long queue nor a dead receiver ever hides the others. *failing* True claims only for those that failed
    retry.FAILING_FROM times in a row or more, False only for the others. Raises CryptError if a secret
    does not open.
    """
    busy = in_flight or {}
    full = [id_ for id_, number in busy.items() if number >= per_endpoint]
    if limit <= 0:
        return []
    first = queries.first_due()
    lane = []
    if failing is not None:
        from_here = Endpoint.failures >= retry.FAILING_FROM
        lane = [from_here if failing else ~from_here]
    waiting = await session.scalars(
        select(Endpoint)
        .where(*lane)
        .where(Endpoint.enabled, Endpoint.id.not_in(full), first <= now)
        .where((Endpoint.not_before.is_(None)) | (Endpoint.not_before <= now))
        # Those that answer come first; among them who has waited longest.
        .order_by(Endpoint.failures > 0, first)
        .limit(limit)
    )
    taken: list[tuple[Endpoint, str, str, int]] = []
    for endpoint in waiting.all():
        share = 1 if endpoint.failures else per_endpoint
        free = min(limit - len(taken), share - busy.get(endpoint.id, 0))
        if endpoint.rate_per_s:
            free = min(free, await _permits(session, endpoint, now=now))
        if free <= 0:
            continue
        rows = await session.execute(_take(endpoint.id, limit=free, until=now + lease, now=now))
        mine = [
            (endpoint, delivery_id, event_id, attempts)
            for _, delivery_id, event_id, attempts in sorted(rows)
        ]
        if endpoint.rate_per_s and mine:
            step = timedelta(seconds=1) / endpoint.rate_per_s
            start = max(endpoint.not_before or now, now - _CREDIT)
            endpoint.not_before = start + len(mine) * step
        taken += mine
    if not taken:
        return []
    events = await session.execute(
        select(EventRow.id, EventRow.type, EventRow.subject, EventRow.body).where(
            EventRow.id.in_({event_id for _, _, event_id, _ in taken})
        )
    )
    by_id = {event.id: event for event in events}
    known = {endpoint.id: endpoint for endpoint, *_ in taken}
    opened = {id_: _open(endpoint, sealer, now=now) for id_, endpoint in known.items()}
    return [
        _claimed(
            endpoint,
            opened[endpoint.id],
            delivery_id,
            by_id[event_id],
            attempts + 1,
            leased_until=now + lease,
        )
        for endpoint, delivery_id, event_id, attempts in taken
    ]


async def fan_out_in_hand(
    session: AsyncSession,
    events: Sequence[EventRow],
    *,
    sealer: Sealer,
    limit: int,
    per_endpoint: int,
    in_flight: Mapping[str, int],
    lease: timedelta,
    now: datetime,
) -> tuple[int, list[Claimed]]:
    """As :func:`fan_out` and :func:`claim` at once; return how many deliveries were made, and those claimed.

    A delivery is claimed as it is made, which saves the way back through the queue, when nothing else of
    its endpoint is due before it, the endpoint is not failing and has no rate limit. The arguments are those
    of :func:`claim`, which gets what is left. Raises CryptError if a secret does not open.
    """
    made, taken = 0, list[Claimed]()
    if not events:
        return made, taken
    bodies = {event.id: event for event in events}
    found = await session.execute(
        select(Endpoint, queries.first_due()).where(Endpoint.enabled).order_by(Endpoint.id)
    )
    for endpoint, due in found.all():
        wanted = [event for event in events if is_for(event, endpoint)]
        free = min(limit - len(taken), per_endpoint - in_flight.get(endpoint.id, 0))
        if endpoint.failures or endpoint.rate_per_s or (due is not None and due <= now):
            free = 0
        rows = await queue(
            session, endpoint, wanted, leased=max(free, 0), until=now + lease, now=now
        )
        made += len(rows)
        mine = [row for row in rows if row["state"] == PENDING and row["next_at"] > now]
        if mine:
            opened = _open(endpoint, sealer, now=now)
            taken += [
                _claimed(
                    endpoint,
                    opened,
                    row["id"],
                    bodies[row["event_id"]],
                    1,
                    leased_until=now + lease,
                )
                for row in mine
            ]
    return made, taken


def _claimed(
    endpoint: Endpoint,
    opened: tuple[tuple[str, ...], dict[str, str]],
    delivery_id: str,
    event: Any,
    number: int,
    *,
    leased_until: datetime,
) -> Claimed:
    return Claimed(
        delivery_id=delivery_id,
        endpoint_id=endpoint.id,
        url=endpoint.url,
        secrets=opened[0],
        headers=opened[1],
        format=endpoint.format,
        hook=endpoint.hook,
        failures=endpoint.failures,
        event_id=event.id,
        event_type=event.type,
        subject=event.subject,
        number=number,
        leased_until=leased_until,
        body=encoded(event.body),
    )


async def _permits(session: AsyncSession, endpoint: Endpoint, *, now: datetime) -> int:
    """How many deliveries the rate limit lets go now; the endpoint stays locked until the commit."""
    await session.refresh(endpoint, with_for_update=True)
    since = max(endpoint.not_before or now, now - _CREDIT)
    if since > now:
        return 0
    return int((now - since) / (timedelta(seconds=1) / (endpoint.rate_per_s or 1))) + 1


def _open(
    endpoint: Endpoint, sealer: Sealer, *, now: datetime
) -> tuple[tuple[str, ...], dict[str, str]]:
    sealed = [endpoint.secret]
    if endpoint.old_secret and endpoint.old_secret_until and now < endpoint.old_secret_until:
        sealed.append(endpoint.old_secret)
    headers = {name: sealer.open(value) for name, value in endpoint.headers.items()}
    return tuple(sealer.open(each) for each in sealed), headers


def _take(
    endpoint_id: str, *, limit: int, until: datetime, now: datetime
) -> ReturningUpdate[int, str, str, int]:
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
        .returning(Delivery.position, Delivery.id, Delivery.event_id, Delivery.attempts)
        .execution_options(synchronize_session=False)
    )


async def renew(session: AsyncSession, claims: Sequence[Claimed], *, until: datetime) -> set[str]:
    """Put off the end of the leases to *until*, and return the ids of the deliveries that are no longer ours.

    A lease that has ended is still ours as long as nobody else was given it.
    """
    by_lease: dict[datetime, list[str]] = defaultdict(list)
    for each in claims:
        by_lease[each.leased_until].append(each.delivery_id)
    lost = {each.delivery_id for each in claims}
    for leased_until, ids in by_lease.items():
        lost -= set(
            await session.scalars(
                update(Delivery)
                .where(Delivery.id.in_(ids), Delivery.next_at == leased_until)
                .where(queries.is_pending())
                .values(next_at=until)
                .returning(Delivery.id)
                .execution_options(synchronize_session=False)
            )
        )
    return lost
