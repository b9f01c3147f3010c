"""Verbs of contacts and their numbers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm import fields, ledger, queries
from trunkline.crm.ledger import Cause
from trunkline.crm.models import Company, Contact, ContactPhone
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.kit.phone import PhoneNumber
from trunkline.outbox.record import record

FIELDS = frozenset({"name", "email", "tags", "do_not_call", "do_not_call_reason", "company"})
"""What may be set."""


async def create_contact(
    session: AsyncSession,
    *,
    name: str | None,
    phones: Sequence[PhoneNumber] = (),
    company: str | None = None,
    email: str | None = None,
    tags: Sequence[str] = (),
    do_not_call: bool = False,
    do_not_call_reason: str | None = None,
    contact_id: str | None = None,
    cause: Cause,
    now: datetime,
) -> Contact:
    """Add a person; *name* is None while it is not known. *contact_id* is a fresh id to take.

    Raises Invalid for a blank name, company, tag or a wrong address, Conflict when a number belongs
    to someone else.
    """
    _reasoned(do_not_call, do_not_call_reason)
    contact = Contact(
        id=contact_id or new_id("con", now=now),
        name=fields.name(name),
        email=fields.email(email),
        tags=fields.tags(tags),
        do_not_call=do_not_call,
        do_not_call_reason=fields.reason(do_not_call_reason),
        do_not_call_by=cause.by if do_not_call else None,
        do_not_call_at=now if do_not_call else None,
        source=cause.source,
        created_at=now,
        updated_at=now,
        company=await _company(session, company, now=now),
        phones=[],
    )
    session.add(contact)
    await session.flush()
    for number in dict.fromkeys(phones):
        await _attach(session, contact, number, label=None, now=now)
    after = {
        "name": contact.name,
        "phones": _numbers(contact),
        "company": contact.company.name if contact.company else None,
        "email": contact.email,
        "tags": contact.tags,
        "do_not_call": do_not_call,
    }
    if contact.do_not_call_reason is not None:
        after["do_not_call_reason"] = contact.do_not_call_reason
    ledger.write(session, "contact", contact.id, ledger.CREATED, None, after, cause=cause, now=now)
    created = events.ContactCreated(contact.id, contact.name, cause.source, cause.evidence)
    await record(session, created, now=now)
    return contact


async def update_contact(
    session: AsyncSession,
    contact_id: str,
    changes: Mapping[str, Any],
    *,
    cause: Cause,
    now: datetime,
) -> Contact:
    """Set any of name, email, tags, company (by its name; None for none), do_not_call and do_not_call_reason,
    which goes when they may be called again.

    What is the same already leaves no trace. Of a merged contact the other is changed, as everywhere here.
    Raises NotFound, or Invalid for other fields and wrong values.
    """
    fields.only("a contact", changes, FIELDS)
    if changes.get("do_not_call") is False:
        changes = {"do_not_call_reason": None, **changes}
    contact = await locked(session, contact_id)
    changed: dict[str, list[Any]] = {}
    for field, value in changes.items():
        before = read(contact, field)
        await assign(session, contact, field, value, by=cause.by, now=now)
        if (after := read(contact, field)) != before:
            changed[field] = [before, after]
    _reasoned(contact.do_not_call, changes.get("do_not_call_reason"))
    await _tell(session, contact, changed, cause=cause, now=now)
    return contact


async def add_phone(
    session: AsyncSession,
    contact_id: str,
    phone: PhoneNumber,
    *,
    label: str | None = None,
    cause: Cause,
    now: datetime,
) -> Contact:
    """Give a contact one more number; nothing happens if it is theirs already.

    Raises NotFound, or Conflict when the number belongs to someone else.
    """
    contact = await locked(session, contact_id)
    before = _numbers(contact)
    if phone.e164 not in before:
        await _attach(session, contact, phone, label=label, now=now)
        changed = {"phones": [before, _numbers(contact)]}
        await _tell(session, contact, changed, cause=cause, now=now)
    return contact


def read(contact: Contact, field: str) -> Any:
    """A field as the ledger has it."""
    if field == "company":
        return contact.company.name if contact.company else None
    if field == "phones":
        return _numbers(contact)
    value = getattr(contact, field)
    return list(value) if field == "tags" else value


async def assign(
    session: AsyncSession,
    contact: Contact,
    field: str,
    value: Any,
    *,
    by: str | None,
    now: datetime,
) -> None:
    """Set a field, without a trace; *by* is who does it."""
    match field:
        case "name":
            contact.name = fields.name(value)
        case "email":
            contact.email = fields.email(value)
        case "tags":
            contact.tags = fields.tags(value)
        case "do_not_call":
            if not isinstance(value, bool):
                raise Invalid("do_not_call must be true or false")
            if value != contact.do_not_call:
                contact.do_not_call_by = by if value else None
                contact.do_not_call_at = now if value else None
            contact.do_not_call = value
        case "do_not_call_reason":
            contact.do_not_call_reason = fields.reason(value)
        case "company":
            contact.company = await _company(session, value, now=now)
        case "phones":
            for row in [row for row in contact.phones if row.e164 not in value]:
                await session.delete(row)
                contact.phones.remove(row)
            await session.flush()
            for e164 in value:
                if e164 not in _numbers(contact):
                    await _attach(session, contact, PhoneNumber(e164), label=None, now=now)


async def _tell(
    session: AsyncSession,
    contact: Contact,
    changed: Mapping[str, list[Any]],
    *,
    cause: Cause,
    now: datetime,
) -> None:
    if not changed:
        return
    contact.updated_at = now
    for field, (before, after) in changed.items():
        ledger.write(session, "contact", contact.id, field, before, after, cause=cause, now=now)
    updated = events.ContactUpdated(contact.id, cause.source, changed, cause.evidence)
    await record(session, updated, now=now)


def _reasoned(do_not_call: bool, reason: Any) -> None:
    if reason is not None and not do_not_call:
        raise Invalid(
            "do_not_call_reason says why somebody is not to be called; set do_not_call too"
        )


async def locked(session: AsyncSession, contact_id: str) -> Contact:
    """The contact, or the one it was merged into, which stays as it is until the transaction ends."""
    found = await row(session, contact_id)
    return found if found.merged_into is None else await row(session, found.merged_into)


async def row(session: AsyncSession, contact_id: str) -> Contact:
    """The contact itself, merged or not, locked. Raises NotFound."""
    # FOR UPDATE cannot reach the outer-joined company, so the lock names its table.
    statement = select(Contact).where(Contact.id == contact_id).with_for_update(of=Contact)
    found = await session.scalar(statement.execution_options(populate_existing=True))
    if found is None:
        raise NotFound(f"no contact {contact_id}")
    return found


async def _attach(
    session: AsyncSession,
    contact: Contact,
    phone: PhoneNumber,
    *,
    label: str | None,
    now: datetime,
) -> None:
    row = ContactPhone(
        id=new_id("pho", now=now),
        contact_id=contact.id,
        e164=phone.e164,
        raw=(phone.raw or phone.e164)[:100],
        label=None if label is None else fields.text(label, "a label", 40),
        created_at=now,
    )
    try:
        # A savepoint: the unique index decides, also between two transactions, and the rest stays.
        async with session.begin_nested():
            session.add(row)
            await session.flush()
    except IntegrityError:
        owner = await session.scalar(
            select(ContactPhone.contact_id).where(ContactPhone.e164 == phone.e164)
        )
        whose = f"contact {owner}" if owner else "another contact"
        raise Conflict(f"the number {phone} belongs to {whose}") from None
    contact.phones.append(row)


async def _company(session: AsyncSession, name: str | None, *, now: datetime) -> Company | None:
    if name is None:
        return None
    name = fields.text(name, "a company's name", 200)
    found = await queries.company_named(session, name)
    if found is None:
        # The unique key decides, also between two transactions.
        await session.execute(
            insert_for(session, Company)
            .values(id=new_id("com", now=now), name=name, name_key=fields.key(name), created_at=now)
            .on_conflict_do_nothing()
        )
        found = await queries.company_named(session, name)
    return found


def _numbers(contact: Contact) -> list[str]:
    return [row.e164 for row in contact.phones]
