"""Verbs that write the CRM. Each adds the change, its ledger rows and its event to one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline import events
from trunkline.crm import queries
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
from trunkline.errors import Conflict, Invalid, NotFound, Refused
from trunkline.kit.ids import new_id
from trunkline.kit.money import Money
from trunkline.kit.phone import PhoneNumber
from trunkline.outbox.record import record

KINDS = ("call", "note", "task", "meeting")
OUTCOMES = ("open", "won", "lost")
CREATED = "*"
"""The ledger's field when the row itself came into being or, undone, went."""


@dataclass(frozen=True)
class Cause:
    """Who or what brought a change about, and on what evidence."""

    source: str
    """call, api, import, person or demo."""
    call_id: str | None = None
    tool_run_id: str | None = None
    turn_id: str | None = None
    offset_ms: int | None = None

    @property
    def evidence(self) -> events.Evidence | None:
        """Where in a call it was agreed to; None when no call caused it."""
        if self.call_id is None:
            return None
        return events.Evidence(self.call_id, self.turn_id, self.offset_ms)


@dataclass(frozen=True)
class Stage:
    """A step of a pipeline; a deal in it counts as ``outcome``: open, won or lost."""

    name: str
    outcome: str = "open"


# --- contacts ----------------------------------------------------------------------------------


