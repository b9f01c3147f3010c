"""The verbs of webhooks: keep endpoints, make deliveries of events, claim them, settle what came of them.

For the verbs that mend what went wrong see ``repair``.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

from sqlalchemy import bindparam, delete, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningUpdate

from trunkline.events import EndpointDisabled, EndpointTest
from trunkline.kit.crypt import Sealer
from trunkline.kit.db import insert_for
from trunkline.kit.ids import lowest_id, new_id
from trunkline.outbox.models import EventRow
from trunkline.outbox.record import encoded, record
from trunkline.webhooks import checks, filters, queries, retell, retry, signing, versions
from trunkline.webhooks.models import Attempt, Delivery, Endpoint
from trunkline.webhooks.options import EndpointOptions
from trunkline.webhooks.queries import DELIVERED, FAILED, HELD, PENDING

STANDARD, RETELL = "standard", "retell"
BY_HAND = "switched off by hand"

_CREDIT = timedelta(milliseconds=100)
"""How much of an unused rate limit may be caught up on at once."""
_MAX_ERROR_CHARS = 300


class EndpointFields(TypedDict, total=False):
    """What can be set on an endpoint; the meaning of each is told in ``models.Endpoint``."""

    url: str
    events: Sequence[str]
    description: str | None
    headers: Mapping[str, str]
    format: str
    ordered: bool
    ignored_sources: Sequence[str]
    rate_per_s: int | None


# --- endpoints ---------------------------------------------------------------------------------


async def add_endpoint(
    session: AsyncSession,
    *,
    options: EndpointOptions,
    url: str,
    events: Sequence[str],
    description: str | None = None,
    headers: Mapping[str, str] | None = None,
    format: str = STANDARD,
    ordered: bool = False,
    ignored_sources: Sequence[str] = (),
    rate_per_s: int | None = None,
    hook: bool = False,
    now: datetime,
) -> tuple[Endpoint, str]:
    """A new endpoint and its signing secret, which is to be shown this once.

    It gets what is published from now on. *hook* marks a REST hook subscription, which 410 removes. Raises
    Invalid when the address, an event's name or anything else will not do.
    """
    secret = signing.new_secret()
    fields: EndpointFields = {
        "url": url,
        "events": events,
        "description": description,
        "headers": headers or {},
        "format": format,
        "ordered": ordered,
        "ignored_sources": ignored_sources,
        "rate_per_s": rate_per_s,
    }
    endpoint = Endpoint(
        id=new_id("whk", now=now),
        secret=Sealer(options.keys).seal(secret),
        hook=hook,
        failures=0,
        enabled=True,
        created_at=now,
        **_columns(fields, options),
    )
    session.add(endpoint)
    await session.flush()
    return endpoint, secret


async def update_endpoint(
    session: AsyncSession,
    endpoint_id: str,
    fields: EndpointFields,
    *,
    options: EndpointOptions,
    seen: str | None = None,
    now: datetime,
) -> Endpoint:
    """Set *fields* and leave the others. Raises NotFound, or Invalid as :func:`add_endpoint` does.

    With *seen*, the version (:func:`versions.version`) it was read with, it raises Conflict and says what
    somebody else has changed since.

    What was made for it goes to the new address too. Asked for order, it keeps it from the next event of
    each call on; asked for none, what was held is let go.
    """
    endpoint = await _locked(session, endpoint_id)
    if seen is not None:
        versions.check(endpoint, seen)
    for name, value in _columns(fields, options, format=endpoint.format).items():
        setattr(endpoint, name, value)
    await session.flush()
    if not endpoint.ordered:
        await session.execute(
            update(Delivery)
            .where(Delivery.endpoint_id == endpoint_id, Delivery.state == HELD)
            .values(state=PENDING, next_at=now)
        )
    return endpoint


def _columns(
    fields: EndpointFields, options: EndpointOptions, *, format: str = STANDARD
) -> dict[str, Any]:
    columns: dict[str, Any] = dict(fields)
    if "url" in fields:
        checks.url(fields["url"], allow=options.allow)
    if "events" in fields:
        columns["events"] = filters.checked(fields["events"])
    if "headers" in fields:
        sealer = Sealer(options.keys)
        checked = checks.headers(fields["headers"])
        columns["headers"] = {name: sealer.seal(value) for name, value in checked.items()}
    if "ignored_sources" in fields:
        columns["ignored_sources"] = checks.sources(fields["ignored_sources"])
    checks.description(fields.get("description"))
    checks.rate(fields.get("rate_per_s"))
    format = fields.get("format", format)
    checks.format(format, (STANDARD, RETELL))
    if format == RETELL and "events" in columns:
        checks.has_counterpart(columns["events"])
    return columns


async def remove_endpoint(session: AsyncSession, endpoint_id: str, *, now: datetime) -> None:
    """Delete an endpoint: its secrets at once, its log when that is old enough. Raises NotFound.

    What was waiting for it has failed.
    """
    endpoint = await _locked(session, endpoint_id)
    endpoint.enabled, endpoint.disabled_reason = False, "deleted"
    endpoint.deleted_at = now
    endpoint.secret, endpoint.old_secret, endpoint.headers = "", None, {}
    await session.flush()
    await session.execute(
        update(Delivery)
        .where(Delivery.endpoint_id == endpoint_id, Delivery.state.in_([PENDING, HELD]))
        .values(state=FAILED)
    )


async def rotate_secret(
    session: AsyncSession,
    endpoint_id: str,
    *,
    options: EndpointOptions,
    overlap: timedelta | None = None,
    now: datetime,
) -> str:
    """A new signing secret, to be shown this once. Until *overlap* has passed both sign. Raises NotFound.

    An older one that still signed does so no more.
    """
    endpoint = await _locked(session, endpoint_id)
    secret = signing.new_secret()
    endpoint.old_secret = endpoint.secret
    endpoint.old_secret_until = now + (options.overlap if overlap is None else overlap)
    endpoint.secret = Sealer(options.keys).seal(secret)
    await session.flush()
    return secret


async def reseal(session: AsyncSession, *, options: EndpointOptions) -> int:
    """Seal every stored secret with the first of the keys; return how many endpoints there are.

    Afterwards the other keys can be taken out of the settings. Raises CryptError if one opens with none.
    """
    sealer = Sealer(options.keys)
    found = await queries.endpoints(session)
    for endpoint in found:
        endpoint.secret = sealer.reseal(endpoint.secret)
        endpoint.old_secret = endpoint.old_secret and sealer.reseal(endpoint.old_secret)
        endpoint.headers = {k: sealer.reseal(value) for k, value in endpoint.headers.items()}
    await session.flush()
    return len(found)


async def set_enabled(
    session: AsyncSession, endpoint_id: str, enabled: bool, *, reason: str = BY_HAND, now: datetime
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
        .values(
            enabled=enabled,
            disabled_reason=None if enabled else reason,
            failing_since=None,
            failures=0,
        )
        .returning(Endpoint.id)
    )
    if changed and not enabled:
        await record(session, EndpointDisabled(endpoint_id=endpoint_id, reason=reason), now=now)
    await session.refresh(endpoint)
    return endpoint


async def send_test(session: AsyncSession, endpoint_id: str, *, now: datetime) -> EventRow:
    """Record ``endpoint.test`` for this endpoint alone. Raises NotFound."""
    await queries.endpoint(session, endpoint_id)
    return await record(session, EndpointTest(endpoint_id), now=now)


async def _locked(session: AsyncSession, endpoint_id: str) -> Endpoint:
    endpoint = await queries.endpoint(session, endpoint_id)
    await session.refresh(endpoint, with_for_update=True)
    return endpoint


# --- deliveries --------------------------------------------------------------------------------


async def fan_out(session: AsyncSession, events: Sequence[EventRow], *, now: datetime) -> int:
    """Make a delivery of each event for each enabled endpoint that wants it; return how many were made.

    To be called in the transaction that publishes the events. Doing it twice makes nothing twice.
    """
    made = 0
    for endpoint in await queries.endpoints(session) if events else ():
        if endpoint.enabled:
            wanted = [event for event in events if is_for(event, endpoint)]
            made += len(await queue(session, endpoint, wanted, now=now))
    return made


def is_for(event: EventRow, endpoint: Endpoint) -> bool:
    """Whether *endpoint* is to be told of *event*."""
    data = event.body.get("data", {})
    if event.type == EndpointTest.type or data.get("sample"):
        return event.subject == endpoint.id
    if data.get("source") in endpoint.ignored_sources:
        return False
    if endpoint.format == RETELL and event.type not in retell.EVENTS:
        return False
    return filters.wants(endpoint.events, event.type)


async def queue(
    session: AsyncSession,
    endpoint: Endpoint,
    events: Sequence[EventRow],
    *,
    leased: int = 0,
    until: datetime | None = None,
    now: datetime,
) -> list[dict[str, Any]]:
    """Make a delivery of each of *events*, which are published and in order; return the columns of the new.

    The first *leased* of those that may go at once are due *until* then, as if they had been claimed.
    """
    if not events:
        return []
    busy: set[str] = set()
    if endpoint.ordered:
        # Held against the settling of an earlier one, which would find nothing to let go.
        await _lock(session, endpoint.id)
        busy = set(
            await session.scalars(
                select(Delivery.subject)
                .where(Delivery.endpoint_id == endpoint.id, queries.is_queued())
                .where(Delivery.subject.in_({event.subject for event in events}))
            )
        )
    rows = list[dict[str, Any]]()
    for event in events:
        held = event.subject in busy
        leased -= not held
        rows.append(
            {
                "id": new_id("dlv", now=now),
                "endpoint_id": endpoint.id,
                "event_id": event.id,
                "event_type": event.type,
                "subject": event.subject,
                "position": event.position or 0,
                "state": HELD if held else PENDING,
                "attempts": 0,
                "resent_after": 0,
                "next_at": until if until and not held and leased >= 0 else now,
                "created_at": now,
            }
        )
        if endpoint.ordered:
            busy.add(event.subject)
    made = await session.scalars(
        insert_for(session, Delivery)
        .on_conflict_do_nothing(index_elements=[Delivery.endpoint_id, Delivery.event_id])
        .returning(Delivery.id),
        rows,
    )
    new = set(made)
    return [row for row in rows if row["id"] in new]


async def _lock(session: AsyncSession, endpoint_id: str) -> None:
    await session.execute(select(Endpoint.id).where(Endpoint.id == endpoint_id).with_for_update())


async def let_go(
    session: AsyncSession,
    endpoint_id: str,
    *,
    subjects: Collection[str] | None = None,
    now: datetime,
) -> None:
    """Make the first held delivery of each call pending, where none is pending; *subjects* None for all."""
    await _lock(session, endpoint_id)
    other = aliased(Delivery)
    ahead = exists().where(
        other.endpoint_id == endpoint_id,
        other.subject == Delivery.subject,
        queries.is_queued(other),
        (other.state == PENDING) | (other.position < Delivery.position),
        other.id != Delivery.id,
    )
    held = (
        select(Delivery.id)
        .where(Delivery.endpoint_id == endpoint_id, queries.is_queued(), Delivery.state == HELD)
        .where(~ahead)
    )
    if subjects is not None:
        held = held.where(Delivery.subject.in_(subjects))
    await session.execute(
        update(Delivery)
        .where(Delivery.id.in_(held.scalar_subquery()))
        .values(state=PENDING, next_at=now)
        .execution_options(synchronize_session=False)
    )


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
    too, but it decides only if it succeeded: its delivery may by now be with another courier. Raises
    KeyError when a delivery is gone.
    """
    if not outcomes:
        return []
    locked = await session.execute(
        select(
            Delivery.id,
            Delivery.state,
            Delivery.attempts,
            Delivery.resent_after,
            Delivery.next_at,
            Delivery.delivered_at,
            Endpoint.ordered,
        )
        .join(Endpoint, Endpoint.id == Delivery.endpoint_id)
        .where(Delivery.id.in_([outcome.claimed.delivery_id for outcome in outcomes]))
        .order_by(
            Delivery.id
        )  # always the same order, so that two couriers never wait for each other
        .with_for_update(of=Delivery)
    )
    rows = {row.id: dict(row._mapping) for row in locked}
    decisions = []
    attempts = []
    for outcome in outcomes:
        row = rows[outcome.claimed.delivery_id]
        row["attempts"] += 1
        decision = retry.decide(
            attempt=row["attempts"] - row["resent_after"],
            status=outcome.status,
            now=now,
            jitter=jitter(),
            retry_after=(outcome.response_headers or {}).get("retry-after"),
        )
        _apply(decision, row, leased_until=outcome.claimed.leased_until, now=now)
        attempts.append(_attempt(outcome, number=row["attempts"], decision=decision, now=now))
        decisions.append(decision)
    table = Delivery.__table__
    await (await session.connection()).execute(
        update(table)  # type: ignore[arg-type]
        .where(table.c.id == bindparam("its_id"))
        .values({name: bindparam(f"its_{name}") for name in _SETTLED}),
        [{f"its_{name}": row[name] for name in ("id", *_SETTLED)} for row in rows.values()],
    )
    await session.execute(insert(Attempt), attempts)
    finished: dict[str, set[str]] = defaultdict(set)
    for outcome in outcomes:
        claimed = outcome.claimed
        row = rows[claimed.delivery_id]
        # By what the endpoint is now: it may have come to ask for order since the claim.
        if row["ordered"] and row["state"] != PENDING:
            finished[claimed.endpoint_id].add(claimed.subject)
    # Endpoints too are locked in one order.
    for endpoint_id in sorted({outcome.claimed.endpoint_id for outcome in outcomes}):
        own = [
            (outcome, decision)
            for outcome, decision in zip(outcomes, decisions, strict=True)
            if outcome.claimed.endpoint_id == endpoint_id
        ]
        await _note_health(session, endpoint_id, own, now=now)
        if endpoint_id in finished:
            await let_go(session, endpoint_id, subjects=finished[endpoint_id], now=now)
    return decisions


