"""All reads of the CRM."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import ScalarSelect, Select, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload
from sqlalchemy.sql.functions import coalesce

from trunkline.crm import fields
from trunkline.crm.models import (
    Activity,
    Change,
    Company,
    Contact,
    ContactPhone,
    Deal,
    ExternalId,
    Pipeline,
)
from trunkline.errors import NotFound
from trunkline.kit.db import Base

Row = TypeVar("Row", bound=Base)


async def _one(session: AsyncSession, kind: type[Row], id_: str, *, lock: bool = False) -> Row:
    """The row of that id; with *lock*, as it is now, and as it stays until the transaction ends."""
    found = await session.get(kind, id_, with_for_update=lock, populate_existing=lock)
    if found is None:
        raise NotFound(f"no {kind.__name__.lower()} {id_}")
    return found


async def contact(session: AsyncSession, contact_id: str) -> Contact:
    """The contact, with company and numbers; of a merged one, whom it was merged into. Raises NotFound."""
    found = await _one(session, Contact, contact_id)
    if found.merged_into is not None:
        return await session.get_one(Contact, found.merged_into)
    return found


async def merged_ids(session: AsyncSession, contact_id: str) -> Sequence[str]:
    """Contacts that turned out to be this one."""
    return (
        await session.scalars(
            select(Contact.id).where(Contact.merged_into == contact_id).order_by(Contact.id)
        )
    ).all()


async def duplicates(
    session: AsyncSession, contact: Contact, *, limit: int = 5
) -> Sequence[Contact]:
    """Contacts that may be the same person: of the same address or name, the likeliest first."""
    same_address = Contact.email_key == (contact.email_key or "")
    same_name = Contact.name_key == (contact.name_key or "")
    statement = (
        select(Contact)
        .where(or_(same_address, same_name), Contact.id != contact.id, _OWN)
        .order_by(case((same_address, 0), else_=1), Contact.id)
        .limit(limit)
    )
    return (await session.scalars(statement)).all()


_OWN = Contact.merged_into.is_(None)


def _whose(contact_id: str) -> ScalarSelect[str]:
    """The contact's id, or that of whom it was merged into."""
    of = coalesce(Contact.merged_into, Contact.id)
    return select(of).where(Contact.id == contact_id).scalar_subquery()


async def contact_by_number(session: AsyncSession, e164: str) -> Contact | None:
    """Whose number this is, with company and numbers: one statement, found by the unique index."""
    owner = select(ContactPhone.contact_id).where(ContactPhone.e164 == e164).scalar_subquery()
    statement = select(Contact).where(Contact.id == owner).options(joinedload(Contact.phones))
    return (await session.scalars(statement)).unique().one_or_none()


