"""The verbs of webhooks: keep endpoints, and make deliveries of events.

For the verbs of the courier see ``claims`` and ``outcomes``; for those that mend what went wrong ``repair``.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict

from sqlalchemy import exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from trunkline.events import EndpointDisabled, EndpointTest
from trunkline.kit.crypt import Sealer
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.outbox.models import EventRow
from trunkline.outbox.record import record
from trunkline.webhooks import checks, filters, queries, retell, signing, versions
from trunkline.webhooks.models import Delivery, Endpoint
from trunkline.webhooks.options import EndpointOptions
from trunkline.webhooks.queries import FAILED, HELD, PENDING

STANDARD, RETELL = "standard", "retell"
BY_HAND = "switched off by hand"


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
