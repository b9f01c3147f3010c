"""Taking a change back."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm import activities, contacts, deals, ledger, queries
from trunkline.crm.ledger import Cause
from trunkline.crm.models import Activity, Change, Deal, ExternalId
from trunkline.errors import Conflict, Refused
from trunkline.outbox.record import record


async def undo(session: AsyncSession, change_id: str, *, cause: Cause, now: datetime) -> Change:
    """Take a change back and return the compensating change; that one may be undone in turn.

    An activity or deal that came into being is deleted again; a contact stays, because calls
    name it (Refused). Raises NotFound, or Conflict when the change is undone already or what it
    changed has changed since. Merges are taken back by ``desk.merge.undo``, since calls go back too.
    """
    change = await queries.change(session, change_id, lock=True)
    if change.undone_at is not None:
        raise Conflict(f"change {change_id} is undone already")
    if change.field == ledger.MERGED:
        raise Refused(f"change {change_id} is a merge, which is taken back as a whole")
    if change.field == ledger.CREATED:
        await _undo_creation(session, change)
    else:
        await _undo_field(session, change, by=cause.by, now=now)
    return await compensate(session, change, cause=cause, now=now)


async def compensate(
    session: AsyncSession, change: Change, *, cause: Cause, now: datetime
) -> Change:
    """Write down that *change* was taken back; returns the change that did so."""
    change.undone_at = now
    back = ledger.write(
        session,
        change.entity,
        change.entity_id,
        change.field,
        change.after,
        change.before,
        cause=cause,
        now=now,
    )
    undone = events.ChangeUndone(
        change.id,
        change.entity,
        change.entity_id,
        change.field,
        change.after,
        change.before,
        change.call_id,
    )
    await record(session, undone, now=now)
    return back


async def _undo_field(
    session: AsyncSession, change: Change, *, by: str | None, now: datetime
) -> None:
    match change.entity:
        case "contact":
            contact = await contacts.row(session, change.entity_id)
            if contact.merged_into is not None:
                raise Conflict(
                    f"contact {contact.id} was merged into {contact.merged_into}; "
                    "undo the merge first"
                )
            _unchanged(change, contacts.read(contact, change.field))
            await contacts.assign(session, contact, change.field, change.before, by=by, now=now)
            contact.updated_at = now
        case "deal":
            deal = await queries.deal(session, change.entity_id, lock=True)
            _unchanged(change, getattr(deal, change.field))
            await deals.assign(session, deal, change.field, change.before, now=now)
            deal.updated_at = now
        case _:
            activity = await queries.activity(session, change.entity_id, lock=True)
            _unchanged(change, activities.read(activity, change.field))
            before = change.before
            if change.field != "summary" and before is not None:
                before = datetime.fromisoformat(before)
            activities.assign(activity, change.field, before)
    await session.flush()


async def _undo_creation(session: AsyncSession, change: Change) -> None:
    if change.entity == "contact":
        raise Refused(
            f"contact {change.entity_id} cannot be taken back, since calls may name it; "
            "correct its fields instead"
        )
    if change.before is not None:
        raise Refused(f"{change.entity} {change.entity_id} was deleted; add it anew")
    since = (
        select(Change.id)
        .where(
            Change.entity == change.entity,
            Change.entity_id == change.entity_id,
            Change.id != change.id,
        )
        .limit(1)
    )
    if await session.scalar(since):
        raise Conflict(f"{change.entity} {change.entity_id} has changed since")
    row: Deal | Activity
    if change.entity == "deal":
        row = await queries.deal(session, change.entity_id, lock=True)
        used = select(Activity.id).where(Activity.deal_id == row.id).limit(1)
        if await session.scalar(used):
            raise Conflict(f"deal {row.id} has activities; undo those first")
    else:
        row = await queries.activity(session, change.entity_id, lock=True)
    # Another system that still names it makes it anew.
    await session.execute(
        delete(ExternalId).where(
            ExternalId.entity == change.entity, ExternalId.entity_id == change.entity_id
        )
    )
    await session.delete(row)
    await session.flush()


def _unchanged(change: Change, current: Any) -> None:
    if current != change.after:
        raise Conflict(
            f"the {change.field} of {change.entity} {change.entity_id} has changed since; "
            "undo the later change first"
        )