_SETTLED = ("attempts", "state", "next_at", "delivered_at")


def _apply(
    decision: retry.Decision, row: dict[str, Any], *, leased_until: datetime, now: datetime
) -> None:
    if row["state"] != PENDING:
        return
    leased = row["next_at"] == leased_until
    match decision:
        case retry.Delivered():
            row["state"], row["delivered_at"] = DELIVERED, now
        case retry.RetryAt(at) if leased:
            row["next_at"] = at
        case retry.GiveUp() if leased:
            row["state"] = FAILED


def _attempt(
    outcome: Outcome, *, number: int, decision: retry.Decision, now: datetime
) -> dict[str, Any]:
    body = outcome.response_body.decode(errors="replace")
    return {
        "id": new_id("att", now=now),
        "delivery_id": outcome.claimed.delivery_id,
        "number": number,
        "started_at": outcome.started_at,
        "ms": outcome.ms,
        "status": outcome.status,
        "error": outcome.error and outcome.error[:_MAX_ERROR_CHARS],
        "request_headers": outcome.request_headers,
        "response_headers": outcome.response_headers,
        # PostgreSQL's text cannot hold NUL.
        "response_body": None if outcome.status is None else body.replace("\0", "\ufffd"),
        "next_at": decision.at if isinstance(decision, retry.RetryAt) else None,
    }


