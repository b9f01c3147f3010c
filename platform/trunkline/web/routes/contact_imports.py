"""/v1: contacts from a CSV file, imported in the background."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response, StreamingResponse

from trunkline.access.models import ApiKey
from trunkline.crm.models import Import, ImportFault
from trunkline.desk import imports
from trunkline.errors import Invalid
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.files import errors_of_import
from trunkline.web.once import DoOnce
from trunkline.web.people import note

router = APIRouter(prefix="/v1", tags=["contacts"])

_ID = "imp_01kf0q8m3s7t9v1w3x5y7z9abe"
_AT = "2026-01-15T09:30:00Z"

ImportId = Annotated[str, Path(description="The import's id.", examples=[_ID])]


class ImportError_(BaseModel):
    """A row that is not imported."""

    line: int = Field(description="Where it begins in the file, from 1.", examples=[17])
    error: str = Field(examples=["Email: 'dana' is no email address"])


class ImportOut(BaseModel):
    """A file of contacts."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=[_ID])
    state: Literal["draft", "checking", "checked", "running", "stopped", "done"]
    file_name: str = Field(examples=["contacts.csv"])
    encoding: str = Field(examples=["utf-8"])
    delimiter: str = Field(examples=[","])
    header: list[str] = Field(examples=[["Name", "Phone"]])
    columns: list[str] = Field(
        description="What each column holds; empty for one that is left out.",
        examples=[["name", "phone"]],
    )
    region: str | None = Field(examples=["US"])
    source: str = Field(examples=["hubspot"])
    on_match: Literal["update", "skip"]
    total: int = Field(description="Rows of the file.", examples=[1240])
    done: int = Field(description="Rows that are through.", examples=[1240])
    made: int = Field(description="New contacts; in a check, those that would be.", examples=[1100])
    changed: int = Field(description="Contacts that were there and changed.", examples=[100])
    same: int = Field(description="Contacts that were there and did not change.", examples=[30])
    failed: int = Field(description="Rows that are not imported.", examples=[10])
    errors: list[ImportError_] = Field(description="The first 20; the file has all of them.")
    error: str | None = Field(description="Why it stopped.", examples=[None])
    created_at: datetime = Field(examples=[_AT])
    finished_at: datetime | None = Field(examples=[None])


def _out(row: Import, faults: Sequence[ImportFault] = ()) -> ImportOut:
    given = {name: getattr(row, name) for name in ImportOut.model_fields if name != "errors"}
    errors = [ImportError_(line=one.line, error=one.reason) for one in faults]
    return ImportOut(**given, errors=errors)


@router.post(
    "/contacts/imports", operation_id="import_contacts", summary="Import contacts from CSV",
    status_code=202, response_model=ImportOut, responses=documented(401, 403, 404, 409, 422),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "text/csv": {
                    "schema": {"type": "string"},
                    "example": "Name,Phone\nDana Whitfield,+1 202 555 0134\n",
                }
            },
        }
    },
)  # fmt: skip
async def import_contacts(
    request: Request,
    parts: Parts,
    once: DoOnce,
    dry_run: Annotated[
        bool, Query(description="Only say what would become of each row; `run` begins it then.")
    ] = False,
    file_name: Annotated[
        str, Query(max_length=200, description="As it is shown.", examples=["contacts.csv"])
    ] = "contacts.csv",
    columns: Annotated[
        str | None,
        Query(
            max_length=2000,
            description="What each column holds, with commas between: name, first_name, last_name, company, "
            "email, phone, tags, do_not_call, do_not_call_reason, external_id, or nothing for one that is "
            "left out. Guessed from the headings when it is not said.",
            examples=["name,phone,"],
        ),
    ] = None,
    region: Annotated[
        str | None,
        Query(
            max_length=2,
            description="Where numbers without a country code are: two letters of ISO 3166.",
            examples=["US"],
        ),
    ] = None,
    source: Annotated[
        str, Query(max_length=20, description="Whose the external ids are.", examples=["hubspot"])
    ] = imports.OURS,
    on_match: Annotated[
        Literal["update", "skip"],
        Query(description="What becomes of people who are there already."),
    ] = "update",
    key: ApiKey = needs("contacts:write"),
) -> Response:
    """The body is the file: UTF-8, UTF-16 or Windows-1252, with comma, semicolon, tab or bar; its first line
    names the columns. At most 25 MB and 250,000 rows.

    A row means the contact with its external id or one of its numbers, else with its address and no other
    name. Ask GET until the state is `done`, or `checked` with `dry_run`. Each contact that is made or
    changed raises `contact.created` or `contact.updated` with the source `import`.
    """
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > imports.MOST_BYTES:
            raise Invalid(
                f"the file is larger than {imports.MOST_BYTES // 1_000_000} MB; cut it up"
            )
    if not raw:
        raise Invalid("send the file as the body, with Content-Type: text/csv")
    sheet = await asyncio.to_thread(imports.look, bytes(raw))
    now = parts.now()
    import_id = imports.fresh_id(now)

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        row = await imports.bring(
            session, sheet, import_id=import_id, file_name=file_name, by=key, now=now
        )
        chosen = row.columns if columns is None else [one.strip() for one in columns.split(",")]
        row = await imports.choose(
            session,
            import_id,
            columns=chosen,
            region=region,
            source=source,
            on_match=on_match,
            then="checking" if dry_run else "running",
        )
        await note(session, key, request, "contacts.imported", row.id, now=now)
        await parts.blobs.put(imports.new_blob(import_id), bytes(raw))
        return 202, _out(row)

    return await once.run(work)


@router.get(
    "/contacts/imports/{import_id}", operation_id="get_contact_import", summary="Get an import",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_import(
    import_id: ImportId, parts: Parts, key: ApiKey = needs("contacts:write")
) -> ImportOut:
    """How far it is, and the first rows that cannot be imported."""
    async with parts.db.look() as session:
        row = await imports.get(session, import_id)
        return _out(row, await imports.faults(session, import_id))


@router.post(
    "/contacts/imports/{import_id}/run", operation_id="run_contact_import",
    summary="Begin an import that was checked", status_code=202, response_model=ImportOut,
    responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def run_import(
    import_id: ImportId,
    request: Request,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("contacts:write"),
) -> Response:
    """After a dry run; and one that stopped goes on where it stood."""

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        row = await imports.run(session, import_id)
        await note(session, key, request, "contacts.imported", row.id, now=parts.now())
        return 202, _out(row)

    return await once.run(work)


@router.get(
    "/contacts/imports/{import_id}/errors", operation_id="get_contact_import_errors",
    summary="Fetch the rows that failed", response_class=Response,
    responses={
        200: {"content": {"text/csv": {}}, "description": "Line, error and the row itself."},
        **documented(401, 403, 404, 422),
    },
)  # fmt: skip
async def get_import_errors(
    import_id: ImportId, parts: Parts, key: ApiKey = needs("contacts:write")
) -> StreamingResponse:
    """CSV in UTF-8, to be mended and sent again; no cell is a formula."""
    return await errors_of_import(parts, import_id)
