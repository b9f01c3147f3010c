"""A finished export over HTTP."""

from collections.abc import AsyncIterator

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from trunkline.access import service as access
from trunkline.access.logins import Person
from trunkline.access.models import ApiKey
from trunkline.desk import exports
from trunkline.errors import NotFound
from trunkline.kit.blobs import BlobMissing
from trunkline.web.deps import Web
from trunkline.web.people import actor

_CHUNK = 1024 * 1024
"""Bytes read from the blob store at a time."""


async def export_file(
    request: Request, web: Web, export_id: str, *, by: Person | ApiKey
) -> Response:
    """The file, and who fetched it in the audit. Raises NotFound, or Conflict until it is done."""
    now = web.now()
    async with web.db.work() as session:
        key = exports.ready(await exports.get(session, export_id, by=by))
        await access.note(
            session, **actor(by, request), action="export.fetched", subject=export_id, now=now
        )
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
