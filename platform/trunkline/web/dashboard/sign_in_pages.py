"""Logging in through the identity provider: away to it, and back with its word for who somebody is.

Both are GET, since browsers let no form lead to another site (``form-action``). The way back comes from that
other site by design; that it ends what this very browser began, the state and a cookie of its own prove.
"""

import re
import secrets
from typing import Annotated

import structlog
from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access import oidc
from trunkline.access import service as access
from trunkline.access.options import SignInOptions
from trunkline.errors import NotFound, TooMany
from trunkline.kit.messages import N_
from trunkline.kit.oidc import OidcFailed, Provider, Reason
from trunkline.web.dashboard import door, render
from trunkline.web.dashboard.language import _
from trunkline.web.deps import Parts, Web
from trunkline.web.people import address_of, cookie, next_page, note, open_login

router = APIRouter(include_in_schema=False)

log = structlog.get_logger()

BROWSER = "__Host-trunkline-signin"
"""The cookie that ties an attempt to the browser that began it."""
CALLBACK = "/login/oidc/callback"

_TOKEN = re.compile(r"[\w-]{43}")
_OWN_ERROR = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]{1,100}")
"""The form of an error code (RFC 6749 §4.1.2.1); anything else is not repeated."""

Word = Annotated[str | None, Query(max_length=4000)]

SAYS: dict[Reason, tuple[int, str]] = {
    "unreachable": (
        502,
        N_(
            "%(label)s does not answer; try again in a minute, and if it stays so tell whoever "
            "runs this server."
        ),
    ),
    "issuer": (
        502,
        N_("%(label)s is not set up right here; ask whoever runs this server to run “doctor”."),
    ),
    "metadata": (
        502,
        N_("%(label)s is not set up right here; ask whoever runs this server to run “doctor”."),
    ),
    "secret": (
        502,
        N_(
            "%(label)s refuses this server's client id and secret; ask whoever runs this server "
            "to correct them."
        ),
    ),
    "code": (
        401,
        N_("This log-in was used already or took too long; begin again."),
    ),
    "refused": (
        502,
        N_(
            "%(label)s refused to say who you are; begin again, and if it stays so tell whoever "
            "runs this server."
        ),
    ),
    "clock": (
        502,
        N_(
            "The clocks of %(label)s and this server differ; ask whoever runs this server to set "
            "its clock by NTP."
        ),
    ),
    "token": (
        502,
        N_(
            "What %(label)s answered is not to be trusted, so nobody was logged in; begin again, "
            "and if it stays so tell whoever runs this server."
        ),
    ),
}
"""Why the provider gave nobody → status, and what somebody in front of the page can do."""


def _parts(web: Web) -> tuple[SignInOptions, Provider]:
    if not web.options.login or web.options.sign_in is None or web.identity is None:
        raise NotFound("nobody logs in through an identity provider here")
    return web.options.sign_in, web.identity


@router.get("/login/oidc")
async def begin(
    request: Request,
    parts: Parts,
    next: Annotated[str | None, Query(max_length=2000)] = None,
    choose: bool = False,
) -> Response:
    """Send the browser to the provider."""
    options, provider = _parts(parts)
    page = next_page(next)
    known = request.cookies.get(BROWSER, "")
    # Kept while it lasts: two tabs may both be on their way.
    browser = known if _TOKEN.fullmatch(known) else secrets.token_urlsafe(32)
    try:
        async with parts.db.work() as session:
            attempt = await oidc.begin(
                session, browser=browser, next=page, address=address_of(request), now=parts.now()
            )
        url = await provider.sign_in_url(
            redirect_uri=door.address(request, CALLBACK),
            state=attempt.state,
            nonce=attempt.nonce,
            verifier=attempt.verifier,
            choose=choose,
            now=parts.now(),
        )
    except OidcFailed as error:
        return await _failed(parts, request, options, error, next=page)
    except TooMany as error:
        return await _refused(
            parts, request, "too_many", render.sentence(error), status=429, next=page
        )
    answer = RedirectResponse(url, 303, headers=door.NO_STORE)
    age = int(oidc.LASTS.total_seconds())
    answer.headers.append(
        "Set-Cookie", f"{BROWSER}={browser}; Path=/; Max-Age={age}; Secure; HttpOnly; SameSite=Lax"
    )
    return answer


