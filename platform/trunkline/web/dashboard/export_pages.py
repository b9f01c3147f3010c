"""Files of calls: asked for on the list, fetched here."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.desk import exports
from trunkline.web import files
from trunkline.web.dashboard import render
from trunkline.web.deps import Parts
from trunkline.web.people import may, note

router = APIRouter(include_in_schema=False)


@router.get("/calls/exports")
async def exports_page(parts: Parts, person: Person = may("calls:read")) -> Response:
    """One's own files, the newest first."""
    async with parts.db.look() as session:
        mine = await exports.mine(session, by=person)
    return render.page(
        "exports.html",
        person=person,
        exports=mine,
        live=any(one.finished_at is None for one in mine),
    )


@router.post("/calls/exports")
async def ask(
    request: Request,
    parts: Parts,
    query: Annotated[str, Form(max_length=4000)] = "",
    bom: bool = Form(False),
    person: Person = may("calls:read"),
) -> Response:
    """Have the calls that the list shows written into a file."""
    now = parts.now()
    async with parts.db.work() as session:
        export = await exports.ask(session, query, by=person, bom=bom, now=now)
        await note(session, person, request, "calls.exported", export.id, now=now)
    return RedirectResponse("/calls/exports", 303)


@router.get("/calls/exports/{export_id}/calls.csv")
async def file(
    export_id: str, request: Request, parts: Parts, person: Person = may("calls:read")
) -> Response:
    """The file."""
    return await files.export_file(request, parts, export_id, by=person)
