"""Two contacts that are one person: found, laid side by side, merged, and taken apart again."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.crm import contacts, queries
from trunkline.crm import service as crm
from trunkline.desk import merge
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.web.dashboard import render
from trunkline.web.dashboard.language import _
from trunkline.web.deps import Parts, Web
from trunkline.web.errors import status_of
from trunkline.web.people import may, note

router = APIRouter(include_in_schema=False)

_CHOSEN = ("name", "email", "company")
"""Fields of which one is kept."""

Id = Annotated[str, Form(max_length=40)]
Choice = Annotated[str, Form(max_length=10)]


@router.get("/contacts/{contact_id}/merge")
async def merge_page(
    contact_id: str,
    parts: Parts,
    other: Annotated[str, Query(alias="with", max_length=40)] = "",
    q: Annotated[str, Query(max_length=200)] = "",
    person: Person = may("contacts:write"),
) -> Response:
    """Who it may be; and with ``with``, an id, the two side by side."""
    return await _page(parts, contact_id, person, other=other, q=q)


@router.post("/contacts/{contact_id}/merge")
async def merge_contacts(
    contact_id: str,
    request: Request,
    parts: Parts,
    merged_id: Id = "",
    name: Choice = "",
    email: Choice = "",
    company: Choice = "",
    person: Person = may("contacts:write"),
) -> Response:
    """Let the other be this one, with the fields that were chosen."""
    now = parts.now()
    cause = crm.Cause("person", actor=person.name)
    chosen = {"name": name, "email": email, "company": company}
    try:
        async with parts.db.work() as session:
            goes = await contacts.row(session, merged_id)
            theirs = {
                field: value
                for field, choice in chosen.items()
                if choice == "other" and (value := contacts.read(goes, field)) is not None
            }
            await merge.merge(session, contact_id, merged_id, cause=cause, now=now)
            if theirs:
                await crm.update_contact(session, contact_id, theirs, cause=cause, now=now)
            await note(
                session,
                person,
                request,
                "contact.merged",
                contact_id,
                {"merged_id": merged_id},
                now=now,
            )
    except (Invalid, Conflict) as error:
        fault = render.sentence(error)
        return await _page(parts, contact_id, person, fault=fault, status=status_of(error))
    return RedirectResponse(f"/contacts/{contact_id}?done=merged", 303)


@router.post("/contacts/{contact_id}/merges/{change_id}/undo")
async def part(
    contact_id: str,
    change_id: str,
    request: Request,
    parts: Parts,
    person: Person = may("contacts:write"),
) -> Response:
    """Take a merge back."""
    now = parts.now()
    async with parts.db.work() as session:
        if change_id not in {one.id for one in await merge.standing(session, contact_id)}:
            raise NotFound(f"this contact has no merge {change_id[:60]} to take back")
        cause = crm.Cause("person", actor=person.name)
        await merge.undo(session, change_id, cause=cause, now=now)
        await note(session, person, request, "change.undone", change_id, now=now)
    return RedirectResponse(f"/contacts/{contact_id}?done=parted", 303)


async def _page(
    web: Web,
    contact_id: str,
    person: Person,
    *,
    other: str = "",
    q: str = "",
    status: int = 200,
    fault: str | None = None,
) -> Response:
    async with web.db.look() as session:
        stays = await queries.contact(session, contact_id)
        goes = await queries.contact(session, other) if other else None
        if goes is not None and goes.id == stays.id:
            goes, fault = None, _("They are one contact already.")
        if goes is not None:
            found, moves = [], await merge.belongings(session, goes)
        else:
            moves = None
            found = (
                [
                    one
                    for one in await queries.find_contacts(session, q, limit=20)
                    if one.id != stays.id
                ]
                if q.strip()
                else await merge.likely(session, stays)
            )
    fields = (
        [(name, contacts.read(stays, name), contacts.read(goes, name)) for name in _CHOSEN]
        if goes is not None
        else []
    )
    return render.page(
        "merge.html",
        person=person,
        status=status,
        stays=stays,
        goes=goes,
        fields=fields,
        moves=moves,
        found=found,
        q=q,
        fault=fault,
    )