@router.get("/login/oidc/callback")
async def come_back(
    request: Request,
    parts: Parts,
    code: Word = None,
    state: Word = None,
    iss: Word = None,
    error: Word = None,
) -> Response:
    """Log in whoever the provider says came back, if they may."""
    options, provider = _parts(parts)
    async with parts.db.work() as session:
        attempt = await oidc.take(
            session, state=state or "", browser=request.cookies.get(BROWSER), now=parts.now()
        )
    if attempt is None:
        says = _(
            "This log-in was begun in another browser, was used already, or took longer than ten minutes; "
            "begin again."
        )
        return await _refused(parts, request, "state", says, status=400)
    if error is not None or not code:
        return await _not_given(parts, request, options, error, next=attempt.next)
    try:
        claims = await provider.redeem(
            code=code,
            issuer=iss,
            redirect_uri=door.address(request, CALLBACK),
            nonce=attempt.nonce,
            verifier=attempt.verifier,
            wanted=oidc.wanted(options),
            now=parts.now(),
        )
        who = oidc.identity(claims, options)
        token = await _arrive(parts, request, who, options)
    except OidcFailed as failed:
        return await _failed(parts, request, options, failed, next=attempt.next)
    except oidc.NotLetIn as refused:
        return await _refused(
            parts, request, refused.reason, render.sentence(refused), status=403, next=attempt.next
        )
    answer = RedirectResponse(attempt.next, 303, headers=door.NO_STORE)
    answer.headers.append("Set-Cookie", cookie(token))
    return answer


async def _arrive(web: Web, request: Request, who: oidc.Identity, options: SignInOptions) -> str:
    now = web.now()
    async with web.db.work() as session:
        arrived = await oidc.arrive(session, who, options, now=now)
        for action in arrived.done:
            await note(
                session,
                arrived.user,
                request,
                action,
                arrived.user.id,
                {"role": arrived.user.role, "by": "oidc"},
                now=now,
            )
        return await open_login(session, request, arrived.user, method="oidc", now=now)


async def _not_given(
    web: Web, request: Request, options: SignInOptions, error: str | None, *, next: str
) -> Response:
    if error in ("access_denied", "login_required", "interaction_required", "consent_required"):
        says = _(
            "You were not logged in at %(label)s: it was stopped there; begin again if you want to.",
            label=options.label,
        )
        return await _refused(web, request, "denied", says, status=403, next=next)
    word = error if error and _OWN_ERROR.fullmatch(error) else "no code"
    log.warning("sign_in_failed", reason="refused", detail=word)
    says = _(
        "%(label)s did not let you through (%(word)s); begin again, and if it stays so tell "
        "whoever runs this server.",
        label=options.label,
        word=word,
    )
    return await _refused(
        web, request, "refused", render.sentence(Exception(says)), status=502, next=next
    )


async def _failed(
    web: Web, request: Request, options: SignInOptions, error: OidcFailed, *, next: str
) -> Response:
    log.warning("sign_in_failed", reason=error.reason, detail=str(error))
    status, says = SAYS[error.reason]
    words = render.sentence(Exception(_(says, label=options.label)))
    return await _refused(web, request, error.reason, words, status=status, next=next)


async def _refused(
    web: Web, request: Request, reason: str, says: str, *, status: int, next: str = "/"
) -> Response:
    """The log-in page with the reason, which the audit keeps too."""
    async with web.db.work() as session:
        await access.note(
            session,
            actor_id=None,
            actor="nobody",
            address=address_of(request),
            action="login.failed",
            details={"by": "oidc", "reason": reason},
            now=web.now(),
        )
    return await door.login_form(web, request, next=next, status=status, fault=says, choose=True)
