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

from sqlalchemy import insert, or_, select, union, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm import fields, ledger
from trunkline.crm.ledger import Cause
from trunkline.crm.mapping import Row
from trunkline.crm.models import Change, Company, Contact, ContactPhone, ExternalId
from trunkline.errors import Conflict, Invalid
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.kit.phone import PhoneNumber
from trunkline.outbox.record import record_all

OnMatch = Literal["update", "skip"]
"""What becomes of people who are there already."""


Changes = dict[str, list[Any]]
"""Field → what it was and what it becomes, as the ledger has it."""


Companies = dict[str, tuple[str, str]]
"""Folded name → id and name of a company."""


@dataclass(frozen=True)
class Outcome:
    """What became of a row, or would: made, changed, same or failed."""

    what: Literal["made", "changed", "same", "failed"]
    reason: str | None = None
    """Why it failed."""


@dataclass(slots=True, eq=False)
class Known:
    """Somebody who is there, or will be when the batch is written."""

    id: str
    name: str | None = None
    company: str | None = None
    email: str | None = None
    tags: list[str] = field(default_factory=list)
    do_not_call: bool = False
    do_not_call_reason: str | None = None
    phones: dict[str, PhoneNumber] = field(default_factory=dict)
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
        self._by_email: dict[str, dict[str, Known]] = defaultdict(dict)
        self._by_email_and_name: dict[tuple[str, str], dict[str, Known]] = defaultdict(dict)

    async def look_up(
        self, session: AsyncSession, rows: Sequence[Row], *, lock: bool = False
    ) -> None:
        """Read whoever *rows* may mean; of whom was read before, what they have become stays.

        With *lock* they stay as they are until the transaction ends.
        """
        found = select(
            Contact.id,
            Contact.name,
            select(Company.name).where(Company.id == Contact.company_id).scalar_subquery(),
            Contact.email,
            Contact.tags,
            Contact.do_not_call,
            Contact.do_not_call_reason,
        ).where(Contact.id.in_(self._may_be_meant(rows)), Contact.merged_into.is_(None))
        if lock:
            # In one order, so that two imports cannot wait for each other.
            found = found.order_by(Contact.id).with_for_update()
        new = [Known(*row) for row in await session.execute(found) if row.id not in self._by_id]
        if not new:
            return
        fresh = {known.id: known for known in new}
        numbers = await session.execute(
            select(ContactPhone.contact_id, ContactPhone.e164)
            .where(ContactPhone.contact_id.in_(fresh))
            .order_by(ContactPhone.id)
        )
        for contact_id, e164 in numbers:
            fresh[contact_id].phones[e164] = PhoneNumber(e164)
        names = await session.execute(
            select(ExternalId.entity_id, ExternalId.external_id).where(
                ExternalId.entity == "contact",
                ExternalId.source == self.source,
                ExternalId.entity_id.in_(fresh),
            )
        )
        for entity_id, external_id in names:  # several, after a merge
            fresh[entity_id].external_id = external_id
            self._by_external_id[external_id] = fresh[entity_id]
        for known in new:
            known.tags = list(known.tags)
            self._by_id[known.id] = known
            self._file(known)

    def _may_be_meant(self, rows: Sequence[Row]) -> Any:
        """The ids of those whom *rows* may mean. One UNION: of conditions joined by OR PostgreSQL looks at
        every contact."""
        numbers = {one.e164 for row in rows for one in row.phones} - self._by_number.keys()
        named = {row.external_id for row in rows if row.external_id} - self._by_external_id.keys()
        with_address = [row for row in rows if row.email]
        addresses = {fields.key(row.email or "") for row in with_address}
        nameless = {fields.key(row.email or "") for row in with_address if row.name is None}
        names = {fields.key(row.name) for row in with_address if row.name}
        return union(
            select(ContactPhone.contact_id).where(ContactPhone.e164.in_(numbers)),
            select(ExternalId.entity_id).where(
                ExternalId.entity == "contact",
                ExternalId.source == self.source,
                ExternalId.external_id.in_(named),
            ),
            select(Contact.id).where(Contact.email_key.in_(nameless)),
            # Half a file may share one address.
            select(Contact.id).where(
                Contact.email_key.in_(addresses),
                or_(Contact.name_key.in_(names), Contact.name_key.is_(None)),
            ),
        )

    def _file(self, known: Known) -> None:
        for e164 in known.phones:
            self._by_number[e164] = known
        if known.external_id:
            self._by_external_id[known.external_id] = known
        if known.email:
            address = fields.key(known.email)
            self._by_email[address][known.id] = known
            self._by_email_and_name[address, _name_key(known.name)][known.id] = known

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
        address = fields.key(row.email or "")
        if row.name is None:
            found = list(self._by_email.get(address, {}).values())
        else:
            found = self._called(address, row.name) or self._called(address, None)
        # An id says more than an address.
        return [one for one in found if not (row.external_id and one.external_id)]

    def _called(self, address: str, name: str | None) -> list[Known]:
        key = _name_key(name)
        filed = self._by_email_and_name.get((address, key), {}).values()
        return [one for one in filed if _name_key(one.name) == key]  # still

    def take(self, row: Row, *, now: datetime) -> tuple[Outcome, Known | None, Changes]:
        """What a row does to whom. From now on they are known like that."""
        try:
            known = self.meant_by(row)
            if known is None:
                known = Known(new_id("con", now=now), fresh=True)
                self._become(known, self._changes(known, row))
                self._by_id[known.id] = known
                return Outcome("made"), known, {}
            wanted = self._changes(known, row) if self._on_match == "update" else {}
        except (Conflict, Invalid) as error:
            return Outcome("failed", str(error)), None, {}
        if not wanted:
            return Outcome("same"), known, {}
        before = {name: _shown(known, name) for name in wanted}
        self._become(known, wanted)
        changes = {name: [was, _shown(known, name)] for name, was in before.items()}
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
            changes["tags"] = fields.tags([*known.tags, *new_tags])
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