async def contacts(
    session: AsyncSession,
    *,
    named: tuple[str, str] | None = None,
    e164: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Sequence[Contact]:
    """A page in the order they were made; *after* is the last id of the page before.

    *named* (source, external id) and *e164*, one of its numbers, each leave one contact or none.
    """
    statement = select(Contact).where(_OWN).order_by(Contact.id).limit(limit)
    if named is not None:
        statement = statement.where(Contact.id == _id_named("contact", named))
    if e164 is not None:
        owner = select(ContactPhone.contact_id).where(ContactPhone.e164 == e164)
        statement = statement.where(Contact.id == owner.scalar_subquery())
    if after is not None:
        statement = statement.where(Contact.id > after)
    return (await session.scalars(statement)).all()


async def find_contacts(
    session: AsyncSession,
    text: str = "",
    *,
    do_not_call: bool = False,
    open_deal: bool = False,
    before: str | None = None,
    limit: int = 50,
) -> Sequence[Contact]:
    """Contacts with *text* in their name, company, address or numbers, the newest first.

    Of a number any part counts, however it is written; *before* is the last id of the page before.
    """
    statement = select(Contact).where(_OWN).order_by(Contact.id.desc()).limit(limit)
    for word in text.split()[:8]:
        like = f"%{_escaped(fields.key(word))}%"
        company = select(Company.id).where(Company.name_key.like(like, escape="\\"))
        fits = [
            Contact.name_key.like(like, escape="\\"),
            Contact.email_key.like(like, escape="\\"),
            Contact.company_id.in_(company),
        ]
        if digits := "".join(filter(str.isdigit, word)).lstrip("0"):
            owners = select(ContactPhone.contact_id).where(ContactPhone.e164.like(f"%{digits}%"))
            fits.append(Contact.id.in_(owners))
        statement = statement.where(or_(*fits))
    if do_not_call:
        statement = statement.where(Contact.do_not_call)
    if open_deal:
        buyers = select(Deal.contact_id).where(Deal.outcome == "open")
        statement = statement.where(Contact.id.in_(buyers))
    if before is not None:
        statement = statement.where(Contact.id < before)
    return (await session.scalars(statement)).all()


def _escaped(text: str) -> str:
    """*text* as it stands, for LIKE."""
    return re.sub(r"([\\%_])", r"\\\1", text)


@dataclass(frozen=True)
class Column:
    """A stage on the board: its deals, the newest change first, and what all of them are worth."""

    stage: str
    outcome: str
    deals: Sequence[Deal]
    count: int
    sums: Sequence[tuple[int, str]]
    """Minor units and currency, one for each currency."""


async def board(session: AsyncSession, pipeline: Pipeline, *, limit: int = 50) -> list[Column]:
    """The stages of a pipeline in order, each with its newest *limit* deals."""
    rows = await session.execute(
        select(Deal.stage, Deal.currency, func.count(), func.sum(Deal.amount_minor))
        .where(Deal.pipeline == pipeline.name)
        .group_by(Deal.stage, Deal.currency)
        .order_by(Deal.currency)
    )
    counts: dict[str, int] = defaultdict(int)
    sums: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for named, currency, count, minor in rows:
        counts[named] += count
        sums[named].append((int(minor), currency))
    columns = []
    for stage in pipeline.stages:
        found = await session.scalars(
            select(Deal)
            .where(Deal.pipeline == pipeline.name, Deal.stage == stage["name"])
            .order_by(Deal.updated_at.desc(), Deal.id)
            .limit(limit)
        )
        name = stage["name"]
        columns.append(Column(name, stage["outcome"], found.all(), counts[name], sums[name]))
    return columns


async def contact_names(session: AsyncSession, ids: Collection[str]) -> dict[str, str | None]:
    """Contact's id → name."""
    found = await session.execute(select(Contact.id, Contact.name).where(Contact.id.in_(ids)))
    return {row.id: row.name for row in found}


async def company_named(session: AsyncSession, name: str) -> Company | None:
    """The company of that name, whatever the case."""
    return await session.scalar(select(Company).where(Company.name_key == fields.key(name)))


async def pipeline_named(session: AsyncSession, name: str) -> Pipeline | None:
    """The pipeline of that name."""
    return await session.scalar(select(Pipeline).where(Pipeline.name == name))


async def pipelines(session: AsyncSession) -> Sequence[Pipeline]:
    """All pipelines by name."""
    return (await session.scalars(select(Pipeline).order_by(Pipeline.name))).all()


async def deal(session: AsyncSession, deal_id: str, *, lock: bool = False) -> Deal:
    """The deal. With *lock* it stays as it is until the transaction ends. Raises NotFound."""
    return await _one(session, Deal, deal_id, lock=lock)


async def deals(
    session: AsyncSession,
    *,
    named: tuple[str, str] | None = None,
    contact_id: str | None = None,
    outcome: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Sequence[Deal]:
    """A page in the order they were made; *after* is the last id of the page before.

    *named* is (source, external id), *outcome* open, won or lost.
    """
    statement = select(Deal).order_by(Deal.id).limit(limit)
    if named is not None:
        statement = statement.where(Deal.id == _id_named("deal", named))
    if contact_id is not None:
        statement = statement.where(Deal.contact_id == _whose(contact_id))
    if outcome is not None:
        statement = statement.where(Deal.outcome == outcome)
    if after is not None:
        statement = statement.where(Deal.id > after)
    return (await session.scalars(statement)).all()


async def open_deals(session: AsyncSession, contact_id: str) -> Sequence[Deal]:
    """A contact's deals that are neither won nor lost, newest first."""
    statement = (
        select(Deal)
        .where(Deal.contact_id == _whose(contact_id), Deal.outcome == "open")
        .order_by(Deal.id.desc())
    )
    return (await session.scalars(statement)).all()


async def activity(session: AsyncSession, activity_id: str, *, lock: bool = False) -> Activity:
    """The activity. With *lock* it stays as it is until the transaction ends. Raises NotFound."""
    return await _one(session, Activity, activity_id, lock=lock)


async def activities(
    session: AsyncSession,
    *,
    named: tuple[str, str] | None = None,
    contact_id: str | None = None,
    deal_id: str | None = None,
    call_id: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Sequence[Activity]:
    """A page in the order they were made; *after* is the last id of the page before.

    *named* is (source, external id).
    """
    statement = select(Activity).order_by(Activity.id).limit(limit)
    if named is not None:
        statement = statement.where(Activity.id == _id_named("activity", named))
    if contact_id is not None:
        statement = statement.where(Activity.contact_id == _whose(contact_id))
    if deal_id is not None:
        statement = statement.where(Activity.deal_id == deal_id)
    if call_id is not None:
        statement = statement.where(Activity.call_id == call_id)
    if after is not None:
        statement = statement.where(Activity.id > after)
    return (await session.scalars(statement)).all()


def _id_named(entity: str, named: tuple[str, str]) -> ScalarSelect[str]:
    return _of_external_id(entity, *named).scalar_subquery()


def _of_external_id(entity: str, source: str, external_id: str) -> Select[str]:
    return select(ExternalId.entity_id).where(
        ExternalId.entity == entity,
        ExternalId.source == source,
        ExternalId.external_id == external_id,
    )


async def by_external_id(
    session: AsyncSession, entity: str, source: str, external_id: str
) -> str | None:
    """Our id of what *source* calls *external_id*; *entity* is contact, deal or activity."""
    return await session.scalar(_of_external_id(entity, source, external_id))


async def external_ids(
    session: AsyncSession, entity: str, entity_ids: Collection[str]
) -> dict[str, dict[str, str]]:
    """What other systems call each of *entity_ids*: id → source → external id."""
    found: dict[str, dict[str, str]] = {id_: {} for id_ in entity_ids}
    rows = await session.execute(
        select(ExternalId.entity_id, ExternalId.source, ExternalId.external_id)
        .where(ExternalId.entity == entity, ExternalId.entity_id.in_(entity_ids))
        # A merged contact may have several in one system: the one it had first is told.
        .order_by(ExternalId.source, ExternalId.created_at.desc(), ExternalId.external_id.desc())
    )
    for row in rows:
        found[row.entity_id][row.source] = row.external_id
    return found


async def last_activities(
    session: AsyncSession, contact_id: str, limit: int = 5
) -> Sequence[Activity]:
    """What was done last with a contact, newest first."""
    statement = (
        select(Activity)
        .where(Activity.contact_id == _whose(contact_id))
        .order_by(Activity.created_at.desc(), Activity.id.desc())
        .limit(limit)
    )
    return (await session.scalars(statement)).all()


async def activities_of_call(session: AsyncSession, call_id: str) -> Sequence[Activity]:
    """What was logged in a call, in order."""
    statement = select(Activity).where(Activity.call_id == call_id).order_by(Activity.id)
    return (await session.scalars(statement)).all()


async def changes_of_call(session: AsyncSession, call_id: str) -> Sequence[Change]:
    """What a call changed in the CRM, in order."""
    statement = select(Change).where(Change.call_id == call_id).order_by(Change.id)
    return (await session.scalars(statement)).all()


async def changes_of(session: AsyncSession, entity: str, entity_id: str) -> Sequence[Change]:
    """The ledger of one contact, deal or activity, in order."""
    statement = (
        select(Change)
        .where(Change.entity == entity, Change.entity_id == entity_id)
        .order_by(Change.id)
    )
    return (await session.scalars(statement)).all()


async def change(session: AsyncSession, change_id: str, *, lock: bool = False) -> Change:
    """One row of the ledger. With *lock* it stays as it is until the transaction ends. Raises NotFound."""
    return await _one(session, Change, change_id, lock=lock)


async def changes(
    session: AsyncSession,
    *,
    entity: str | None = None,
    entity_id: str | None = None,
    call_id: str | None = None,
    source: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> Sequence[Change]:
    """A page of the ledger in the order of writing; *after* is the last id of the page before."""
    statement = select(Change).order_by(Change.id).limit(limit)
    given = (
        (Change.entity, entity),
        (Change.entity_id, entity_id),
        (Change.call_id, call_id),
        (Change.source, source),
    )
    statement = statement.where(*(column == value for column, value in given if value is not None))
    if after is not None:
        statement = statement.where(Change.id > after)
    return (await session.scalars(statement)).all()