async def _note_health(
    session: AsyncSession,
    endpoint_id: str,
    own: Sequence[tuple[Outcome, retry.Decision]],
    *,
    now: datetime,
) -> None:
    """Count failures in a row, and switch the endpoint off when it is gone or has failed for too long."""
    gone = next((d for _, d in own if isinstance(d, retry.GiveUp) and d.disable), None)
    failed = sum(not isinstance(decision, retry.Delivered) for _, decision in own)
    if gone and own[0][0].claimed.hook:
        # Unless it was deleted meanwhile.
        if (await session.get(Endpoint, endpoint_id, populate_existing=True)) is not None:
            await remove_endpoint(session, endpoint_id, now=now)
    elif gone:
        await set_enabled(session, endpoint_id, False, reason=gone.reason, now=now)
    elif failed == len(own):
        health = (
            await session.execute(
                update(Endpoint)
                .where(Endpoint.id == endpoint_id)
                .values(
                    failures=Endpoint.failures + failed,
                    failing_since=func.coalesce(Endpoint.failing_since, now),
                )
                .returning(Endpoint.failures, Endpoint.failing_since)
                .execution_options(synchronize_session=False)
            )
        ).one()
        if retry.is_given_up(failing_since=health[1], failures=health[0], now=now):
            reason = f"nothing has reached it since {health[1]:%Y-%m-%d %H:%M} UTC"
            await set_enabled(session, endpoint_id, False, reason=reason, now=now)
    elif failed or any(outcome.claimed.failures for outcome, _ in own):
        await session.execute(
            update(Endpoint)
            .where(Endpoint.id == endpoint_id, Endpoint.failures > 0)
            .values(failures=0, failing_since=None)
            .execution_options(synchronize_session=False)
        )


async def prune(
    session: AsyncSession,
    *,
    delivered_before: datetime,
    failed_before: datetime,
    limit: int = 1_000,
) -> int:
    """Forget up to *limit* old deliveries with their attempts; return how many. Those under way stay."""
    found = 0
    for state, before in ((DELIVERED, delivered_before), (FAILED, failed_before)):
        old = (
            await session.scalars(
                # By id, which begins with the time it was made at.
                select(Delivery.id)
                .where(Delivery.id < lowest_id("dlv", at=before), Delivery.state == state)
                .order_by(Delivery.id)
                .limit(limit - found)
            )
        ).all()
        if old:
            await session.execute(delete(Attempt).where(Attempt.delivery_id.in_(old)))
            await session.execute(delete(Delivery).where(Delivery.id.in_(old)))
        found += len(old)
    return found
