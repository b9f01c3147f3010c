"""What happened with one person, over all domains, newest first: calls, activities, changes."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls.models import Call
from trunkline.crm.models import Activity, Change


@dataclass(frozen=True)
class Moment:
    """One thing that happened. ``thing`` is a Call, an Activity or a Change, as ``kind`` says."""

    at: datetime
    kind: str
    thing: Any


async def of_contact(
    session: AsyncSession, contact_id: str, *, before: datetime | None = None, limit: int = 50
) -> list[Moment]:
    """The *limit* newest things of a contact, those before the moment *before*.

    Each kind is asked for *limit* of its own, by index, so that none can hide the others.
    """
    found: list[Moment] = []
    calls = select(Call).where(Call.contact_id == contact_id)
    activities = select(Activity).where(Activity.contact_id == contact_id)
    # That a thing came into being stands there as the thing itself.
    changes = select(Change).where(
        Change.entity == "contact", Change.entity_id == contact_id, Change.field != "*"
    )
    if before is not None:
        calls = calls.where(Call.started_at < before)
        activities = activities.where(Activity.created_at < before)
        changes = changes.where(Change.created_at < before)
    for call in await session.scalars(calls.order_by(Call.started_at.desc()).limit(limit)):
        found.append(Moment(call.started_at, "call", call))
    for activity in await session.scalars(
        activities.order_by(Activity.created_at.desc()).limit(limit)
    ):
        found.append(Moment(activity.created_at, "activity", activity))
    for change in await session.scalars(changes.order_by(Change.id.desc()).limit(limit)):
        found.append(Moment(change.created_at, "change", change))
    found.sort(key=lambda one: one.at, reverse=True)
    return found[:limit]
