"""Pages for people: the first one, endpoints that were switched off, and what an error code means.

They work without JavaScript; the script only adds comfort. The URL is the state.
"""

from datetime import timedelta
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Request
from starlette.responses import Response

from trunkline.access.logins import Person
from trunkline.desk import today
from trunkline.errors import NotFound
from trunkline.web.dashboard import render
from trunkline.web.deps import Parts
from trunkline.web.errors import EXPLAINED
from trunkline.web.people import may
from trunkline.webhooks import queries as webhooks

router = APIRouter(include_in_schema=False)
help_router = APIRouter(include_in_schema=False)
"""Pages without data, which anyone may see."""

_LOOK_BACK = timedelta(days=7)
"""How far back the proposed commands send again: longer than retries go on, which is three days."""


@router.get("/")
async def home_page(
    parts: Parts, updates: str = "on", person: Person = may("calls:read")
) -> Response:
    """Today at a glance; ``updates=off`` stops it from renewing itself while calls are on."""
    async with parts.db.look() as session:
        found = await today.today(session, now=parts.now())
        off = await webhooks.switched_off(session)
    return render.page(
        "home.html",
        person=person,
        off=off,
        today=found,
        date=found.since.astimezone(ZoneInfo(found.zone)).date().isoformat(),
        updates=updates != "off",
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
