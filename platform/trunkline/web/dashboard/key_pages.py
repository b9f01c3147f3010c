"""Keys of the API: who has which, a new one shown once, and taking one back."""

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access import queries
from trunkline.access import service as access
from trunkline.access.logins import Person
from trunkline.access.roles import FOR_PEOPLE, SCOPES
from trunkline.errors import Conflict, Invalid, Refused
from trunkline.kit.messages import N_
from trunkline.web.dashboard import render
from trunkline.web.dashboard.language import _
from trunkline.web.deps import Parts, Web
from trunkline.web.people import may, note

router = APIRouter(include_in_schema=False)

_OFFERED = {name: means for name, means in SCOPES.items() if name not in FOR_PEOPLE}
LASTS = {
    "": N_("Until it is taken back"),
    "30": N_("30 days"),
    "90": N_("90 days"),
    "365": N_("A year"),
}
"""Days that a key lasts → what the form says."""
OVERLAPS = {
    "0": N_("not at all"),
    "1": N_("1 hour more"),
    "24": N_("1 day more"),
    "168": N_("7 days more"),
}
"""Hours that a replaced key works → what the form says."""

_DONE = {
    "revoked": N_("The key opens nothing any more."),
}


@router.get("/keys")
async def keys_page(parts: Parts, done: str = "", person: Person = may("keys:write")) -> Response:
    """All keys, with when each was last used."""
    return await _keys(parts, person, done=_DONE.get(done, ""))


@router.post("/keys")
async def make_key(
    request: Request,
    parts: Parts,
    name: Annotated[str, Form(max_length=300)] = "",
    scopes: Annotated[list[str], Form()] = [],  # noqa: B006 - FastAPI copies it
    days: Annotated[str, Form(max_length=10)] = "",
    person: Person = may("keys:write"),
) -> Response:
    """Make a key and show it this once. Nobody can give a key more than they may do themselves."""
    now = parts.now()
    try:
        if beyond := [scope for scope in scopes if not person.may(scope)]:
            raise Invalid(
                _(
                    "your role, %(role)s, has no %(scopes)s to give away",
                    role=person.role,
                    scopes=", ".join(beyond),
                )
            )
        if days not in LASTS:
            raise Invalid(_("say how long the key is to last"))
        lasts = timedelta(days=int(days)) if days else None
        async with parts.db.work() as session:
            key, token = await access.add_key(
                session, name=name, scopes=scopes, lasts=lasts, now=now
            )
            await note(
                session,
                person,
                request,
                "key.made",
                key.id,
                {"scopes": " ".join(key.scopes)},
                now=now,
            )
    except Invalid as error:
        return await _keys(
            parts,
            person,
            fault=render.sentence(error),
            name=name,
            chosen=scopes,
            days=days,
            status=422,
        )
    return await _keys(parts, person, token=token, made=key.name)


@router.post("/keys/{key_id}/rotate")
async def rotate_key(
    key_id: str,
    request: Request,
    parts: Parts,
    overlap: Annotated[str, Form(max_length=10)] = "24",
    person: Person = may("keys:write"),
) -> Response:
    """A new key in place of one, which works a while longer. Nobody gets more than they may do themselves."""
    now = parts.now()
    try:
        if overlap not in OVERLAPS:
            raise Invalid(_("say how long the old key is to work"))
        async with parts.db.work() as session:
            key, token = await access.rotate_key(
                session, key_id, overlap=timedelta(hours=int(overlap)), now=now
            )
            if beyond := [scope for scope in key.scopes if not person.may(scope)]:
                raise Refused(
                    _(
                        "your role, %(role)s, has no %(scopes)s, so the new key cannot be shown to you; "
                        "ask an owner",
                        role=person.role,
                        scopes=", ".join(beyond),
                    )
                )
            await note(
                session,
                person,
                request,
                "key.rotated",
                key_id,
                {"new": key.id, "overlap_hours": overlap},
                now=now,
            )
    except (Invalid, Refused, Conflict) as error:
        return await _keys(parts, person, fault=render.sentence(error), status=422)
    return await _keys(parts, person, token=token, made=key.name)


@router.post("/keys/{key_id}/revoke")
async def revoke_key(
    key_id: str, request: Request, parts: Parts, person: Person = may("keys:write")
) -> Response:
    """Take a key back: from the next request on it opens nothing."""
    now = parts.now()
    async with parts.db.work() as session:
        await access.revoke_key(session, key_id, now=now)
        await note(session, person, request, "key.revoked", key_id, now=now)
    return RedirectResponse("/keys?done=revoked", 303)


async def _keys(
    web: Web,
    person: Person,
    *,
    status: int = 200,
    done: str = "",
    fault: str | None = None,
    token: str | None = None,
    made: str = "",
    name: str = "",
    days: str = "",
    chosen: list[str] | None = None,
) -> Response:
    now = web.now()
    async with web.db.look() as session:
        keys = await queries.keys(session)
    return render.page(
        "keys.html",
        person=person,
        status=status,
        headers={"Cache-Control": "no-store"},
        keys=sorted(keys, key=lambda key: (not access.opens(key, now=now), key.id)),
        now=now,
        lasts=LASTS,
        overlaps=OVERLAPS,
        days=days,
        scopes={scope: means for scope, means in _OFFERED.items() if person.may(scope)},
        done=done,
        fault=fault,
        token=token,
        made=made,
        name=name,
        chosen=chosen or [],
    )
