"""Files that were asked for, over HTTP: exports, and the rows that an import left out."""

from collections.abc import AsyncIterator

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from trunkline.access.logins import Person
from trunkline.access.models import ApiKey
from trunkline.desk import exports, imports
from trunkline.errors import NotFound
from trunkline.kit.blobs import BlobMissing
from trunkline.web.deps import Web
from trunkline.web.people import note

_CHUNK = 1024 * 1024
"""Bytes read from the blob store at a time."""


async def export_file(
    request: Request, web: Web, export_id: str, *, by: Person | ApiKey
) -> Response:
    """The file, and who fetched it in the audit. Raises NotFound, or Conflict until it is done."""
    now = web.now()
    async with web.db.work() as session:
        key = exports.ready(await exports.get(session, export_id, by=by))
        await note(session, by, request, "export.fetched", export_id, now=now)
    try:
        size = await web.blobs.size(key)
    except BlobMissing:
        raise NotFound("this file is gone; ask for the export again") from None

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, size, _CHUNK):
            yield await web.blobs.get_range(key, start, min(start + _CHUNK, size))

    headers = {
        "Content-Disposition": f'attachment; filename="calls-{export_id[-8:]}.csv"',
        "Content-Length": str(size),
        "Cache-Control": "private, no-store",
    }
    return StreamingResponse(body(), media_type="text/csv; charset=utf-8", headers=headers)


async def errors_of_import(web: Web, import_id: str) -> StreamingResponse:
    """The rows that were not imported, with why. Raises NotFound."""
    async with web.db.look() as session:
        found = await imports.get(session, import_id)
    headers = {
        "Content-Disposition": f'attachment; filename="errors-{import_id[-8:]}.csv"',
        "Cache-Control": "private, no-store",
    }
    return StreamingResponse(
        imports.errors_file(web.db, found), media_type="text/csv; charset=utf-8", headers=headers
    )
