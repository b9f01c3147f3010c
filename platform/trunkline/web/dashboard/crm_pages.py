"""Contacts and deals: who they are, what happened with them, and where each deal stands."""

from datetime import datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.crm import queries
from trunkline.crm import service as crm
from trunkline.desk import merge, timeline
from trunkline.errors import Conflict, Invalid, NotFound, Refused
from trunkline.kit import phone
from trunkline.kit.messages import N_
from trunkline.web import paging
from trunkline.web.dashboard import render
from trunkline.web.dashboard.language import _
from trunkline.web.deps import Parts, Web
from trunkline.web.errors import status_of
from trunkline.web.people import may, note

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50
_DONE = {
    "saved": N_("Saved."),
    "made": N_("The contact is made."),
    "undone": N_("Undone."),
    "moved": N_("Moved."),
    "merged": N_("The two are one contact now."),
    "parted": N_("They are two contacts again. What was changed since the merge stays as it is."),
}

Short = Annotated[str, Form(max_length=400)]


@router.get("/contacts")
async def contacts_page(
    parts: Parts,
    q: Annotated[str, Query(max_length=200)] = "",
    do_not_call: str = "",
    open_deal: str = "",
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    person: Person = may("contacts:read"),
) -> Response:
    """People, the newest first; ``q`` finds them by name, company, address or any part of a number."""
    before = paging.read_id("con", cursor)
    async with parts.db.look() as session:
        rows = await queries.find_contacts(
            session,
            q,
            do_not_call=bool(do_not_call),
            open_deal=bool(open_deal),
            before=before,
            limit=_ON_A_PAGE + 1,
        )
    shown, older = paging.cut(rows, _ON_A_PAGE)
    query = {"q": q.strip(), "do_not_call": do_not_call, "open_deal": open_deal}
    query = {name: value for name, value in query.items() if value}
    return render.page(
        "contacts.html",
        person=person,
        rows=shown,
        given={"q": q, "do_not_call": do_not_call, "open_deal": open_deal},
        filtered=bool(query),
        older=f"/contacts?{urlencode({**query, 'cursor': older})}" if older else None,
        cursor=cursor,
    )


@router.get("/contacts/new")
async def new_contact_page(person: Person = may("contacts:write")) -> Response:
    """The form for somebody new."""
    return _new(person, {})


@router.post("/contacts/new")
async def make_contact(
    request: Request,
    parts: Parts,
    name: Short = "",
    number: Short = "",
    email: Short = "",
    company: Short = "",
    tags: Short = "",
    person: Person = may("contacts:write"),
) -> Response:
    """Make a contact."""
    now = parts.now()
    typed = {"name": name, "number": number, "email": email, "company": company, "tags": tags}
    try:
        if not name.strip() and not number.strip():
            raise Invalid(_("a contact needs a name or a number"))
        async with parts.db.work() as session:
            contact = await crm.create_contact(
                session,
                name=name.strip() or None,
                phones=_numbers(number),
                email=email.strip() or None,
                company=company.strip() or None,
                tags=_tags(tags),
                cause=_by(person),
                now=now,
            )
            await note(session, person, request, "contact.made", contact.id, now=now)
    except (Invalid, Conflict) as error:
        return _new(person, typed, fault=render.sentence(error), status=status_of(error))
    return RedirectResponse(f"/contacts/{contact.id}?done=made", 303)


@router.get("/contacts/{contact_id}")
async def contact_page(
    contact_id: str,
    parts: Parts,
    before: Annotated[str, Query(max_length=40)] = "",
    done: str = "",
    person: Person = may("contacts:read"),
) -> Response:
    """A person and what happened with them; ``before`` (ISO 8601) goes further back."""
    return await _contact(parts, contact_id, person, before=_moment(before), done=_DONE.get(done))


@router.post("/contacts/{contact_id}")
async def change_contact(
    contact_id: str,
    request: Request,
    parts: Parts,
    name: Short = "",
    number: Short = "",
    email: Short = "",
    company: Short = "",
    tags: Short = "",
    do_not_call: bool = Form(False),
    do_not_call_reason: Short = "",
    person: Person = may("contacts:write"),
) -> Response:
    """Save what was changed; each field that did is one line of the ledger."""
    now = parts.now()
    typed: dict[str, Any] = {
        "name": name,
        "email": email,
        "company": company,
        "tags": tags,
        "number": number,
        "do_not_call": do_not_call,
        "do_not_call_reason": do_not_call_reason,
    }
    try:
        async with parts.db.work() as session:
            before = (await queries.contact(session, contact_id)).do_not_call
            changes = {
                "name": name.strip() or None,
                "email": email.strip() or None,
                "company": company.strip() or None,
                "tags": _tags(tags),
                "do_not_call": do_not_call,
                # Somebody who may be called has no reason not to be.
                "do_not_call_reason": (do_not_call_reason.strip() or None) if do_not_call else None,
            }
            await crm.update_contact(session, contact_id, changes, cause=_by(person), now=now)
            for one in _numbers(number):
                await crm.add_phone(session, contact_id, one, cause=_by(person), now=now)
            await note(session, person, request, "contact.changed", contact_id, now=now)
            if do_not_call != before:
                action = "contact.do_not_call" if do_not_call else "contact.may_call"
                why = {"reason": do_not_call_reason.strip()} if do_not_call else {}
                await note(session, person, request, action, contact_id, why, now=now)
    except (Invalid, Conflict) as error:
        fault = render.sentence(error)
        return await _contact(
            parts, contact_id, person, fault=fault, typed=typed, status=status_of(error)
        )
    return RedirectResponse(f"/contacts/{contact_id}?done=saved", 303)


