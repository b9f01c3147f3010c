"""/v1: calls as a CSV file, written in the background."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.calls.models import Export
from trunkline.desk import exports
from trunkline.web import files
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.people import note

router = APIRouter(prefix="/v1", tags=["calls"])

_ID = "exp_01kf0q8m3s7t9v1w3x5y7z9abe"
_AT = "2026-01-15T09:30:00Z"

ExportId = Annotated[str, Path(description="The export's id.", examples=[_ID])]


class ExportAsked(BaseModel):
    """Which calls."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(
        "",
        max_length=4000,
        description="The filters as in the query of GET /v1/calls; empty for all calls.",
        examples=["from=2026-01-01&tag=vip&q=refund"],
    )
    bom: StrictBool = Field(
        False, description="Begin with a byte order mark, as some spreadsheets want."
    )


class ExportOut(BaseModel):
    """A file of calls."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=[_ID])
    state: Literal["queued", "running", "done", "failed"]
    query: str = Field(examples=["tag=vip"])
    rows: int | None = Field(description="Calls in the file, once it is done.", examples=[1240])
    error: str | None = Field(examples=[None])
    created_at: datetime = Field(examples=[_AT])
    finished_at: datetime | None = Field(examples=[_AT])


def _out(export: Export) -> ExportOut:
    return ExportOut.model_validate(export)


@router.post(
    "/calls/exports", operation_id="export_calls", summary="Export calls as CSV", status_code=202,
    response_model=ExportOut, responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def export_calls(
    body: ExportAsked,
    request: Request,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("calls:read"),
) -> Response:
    """The file is written in the background: ask GET until its state is `done`. It is kept for 7 days."""

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        now = parts.now()
        export = await exports.ask(session, body.query, by=key, bom=body.bom, now=now)
        await note(session, key, request, "calls.exported", export.id, now=now)
        return 202, _out(export)

    return await once.run(work)


@router.get(
    "/calls/exports/{export_id}", operation_id="get_export", summary="Get an export",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_export(
    export_id: ExportId, parts: Parts, key: ApiKey = needs("calls:read")
) -> ExportOut:
    """How far it is. Only the key that asked for it may see it."""
    async with parts.db.look() as session:
        return _out(await exports.get(session, export_id, by=key))


@router.get(
    "/calls/exports/{export_id}/file", operation_id="get_export_file", summary="Fetch the file",
    response_class=Response,
    responses={
        200: {"content": {"text/csv": {}}, "description": "The calls, newest first."},
        **documented(401, 403, 404, 409, 422),
    },
)  # fmt: skip
async def get_export_file(
    export_id: ExportId, request: Request, parts: Parts, key: ApiKey = needs("calls:read")
) -> Response:
    """UTF-8, times in ISO 8601 (UTC), durations in seconds; no cell is a formula."""
    return await files.export_file(request, parts, export_id, by=key)
