"""Merging two contacts, with their calls; and taking back any change, a merge too."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import service as calls
from trunkline.calls.models import Call
from trunkline.crm import fields, ledger, merging, queries
from trunkline.crm import service as crm
from trunkline.crm.models import Activity, Change, Contact, Deal


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
    change = await queries.change(session, change_id, lock=True)
    if change.field != ledger.MERGED or change.after is None:
        return await crm.undo(session, change_id, cause=cause, now=now)
    back, merge_ = await merging.part(session, change, cause=cause, now=now)
    await calls.give_to_contact(
        session, merge_.contact_id, merge_.merged_id, only=merge_.moved["calls"]
    )
    return back


@dataclass(frozen=True)
class Belongings:
    """How much would move along."""

    phones: int
    calls: int
    deals: int
    activities: int


async def belongings(session: AsyncSession, contact: Contact) -> Belongings:
    """What a contact has besides its fields."""

    async def count(table: Any) -> int:
        rows = select(func.count()).select_from(table).where(table.contact_id == contact.id)
        return int(await session.scalar(rows) or 0)

    return Belongings(len(contact.phones), *[await count(one) for one in (Call, Deal, Activity)])


async def likely(session: AsyncSession, contact: Contact, *, limit: int = 8) -> list[Contact]:
    """Who may be the same person, the likeliest first: of the same address or name, then of a number that
    ends alike, then who shares the last word of the name."""
    found = {one.id: one for one in await queries.duplicates(session, contact, limit=limit)}
    for row in contact.phones:
        for one in await queries.find_contacts(session, row.e164[-7:], limit=limit):
            found.setdefault(one.id, one)
    last = fields.key(contact.name or "").rpartition(" ")[2]
    for one in await queries.find_contacts(session, last, limit=limit) if last else ():
        if last in (one.name_key or ""):  # not in the company's
            found.setdefault(one.id, one)
    found.pop(contact.id, None)
    return list(found.values())[:limit]


async def standing(session: AsyncSession, contact_id: str) -> Sequence[Change]:
    """Merges into this contact that can be taken back, the newest first."""
    rows = select(Change).where(
        Change.entity == "contact",
        Change.entity_id == contact_id,
        Change.field == ledger.MERGED,
        Change.undone_at.is_(None),
    )
    found = await session.scalars(rows.order_by(Change.id.desc()).limit(20))
    return [one for one in found if one.after is not None]
