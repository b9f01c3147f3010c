"""Verbs for other systems: make a thing or bring it up to date, found by what they call it.

A system names itself by its *source* (``hubspot``), which goes into the ledger and into the events, so that
it can leave out what it caused itself. A thing is found by our id, by the other system's, or a contact by a
number; what matches nothing is made.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.crm import queries, service
from trunkline.crm.models import Activity, Contact, Deal, ExternalId
from trunkline.crm.service import Cause
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.kit.money import Money
from trunkline.kit.phone import PhoneNumber

OUR_SOURCES = frozenset({"call", "import", "person", "demo"})
"""What only we may say of a change; ``api`` is any other system that gives no name."""

_SOURCE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,19}")


@dataclass(frozen=True)
class Named:
    """How another system points at a thing: by our id, by its own, or at a contact by a number."""

    source: str
    id: str | None = None
    external_id: str | None = None
    phones: Sequence[PhoneNumber] = ()


def checked_source(source: str) -> str:
    """*source*, if another system may call itself so. Raises Invalid."""
    if not _SOURCE.fullmatch(source):
        raise Invalid(
            f"{source!r} is no name of a source; write up to 20 of a-z, 0-9, dot, dash and underscore"
        )
    if source in OUR_SOURCES:
        raise Invalid(f"the source {source!r} is Trunkline's own; use your system's name")
    return source


async def upsert_contact(
    session: AsyncSession, named: Named, fields: Mapping[str, Any], *, cause: Cause, now: datetime
) -> tuple[Contact, bool]:
    """The contact, and whether it was made. *fields* are those of ``update_contact``; numbers are added.

    Raises Invalid, NotFound for an id that is none, or Conflict when id, external id and numbers point
    at different people.
    """
    if not (named.id or named.external_id or named.phones):
        raise Invalid("say which contact: by id, external_id or phones")
    owner = await _owner(session, named.phones)
    fresh = new_id("con", now=now)
    contact_id = await _claim(session, "contact", named, owner or fresh, now=now)
    if contact_id != fresh:
        for number in named.phones:
            await service.add_phone(session, contact_id, number, cause=cause, now=now)
        return await service.update_contact(
            session, contact_id, fields, cause=cause, now=now
        ), False
    made = await service.create_contact(
        session,
        contact_id=fresh,
        phones=named.phones,
        cause=cause,
        now=now,
        **{"name": None, **fields},
    )
    return made, True


async def upsert_deal(
    session: AsyncSession, named: Named, fields: Mapping[str, Any], *, cause: Cause, now: datetime
) -> tuple[Deal, bool]:
    """The deal, and whether it was made. *fields* are those of ``update_deal``, and pipeline.

    A new deal needs title and currency; it begins in the first stage, at nothing, in the only pipeline
    there is. Raises Invalid, NotFound, or Conflict when id and external id point at different deals.
    """
    if not (named.id or named.external_id):
        raise Invalid("say which deal: by id or external_id")
    fresh = new_id("deal", now=now)
    deal_id = await _claim(session, "deal", named, fresh, now=now)
    given = dict(fields)
    pipeline = given.pop("pipeline", None)
    if deal_id != fresh:
        deal = await queries.deal(session, deal_id)
        if pipeline not in (None, deal.pipeline):
            raise Invalid(f"deal {deal_id} is in pipeline {deal.pipeline!r} and stays there")
        return await service.update_deal(session, deal_id, given, cause=cause, now=now), False
    missing = [field for field in ("title", "currency") if given.get(field) is None]
    if missing:
        raise Invalid(f"a new deal needs {' and '.join(missing)}")
    into = await _pipeline(session, pipeline)
    made = await service.create_deal(
        session,
        deal_id=fresh,
        title=given["title"],
        contact_id=given.get("contact_id"),
        pipeline=into.name,
        stage=given.get("stage") or into.stages[0]["name"],
        amount=Money(given.get("amount_minor") or 0, given["currency"]),
        cause=cause,
        now=now,
    )
    return made, True


async def upsert_activity(
    session: AsyncSession,
    named: Named,
    fields: Mapping[str, Any],
    *,
    done: bool | None = None,
    cause: Cause,
    now: datetime,
) -> tuple[Activity, bool]:
    """The activity, and whether it was made: always when *named* holds no id.

    *fields* are kind, summary, contact_id, deal_id and due_at; all but summary and due_at stay as they were
    made. *done* marks a task as done, or not. Raises Invalid, NotFound or Conflict.
    """
    fresh = new_id("act", now=now)
    activity_id = await _claim(session, "activity", named, fresh, now=now)
    new = activity_id == fresh
    if new:
        missing = [field for field in ("kind", "summary") if fields.get(field) is None]
        if missing:
            raise Invalid(f"a new activity needs {' and '.join(missing)}")
        made = await service.log_activity(
            session,
            activity_id=fresh,
            cause=cause,
            now=now,
            **{"contact_id": None, **fields},
        )
        if done is None:
            return made, True
        changes: dict[str, Any] = {}
    else:
        found = await queries.activity(session, activity_id)
        for field in ("kind", "contact_id", "deal_id"):
            if fields.get(field, getattr(found, field)) != getattr(found, field):
                raise Invalid(f"the {field} of activity {activity_id} cannot be changed")
        changes = {name: fields[name] for name in ("summary", "due_at") if name in fields}
    if done is not None:
        changes["done_at"] = now if done else None
    return await service.update_activity(session, activity_id, changes, cause=cause, now=now), new


async def contact_id_of(session: AsyncSession, named: Named) -> str:
    """The contact that is meant. Raises NotFound, or Conflict when what is given points at several."""
    return await _one(session, "contact", named, await _owner(session, named.phones))


async def deal_id_of(session: AsyncSession, named: Named) -> str:
    """The deal that is meant. Raises NotFound or Conflict."""
    return await _one(session, "deal", named, None)


async def _one(session: AsyncSession, entity: str, named: Named, owner: str | None) -> str:
    found = {owner} if owner else set()
    if named.id:
        found.add(await _existing(session, entity, named.id))
    if named.external_id and (
        known := await queries.by_external_id(session, entity, named.source, named.external_id)
    ):
        found.add(known)
    if not found:
        called = f" that {named.source} calls {named.external_id!r}" if named.external_id else ""
        raise NotFound(f"there is no such {entity}{called}; send it first")
    if len(found) > 1:
        raise Conflict(f"what was given points at several: {', '.join(sorted(found))}")
    return found.pop()


async def _claim(
    session: AsyncSession, entity: str, named: Named, otherwise: str, *, now: datetime
) -> str:
    """The id of what *named* points at, *otherwise* if it points at nothing yet.

    From now on the external id leads there. The insert decides, so that of two systems that send the
    same new thing at once the second waits and finds the first one's.
    """
    target = await _existing(session, entity, named.id) if named.id else otherwise
    if not named.external_id:
        return target
    external_id = named.external_id
    known = await queries.by_external_id(session, entity, named.source, external_id)
    if known is None:
        other = await session.scalar(
            select(ExternalId.external_id).where(
                ExternalId.entity == entity,
                ExternalId.entity_id == target,
                ExternalId.source == named.source,
            )
        )
        if other is not None:
            raise Conflict(
                f"{entity} {target} is {other!r} in {named.source}, not {external_id!r}; "
                "make them one there, or leave out what they share"
            )
        inserted = await session.scalar(
            insert_for(session, ExternalId)
            .values(
                entity=entity,
                source=named.source,
                external_id=external_id,
                entity_id=target,
                created_at=now,
            )
            .on_conflict_do_nothing()
            .returning(ExternalId.entity_id)
        )
        if inserted is not None:
            return target
        known = await queries.by_external_id(session, entity, named.source, external_id)
        assert known is not None  # the other transaction has committed it
    if named.id and known != target:
        raise Conflict(f"{named.source} calls {known} {external_id!r}, not {target}")
    return known


async def _existing(session: AsyncSession, entity: str, id_: str) -> str:
    match entity:
        case "contact":
            return (await queries.contact(session, id_)).id
        case "deal":
            return (await queries.deal(session, id_)).id
        case _:
            return (await queries.activity(session, id_)).id


async def _owner(session: AsyncSession, phones: Sequence[PhoneNumber]) -> str | None:
    owners = {}
    for number in phones:
        if found := await queries.contact_by_number(session, number.e164):
            owners[found.id] = number
    if len(owners) > 1:
        whose = ", ".join(f"{number} of {id_}" for id_, number in owners.items())
        raise Conflict(f"the numbers belong to different contacts: {whose}")
    return next(iter(owners), None)


async def _pipeline(session: AsyncSession, name: str | None) -> Any:
    known = await queries.pipelines(session)
    for each in known:
        if each.name == name or (name is None and len(known) == 1):
            return each
    if not known:
        raise Invalid(
            "a new deal needs a pipeline to go into, and there is none yet; make one first"
        )
    names = ", ".join(each.name for each in known)
    raise Invalid(f"say which pipeline a new deal goes into; there are: {names}")