@router.get("/deals")
async def board_page(
    parts: Parts,
    pipeline: Annotated[str, Query(max_length=60)] = "",
    done: str = "",
    person: Person = may("contacts:read"),
) -> Response:
    """Deals by stage."""
    async with parts.db.look() as session:
        known = await queries.pipelines(session)
        chosen = next((one for one in known if one.name == pipeline), known[0] if known else None)
        columns = await queries.board(session, chosen, limit=_ON_A_PAGE) if chosen else []
        ids = {deal.contact_id for column in columns for deal in column.deals if deal.contact_id}
        names = await queries.contact_names(session, ids)
    return render.page(
        "deals.html",
        person=person,
        pipelines=known,
        chosen=chosen,
        columns=columns,
        names=names,
        done=_DONE.get(done),
    )


@router.get("/deals/{deal_id}")
async def deal_page(
    deal_id: str, parts: Parts, done: str = "", person: Person = may("contacts:read")
) -> Response:
    """One deal and everything that was changed on it, with the second of the call it was agreed in."""
    return await _deal(parts, deal_id, person, done=_DONE.get(done))


@router.post("/deals/{deal_id}/move")
async def move_deal(
    deal_id: str,
    request: Request,
    parts: Parts,
    stage: Annotated[str, Form(max_length=60)] = "",
    back: Annotated[str, Form(max_length=10)] = "",
    person: Person = may("contacts:write"),
) -> Response:
    """Put it into another stage."""
    now = parts.now()
    try:
        async with parts.db.work() as session:
            deal = await crm.move_deal(session, deal_id, stage, cause=_by(person), now=now)
            await note(
                session, person, request, "deal.moved", deal_id, {"stage": deal.stage}, now=now
            )
    except Invalid as error:
        fault = render.sentence(error)
        return await _deal(parts, deal_id, person, fault=fault, status=status_of(error))
    if back == "board":
        query = urlencode({"pipeline": deal.pipeline, "done": "moved"})
        return RedirectResponse(f"/deals?{query}#{deal_id}", 303)
    return RedirectResponse(f"/deals/{deal_id}?done=moved", 303)


@router.post("/deals/{deal_id}/changes/{change_id}/undo")
async def undo(
    deal_id: str,
    change_id: str,
    request: Request,
    parts: Parts,
    person: Person = may("contacts:write"),
) -> Response:
    """Take a change of this deal back. A webhook tells of it: ``change.undone``."""
    now = parts.now()
    try:
        async with parts.db.work() as session:
            ours = {change.id for change in await queries.changes_of(session, "deal", deal_id)}
            if change_id not in ours:
                raise NotFound(f"this deal has no change {change_id[:60]}")
            await crm.undo(session, change_id, cause=_by(person), now=now)
            await note(session, person, request, "change.undone", change_id, now=now)
    except (Conflict, Refused) as error:
        fault = render.sentence(error)
        return await _deal(parts, deal_id, person, fault=fault, status=status_of(error))
    return RedirectResponse(f"/deals/{deal_id}?done=undone", 303)


def _new(
    person: Person, given: dict[str, str], *, fault: str | None = None, status: int = 200
) -> Response:
    blank = {"name": "", "number": "", "email": "", "company": "", "tags": ""}
    return render.page(
        "contact_new.html", person=person, status=status, given={**blank, **given}, fault=fault
    )


def _by(person: Person) -> crm.Cause:
    return crm.Cause("person", actor=person.name)


async def _contact(
    web: Web,
    contact_id: str,
    person: Person,
    *,
    status: int = 200,
    before: datetime | None = None,
    done: str | None = None,
    fault: str | None = None,
    typed: dict[str, Any] | None = None,
) -> Response:
    async with web.db.look() as session:
        contact = await queries.contact(session, contact_id)
        moments = await timeline.of_contact(
            session, contact_id, before=before, limit=_ON_A_PAGE + 1
        )
        deals = await queries.deals(session, contact_id=contact_id, limit=_ON_A_PAGE)
        merges = await merge.standing(session, contact.id)
    shown = moments[:_ON_A_PAGE]
    given = {
        "name": contact.name or "",
        "email": contact.email or "",
        "company": contact.company.name if contact.company else "",
        "tags": ", ".join(contact.tags),
        "number": "",
        "do_not_call": contact.do_not_call,
        "do_not_call_reason": contact.do_not_call_reason or "",
    }
    return render.page(
        "contact.html",
        person=person,
        status=status,
        contact=contact,
        moments=shown,
        older=shown[-1].at.isoformat() if len(moments) > _ON_A_PAGE else None,
        deals=deals,
        merges=merges,
        given={**given, **(typed or {})},
        done=done,
        fault=fault,
    )


async def _deal(
    web: Web, deal_id: str, person: Person, *, status: int = 200, **facts: Any
) -> Response:
    async with web.db.look() as session:
        deal = await queries.deal(session, deal_id)
        changes = await queries.changes_of(session, "deal", deal_id)
        contact = await queries.contact(session, deal.contact_id) if deal.contact_id else None
        pipeline = await queries.pipeline_named(session, deal.pipeline)
        activities = await queries.activities(session, deal_id=deal_id, limit=_ON_A_PAGE)
    return render.page(
        "deal.html",
        person=person,
        status=status,
        deal=deal,
        changes=list(reversed(changes)),
        contact=contact,
        stages=[stage["name"] for stage in pipeline.stages] if pipeline else [deal.stage],
        activities=activities,
        **{"done": None, "fault": None, **facts},
    )


def _numbers(text: str) -> list[phone.PhoneNumber]:
    """None, or the one in *text*. Raises Invalid."""
    if not text.strip():
        return []
    try:
        return [phone.parse(text, region=None)]
    except ValueError as error:
        raise Invalid(str(error)) from None


def _tags(text: str) -> list[str]:
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