def _name_key(name: str | None) -> str:
    return fields.key(name) if name else ""


def _shown(known: Known, name: str) -> Any:
    return list(known.phones) if name == "phones" else getattr(known, name)


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
    await people.look_up(session, rows, lock=True)
    outcomes: list[Outcome] = []
    made: list[Known] = []
    changed: list[tuple[Known, Changes]] = []
    for row in rows:
        outcome, known, changes = people.take(row, now=now)
        outcomes.append(outcome)
        if known is not None and outcome.what == "made":
            made.append(known)
        elif known is not None and changes and not known.fresh:
            changed.append((known, changes))
    names = [one.company for one in made]
    names += [changes["company"][1] for _, changes in changed if "company" in changes]
    companies = await _companies(session, {name: None for name in names if name}, now=now)
    await _make(session, made, source, companies, cause=cause, now=now)
    await _change(session, changed, source, companies, cause=cause, now=now)
    return outcomes


async def _change(
    session: AsyncSession,
    changed: Sequence[tuple[Known, Changes]],
    source: str,
    companies: Companies,
    *,
    cause: Cause,
    now: datetime,
) -> None:
    """Write what rows did to people who were there: of each row its ledger and one event."""
    columns: dict[str, dict[str, Any]] = defaultdict(dict)
    phones: list[dict[str, Any]] = []
    named: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    told: list[events.Event] = []
    for known, changes in changed:
        for name, (before, after) in changes.items():
            if name == "phones":
                new = [known.phones[e164] for e164 in after if e164 not in before]
                phones += [_number(one, known.id, now=now) for one in new]
            elif name == "external_id":
                named.append(_named(after, known.id, source, now=now))
            else:
                columns[known.id] |= _columns(name, after, companies)
            if name == "do_not_call":
                columns[known.id] |= {"do_not_call_by": cause.by, "do_not_call_at": now}
        # What another system calls somebody is nothing they are.
        shown = {name: both for name, both in changes.items() if name != "external_id"}
        if "company" in shown:
            shown["company"] = [_spelled(name, companies) for name in shown["company"]]
        entries += [
            _entry(known.id, name, before, after, cause=cause, now=now)
            for name, (before, after) in shown.items()
        ]
        if shown:
            columns[known.id]["updated_at"] = now
            told.append(events.ContactUpdated(known.id, cause.source, shown, None))
    # Rows that set the same columns are written by one statement.
    updates = sorted(
        ({"id": id_, **values} for id_, values in columns.items()), key=lambda one: sorted(one)
    )
    if updates:
        await session.execute(update(Contact), updates)
    for table, values in ((ContactPhone, phones), (ExternalId, named), (Change, entries)):
        if values:
            await session.execute(insert(table), values)
    await record_all(session, told, now=now)


