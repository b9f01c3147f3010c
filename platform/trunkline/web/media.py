"""A call's recording over HTTP: whole, or the part a player asks for (RFC 9110 §14)."""

import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from trunkline.access import service as access
from trunkline.access.models import ApiKey
from trunkline.calls import queries as calls
from trunkline.errors import Forbidden, NotFound
from trunkline.kit.blobs import BlobMissing, Blobs
from trunkline.kit.crypt import is_signed, sign
from trunkline.web.deps import Web
from trunkline.web.envelope import HEAD
from trunkline.web.errors import problem

_CHUNK = 1024 * 1024
"""Bytes read from the blob store at a time."""

_ONE_RANGE = re.compile(r"bytes=\s*(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))\s*", re.IGNORECASE)


class Unsatisfiable(Exception):
    """The range lies outside of what there is."""


def part_asked(header: str | None, size: int) -> range | None:
    """The bytes that a ``Range`` header asks for; None for all of them.

    What is no valid range, or more than one, is ignored, as the RFC allows. Raises Unsatisfiable.
    """
    found = _ONE_RANGE.fullmatch(header or "")
    if not found:
        return None
    first, last, suffix = found.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
        if int(suffix) == 0:
            raise Unsatisfiable
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= size:
        raise Unsatisfiable
    return range(start, stop)


async def recording(request: Request, web: Web, call_id: str) -> Response:
    """The recording of a call as ``audio/wav``. Raises NotFound."""
    async with web.db.look() as session:
        await calls.call(session, call_id)
        found = await calls.recording(session, call_id)
    if found is None:
        raise NotFound(f"the call {call_id} was not recorded")
    key = found.blob_key
    if key is None:
        raise NotFound(f"the recording of {call_id} is not complete yet; ask again after the call")
    try:
        size = await web.blobs.size(key)
    except BlobMissing:
        raise NotFound(f"the recording of {call_id} is no longer in the store") from None
    tag = '"' + hashlib.sha256(f"{key} {size}".encode()).hexdigest()[:32] + '"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": tag,
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f'inline; filename="{call_id}.wav"',
    }
    if _names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    asked = request.headers.get("range")
    if request.headers.get("if-range", tag) != tag:
        asked = None  # the player has a part of something else
    try:
        part = part_asked(asked, size)
    except Unsatisfiable:
        return problem(
            request,
            416,
            "range_not_satisfiable",
            f"the recording has {size} bytes; the range begins behind its end",
            headers={"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"},
        )
    whole = range(size)
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    sent = part if part is not None else whole
    headers["Content-Length"] = str(len(sent))
    body = _nothing() if HEAD in request.scope else _read(web.blobs, key, sent)
    return StreamingResponse(
        body, 200 if part is None else 206, headers=headers, media_type="audio/wav"
    )


_LINK = "recording link"
"""What these signatures are for (kit.crypt)."""

LINK_LASTS = timedelta(minutes=5)
LINK_LASTS_AT_MOST = timedelta(hours=1)


class LinkRefused(Forbidden):
    """The link to a recording has expired, was changed, or its key was revoked."""

    code = "link_refused"


@dataclass(frozen=True)
class Link:
    """An address that plays one recording without a key, for a short time."""

    url: str
    expires_at: datetime


async def link(
    request: Request, web: Web, call_id: str, *, by: ApiKey, lasts: timedelta = LINK_LASTS
) -> Link:
    """A link to the recording of a call, in the name of the key that asks.

    Raises NotFound when there is nothing to hear, Misconfigured without a key to sign with.
    """
    async with web.db.look() as session:
        await calls.call(session, call_id)
        found = await calls.recording(session, call_id)
    if found is None or found.blob_key is None:
        raise NotFound(f"there is no complete recording of {call_id}")
    expires_at = (web.now() + lasts).replace(microsecond=0)
    expires = int(expires_at.timestamp())
    signature = sign(web.endpoint_options.keys, _LINK, _signed(call_id, expires, by.id))
    query = urlencode({"expires": expires, "by": by.id, "signature": signature})
    proto = request.headers.get("x-forwarded-proto", request.url.scheme)
    base = f"{'https' if proto == 'https' else 'http'}://{request.headers.get('host', 'localhost')}"
    return Link(f"{base}/v1/calls/{call_id}/recording/signed?{query}", expires_at)


async def opened(web: Web, call_id: str, *, expires: int, by: str, signature: str) -> ApiKey:
    """The key in whose name the link was made. Raises LinkRefused."""
    text = _signed(call_id, expires, by)
    if not is_signed(web.endpoint_options.keys, _LINK, text, signature):
        raise LinkRefused("this link is not one of ours, or was changed; ask for a new one")
    if web.now() >= datetime.fromtimestamp(expires, UTC):
        raise LinkRefused("this link has expired; ask for a new one")
    async with web.db.look() as session:
        key = await session.get(ApiKey, by)
    good = key is not None and access.opens(key, now=web.now())
    if key is None or not good or "recordings:read" not in key.scopes:
        raise LinkRefused("the key that made this link may no longer hear recordings")
    return key


def _signed(call_id: str, expires: int, by: str) -> str:
    return f"{call_id}\n{expires}\n{by}"


def is_beginning(request: Request, answer: Response) -> bool:
    """Whether *answer* holds the first bytes: somebody begins to listen, rather than goes on or seeks."""
    if answer.status_code == 200:
        return HEAD not in request.scope
    return answer.status_code == 206 and answer.headers["content-range"].startswith("bytes 0-")


def _names(header: str, tag: str) -> bool:
    return any(word.strip().removeprefix("W/") in (tag, "*") for word in header.split(","))


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _read(blobs: Blobs, key: str, part: range) -> AsyncIterator[bytes]:
    for start in range(part.start, part.stop, _CHUNK):
        yield await blobs.get_range(key, start, min(start + _CHUNK, part.stop))
