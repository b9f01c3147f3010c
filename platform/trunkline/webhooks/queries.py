"""Reads of endpoints, deliveries and attempts."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, ScalarSelect, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.errors import NotFound
from trunkline.webhooks.models import Attempt, Delivery, Endpoint


@dataclass(frozen=True)
class DeliveryLog:
    """A delivery, where it goes, and all attempts at it in order."""

    delivery: Delivery
    endpoint: Endpoint
    attempts: Sequence[Attempt]


async def endpoints(session: AsyncSession) -> Sequence[Endpoint]:
    """All endpoints, oldest first."""
    return (await session.scalars(select(Endpoint).order_by(Endpoint.id))).all()


async def endpoint(session: AsyncSession, endpoint_id: str) -> Endpoint:
    """The endpoint of that id. Raises NotFound."""
    found = await session.get(Endpoint, endpoint_id)
    if found is None:
        raise NotFound(f"there is no endpoint {endpoint_id!r}")
    return found


async def deliveries_of_subject(session: AsyncSession, subject: str) -> list[DeliveryLog]:
    """Everything told about *subject* (a call, mostly), in the order it came about, with its attempts."""
    rows = await session.scalars(
        select(Delivery).where(Delivery.subject == subject).order_by(Delivery.id)
    )
    return await _logs(session, rows.all())


async def deliveries(
    session: AsyncSession,
    *,
    endpoint_id: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> list[DeliveryLog]:
    """A page of deliveries with their attempts, newest first; *after* is the last id of the page before."""
    query = select(Delivery).order_by(Delivery.id.desc()).limit(limit)
    if endpoint_id is not None:
        query = query.where(Delivery.endpoint_id == endpoint_id)
    if after is not None:
        query = query.where(Delivery.id < after)
    return await _logs(session, (await session.scalars(query)).all())


async def _logs(session: AsyncSession, rows: Sequence[Delivery]) -> list[DeliveryLog]:
    tried: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in await session.scalars(
        select(Attempt)
        .where(Attempt.delivery_id.in_([row.id for row in rows]))
        .order_by(Attempt.number)
    ):
        tried[attempt.delivery_id].append(attempt)
    known = {endpoint.id: endpoint for endpoint in await endpoints(session)}
    return [DeliveryLog(row, known[row.endpoint_id], tried[row.id]) for row in rows]


def is_pending() -> ColumnElement[bool]:
    """``state = 'pending'`` as a constant: only then does SQLite see that the partial index fits."""
    return Delivery.state == literal_column("'pending'")


def first_due() -> ScalarSelect[datetime]:
    """When the next delivery of the enclosing query's endpoint is due: one step in its index."""
    return (
        select(func.min(Delivery.next_at))
        .where(Delivery.endpoint_id == Endpoint.id, is_pending())
        .correlate(Endpoint)
        .scalar_subquery()
    )


async def next_due(session: AsyncSession, *, skip: Collection[str] = ()) -> datetime | None:
    """When the next delivery to an enabled endpoint is due, those to the endpoints *skip* left out."""
    return await session.scalar(
        select(func.min(first_due())).where(Endpoint.enabled, Endpoint.id.not_in(skip))
    )
