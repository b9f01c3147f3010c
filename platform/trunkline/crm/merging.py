"""Two contacts that are one person: everything of one goes to the other, and can go back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm import contacts, ledger
from trunkline.crm.ledger import Cause
from trunkline.crm.models import (
    Activity,
    Change,
    Contact,
    ContactPhone,
    Deal,
    ExternalId,
    Merge,
)
from trunkline.crm.undo import compensate
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.ids import new_id
from trunkline.outbox.record import record

_OWNED: dict[str, Any] = {"phones": ContactPhone, "deals": Deal, "activities": Activity}


async def merge(
    session: AsyncSession,
    contact_id: str,
    merged_id: str,
    *,
    calls: Sequence[str],
    cause: Cause,
    now: datetime,
) -> tuple[Contact, Change]:
    """Let *merged_id* be *contact_id* from now on; returns the latter, and the change in the ledger.

    Its numbers, deals, activities and names in other systems move over, as its *calls* have already. What
    the contact that stays has not, it gets from the other; tags are joined; and who is not to be called is
    still not. Raises NotFound, Invalid for one contact twice, or Conflict when either was merged before.
    """
    if contact_id == merged_id:
        raise Invalid("a contact cannot be merged with itself; name two")
    # Always in one order, so that two merges of the same people cannot wait for each other.
    found = {id_: await contacts.row(session, id_) for id_ in sorted((contact_id, merged_id))}
    stays, goes = found[contact_id], found[merged_id]
    for one in (stays, goes):
        if one.merged_into is not None:
            raise Conflict(f"contact {one.id} was merged into {one.merged_into} already")
    moved = {"calls": list(calls), **await _take_over(session, goes.id, stays.id)}
    changed = await _completed(session, stays, goes, now=now)
    goes.merged_into, goes.updated_at, stays.updated_at = stays.id, now, now
    counts = {kind: len(moved[kind]) for kind in ("phones", "calls", "deals", "activities")}
    after = {"contact_id": goes.id, "name": goes.name, **counts, "changes": changed}
    change = ledger.write(
        session, "contact", stays.id, ledger.MERGED, None, after, cause=cause, now=now
    )
    await session.flush()
    session.add(
        Merge(
            id=new_id("mrg", now=now),
            contact_id=stays.id,
            merged_id=goes.id,
            change_id=change.id,
            moved=moved,
            created_at=now,
        )
    )
    told = events.ContactMerged(stays.id, goes.id, change.id, cause.source, counts, changed)
    await record(session, told, now=now)
    for one in (stays, goes):
        await session.refresh(one, ["phones"])
    return stays, change


async def part(
    session: AsyncSession, change: Change, *, cause: Cause, now: datetime
) -> tuple[Change, Merge]:
    """Take the merge back that *change* is; returns the compensating change, and what had moved.

    What has come since stays with whom it came to, and so does what was changed since. Raises Conflict when
    it is undone already, or the contact that stayed was merged itself.
    """
    if change.undone_at is not None:
        raise Conflict(f"change {change.id} is undone already")
    merge_ = await session.scalar(select(Merge).where(Merge.change_id == change.id))
    if merge_ is None:
        raise NotFound(f"change {change.id} is no merge that can be taken back")
    pair = sorted((merge_.contact_id, merge_.merged_id))
    found = {id_: await contacts.row(session, id_) for id_ in pair}
    stays, goes = found[merge_.contact_id], found[merge_.merged_id]
    if goes.merged_into != stays.id:
        raise Conflict(
            f"contact {stays.id} was itself merged into {goes.merged_into}; undo that first"
        )
    for kind, table in _OWNED.items():
        await session.execute(
            update(table)
            .where(table.id.in_(merge_.moved[kind]), table.contact_id == stays.id)
            .values(contact_id=goes.id)
        )
    await session.execute(
        update(Contact).where(Contact.id.in_(merge_.moved["contacts"])).values(merged_into=goes.id)
    )
    for source, external_id in merge_.moved["external_ids"]:
        await session.execute(
            update(ExternalId)
            .where(*_named(stays.id), ExternalId.source == source)
            .where(ExternalId.external_id == external_id)
            .values(entity_id=goes.id)
        )
    goes.merged_into = None
    for one in (stays, goes):
        one.updated_at = now
        await session.flush()
        await session.refresh(one, ["phones"])
    for field, (before, after) in (change.after or {})["changes"].items():
        if contacts.read(stays, field) == after:
            await contacts.assign(session, stays, field, before, by=None, now=now)
    back = await compensate(session, change, cause=cause, now=now)
    await session.flush()
    return back, merge_


async def _take_over(session: AsyncSession, from_id: str, to_id: str) -> dict[str, list[Any]]:
    """Move what belongs to one contact to the other; returns its ids by kind."""
    moved: dict[str, list[Any]] = {}
    for kind, table in _OWNED.items():
        rows = await session.scalars(
            update(table)
            .where(table.contact_id == from_id)
            .values(contact_id=to_id)
            .returning(table.id)
        )
        moved[kind] = sorted(rows)
    earlier = await session.scalars(
        update(Contact)
        .where(Contact.merged_into == from_id)
        .values(merged_into=to_id)
        .returning(Contact.id)
    )
    moved["contacts"] = sorted(earlier)
    names = await session.execute(
        update(ExternalId)
        .where(*_named(from_id))
        .values(entity_id=to_id)
        .returning(ExternalId.source, ExternalId.external_id)
    )
    moved["external_ids"] = sorted([row.source, row.external_id] for row in names)
    return moved


def _named(contact_id: str) -> tuple[Any, Any]:
    return ExternalId.entity == "contact", ExternalId.entity_id == contact_id


async def _completed(
    session: AsyncSession, stays: Contact, goes: Contact, *, now: datetime
) -> dict[str, list[Any]]:
    """Give the contact that stays what it lacks; returns field → [before, after]."""
    wanted: dict[str, Any] = {
        field: contacts.read(goes, field)
        for field in ("name", "email", "company")
        if contacts.read(stays, field) is None
    }
    wanted["tags"] = list(dict.fromkeys([*stays.tags, *goes.tags]))
    if goes.do_not_call and not stays.do_not_call:
        wanted |= {"do_not_call": True, "do_not_call_reason": goes.do_not_call_reason}
    changed = {}
    for field, value in wanted.items():
        before = contacts.read(stays, field)
        if value != before:
            await contacts.assign(session, stays, field, value, by=goes.do_not_call_by, now=now)
            changed[field] = [before, value]
    if "do_not_call" in changed:
        stays.do_not_call_at = goes.do_not_call_at  # when it was said, not when they became one
    return changed