async def create_contact(
    session: AsyncSession,
    *,
    name: str | None,
    phones: Sequence[PhoneNumber] = (),
    company: str | None = None,
    email: str | None = None,
    tags: Sequence[str] = (),
    do_not_call: bool = False,
    contact_id: str | None = None,
    cause: Cause,
    now: datetime,
) -> Contact:
    """Add a person; *name* is None while it is not known. *contact_id* is a fresh id to take.

    Raises Invalid for a blank name, company, tag or a wrong address, Conflict when a number belongs
    to someone else.
    """
    contact = Contact(
        id=contact_id or new_id("con", now=now),
        name=_name(name),
        email=_email(email),
        tags=_tags(tags),
        do_not_call=do_not_call,
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
    _write(session, "contact", contact.id, CREATED, None, after, cause=cause, now=now)
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
    """Set any of name, email, tags, do_not_call and company (by its name; None for none).

    What is the same already leaves no trace. Raises NotFound, or Invalid for other fields and wrong values.
    """
    _only("a contact", changes, _CONTACT_FIELDS)
    contact = await _locked_contact(session, contact_id)
    changed: dict[str, list[Any]] = {}
    for field, value in changes.items():
        before = _contact_value(contact, field)
        await _set_contact(session, contact, field, value, now=now)
        if (after := _contact_value(contact, field)) != before:
            changed[field] = [before, after]
    await _tell_contact(session, contact, changed, cause=cause, now=now)
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
    contact = await _locked_contact(session, contact_id)
    before = _numbers(contact)
    if phone.e164 not in before:
        await _attach(session, contact, phone, label=label, now=now)
        changed = {"phones": [before, _numbers(contact)]}
        await _tell_contact(session, contact, changed, cause=cause, now=now)
    return contact


# --- deals -------------------------------------------------------------------------------------


async def create_pipeline(
    session: AsyncSession, *, name: str, stages: Sequence[Stage], now: datetime
) -> Pipeline:
    """Add a pipeline with its stages in order. Raises Invalid, or Conflict when the name is taken."""
    name = _text(name, "a pipeline's name", 60)
    names = [_text(stage.name, "a stage's name", 60) for stage in stages]
    if not names or len({each.casefold() for each in names}) < len(names):
        raise Invalid(f"pipeline {name!r} needs at least one stage, each with a name of its own")
    for stage in stages:
        if stage.outcome not in OUTCOMES:
            raise Invalid(f"stage {stage.name!r} must be {' or '.join(OUTCOMES)}")
    if await queries.pipeline_named(session, name):
        raise Conflict(f"there is a pipeline {name!r} already")
    rows = [
        {"name": each, "outcome": stage.outcome} for each, stage in zip(names, stages, strict=True)
    ]
    pipeline = Pipeline(id=new_id("pip", now=now), name=name, stages=rows)
    session.add(pipeline)
    await session.flush()
    return pipeline


async def create_deal(
    session: AsyncSession,
    *,
    title: str,
    contact_id: str | None,
    pipeline: str,
    stage: str,
    amount: Money,
    deal_id: str | None = None,
    cause: Cause,
    now: datetime,
) -> Deal:
    """Add a deal. *deal_id* is a fresh id to take.

    Raises NotFound (contact, pipeline), or Invalid (title, stage, amount).
    """
    _amount(amount)
    contact = await queries.contact(session, contact_id) if contact_id else None
    at = await _stage(session, pipeline, stage)
    deal = Deal(
        id=deal_id or new_id("deal", now=now),
        title=_title(title),
        contact_id=contact.id if contact else None,
        company_id=contact.company_id if contact else None,
        pipeline=pipeline,
        stage=at.name,
        outcome=at.outcome,
        amount_minor=amount.minor,
        currency=amount.currency,
        created_at=now,
        updated_at=now,
    )
    session.add(deal)
    await session.flush()
    after = {
        "title": deal.title,
        "contact_id": deal.contact_id,
        "pipeline": deal.pipeline,
        "stage": deal.stage,
        "amount_minor": deal.amount_minor,
        "currency": deal.currency,
    }
    _write(session, "deal", deal.id, CREATED, None, after, cause=cause, now=now)
    await _tell_deal(session, deal, {}, after, cause=cause, now=now)
    return deal


async def move_deal(
    session: AsyncSession, deal_id: str, stage: str, *, cause: Cause, now: datetime
) -> Deal:
    """Put a deal into another stage of its pipeline; nothing happens if it is there already.

    Raises NotFound, or Invalid naming the stages there are.
    """
    return await update_deal(session, deal_id, {"stage": stage}, cause=cause, now=now)


async def update_deal(
    session: AsyncSession,
    deal_id: str,
    changes: Mapping[str, Any],
    *,
    cause: Cause,
    now: datetime,
) -> Deal:
    """Set any of title, contact_id, stage, amount_minor and currency; one event tells of all that changed.

    What is the same already leaves no trace. Raises NotFound (deal, contact), or Invalid for other
    fields and wrong values.
    """
    _only("a deal", changes, _DEAL_FIELDS)
    deal = await _locked_deal(session, deal_id)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for field, value in changes.items():
        was = getattr(deal, field)
        await _set_deal(session, deal, field, value, now=now)
        if (becomes := getattr(deal, field)) != was:
            before[field], after[field] = was, becomes
    if after:
        deal.updated_at = now
        for field in after:
            _write(
                session, "deal", deal.id, field, before[field], after[field], cause=cause, now=now
            )
        await _tell_deal(session, deal, before, after, cause=cause, now=now)
    return deal


# --- activities --------------------------------------------------------------------------------


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
        await queries.contact(session, contact_id)
    if deal_id is not None:
        deal = await queries.deal(session, deal_id)
        if contact_id is not None and deal.contact_id not in (None, contact_id):
            raise Conflict(f"deal {deal_id} belongs to another contact than {contact_id}")
    activity = Activity(
        id=activity_id or new_id("act", now=now),
        kind=kind,
        summary=_summary(summary),
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
        "due_at": _iso(due_at),
    }
    _write(session, "activity", activity.id, CREATED, None, after, cause=cause, now=now)
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
    _only("an activity", changes, _ACTIVITY_FIELDS)
    activity = await _locked_activity(session, activity_id)
    for field, value in changes.items():
        before = _activity_value(activity, field)
        if field == "done_at" and before is not None and value is not None:
            continue
        _set_activity(activity, field, value)
        after = _activity_value(activity, field)
        if after != before:
            _write(session, "activity", activity.id, field, before, after, cause=cause, now=now)
    await session.flush()
    return activity


# --- undo --------------------------------------------------------------------------------------


async def undo(session: AsyncSession, change_id: str, *, cause: Cause, now: datetime) -> Change:
    """Take a change back and return the compensating change; that one may be undone in turn.

    An activity or deal that came into being is deleted again; a contact stays, because calls
    name it (Refused). Raises NotFound, or Conflict when the change is undone already or what it
    changed has changed since.
    """
    change = await session.get(Change, change_id, with_for_update=True, populate_existing=True)
    if change is None:
        raise NotFound(f"no change {change_id}")
    if change.undone_at is not None:
        raise Conflict(f"change {change_id} is undone already")
    if change.field == CREATED:
        await _undo_creation(session, change)
    else:
        await _undo_field(session, change, now=now)
    change.undone_at = now
    back = _write(
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


async def _undo_field(session: AsyncSession, change: Change, *, now: datetime) -> None:
    match change.entity:
        case "contact":
            contact = await _locked_contact(session, change.entity_id)
            _unchanged(change, _contact_value(contact, change.field))
            await _set_contact(session, contact, change.field, change.before, now=now)
            contact.updated_at = now
        case "deal":
            deal = await _locked_deal(session, change.entity_id)
            _unchanged(change, getattr(deal, change.field))
            await _set_deal(session, deal, change.field, change.before, now=now)
            deal.updated_at = now
        case _:
            activity = await _locked_activity(session, change.entity_id)
            _unchanged(change, _activity_value(activity, change.field))
            before = change.before
            if change.field != "summary" and before is not None:
                before = datetime.fromisoformat(before)
            _set_activity(activity, change.field, before)
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
        row = await _locked_deal(session, change.entity_id)
        used = select(Activity.id).where(Activity.deal_id == row.id).limit(1)
        if await session.scalar(used):
            raise Conflict(f"deal {row.id} has activities; undo those first")
    else:
        row = await _locked_activity(session, change.entity_id)
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


# --- what the verbs share ----------------------------------------------------------------------

_CONTACT_FIELDS = frozenset({"name", "email", "tags", "do_not_call", "company"})
_DEAL_FIELDS = frozenset({"title", "contact_id", "stage", "amount_minor", "currency"})
_ACTIVITY_FIELDS = frozenset({"summary", "due_at", "done_at"})


def _only(what: str, changes: Mapping[str, Any], fields: frozenset[str]) -> None:
    if unknown := sorted(changes.keys() - fields):
        known = ", ".join(sorted(fields))
        raise Invalid(f"{what} has no field {', '.join(unknown)} to set; there are {known}")


def _contact_value(contact: Contact, field: str) -> Any:
    """A field as the ledger has it."""
    if field == "company":
        return contact.company.name if contact.company else None
    if field == "phones":
        return _numbers(contact)
    value = getattr(contact, field)
    return list(value) if field == "tags" else value


async def _set_contact(
    session: AsyncSession, contact: Contact, field: str, value: Any, *, now: datetime
) -> None:
    match field:
        case "name":
            contact.name = _name(value)
        case "email":
            contact.email = _email(value)
        case "tags":
            contact.tags = _tags(value)
        case "do_not_call":
            if not isinstance(value, bool):
                raise Invalid("do_not_call must be true or false")
            contact.do_not_call = value
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


async def _set_deal(
    session: AsyncSession, deal: Deal, field: str, value: Any, *, now: datetime
) -> None:
    match field:
        case "title":
            deal.title = _title(value)
        case "stage":
            _put(deal, await _stage(session, deal.pipeline, str(value)), now=now)
        case "contact_id":
            contact = None if value is None else await queries.contact(session, value)
            deal.contact_id = contact.id if contact else None
            deal.company_id = contact.company_id if contact else None
        case "amount_minor":
            deal.amount_minor = _amount(Money(value, deal.currency)).minor
        case "currency":
            deal.currency = _amount(Money(deal.amount_minor, value)).currency


def _activity_value(activity: Activity, field: str) -> Any:
    """A field as the ledger has it."""
    value = getattr(activity, field)
    return value if field == "summary" else _iso(value)


def _set_activity(activity: Activity, field: str, value: Any) -> None:
    if field == "summary":
        activity.summary = _summary(value)
        return
    if activity.kind != "task":
        raise Invalid(
            f"activity {activity.id} is a {activity.kind}; only a task is due and can be done"
        )
    if field == "due_at" and value is None:
        raise Invalid("a task needs the time it is due")
    setattr(activity, field, value)


async def _tell_contact(
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
        _write(session, "contact", contact.id, field, before, after, cause=cause, now=now)
    updated = events.ContactUpdated(contact.id, cause.source, changed, cause.evidence)
    await record(session, updated, now=now)


async def _tell_deal(
    session: AsyncSession,
    deal: Deal,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    cause: Cause,
    now: datetime,
) -> None:
    updated = events.DealUpdated(
        deal.id, deal.contact_id, deal.title, cause.source, before, after, cause.evidence
    )
    await record(session, updated, now=now)


def _write(
    session: AsyncSession,
    entity: str,
    entity_id: str,
    field: str,
    before: Any,
    after: Any,
    *,
    cause: Cause,
    now: datetime,
) -> Change:
    change = Change(
        id=new_id("chg", now=now),
        entity=entity,
        entity_id=entity_id,
        field=field,
        before=before,
        after=after,
        source=cause.source,
        call_id=cause.call_id,
        tool_run_id=cause.tool_run_id,
        turn_id=cause.turn_id,
        offset_ms=cause.offset_ms,
        created_at=now,
        undone_at=None,
    )
    session.add(change)
    return change


async def _locked_contact(session: AsyncSession, contact_id: str) -> Contact:
    # FOR UPDATE cannot reach the outer-joined company, so the lock names its table.
    statement = select(Contact).where(Contact.id == contact_id).with_for_update(of=Contact)
    found = await session.scalar(statement.execution_options(populate_existing=True))
    if found is None:
        raise NotFound(f"no contact {contact_id}")
    return found


async def _locked_deal(session: AsyncSession, deal_id: str) -> Deal:
    found = await session.get(Deal, deal_id, with_for_update=True, populate_existing=True)
    if found is None:
        raise NotFound(f"no deal {deal_id}")
    return found


async def _locked_activity(session: AsyncSession, activity_id: str) -> Activity:
    found = await session.get(Activity, activity_id, with_for_update=True, populate_existing=True)
    if found is None:
        raise NotFound(f"no activity {activity_id}")
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
        label=None if label is None else _text(label, "a label", 40),
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
    name = _text(name, "a company's name", 200)
    found = await queries.company_named(session, name)
    if found is None:
        found = Company(id=new_id("com", now=now), name=name, created_at=now)
        session.add(found)
        await session.flush()
    return found


async def _stage(session: AsyncSession, pipeline: str, stage: str) -> Stage:
    found = await queries.pipeline_named(session, pipeline)
    if found is None:
        raise NotFound(f"no pipeline {pipeline!r}")
    for row in found.stages:
        if row["name"].casefold() == stage.strip().casefold():
            return Stage(row["name"], row["outcome"])
    names = ", ".join(row["name"] for row in found.stages)
    raise Invalid(f"pipeline {pipeline!r} has no stage {stage!r}; its stages are {names}")


def _put(deal: Deal, at: Stage, *, now: datetime) -> None:
    deal.stage, deal.outcome, deal.updated_at = at.name, at.outcome, now


def _numbers(contact: Contact) -> list[str]:
    return [row.e164 for row in contact.phones]


def _text(text: Any, what: str, longest: int) -> str:
    if not isinstance(text, str) or not (trimmed := " ".join(text.split())):
        raise Invalid(f"{what} must not be empty")
    if len(trimmed) > longest:
        raise Invalid(f"{what} may have {longest} characters, not {len(trimmed)}")
    return trimmed


def _title(title: Any) -> str:
    return _text(title, "a deal's title", 200)


def _summary(summary: Any) -> str:
    return _text(summary, "a summary", 10_000)


def _amount(amount: Money) -> Money:
    """*amount*, if a deal can be worth it. Raises Invalid."""
    code = amount.currency
    if amount.minor < 0 or not (len(code) == 3 and code.isascii() and code.isupper()):
        raise Invalid(f"{amount} is no amount of a deal; write minor units and a code like USD")
    return amount


def _name(name: str | None) -> str | None:
    return None if name is None else _text(name, "a name", 200)


def _email(email: str | None) -> str | None:
    if email is None:
        return None
    trimmed = _text(email, "an email address", 320)
    local, at, domain = trimmed.rpartition("@")
    if not (local and at and domain) or " " in trimmed:
        raise Invalid(f"{trimmed!r} is no email address; write one like dana@example.com")
    return trimmed


def _tags(tags: Any) -> list[str]:
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise Invalid("tags must be a list of words")
    return list(dict.fromkeys(_text(tag, "a tag", 60) for tag in tags))


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()
