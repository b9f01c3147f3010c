"""Reads of endpoints, deliveries and attempts."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, ScalarSelect, case, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.util import AliasedClass

from trunkline.errors import Invalid, NotFound
from trunkline.kit.ids import lowest_id
from trunkline.webhooks.models import Attempt, Delivery, Endpoint
from trunkline.webhooks.retry import FAILING_FROM

PENDING, HELD, DELIVERED, FAILED = "pending", "held", "delivered", "failed"


@dataclass(frozen=True)
class DeliveryLog:
    """A delivery, where it goes, and all attempts at it in order."""

    delivery: Delivery
    endpoint: Endpoint
    attempts: Sequence[Attempt]


async def endpoints(session: AsyncSession, *, deleted: bool = False) -> Sequence[Endpoint]:
    """All endpoints, oldest first; with *deleted* also those that only the log still names."""
    query = select(Endpoint).order_by(Endpoint.id)
    if not deleted:
        query = query.where(Endpoint.deleted_at.is_(None))
    return (await session.scalars(query)).all()


async def endpoints_page(
    session: AsyncSession, *, after: str | None, limit: int, hooks_only: bool = False
) -> Sequence[Endpoint]:
    """Endpoints, oldest first, those after the id *after*; with *hooks_only* REST hooks alone."""
    query = select(Endpoint).where(Endpoint.deleted_at.is_(None)).order_by(Endpoint.id).limit(limit)
    if hooks_only:
        query = query.where(Endpoint.hook)
    if after is not None:
        query = query.where(Endpoint.id > after)
    return (await session.scalars(query)).all()


async def endpoint(session: AsyncSession, endpoint_id: str) -> Endpoint:
    """The endpoint of that id. Raises NotFound, also when it was deleted."""
    found = await session.get(Endpoint, endpoint_id)
    if found is None or found.deleted_at is not None:
        raise NotFound(f"there is no endpoint {endpoint_id!r}")
    return found


async def switched_off(session: AsyncSession) -> Sequence[Endpoint]:
    """Endpoints that were switched off because nothing reached them, for a notice to people."""
    return (
        await session.scalars(
            select(Endpoint)
            .where(Endpoint.deleted_at.is_(None), ~Endpoint.enabled)
            .where(Endpoint.disabled_reason != "switched off by hand")
            .order_by(Endpoint.id)
        )
    ).all()


@dataclass(frozen=True)
class Health:
    """How an endpoint fared of late: its attempts, those that failed, and when the last one was."""

    attempts: int
    failed: int
    last_at: datetime

    @property
    def error_rate(self) -> float:
        """The part of the attempts that failed, from 0 to 1."""
        return self.failed / self.attempts


async def health(
    session: AsyncSession, *, now: datetime, span: timedelta = timedelta(days=1), most: int = 10_000
) -> dict[str, Health]:
    """Endpoint id → how it fared within *span*; who had no attempt is left out.

    Of all attempts only the newest *most* are looked at, so that a busy day costs no more than that.
    """
    # By id, which begins with the time it was made at.
    recent = (
        select(Attempt.delivery_id, Attempt.status, Attempt.started_at)
        .where(Attempt.id >= lowest_id("att", at=now - span))
        .order_by(Attempt.id.desc())
        .limit(most)
        .subquery()
    )
    arrived = recent.c.status.between(200, 299)
    rows = await session.execute(
        select(
            Delivery.endpoint_id,
            func.count(),
            func.sum(case((arrived, 0), else_=1)),
            func.max(recent.c.started_at),
        )
        .join(recent, recent.c.delivery_id == Delivery.id)
        .group_by(Delivery.endpoint_id)
    )
    return {id_: Health(attempts, failed, last_at) for id_, attempts, failed, last_at in rows}


async def delivery(session: AsyncSession, delivery_id: str) -> DeliveryLog:
    """One delivery with all its attempts. Raises NotFound."""
    found = await session.get(Delivery, delivery_id)
    if found is None:
        raise NotFound(f"there is no delivery {delivery_id!r}")
    [log] = await _logs(session, [found])
    return log


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
    state: str | None = None,
    event_type: str | None = None,
    subject: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> list[DeliveryLog]:
    """A page of deliveries with their attempts, newest first; *after* is the last id of the page before.

    *state* is pending, held, delivered or failed (the dead letters). Raises Invalid for another.
    """
    if state not in (None, PENDING, HELD, DELIVERED, FAILED):
        raise Invalid(f"a delivery is never {state!r}; it is pending, held, delivered or failed")
    query = select(Delivery).order_by(Delivery.id.desc()).limit(limit)
    if endpoint_id is not None:
        query = query.where(Delivery.endpoint_id == endpoint_id)
    if state is not None:
        # As a constant, so that the partial index of the dead letters is seen to fit.
        query = query.where(Delivery.state == literal_column(f"'{state}'"))
    if event_type is not None:
        query = query.where(Delivery.event_type == event_type)
    if subject is not None:
        query = query.where(Delivery.subject == subject)
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
    known = {endpoint.id: endpoint for endpoint in await endpoints(session, deleted=True)}
    return [DeliveryLog(row, known[row.endpoint_id], tried[row.id]) for row in rows]


def is_pending() -> ColumnElement[bool]:
    """``state = 'pending'`` as a constant: only then does SQLite see that the partial index fits."""
    return Delivery.state == literal_column("'pending'")


def is_queued(table: type[Delivery] | AliasedClass[Delivery] = Delivery) -> ColumnElement[bool]:
    """Pending or held, written as the partial index of the queues has it."""
    return table.state.in_([literal_column("'pending'"), literal_column("'held'")])


def first_due() -> ScalarSelect[datetime]:
    """When the next delivery of the enclosing query's endpoint is due: one step in its index."""
    return (
        select(func.min(Delivery.next_at))
        .where(Delivery.endpoint_id == Endpoint.id, is_pending())
        .correlate(Endpoint)
        .scalar_subquery()
    )


async def next_due(
    session: AsyncSession, *, skip: Collection[str] = ()
) -> tuple[datetime | None, datetime | None]:
    """When the next delivery to an enabled endpoint is due: to any but those that fail, and to those.

    Those to the endpoints *skip* are left out. A rate limit counts: what it holds back is not due before it
    lets go.
    """
    found = await session.execute(
        select(first_due(), Endpoint.not_before, Endpoint.failures >= FAILING_FROM).where(
            Endpoint.enabled, Endpoint.id.not_in(skip)
        )
    )
    dues: dict[bool, list[datetime]] = {False: [], True: []}
    for first, not_before, failing in found:
        if first is not None:
            dues[failing].append(max(first, not_before) if not_before else first)
    return min(dues[False], default=None), min(dues[True], default=None)
