"""The verbs that mend what went wrong: send one again, recover what failed, replay what was, try it out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.events import CATALOGUE, SAMPLES
from trunkline.outbox.models import EventRow
from trunkline.outbox.record import record
from trunkline.webhooks import filters, queries
from trunkline.webhooks.models import Delivery, Endpoint
from trunkline.webhooks.queries import DELIVERED, FAILED, HELD, PENDING
from trunkline.webhooks.service import is_for, let_go, queue


async def resend(session: AsyncSession, delivery_id: str, *, now: datetime) -> Delivery:
    """Send a delivery again, whatever became of it, with the whole schedule before it.

    Raises NotFound; Conflict when its endpoint is off, or an earlier event of its call comes first.
    """
    delivery = await session.get(Delivery, delivery_id, with_for_update=True)
    if delivery is None:
        raise NotFound(f"there is no delivery {delivery_id!r}")
    await is_on(session, delivery.endpoint_id)
    if delivery.state == HELD:
        raise Conflict("an earlier event of the same call comes first; resend that one")
    delivery.state = PENDING
    delivery.resent_after, delivery.delivered_at = delivery.attempts, None
    delivery.next_at = now
    await session.flush()
    return delivery


async def recover(
    session: AsyncSession, endpoint_id: str, *, since: datetime, now: datetime
) -> int:
    """Send again all that failed of what was made since *since*; return how many.

    Raises NotFound, or Conflict when the endpoint is off.
    """
    endpoint = await is_on(session, endpoint_id)
    restarted = await session.scalars(
        update(Delivery)
        .where(Delivery.endpoint_id == endpoint_id, Delivery.state == FAILED)
        .where(Delivery.created_at >= since)
        .values(
            state=HELD if endpoint.ordered else PENDING,
            resent_after=Delivery.attempts,
            next_at=now,
        )
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    )
    count = len(restarted.all())
    if endpoint.ordered:
        await let_go(session, endpoint_id, now=now)
    return count


@dataclass(frozen=True)
class Replay:
    """How far a replay came."""

    count: int
    """Deliveries that were made or begun again."""
    after: int | None
    """The position to go on after; None when it is done."""


async def replay(
    session: AsyncSession,
    endpoint_id: str,
    *,
    events: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    subject: str | None = None,
    after: int = 0,
    limit: int = 1_000,
    now: datetime,
) -> Replay:
    """Send what was published between *since* and *until* to an endpoint, as if for the first time.

    *events* are filters, the endpoint's own by default; *subject* is one call. It also gets what was told
    before it existed. At most *limit* events are looked at: call again with the returned position until
    there is none. Raises NotFound; Conflict when the endpoint is off; Invalid for an unknown event.
    """
    endpoint = await is_on(session, endpoint_id)
    wanted = filters.checked(events) if events is not None else list(endpoint.events)
    query = select(EventRow).where(EventRow.position > after).order_by(EventRow.position)
    if since is not None:
        query = query.where(EventRow.recorded_at >= since)
    if until is not None:
        query = query.where(EventRow.recorded_at < until)
    if subject is not None:
        query = query.where(EventRow.subject == subject)
    found = (await session.scalars(query.limit(limit))).all()
    chosen = [
        event for event in found if filters.wants(wanted, event.type) and is_for(event, endpoint)
    ]
    again = await session.scalars(
        update(Delivery)
        .where(Delivery.endpoint_id == endpoint_id)
        .where(Delivery.event_id.in_([event.id for event in chosen]))
        .where(Delivery.state.in_([DELIVERED, FAILED]))
        .values(
            state=HELD if endpoint.ordered else PENDING,
            resent_after=Delivery.attempts,
            delivered_at=None,
            next_at=now,
        )
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    )
    count = len(again.all())
    if endpoint.ordered:
        await let_go(session, endpoint_id, now=now)
    count += len(await queue(session, endpoint, chosen, now=now))
    last = found[-1].position if len(found) == limit else None
    return Replay(count, last)


async def send_sample(
    session: AsyncSession, endpoint_id: str, event_type: str, *, now: datetime
) -> EventRow:
    """Record the sample of *event_type* for this endpoint alone, marked ``"sample": true``.

    Raises NotFound, or Invalid when there is no such event.
    """
    await queries.endpoint(session, endpoint_id)
    if event_type not in CATALOGUE:
        filters.checked([event_type or "?"])
        raise Invalid(f"name one event, not {event_type!r}")
    sample = next(each for each in SAMPLES if each.type == event_type)
    return await record(session, sample, now=now, sample_for=endpoint_id)


async def is_on(session: AsyncSession, endpoint_id: str) -> Endpoint:
    """The endpoint, if something can be sent to it now. Raises NotFound, or Conflict when it is off."""
    endpoint = await queries.endpoint(session, endpoint_id)
    if not endpoint.enabled:
        raise Conflict(f"the endpoint is off ({endpoint.disabled_reason}); switch it on first")
    return endpoint
