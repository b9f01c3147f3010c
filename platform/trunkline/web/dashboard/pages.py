"""Pages for people: the list of calls, and what an error code means.

They work without JavaScript; the script only adds comfort. The URL is the state.
"""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.desk import call_list
from trunkline.errors import NotFound
from trunkline.web import paging
from trunkline.web.dashboard import render
from trunkline.web.deps import Parts
from trunkline.web.errors import EXPLAINED
from trunkline.web.people import may
from trunkline.webhooks import queries as webhooks

router = APIRouter(include_in_schema=False)
help_router = APIRouter(include_in_schema=False)
"""Pages without data, which anyone may see."""

_ON_A_PAGE = 50
_LOOK_BACK = timedelta(days=7)
"""How far back the proposed commands send again: longer than retries go on, which is three days."""


@router.get("/")
async def home() -> Response:
    """The first page is the list of calls."""
    return RedirectResponse("/calls", 303)


@router.get("/calls")
async def call_list_page(
    request: Request,
    parts: Parts,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    updates: str = "on",
    person: Person = may("calls:read"),
) -> Response:
    """The list of calls, newest first; ``updates=off`` stops it from renewing itself."""
    before = paging.read(cursor)
    async with parts.db.look() as session:
        page = await call_list.page(session, before=before, limit=_ON_A_PAGE)
        off = await webhooks.switched_off(session)
    return render.page(
        "calls.html",
        person=person,
        off=off,
        page=page,
        older=paging.write(page.next) if page.next else None,
        cursor=cursor,
        live=page.live,
        updates=updates != "off",
        address=request.url.path,
    )


@router.get("/webhooks/off")
async def webhooks_off_page(parts: Parts, person: Person = may("calls:read")) -> Response:
    """Endpoints that were switched off because nothing reached them, and what to do about each."""
    async with parts.db.look() as session:
        off = await webhooks.switched_off(session)
    since = f"{parts.now() - _LOOK_BACK:%Y-%m-%dT%H:%M:%SZ}"
    return render.page("webhooks_off.html", person=person, switched_off=off, since=since)


@help_router.get("/assets/{file}")
async def asset(file: str, request: Request) -> Response:
    """A style sheet, script or picture."""
    packed = "gzip" in request.headers.get("accept-encoding", "")
    found = render.asset(file, packed=packed)
    if found is None:
        raise NotFound(f"there is no asset {file[:60]}")
    return found


@help_router.get("/errors/{code}")
async def explain(code: str) -> Response:
    """What an error code means and what to do; every problem's ``type`` leads here."""
    found = EXPLAINED.get(code)
    if found is None:
        raise NotFound(f"there is no error code {code[:60]}; the codes are {', '.join(EXPLAINED)}")
    return render.page("explain.html", code=code, explained=found)
