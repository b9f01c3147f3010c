"""The list of calls: search, filters, tiles that obey them, saved views.

The address is the state, by the names of ``desk.asked``; it can be sent to somebody, saved and exported.
"""

import contextlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.calls import review, views
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.review import By
from trunkline.crm import queries as crm
from trunkline.desk import asked, call_list
from trunkline.desk.asked import Asked
from trunkline.errors import Invalid, NotFound
from trunkline.kit.messages import N_
from trunkline.profiles import queries as profiles
from trunkline.web import paging
from trunkline.web.dashboard import render, words
from trunkline.web.dashboard.language import _
from trunkline.web.deps import Parts, Web
from trunkline.web.people import may, note
from trunkline.webhooks import queries as webhooks

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 50

COLUMNS = {
    "outcome": N_("Outcome"),
    "started": N_("Started"),
    "duration": N_("Duration"),
    "number": N_("Number called"),
    "turns": N_("Turns"),
    "changes": N_("CRM changes"),
    "webhooks": N_("Webhooks"),
    "review": N_("Review"),
    "tags": N_("Tags"),
}
"""What can stand beside the caller, in this order."""
USUAL = ("outcome", "started", "duration", "number", "changes", "webhooks")
_COOKIE = "columns"
_KEPT_FOR = timedelta(days=365)


@router.get("/calls")
async def call_list_page(
    request: Request,
    parts: Parts,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    updates: str = "on",
    columns: Annotated[list[str] | None, Query()] = None,
    keep: str = "",
    person: Person = may("calls:read"),
) -> Response:
    """The list of calls, newest first; ``updates=off`` stops it from renewing itself.

    ``keep=columns`` makes the columns of the address those that this person finds from now on.
    """
    if keep == "columns":
        return _keep_columns(request, person, _known(columns))
    return await _show(request, parts, person, cursor, updates != "off", columns)


async def _show(
    request: Request,
    web: Web,
    person: Person,
    cursor: str | None,
    updates: bool,
    columns: list[str] | None,
) -> Response:
    wishes = asked.given(request.url.query)
    shown = _known(columns) or _own_columns(request, person) or list(USUAL)
    fault, found = None, Asked(call_list.EVERYTHING, None)
    async with web.db.look() as session:
        try:
            found = await asked.read(session, wishes)
            before = paging.read(cursor)
            page = await call_list.page(
                session, found.filters, found.wanted, before=before, limit=_ON_A_PAGE
            )
            tiles = await call_list.tiles(session, found.filters, found.wanted)
        except (Invalid, NotFound) as error:
            fault = render.sentence(error)
            page, tiles = call_list.CallListPage((), None), None
        choices = await _choices(session, person, found)
        off = await webhooks.switched_off(session)
    here = asked.as_query(wishes)
    chosen = urlencode([("columns", name) for name in shown])
    query = "&".join(filter(None, (here, chosen if columns else "")))
    view = "&".join(filter(None, (here, chosen if shown != list(USUAL) else "")))
    return render.page(
        "calls.html",
        person=person,
        status=422 if fault else 200,
        off=off,
        page=page,
        tiles=tiles,
        asked=wishes,
        fault=fault,
        query=query,
        view_query=view,
        filters=here,
        columns=COLUMNS,
        shown=shown,
        older=paging.write(page.next) if page.next else None,
        cursor=cursor,
        live=page.live,
        updates=updates,
        address="/calls",
        **choices,
    )


def _known(columns: Sequence[str] | None) -> list[str]:
    return [name for name in COLUMNS if name in (columns or ())]


def _own_columns(request: Request, person: Person) -> list[str]:
    """What this person has chosen in this browser; nothing when somebody else did."""
    whose, _colon, names = request.cookies.get(_COOKIE, "").partition(":")
    return _known(names.split(".")) if whose == person.id else []


def _keep_columns(request: Request, person: Person, columns: list[str]) -> Response:
    """Remember them, and lead to the list without them in its address."""
    here = asked.as_query(asked.given(request.url.query))
    answer = RedirectResponse(f"/calls?{here}" if here else "/calls", 303)
    if columns and columns != list(USUAL):
        answer.set_cookie(
            _COOKIE,
            f"{person.id}:{'.'.join(columns)}",
            max_age=int(_KEPT_FOR.total_seconds()),
            path="/calls",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
    else:
        answer.delete_cookie(_COOKIE, path="/calls")
    return answer


async def _choices(session: AsyncSession, person: Person, found: Asked) -> dict[str, Any]:
    """What the fields of the filters offer, and the saved views."""
    contact_name = found.filters.contact_id
    if contact_name is not None:
        with contextlib.suppress(NotFound):
            contact_name = (await crm.contact(session, contact_name)).name or contact_name
    return {
        "profiles": [(one.name, one.name) for one in await profiles.profiles(session)],
        "known_tags": [(tag, tag) for tag in await review.known_tags(session)],
        "reasons": [(one.value, _(words.ENDED[one].short)) for one in EndReason],
        "contact_name": contact_name,
        "views": await views.seen_by(session, person.id),
    }


@router.post("/calls/views")
async def save_view(
    request: Request,
    parts: Parts,
    name: Annotated[str, Form(max_length=200)] = "",
    query: Annotated[str, Form(max_length=4000)] = "",
    shared: Annotated[str, Form(max_length=10)] = "",
    person: Person = may("calls:read"),
) -> Response:
    """Keep the present filters under a name, for oneself or for everybody."""
    if shared and not person.may("calls:write"):
        raise Invalid(
            _("your role may keep views for itself only; leave out that everybody sees it")
        )
    by, now = By(person.id, person.name), parts.now()
    async with parts.db.work() as session:
        view = await views.save(
            session, name=name, query=query, shared=bool(shared), by=by, now=now
        )
        await note(session, person, request, "view.saved", view.id, {"name": view.name}, now=now)
    return RedirectResponse(f"/calls?{view.query}", 303)


@router.post("/calls/views/{view_id}/remove")
async def remove_view(
    view_id: str, request: Request, parts: Parts, person: Person = may("calls:read")
) -> Response:
    """Take back a view: one's own, or, as somebody who may share one, any that everybody sees."""
    by = By(person.id, person.name)
    async with parts.db.work() as session:
        view = await views.remove(session, view_id, by=by, for_all=person.may("calls:write"))
        what = {"name": view.name, "owner": view.owner}
        await note(session, person, request, "view.removed", view.id, what, now=parts.now())
    return RedirectResponse("/calls", 303)
