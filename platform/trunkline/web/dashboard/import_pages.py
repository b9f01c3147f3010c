"""A file of contacts: brought, its columns named, checked, imported."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.crm import mapping
from trunkline.crm.models import Import
from trunkline.desk import imports
from trunkline.errors import Conflict, Invalid
from trunkline.kit import sheets
from trunkline.web.dashboard import render
from trunkline.web.dashboard.language import _
from trunkline.web.deps import Parts, Web
from trunkline.web.errors import status_of
from trunkline.web.files import errors_of_import
from trunkline.web.people import may, note

router = APIRouter(include_in_schema=False)


@router.get("/contacts/imports")
async def imports_page(parts: Parts, person: Person = may("contacts:write")) -> Response:
    """Files that were brought, and the form for another."""
    return await _list(parts, person)


@router.post("/contacts/imports")
async def bring(
    request: Request,
    parts: Parts,
    file: Annotated[UploadFile | str | None, File()] = None,
    person: Person = may("contacts:write"),
) -> Response:
    """Take a file; the next page asks what its columns hold."""
    try:
        if file is None or isinstance(file, str) or not file.filename:
            raise Invalid(_("choose a file first"))
        raw = await file.read(imports.MOST_BYTES + 1)
        sheet = await asyncio.to_thread(imports.look, raw)
    except Invalid as error:
        return await _list(parts, person, fault=render.sentence(error), status=status_of(error))
    now = parts.now()
    import_id = imports.fresh_id(now)
    await parts.blobs.put(imports.new_blob(import_id), raw)
    async with parts.db.work() as session:
        await imports.bring(
            session, sheet, import_id=import_id, file_name=file.filename, by=person, now=now
        )
    return RedirectResponse(f"/contacts/imports/{import_id}", 303)


@router.get("/contacts/imports/{import_id}")
async def import_page(
    import_id: str, parts: Parts, columns: str = "", person: Person = may("contacts:write")
) -> Response:
    """One file: what its columns hold, what would become of its rows, or how far it is; ``columns=change``
    asks once more what they hold."""
    return await _page(parts, import_id, person, asks=bool(columns))


@router.post("/contacts/imports/{import_id}/columns")
async def choose(
    import_id: str,
    request: Request,
    parts: Parts,
    column: Annotated[list[str] | None, Form()] = None,
    region: Annotated[str, Form(max_length=10)] = "",
    source: Annotated[str, Form(max_length=40)] = "",
    on_match: Annotated[str, Form(max_length=10)] = "update",
    person: Person = may("contacts:write"),
) -> Response:
    """Say what the columns hold, and have the file checked."""
    chosen: dict[str, Any] = {"columns": column or [], "region": region, "on_match": on_match}
    try:
        async with parts.db.work() as session:
            await imports.choose(session, import_id, source=source.strip().lower(), **chosen)
            await note(session, person, request, "import.checked", import_id, now=parts.now())
    except (Invalid, Conflict) as error:
        return await _page(
            parts,
            import_id,
            person,
            asks=True,
            fault=render.sentence(error),
            typed={**chosen, "source": source},
            status=status_of(error),
        )
    return RedirectResponse(f"/contacts/imports/{import_id}", 303)


@router.post("/contacts/imports/{import_id}/run")
async def run(
    import_id: str, request: Request, parts: Parts, person: Person = may("contacts:write")
) -> Response:
    """Begin, or go on."""
    try:
        async with parts.db.work() as session:
            await imports.run(session, import_id)
            await note(session, person, request, "contacts.imported", import_id, now=parts.now())
    except (Invalid, Conflict) as error:
        return await _refused(parts, import_id, person, error)
    return RedirectResponse(f"/contacts/imports/{import_id}", 303)


@router.post("/contacts/imports/{import_id}/stop")
async def stop(
    import_id: str, request: Request, parts: Parts, person: Person = may("contacts:write")
) -> Response:
    """Go no further."""
    try:
        async with parts.db.work() as session:
            await imports.stop(session, import_id, by=person.name, now=parts.now())
            await note(session, person, request, "import.stopped", import_id, now=parts.now())
    except Conflict as error:
        return await _refused(parts, import_id, person, error)
    return RedirectResponse(f"/contacts/imports/{import_id}", 303)


@router.post("/contacts/imports/{import_id}/discard")
async def discard(
    import_id: str, request: Request, parts: Parts, person: Person = may("contacts:write")
) -> Response:
    """Forget a file of which nothing was imported."""
    try:
        async with parts.db.work() as session:
            blob = await imports.discard(session, import_id)
            await note(session, person, request, "import.discarded", import_id, now=parts.now())
    except Conflict as error:
        return await _refused(parts, import_id, person, error)
    if blob is not None:
        await parts.blobs.delete(blob)
    return RedirectResponse("/contacts/imports", 303)


@router.get("/contacts/imports/{import_id}/errors.csv")
async def errors(import_id: str, parts: Parts, person: Person = may("contacts:write")) -> Response:
    """The rows that are not imported."""
    return await errors_of_import(parts, import_id)


async def _list(
    web: Web, person: Person, *, status: int = 200, fault: str | None = None
) -> Response:
    async with web.db.look() as session:
        rows = await imports.newest(session)
    return render.page("imports.html", person=person, status=status, imports=rows, fault=fault)


async def _refused(web: Web, import_id: str, person: Person, error: Invalid | Conflict) -> Response:
    fault = render.sentence(error)
    return await _page(web, import_id, person, fault=fault, status=status_of(error))


async def _page(
    web: Web,
    import_id: str,
    person: Person,
    *,
    asks: bool = False,
    status: int = 200,
    fault: str | None = None,
    typed: dict[str, Any] | None = None,
) -> Response:
    async with web.db.look() as session:
        row = await imports.get(session, import_id)
        wrong = await imports.faults(session, import_id)
    given = {
        "columns": row.columns,
        "region": row.region or "",
        "source": "" if row.source == imports.OURS else row.source,
        "on_match": row.on_match,
        **(typed or {}),
    }
    return render.page(
        "import.html",
        person=person,
        status=status,
        one=row,
        faults=wrong,
        asks=row.state == "draft" or (asks and row.state == "checked"),
        columns=_columns(row, given["columns"]),
        targets=mapping.TARGETS,
        written=_(
            "%(encoding)s, %(delimiter)s between cells",
            encoding=_(sheets.ENCODINGS[row.encoding]),
            delimiter=_(sheets.DELIMITERS[row.delimiter]),
        ),
        given=given,
        fault=fault,
    )


def _columns(row: Import, chosen: list[str]) -> list[tuple[str, str, list[str]]]:
    """Of each column its heading, what it holds and what stands in it first."""
    return [
        (
            name,
            chosen[at] if at < len(chosen) else "",
            [cells[at] for cells in row.sample if at < len(cells) and cells[at].strip()][:3],
        )
        for at, name in enumerate(row.header)
    ]
