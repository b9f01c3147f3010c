"""Keys of the API: who has which, a new one shown once, and taking one back."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access import queries
from trunkline.access import service as access
from trunkline.access.logins import Person
from trunkline.access.roles import FOR_PEOPLE, SCOPES
from trunkline.errors import Invalid
from trunkline.web.dashboard import render
from trunkline.web.deps import Parts, Web
from trunkline.web.people import actor, may

router = APIRouter(include_in_schema=False)

_OFFERED = {name: means for name, means in SCOPES.items() if name not in FOR_PEOPLE}
_DONE = {"revoked": "The key opens nothing any more."}


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
    person: Person = may("keys:write"),
) -> Response:
    """Make a key and show it this once. Nobody can give a key more than they may do themselves."""
    now = parts.now()
    try:
        if beyond := [scope for scope in scopes if not person.may(scope)]:
            raise Invalid(f"your role, {person.role}, has no {', '.join(beyond)} to give away")
        async with parts.db.work() as session:
            key, token = await access.add_key(session, name=name, scopes=scopes, now=now)
            await access.note(
                session,
                **actor(person, request),
                action="key.made",
                subject=key.id,
                details={"scopes": " ".join(key.scopes)},
                now=now,
            )
    except Invalid as error:
        return await _keys(
            parts, person, fault=render.sentence(error), name=name, chosen=scopes, status=422
        )
    return await _keys(parts, person, token=token, made=key.name)


@router.post("/keys/{key_id}/revoke")
async def revoke_key(
    key_id: str, request: Request, parts: Parts, person: Person = may("keys:write")
) -> Response:
    """Take a key back: from the next request on it opens nothing."""
    now = parts.now()
    async with parts.db.work() as session:
        await access.revoke_key(session, key_id, now=now)
        await access.note(
            session, **actor(person, request), action="key.revoked", subject=key_id, now=now
        )
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
    chosen: list[str] | None = None,
) -> Response:
    async with web.db.look() as session:
        keys = await queries.keys(session)
    return render.page(
        "keys.html",
        person=person,
        status=status,
        headers={"Cache-Control": "no-store"},
        keys=sorted(keys, key=lambda key: (key.revoked_at is not None, key.id)),
        scopes={scope: means for scope, means in _OFFERED.items() if person.may(scope)},
        done=done,
        fault=fault,
        token=token,
        made=made,
        name=name,
        chosen=chosen or [],
    )
