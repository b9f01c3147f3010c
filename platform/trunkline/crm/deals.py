"""Verbs of pipelines and deals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm import fields, ledger, queries
from trunkline.crm.ledger import Cause
from trunkline.crm.models import Deal, Pipeline
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.ids import new_id
from trunkline.kit.money import Money
from trunkline.outbox.record import record

OUTCOMES = ("open", "won", "lost")
FIELDS = frozenset({"title", "contact_id", "stage", "amount_minor", "currency"})
"""What may be set."""


@dataclass(frozen=True)
class Stage:
    """A step of a pipeline; a deal in it counts as ``outcome``: open, won or lost."""

    name: str
    outcome: str = "open"


async def create_pipeline(
    session: AsyncSession, *, name: str, stages: Sequence[Stage], now: datetime
) -> Pipeline:
    """Add a pipeline with its stages in order. Raises Invalid, or Conflict when the name is taken."""
    name = fields.text(name, "a pipeline's name", 60)
    names = [fields.text(stage.name, "a stage's name", 60) for stage in stages]
    if not names or len({each.casefold() for each in names}) < len(names):
        raise Invalid(f"pipeline {name!r} needs at least one stage, each with a name of its own")
    for stage in stages:
        if stage.outcome not in OUTCOMES:
            raise Invalid(f"stage {stage.name!r} must be {' or '.join(OUTCOMES)}")
    if await queries.pipeline_named(session, name):
        raise Conflict(f"there is a pipeline {name!r} already")
    rows = [
        {"name": each, "outcome": stage.outcome} for each, stage in zip(names, stages, strict=True)
    ]
    pipeline = Pipeline(id=new_id("pip", now=now), name=name, stages=rows)
    session.add(pipeline)
    await session.flush()
    return pipeline


async def create_deal(
    session: AsyncSession,
    *,
    title: str,
    contact_id: str | None,
    pipeline: str,
    stage: str,
    amount: Money,
    deal_id: str | None = None,
    cause: Cause,
    now: datetime,
) -> Deal:
    """Add a deal. *deal_id* is a fresh id to take.

    Raises NotFound (contact, pipeline), or Invalid (title, stage, amount).
    """
    fields.amount(amount)
    contact = await queries.contact(session, contact_id) if contact_id else None
    at = await _stage(session, pipeline, stage)
    deal = Deal(
        id=deal_id or new_id("deal", now=now),
        title=fields.title(title),
        contact_id=contact.id if contact else None,
        company_id=contact.company_id if contact else None,
        pipeline=pipeline,
        stage=at.name,
        outcome=at.outcome,
        amount_minor=amount.minor,
        currency=amount.currency,
        created_at=now,
        updated_at=now,
    )
    session.add(deal)
    await session.flush()
    after = {
        "title": deal.title,
        "contact_id": deal.contact_id,
        "pipeline": deal.pipeline,
        "stage": deal.stage,
        "amount_minor": deal.amount_minor,
        "currency": deal.currency,
    }
    ledger.write(session, "deal", deal.id, ledger.CREATED, None, after, cause=cause, now=now)
    await _tell(session, deal, {}, after, cause=cause, now=now)
    return deal


async def move_deal(
    session: AsyncSession, deal_id: str, stage: str, *, cause: Cause, now: datetime
) -> Deal:
    """Put a deal into another stage of its pipeline; nothing happens if it is there already.

    Raises NotFound, or Invalid naming the stages there are.
    """
    return await update_deal(session, deal_id, {"stage": stage}, cause=cause, now=now)


async def update_deal(
    session: AsyncSession,
    deal_id: str,
    changes: Mapping[str, Any],
    *,
    cause: Cause,
    now: datetime,
) -> Deal:
    """Set any of title, contact_id, stage, amount_minor and currency; one event tells of all that changed.

    What is the same already leaves no trace. Raises NotFound (deal, contact), or Invalid for other
    fields and wrong values.
    """
    fields.only("a deal", changes, FIELDS)
    deal = await queries.deal(session, deal_id, lock=True)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for field, value in changes.items():
        was = getattr(deal, field)
        await assign(session, deal, field, value, now=now)
        if (becomes := getattr(deal, field)) != was:
            before[field], after[field] = was, becomes
    if after:
        deal.updated_at = now
        for field in after:
            ledger.write(
                session, "deal", deal.id, field, before[field], after[field], cause=cause, now=now
            )
        await _tell(session, deal, before, after, cause=cause, now=now)
    return deal


async def assign(
    session: AsyncSession, deal: Deal, field: str, value: Any, *, now: datetime
) -> None:
    match field:
        case "title":
            deal.title = fields.title(value)
        case "stage":
            _put(deal, await _stage(session, deal.pipeline, str(value)), now=now)
        case "contact_id":
            contact = None if value is None else await queries.contact(session, value)
            deal.contact_id = contact.id if contact else None
            deal.company_id = contact.company_id if contact else None
        case "amount_minor":
            deal.amount_minor = fields.amount(Money(value, deal.currency)).minor
        case "currency":
            deal.currency = fields.amount(Money(deal.amount_minor, value)).currency


async def _tell(
    session: AsyncSession,
    deal: Deal,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    cause: Cause,
    now: datetime,
) -> None:
    updated = events.DealUpdated(
        deal.id, deal.contact_id, deal.title, cause.source, before, after, cause.evidence
    )
    await record(session, updated, now=now)


async def _stage(session: AsyncSession, pipeline: str, stage: str) -> Stage:
    found = await queries.pipeline_named(session, pipeline)
    if found is None:
        raise NotFound(f"no pipeline {pipeline!r}")
    for row in found.stages:
        if row["name"].casefold() == stage.strip().casefold():
            return Stage(row["name"], row["outcome"])
    names = ", ".join(row["name"] for row in found.stages)
    raise Invalid(f"pipeline {pipeline!r} has no stage {stage!r}; its stages are {names}")


def _put(deal: Deal, at: Stage, *, now: datetime) -> None:
    deal.stage, deal.outcome, deal.updated_at = at.name, at.outcome, now
