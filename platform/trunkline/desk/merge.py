"""Merging two contacts, with their calls; and taking back any change, a merge too."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import service as calls
from trunkline.crm import ledger, merging
from trunkline.crm import service as crm
from trunkline.crm.models import Change, Contact
from trunkline.errors import NotFound


async def merge(
    session: AsyncSession, contact_id: str, merged_id: str, *, cause: crm.Cause, now: datetime
) -> tuple[Contact, Change]:
    """Let *merged_id* be *contact_id* from now on, with its calls and all else.

    Returns the latter, and the change that ``undo`` takes back.

    Raises as ``crm.merging.merge`` does, and then the transaction must not be committed.
    """
    moved = await calls.give_to_contact(session, merged_id, contact_id)
    return await merging.merge(session, contact_id, merged_id, calls=moved, cause=cause, now=now)


async def undo(session: AsyncSession, change_id: str, *, cause: crm.Cause, now: datetime) -> Change:
    """Take a change back, as ``crm.service.undo`` does, and of a merge the calls too."""
    change = await session.get(Change, change_id, with_for_update=True, populate_existing=True)
    if change is None:
        raise NotFound(f"no change {change_id}")
    if change.field != ledger.MERGED or change.after is None:
        return await crm.undo(session, change_id, cause=cause, now=now)
    back, merge_ = await merging.part(session, change, cause=cause, now=now)
    await calls.give_to_contact(
        session, merge_.contact_id, merge_.merged_id, only=merge_.moved["calls"]
    )
    return back
