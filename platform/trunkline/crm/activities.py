"""Verbs of activities: calls, notes, tasks and meetings."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm import fields, ledger, queries
from trunkline.crm.ledger import Cause
from trunkline.crm.models import Activity
from trunkline.errors import Conflict, Invalid
from trunkline.kit.ids import new_id
from trunkline.outbox.record import record

KINDS = ("call", "note", "task", "meeting")
FIELDS = frozenset({"summary", "due_at", "done_at"})
"""What may be set."""


async def log_activity(
    session: AsyncSession,
    *,
    kind: str,
    summary: str,
    contact_id: str | None,
    deal_id: str | None = None,
    due_at: datetime | None = None,
    activity_id: str | None = None,
    cause: Cause,
    now: datetime,
) -> Activity:
    """Write down a call, note, task or meeting; a task, and only a task, has *due_at*.

    *activity_id* is a fresh id to take.
    Raises Invalid, NotFound (contact, deal), or Conflict when the deal is somebody else's.
    """
    if kind not in KINDS:
        raise Invalid(f"{kind!r} is no kind of activity; there are {', '.join(KINDS)}")
    if (kind == "task") != (due_at is not None):
        raise Invalid("a task needs the time it is due, and only a task has one")
    if contact_id is not None:
        contact_id = (await queries.contact(session, contact_id)).id
    if deal_id is not None:
        deal = await queries.deal(session, deal_id)
        if contact_id is not None and deal.contact_id not in (None, contact_id):
            raise Conflict(f"deal {deal_id} belongs to another contact than {contact_id}")
    activity = Activity(
        id=activity_id or new_id("act", now=now),
        kind=kind,
        summary=fields.summary(summary),
        contact_id=contact_id,
        deal_id=deal_id,
        call_id=cause.call_id,
        due_at=due_at,
        done_at=None,
        created_at=now,
    )
    session.add(activity)
    await session.flush()
    after = {
        "kind": kind,
        "summary": activity.summary,
        "contact_id": contact_id,
        "deal_id": deal_id,
        "due_at": fields.iso(due_at),
    }
    ledger.write(
        session, "activity", activity.id, ledger.CREATED, None, after, cause=cause, now=now
    )
    logged = events.ActivityLogged(
        activity.id,
        kind,
        activity.summary,
        contact_id,
        deal_id,
        due_at,
        cause.source,
        cause.evidence,
    )
    await record(session, logged, now=now)
    return activity


async def complete_task(
    session: AsyncSession, activity_id: str, *, cause: Cause, now: datetime
) -> Activity:
    """Mark a task as done; nothing happens if it is. Raises NotFound, or Invalid if it is no task."""
    return await update_activity(session, activity_id, {"done_at": now}, cause=cause, now=now)


async def update_activity(
    session: AsyncSession,
    activity_id: str,
    changes: Mapping[str, Any],
    *,
    cause: Cause,
    now: datetime,
) -> Activity:
    """Set the summary, or of a task also due_at and done_at; what is done stays done when it was.

    What is the same already leaves no trace. Raises NotFound, or Invalid for other fields and wrong values.
    """
    fields.only("an activity", changes, FIELDS)
    activity = await queries.activity(session, activity_id, lock=True)
    for field, value in changes.items():
        before = read(activity, field)
        if field == "done_at" and before is not None and value is not None:
            continue
        assign(activity, field, value)
        after = read(activity, field)
        if after != before:
            ledger.write(
                session, "activity", activity.id, field, before, after, cause=cause, now=now
            )
    await session.flush()
    return activity


def read(activity: Activity, field: str) -> Any:
    """A field as the ledger has it."""
    value = getattr(activity, field)
    return value if field == "summary" else fields.iso(value)


def assign(activity: Activity, field: str, value: Any) -> None:
    if field == "summary":
        activity.summary = fields.summary(value)
        return
    if activity.kind != "task":
        raise Invalid(
            f"activity {activity.id} is a {activity.kind}; only a task is due and can be done"
        )
    if field == "due_at" and value is None:
        raise Invalid("a task needs the time it is due")
    setattr(activity, field, value)
