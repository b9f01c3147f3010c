"""Many contacts at once: whom each row of a file means, and all of a batch written in few statements.

A row means whoever has its id in the other system, or one of its numbers; else whoever has its address and
no other name. Whoever is meant gets what the row says and keeps what it does not; tags and numbers are
added, and do-not-call is set but never lifted.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm import contacts, fields, ledger
from trunkline.crm.ledger import Cause
from trunkline.crm.mapping import Row
from trunkline.crm.models import Change, Company, Contact, ContactPhone, ExternalId
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.kit.phone import PhoneNumber
from trunkline.outbox.record import record_first

OnMatch = Literal["update", "skip"]
"""What becomes of people who are there already."""


@dataclass(frozen=True)
class Outcome:
    """What became of a row, or would: made, changed, same or failed."""

    what: Literal["made", "changed", "same", "failed"]
    reason: str | None = None
    """Why it failed."""


@dataclass(slots=True)
class Known:
    """Somebody who is there, or will be when the batch is written."""

    id: str
    name: str | None = None
    company: str | None = None
    email: str | None = None
    phones: dict[str, PhoneNumber] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    do_not_call: bool = False
    do_not_call_reason: str | None = None
    external_id: str | None = None
    fresh: bool = False
    """Whether it came with the file."""

    @property
    def called(self) -> str:
        """Who it is, in an error."""
        return "somebody of an earlier row" if self.fresh else f"contact {self.id}"


class People:
    """Everybody whom rows may mean, as far as they were looked up."""

    def __init__(self, source: str, on_match: OnMatch) -> None:
        """External ids are those of *source*."""
        self.source, self._on_match = source, on_match
        self._by_id: dict[str, Known] = {}
        self._by_number: dict[str, Known] = {}
        self._by_external_id: dict[str, Known] = {}
        self._by_email: dict[str, list[Known]] = defaultdict(list)

    async def look_up(self, session: AsyncSession, rows: Sequence[Row]) -> None:
        """Read whoever *rows* may mean; of whom was read before, what they have become stays."""
        numbers = {one.e164 for row in rows for one in row.phones} - self._by_number.keys()
        named = {row.external_id for row in rows if row.external_id} - self._by_external_id.keys()
        addresses = {fields.key(row.email) for row in rows if row.email}
        owners = select(ContactPhone.contact_id).where(ContactPhone.e164.in_(numbers))
        theirs = select(ExternalId.entity_id).where(
            ExternalId.entity == "contact",
            ExternalId.source == self.source,
            ExternalId.external_id.in_(named),
        )
        meant = or_(
            Contact.id.in_(owners), Contact.id.in_(theirs), Contact.email_key.in_(addresses)
        )
        found = await session.scalars(
            select(Contact).where(meant, Contact.merged_into.is_(None)).order_by(Contact.id)
        )
        new = [row for row in found if row.id not in self._by_id]
        names = await session.execute(
            select(ExternalId.entity_id, ExternalId.external_id).where(
                ExternalId.entity == "contact",
                ExternalId.source == self.source,
                ExternalId.entity_id.in_([row.id for row in new]),
            )
        )
        called: dict[str, list[str]] = defaultdict(list)
        for entity_id, external_id in names:
            called[entity_id].append(external_id)
        for row in new:
            known = Known(
                row.id,
                row.name,
                row.company.name if row.company else None,
                row.email,
                {one.e164: PhoneNumber(one.e164) for one in row.phones},
                list(row.tags),
                row.do_not_call,
                row.do_not_call_reason,
            )
            self._by_id[row.id] = known
            for external_id in called[row.id]:  # several, after a merge
                known.external_id = external_id
                self._by_external_id[external_id] = known
            self._file(known)

    def _file(self, known: Known) -> None:
        for e164 in known.phones:
            self._by_number[e164] = known
        if known.external_id:
            self._by_external_id[known.external_id] = known
        if known.email:
            same = self._by_email[fields.key(known.email)]
            if known not in same:
                same.append(known)

    def meant_by(self, row: Row) -> Known | None:
        """Whom a row means; None for somebody new. Raises Conflict when it points at several."""
        found: dict[str, Known] = {}
        if row.external_id and (known := self._by_external_id.get(row.external_id)):
            found[known.id] = known
        for number in row.phones:
            if owner := self._by_number.get(number.e164):
                found[owner.id] = owner
        if not found and row.email:
            found = {one.id: one for one in self._of_address(row)}
        if len(found) > 1:
            who = " and ".join(sorted({one.called for one in found.values()}))
            raise Conflict(
                f"the row points at several: {who}; merge them, or leave out what they share"
            )
        for known in found.values():
            named = known.external_id
            if row.external_id and named and row.external_id not in self._by_external_id:
                raise Conflict(
                    f"{known.called} is {named!r} in {self.source}, not {row.external_id!r}"
                )
            return known
        return None

    def _of_address(self, row: Row) -> list[Known]:
        """Who has the row's address and is not plainly somebody else: offices share one."""
        all_ = self._by_email.get(fields.key(row.email or ""), [])
        if row.external_id:
            all_ = [one for one in all_ if one.external_id is None]
        if row.name is None:
            return all_
        key = fields.key(row.name)
        return [one for one in all_ if one.name and fields.key(one.name) == key] or [
            one for one in all_ if one.name is None
        ]

    def take(self, row: Row, *, now: datetime) -> tuple[Outcome, Known | None, dict[str, Any]]:
        """What a row does to whom: field → what it becomes. From now on they are known like that."""
        try:
            known = self.meant_by(row)
        except Conflict as error:
            return Outcome("failed", str(error)), None, {}
        if known is None:
            known = Known(new_id("con", now=now), fresh=True)
            self._by_id[known.id] = known
            self._become(known, self._changes(known, row))
            return Outcome("made"), known, {}
        changes = self._changes(known, row) if self._on_match == "update" else {}
        if not changes:
            return Outcome("same"), known, {}
        self._become(known, changes)
        return Outcome("changed"), known, changes

    def _changes(self, known: Known, row: Row) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        if row.name is not None and row.name != known.name:
            changes["name"] = row.name
        if row.email and fields.key(row.email) != fields.key(known.email or ""):
            changes["email"] = row.email
        if row.company and fields.key(row.company) != fields.key(known.company or ""):
            changes["company"] = row.company
        if new_tags := [tag for tag in row.tags if tag not in known.tags]:
            changes["tags"] = [*known.tags, *new_tags]
        if row.do_not_call and not known.do_not_call:
            changes["do_not_call"] = True
            if row.do_not_call_reason:
                changes["do_not_call_reason"] = row.do_not_call_reason
        if new_numbers := [one for one in row.phones if one.e164 not in known.phones]:
            changes["phones"] = new_numbers
        if row.external_id and known.external_id is None:
            changes["external_id"] = row.external_id
        return changes

    def _become(self, known: Known, changes: dict[str, Any]) -> None:
        for name, value in changes.items():
            if name == "phones":
                known.phones |= {one.e164: one for one in value}
            else:
                setattr(known, name, value)
        self._file(known)


