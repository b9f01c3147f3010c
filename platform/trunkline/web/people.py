"""Who is looking at a page: logins in a cookie, and what each role may see and do.

The pages have two doors. With logins, a page asks for somebody whose role has its scope. Without them
(``WebOptions.login`` false, as in the demo) the pages answer this machine alone, and whoever sits at it
may do everything.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trunkline.access import logins
from trunkline.access import service as access
from trunkline.access.logins import Person
from trunkline.access.models import ApiKey, User
from trunkline.access.roles import Role
from trunkline.errors import Forbidden, Unauthorized
from trunkline.web import media
from trunkline.web.auth import foreign
from trunkline.web.deps import Web
from trunkline.web.errors import is_api, problem

COOKIE = "__Host-trunkline"
"""The prefix makes browsers keep it to this host, over https or on this machine (RFC 6265bis §4.1.3)."""

HERE = Person("here", "This machine", "", Role.OWNER, "")
"""Whoever uses the pages when there are no logins."""

_OPEN = ("/assets/", "/errors/", "/livekit/", "/login", "/welcome/")
"""Pages that show no data."""
_SAFE = ("GET", "HEAD", "OPTIONS")


class LoginNeeded(Unauthorized):
    """Nobody is logged in in this browser; leads to the login, and from there back."""

    code = "login_needed"

    def __init__(self, request: Request) -> None:
        super().__init__("log in first")
        back = request.url.path
        if request.url.query:
            back += f"?{request.url.query}"
        wanted = request.method in _SAFE and back != "/"
        self.location = "/login" + (f"?next={quote(back, safe='/')}" if wanted else "")
        self.headers: dict[str, str] = {"Location": self.location}


class NotAllowed(Forbidden):
    """Their role does not reach this far."""

    code = "not_allowed"
    headers: ClassVar[dict[str, str]] = {}


def may(scope: str) -> Person:
    """A page's default argument: somebody with *scope* must be logged in."""

    def check(request: Request) -> Person:
        person: Person | None = request.state.person
        if person is None:
            raise LoginNeeded(request)
        if not person.may(scope):
            raise NotAllowed(
                f"your role, {person.role}, may not do this; ask an owner for the right {scope}"
            )
        return person

    check.scope = scope  # type: ignore[attr-defined]
    found: Person = Depends(check)
    return found


def anyone() -> Person:
    """A page's default argument: somebody must be logged in, whatever their role."""

    def check(request: Request) -> Person:
        person: Person | None = request.state.person
        if person is None:
            raise LoginNeeded(request)
        return person

    found: Person = Depends(check)
    return found


class Door:
    """The middleware in front of the pages: forged requests stay out, logins are looked up and renewed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_api(scope["path"]):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        web: Web = scope["app"].state.web
        if not scope["path"].startswith("/livekit/") and (fault := forged(request)):
            await problem(request, 403, "cross_site", fault)(scope, receive, send)
            return
        scope.setdefault("state", {})
        if not web.options.login:
            fault = None if scope["path"].startswith(_OPEN) else foreign(request)
            if fault:
                detail = (
                    f"This server runs without logins and shows its pages only on this machine: {fault}. "
                    "Open them there as http://127.0.0.1, or through an ssh tunnel."
                )
                await problem(request, 403, "loopback_only", detail)(scope, receive, send)
                return
            scope["state"]["person"] = HERE
            await self._app(scope, receive, send)
            return
        person, fresh = await _who(web, request)
        scope["state"]["person"] = person

        async def send_with_cookie(message: Message) -> None:
            if fresh and message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if COOKIE not in headers.get("set-cookie", ""):
                    headers.append("Set-Cookie", cookie(fresh))
            await send(message)

        await self._app(scope, receive, send_with_cookie)


async def _who(web: Web, request: Request) -> tuple[Person | None, str | None]:
    """The person behind the request, and a new token when it is time for one."""
    token = request.cookies.get(COOKIE)
    if not token:
        return None, None
    now = web.now()
    async with web.db.look() as session:
        person = await logins.person(session, token, now=now)
        due = person is not None and await logins.use_is_due(session, person, now=now)
    if not due:
        return person, None
    async with web.db.work() as session:
        return person, await logins.keep_fresh(session, token, now=now)


def cookie(token: str | None) -> str:
    """The ``Set-Cookie`` that keeps *token* in this browser; None takes it away."""
    age = int(logins.LONGEST.total_seconds()) if token else 0
    return f"{COOKIE}={token or ''}; Path=/; Max-Age={age}; Secure; HttpOnly; SameSite=Lax"


async def open_login(
    session: AsyncSession, request: Request, user: User, *, method: logins.Method, now: datetime
) -> str:
    """Log *user* in with a token of its own (no session fixation), and write it into the audit."""
    _, token = await logins.open_login(
        session,
        user,
        method=method,
        address=address_of(request),
        browser=request.headers.get("user-agent"),
        former=request.cookies.get(COOKIE),
        now=now,
    )
    await note(session, user, request, "login.opened", details={"by": method}, now=now)
    return token


def forged(request: Request) -> str | None:
    """Why a request that changes something cannot come from one of our own pages; None if it can.

    Browsers say where a request comes from in ``Sec-Fetch-Site`` and ``Origin``, which scripts cannot change
    (Fetch Metadata, W3C). One that says neither is no browser of today, or hides it: refused.
    """
    if request.method in _SAFE:
        return None
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return None if site == "same-origin" else "this form was sent from another site"
    origin = request.headers.get("origin")
    if origin is None:
        return "this form does not say which site it was sent from"
    if urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        return "this form was sent from another site"
    return None


def next_page(text: str | None) -> str:
    """Where to go after the login: a path of ours, never another site."""
    path = text or "/"
    if not path.startswith("/") or path.startswith(("//", "/\\", "/login")):
        return "/"
    return path if not any(ord(c) < 32 for c in path) else "/"


def address_of(request: Request) -> str:
    """Where a request came from, as it is kept."""
    return request.client.host[:60] if request.client else "unknown"


async def note(
    session: AsyncSession,
    by: Person | ApiKey | User,
    request: Request,
    action: str,
    subject: str | None = None,
    details: Mapping[str, Any] | None = None,
    *,
    now: datetime,
) -> None:
    """Write into the audit that they did it, in the transaction of what they did."""
    await access.note(
        session,
        actor_id=by.id,
        actor=by.name,
        address=address_of(request),
        action=action,
        subject=subject,
        details=details,
        now=now,
    )


async def note_hearing(
    web: Web, request: Request, answer: Response, call_id: str, *, by: Person | ApiKey
) -> None:
    """Write into the audit that somebody began to listen to a recording; going on and seeking is not told."""
    if not media.is_beginning(request, answer):
        return
    async with web.db.work() as session:
        await note(session, by, request, "recording.heard", call_id, now=web.now())