def _spelled(name: str | None, companies: Companies) -> str | None:
    """A company's name as it is kept."""
    return name and companies.get(fields.key(name), ("", name))[1]


def _columns(name: str, value: Any, companies: Companies) -> dict[str, Any]:
    """What a field is in the table."""
    if name == "company":
        return {"company_id": None if value is None else companies[fields.key(value)][0]}
    if name in ("name", "email"):
        return {name: value, f"{name}_key": None if value is None else fields.key(value)}
    return {name: value}


def _number(number: PhoneNumber, contact_id: str, *, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id("pho", now=now),
        "contact_id": contact_id,
        "e164": number.e164,
        "raw": (number.raw or number.e164)[:100],
        "created_at": now,
    }


def _entry(
    contact_id: str, name: str, before: Any, after: Any, *, cause: Cause, now: datetime
) -> dict[str, Any]:
    return {
        "id": new_id("chg", now=now),
        "entity": "contact",
        "entity_id": contact_id,
        "field": name,
        "before": before,
        "after": after,
        "source": cause.source,
        "actor": cause.by,
        "created_at": now,
    }


def _named(external_id: str, contact_id: str, source: str, *, now: datetime) -> dict[str, Any]:
    return {
        "entity": "contact",
        "source": source,
        "external_id": external_id,
        "entity_id": contact_id,
        "created_at": now,
    }


async def _make(
    session: AsyncSession,
    made: Sequence[Known],
    source: str,
    companies: Companies,
    *,
    cause: Cause,
    now: datetime,
) -> None:
    rows: dict[Any, list[dict[str, Any]]] = {
        Contact: [],
        ContactPhone: [],
        ExternalId: [],
        Change: [],
    }
    for one in made:
        rows[Contact].append(
            {
                "id": one.id,
                **_columns("name", one.name, companies),
                **_columns("email", one.email, companies),
                **_columns("company", one.company, companies),
                "tags": one.tags,
                "do_not_call": one.do_not_call,
                "do_not_call_reason": one.do_not_call_reason,
                "do_not_call_by": cause.by if one.do_not_call else None,
                "do_not_call_at": now if one.do_not_call else None,
                "source": cause.source,
                "created_at": now,
                "updated_at": now,
            }
        )
        rows[ContactPhone] += [_number(number, one.id, now=now) for number in one.phones.values()]
        if one.external_id:
            rows[ExternalId].append(_named(one.external_id, one.id, source, now=now))
        after = {
            "name": one.name,
            "phones": list(one.phones),
            "company": _spelled(one.company, companies),
            "email": one.email,
            "tags": one.tags,
            "do_not_call": one.do_not_call,
        }
        if one.do_not_call_reason is not None:
            after["do_not_call_reason"] = one.do_not_call_reason
        rows[Change].append(_entry(one.id, ledger.CREATED, None, after, cause=cause, now=now))
    for table, values in rows.items():
        if values:
            await session.execute(insert(table), values)
    told = [events.ContactCreated(one.id, one.name, cause.source, None) for one in made]
    await record_all(session, told, now=now)


async def _companies(session: AsyncSession, names: dict[str, None], *, now: datetime) -> Companies:
    """The companies of these names; those that are not there are made."""
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