async def put(
    session: AsyncSession,
    rows: Sequence[Row],
    *,
    source: str,
    on_match: OnMatch,
    cause: Cause,
    now: datetime,
) -> list[Outcome]:
    """Write a batch: contacts, ledger and events. Returns what became of each row, in order.

    A row that cannot be written fails alone.
    """
    try:
        async with session.begin_nested():
            return await _put(session, rows, source, on_match, cause=cause, now=now)
    except IntegrityError:
        # Somebody else has just made one of them. One by one, it is seen which.
        if len(rows) == 1:
            return [Outcome("failed", "somebody else changed this contact; import it again")]
        alone = []
        for row in rows:
            alone += await put(
                session, [row], source=source, on_match=on_match, cause=cause, now=now
            )
        return alone


async def _put(
    session: AsyncSession,
    rows: Sequence[Row],
    source: str,
    on_match: OnMatch,
    *,
    cause: Cause,
    now: datetime,
) -> list[Outcome]:
    people = People(source, on_match)
    await people.look_up(session, rows)
    outcomes: list[Outcome] = []
    made: list[Known] = []
    changed: list[tuple[int, Known, dict[str, Any]]] = []
    for row in rows:
        outcome, known, changes = people.take(row, now=now)
        if known is not None and outcome.what == "made":
            made.append(known)
        elif known is not None and changes and not known.fresh:
            changed.append((len(outcomes), known, changes))
        outcomes.append(outcome)
    await _make(session, made, source, cause=cause, now=now)
    for at, known, changes in changed:
        try:
            async with session.begin_nested():
                await _change(session, known, changes, source, cause=cause, now=now)
        except (Conflict, Invalid, NotFound) as error:
            outcomes[at] = Outcome("failed", str(error))
    return outcomes


