"""The page of one call: what happened, how it sounded, what it changed, and what can be put right there.

Whatever else stands in the address, the filters of the list above all, is carried along.
"""

import math
import secrets
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.calls import review
from trunkline.calls.filters import Filters
from trunkline.crm import service as crm
from trunkline.desk import asked, call_page
from trunkline.desk.asked import Asked
from trunkline.errors import Conflict, Invalid, NotFound, Refused
from trunkline.web import media
from trunkline.web.dashboard import render
from trunkline.web.deps import Parts, Web
from trunkline.web.envelope import page_policy
from trunkline.web.errors import status_of
from trunkline.web.people import may, note, note_hearing
from trunkline.webhooks import queries as webhooks
from trunkline.webhooks import repair

router = APIRouter(include_in_schema=False)

_OWN = ("t", "updates", "done")
"""Parameters of the page itself; all others belong to the list it was opened from."""


@router.get("/calls/{call_id}")
async def one_call_page(
    call_id: str,
    request: Request,
    parts: Parts,
    t: str = "",
    updates: str = "on",
    done: str = "",
    person: Person = may("calls:read"),
) -> Response:
    """One call; ``t`` is where its recording starts to play, in seconds."""
    return await _show(
        request, parts, call_id, person, start_at=_seconds(t), updates=updates != "off", done=done
    )


async def _show(
    request: Request, web: Web, call_id: str, person: Person, *, status: int = 200, **facts: Any
) -> Response:
    async with web.db.look() as session:
        page = await call_page.page(session, call_id)
        tags = await review.known_tags(session) if person.may("calls:write") else ()
        beside = await _list_of(session, request)
        newer, older = await call_page.neighbours(session, page.call, beside.filters, beside.wanted)
        off = await webhooks.switched_off(session)
    nonce = secrets.token_urlsafe(16)
    given = {"start_at": None, "updates": True, "done": "", "fault": None, **facts}
    return render.page(
        "call.html",
        person=person,
        status=status,
        # The waveform keeps its style sheet in a shadow root, where only a nonce lets it in.
        headers={"Content-Security-Policy": page_policy(style_nonce=nonce)},
        nonce=nonce,
        off=off,
        page=page,
        call=page.call,
        known_tags=[tag for tag in tags if tag not in page.marks.tags],
        newer=newer,
        older=older,
        live=page.call.live,
        address=f"/calls/{call_id}",
        carried=_carried(request),
        **given,
    )


@router.post("/calls/{call_id}/changes/{change_id}/undo")
async def undo_change(
    call_id: str,
    change_id: str,
    request: Request,
    parts: Parts,
    person: Person = may("contacts:write"),
) -> Response:
    """Take back what the call changed in the CRM. A webhook tells of it: ``change.undone``."""
    now = parts.now()
    try:
        async with parts.db.work() as session:
            page = await call_page.page(session, call_id)
            if change_id not in {line.id for line in page.changes}:
                raise NotFound(f"this call has no change {change_id[:60]}")
            await crm.undo(
                session, change_id, cause=crm.Cause("person", actor=person.name), now=now
            )
            await note(session, person, request, "change.undone", change_id, now=now)
    except (Conflict, Refused) as error:
        fault = render.sentence(error)
        return await _show(request, parts, call_id, person, status=status_of(error), fault=fault)
    return _back(request, call_id, "undone", "changes")


@router.post("/calls/{call_id}/deliveries/{delivery_id}/resend")
async def resend_delivery(
    call_id: str,
    delivery_id: str,
    request: Request,
    parts: Parts,
    person: Person = may("webhooks:write"),
) -> Response:
    """Send an event of this call to its endpoint once more."""
    now = parts.now()
    try:
        async with parts.db.work() as session:
            found = await webhooks.delivery(session, delivery_id)
            if found.delivery.subject != call_id:
                raise NotFound(f"this call has no delivery {delivery_id[:60]}")
            await repair.resend(session, delivery_id, now=now)
            await note(session, person, request, "delivery.resent", delivery_id, now=now)
    except Conflict as error:
        fault = render.sentence(error)
        return await _show(request, parts, call_id, person, status=status_of(error), fault=fault)
    return _back(request, call_id, "resent", "deliveries")


@router.get("/calls/{call_id}/events")
async def events_page(
    call_id: str, request: Request, parts: Parts, person: Person = may("calls:read")
) -> Response:
    """Every event of the call as it was recorded, which is what webhooks carry."""
    async with parts.db.look() as session:
        told = await call_page.events(session, call_id)
    return render.page(
        "call_events.html",
        person=person,
        call_id=call_id,
        events=told,
        address=request.url.path,
        carried=_carried(request),
    )


@router.get("/calls/{call_id}/recording.wav")
async def recording(
    call_id: str, request: Request, parts: Parts, person: Person = may("recordings:read")
) -> Response:
    """What the page's player plays. Who began to listen stands in the audit."""
    answer = await media.recording(request, parts, call_id)
    await note_hearing(parts, request, answer, call_id, by=person)
    return answer


async def _list_of(session: AsyncSession, request: Request) -> Asked:
    """The list that the call was opened from; all calls where its address makes no sense any more."""
    try:
        return await asked.read(session, asked.given(_carried(request)))
    except (Invalid, NotFound):
        return Asked(Filters(), None)


def _carried(request: Request) -> str:
    """The list's own part of the address, as a query string without its question mark."""
    return urlencode([(k, v) for k, v in request.query_params.multi_items() if k not in _OWN])


def _back(request: Request, call_id: str, done: str, place: str) -> Response:
    """To the call again, by GET, saying what was done."""
    query = "&".join(filter(None, (_carried(request), f"done={done}")))
    return RedirectResponse(f"/calls/{call_id}?{query}#{place}", 303)


def _seconds(text: str) -> float | None:
    """A place in the recording; None for anything that is none."""
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) and found >= 0 else None