async def _change(
    session: AsyncSession,
    known: Known,
    changes: dict[str, Any],
    source: str,
    *,
    cause: Cause,
    now: datetime,
) -> None:
    rest = dict(changes)
    numbers, external_id = rest.pop("phones", ()), rest.pop("external_id", None)
    for number in numbers:
        await contacts.add_phone(session, known.id, number, cause=cause, now=now)
    if rest:
        await contacts.update_contact(session, known.id, rest, cause=cause, now=now)
    if external_id is not None:
        await session.execute(insert(ExternalId), [_named(external_id, known.id, source, now=now)])


def _named(external_id: str, contact_id: str, source: str, *, now: datetime) -> dict[str, Any]:
    return {
        "entity": "contact",
        "source": source,
        "external_id": external_id,
        "entity_id": contact_id,
        "created_at": now,
    }


async def _make(
    session: AsyncSession, made: Sequence[Known], source: str, *, cause: Cause, now: datetime
) -> None:
    if not made:
        return
    companies = await _companies(
        session, {one.company: None for one in made if one.company}, now=now
    )
    rows: dict[Any, list[dict[str, Any]]] = {
        Contact: [],
        ContactPhone: [],
        ExternalId: [],
        Change: [],
    }
    for one in made:
        company = companies[fields.key(one.company)] if one.company else None
        rows[Contact].append(
            {
                "id": one.id,
                "name": one.name,
                "name_key": None if one.name is None else fields.key(one.name),
                "email": one.email,
                "email_key": None if one.email is None else fields.key(one.email),
                "company_id": company[0] if company else None,
                "tags": one.tags,
                "do_not_call": one.do_not_call,
                "do_not_call_reason": one.do_not_call_reason,
                "source": cause.source,
                "created_at": now,
                "updated_at": now,
            }
        )
        for number in one.phones.values():
            rows[ContactPhone].append(
                {
                    "id": new_id("pho", now=now),
                    "contact_id": one.id,
                    "e164": number.e164,
                    "raw": (number.raw or number.e164)[:100],
                    "created_at": now,
                }
            )
        if one.external_id:
            rows[ExternalId].append(_named(one.external_id, one.id, source, now=now))
        after = {
            "name": one.name,
            "phones": list(one.phones),
            "company": company[1] if company else None,
            "email": one.email,
            "tags": one.tags,
            "do_not_call": one.do_not_call,
        }
        if one.do_not_call_reason is not None:
            after["do_not_call_reason"] = one.do_not_call_reason
        rows[Change].append(
            {
                "id": new_id("chg", now=now),
                "entity": "contact",
                "entity_id": one.id,
                "field": ledger.CREATED,
                "after": after,
                "source": cause.source,
                "actor": cause.actor and cause.actor[:100],
                "created_at": now,
            }
        )
    for table, values in rows.items():
        if values:
            await session.execute(insert(table), values)
    told = [events.ContactCreated(one.id, one.name, cause.source, None) for one in made]
    await record_first(session, told, now=now)


async def _companies(
    session: AsyncSession, names: dict[str, None], *, now: datetime
) -> dict[str, tuple[str, str]]:
    """Folded name → id and name of the company; those that are not there are made."""
    if not names:
        return {}
    wanted = {fields.key(name): name for name in names}

    async def there() -> dict[str, tuple[str, str]]:
        found = await session.execute(
            select(Company.name_key, Company.id, Company.name).where(Company.name_key.in_(wanted))
        )
        return {key: (id_, name) for key, id_, name in found}

    known = await there()
    if missing := sorted(wanted.keys() - known.keys()):
        # In one order, so that two batches cannot wait for each other.
        values = [
            {"id": new_id("com", now=now), "name": wanted[key], "name_key": key, "created_at": now}
            for key in missing
        ]
        await session.execute(insert_for(session, Company).values(values).on_conflict_do_nothing())
        known = await there()
    return known
