"""Pages about people: logging in and out, one's own account, everybody's roles, the audit."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access import logins, oidc, passwords, queries
from trunkline.access import service as access
from trunkline.access.logins import Person
from trunkline.access.models import Invite, User
from trunkline.access.roles import MEANS, Role
from trunkline.errors import Invalid, NotFound, Refused, TooMany, TrunklineError
from trunkline.kit.ids import is_id
from trunkline.kit.messages import N_
from trunkline.web.dashboard import door, render
from trunkline.web.dashboard.language import _
from trunkline.web.deps import Parts, Web
from trunkline.web.people import (
    address_of,
    anyone,
    cookie,
    may,
    next_page,
    note,
    open_login,
)

router = APIRouter(include_in_schema=False)

_ON_A_PAGE = 100

_NO_PASSWORDS = N_("Nobody logs in by password here; use the button below.")

_DONE = {
    "out": N_("They are logged out in every browser."),
    "detached": N_(
        "They are detached from the identity provider and logged out. Whoever logs in there next "
        "with their address has this account."
    ),
}

Text = Annotated[str, Form(max_length=300)]
Secret = Annotated[str, Form(max_length=1000)]


def _to(path: str, token: str | None = None, *, log_out: bool = False) -> Response:
    answer = RedirectResponse(path, 303)
    if token is not None or log_out:
        answer.headers.append("Set-Cookie", cookie(token))
    return answer


async def _log_in(web: Web, request: Request, user_id: str, method: logins.Method) -> str:
    async with web.db.work() as session:
        user = await queries.user(session, user_id)
        return await open_login(session, request, user, method=method, now=web.now())


# In and out -------------------------------------------------------------------------------------


@router.get("/login")
async def login_page(
    request: Request, parts: Parts, next: Annotated[str | None, Query(max_length=2000)] = None
) -> Response:
    """The form; somebody who is logged in already goes on."""
    if request.state.person is not None:
        return _to(next_page(next))
    return await door.login_form(parts, request, next=next_page(next))


@router.post("/login")
async def log_in(
    request: Request,
    parts: Parts,
    email: Text = "",
    password: Secret = "",
    next: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Check address and password. The answer never tells which of the two was wrong."""
    if not parts.options.passwords:
        return await door.login_form(
            parts, request, next=next_page(next), status=403, fault=_(_NO_PASSWORDS)
        )
    now, address, account = parts.now(), address_of(request), email.strip().lower()
    status, fault = 401, _("This address and password do not belong together.")
    try:
        async with parts.db.look() as session:
            await logins.check_throttle(session, account, address, now=now)
            user = await queries.user_by_email(session, account)
        stored = user.password_hash if user and user.disabled_at is None else None
        # In a thread: hashing keeps a core busy for longer than a page may wait behind it.
        if await asyncio.to_thread(passwords.matches, password, stored) and user:
            return _to(next_page(next), await _log_in(parts, request, user.id, "password"))
        async with parts.db.work() as session:
            await logins.note_failure(session, account, address, now=now)
            await access.note(
                session,
                actor_id=None,
                actor=account[:254] or "nobody",
                address=address,
                action="login.failed",
                now=now,
            )
    except TooMany as error:
        status, fault = (
            429,
            _(
                "Too many logins failed. %(remedy)s.",
                remedy=str(error).partition("; ")[2].capitalize(),
            ),
        )
    return await door.login_form(
        parts, request, next=next_page(next), status=status, email=email, fault=fault
    )


@router.post("/logout")
async def log_out(request: Request, parts: Parts, person: Person = anyone()) -> Response:
    """End this browser's login."""
    async with parts.db.work() as session:
        await logins.end(session, person.login_id, person.id, now=parts.now())
        await note(session, person, request, "login.ended", now=parts.now())
    return _to("/login", log_out=True)


@router.get("/welcome/{token}")
async def welcome_page(token: str, parts: Parts) -> Response:
    """The page behind a link: make an account, or set a new password."""
    return await _welcome(parts, token)


async def _welcome(
    web: Web, token: str, *, email: str = "", name: str = "", fault: str | None = None
) -> Response:
    async with web.db.look() as session:
        invite = await queries.open_invite(session, token, now=web.now())
        known = (
            await queries.user_by_email(session, invite.email) if invite and invite.email else None
        )
    if invite is None:
        raise NotFound(
            _(
                "this link is not valid any more: it was used, is older than three days, or is incomplete; "
                "ask whoever invited you for a new one"
            )
        )
    return render.page(
        "welcome.html",
        status=422 if fault else 200,
        headers=door.NO_STORE,
        token=token,
        invite=invite,
        known=known,
        means=MEANS[Role(invite.role)],
        email=email,
        name=name,
        fault=fault,
        least=passwords.LEAST,
        passwords=web.options.passwords,
        sign_in=web.options.sign_in,
        opens=_opens(web, invite),
    )


def _opens(web: Web, invite: Invite) -> bool:
    """Whether a link is a way in. Without passwords an owner's is, for the day on which the provider is
    down; everybody else's is a role that waits for them."""
    return web.options.passwords or invite.role == Role.OWNER


@router.post("/welcome/{token}")
async def accept_invite(
    token: str,
    request: Request,
    parts: Parts,
    email: Text = "",
    name: Text = "",
    password: Secret = "",
) -> Response:
    """Make the account and log in."""
    async with parts.db.look() as session:
        invite = await queries.open_invite(session, token, now=parts.now())
        known = (
            await queries.user_by_email(session, invite.email) if invite and invite.email else None
        )
    if invite is not None and not _opens(parts, invite):
        return await _welcome(parts, token, fault=_(_NO_PASSWORDS))
    address = (invite and invite.email) or email
    password_hash: str | None = None
    try:
        if invite is not None and known is None:
            access.address_of(address)
            access.person_name(name)
        if parts.options.passwords:
            passwords.check(password, email=address)
            password_hash = await asyncio.to_thread(passwords.hashed, password)
        async with parts.db.work() as session:
            user = await access.accept(
                session,
                token,
                email=address,
                name=name,
                password_hash=password_hash,
                now=parts.now(),
            )
            if password_hash is not None:
                await access.end_logins(session, user.id, now=parts.now())
            if password_hash is not None or known is None:
                await note(
                    session,
                    user,
                    request,
                    "password.set" if known else "user.joined",
                    user.id,
                    {"role": user.role},
                    now=parts.now(),
                )
    except Invalid as error:
        return await _welcome(parts, token, email=email, name=name, fault=render.sentence(error))
    return _to("/", await _log_in(parts, request, user.id, "link"))


# One's own account --------------------------------------------------------------------------------


@router.get("/account")
async def account_page(parts: Parts, person: Person = anyone(), done: str = "") -> Response:
    """Who you are, where you are logged in, and the form for a new password."""
    if not person.login_id:
        raise NotFound(_("this server runs without logins, so nobody has an account here"))
    return await _account(parts, person, done=done)


async def _account(
    web: Web, person: Person, *, fault: str | None = None, done: str = ""
) -> Response:
    async with web.db.look() as session:
        open_logins = await logins.of_user(session, person.id, now=web.now())
        has_password = (await queries.user(session, person.id)).password_hash is not None
    return render.page(
        "account.html",
        person=person,
        status=422 if fault else 200,
        headers=door.NO_STORE,
        logins=open_logins,
        means=MEANS[person.role],
        fault=fault,
        done=done if done in ("password", "logins", "login") else "",
        least=passwords.LEAST,
        passwords=web.options.passwords,
        sign_in=web.options.sign_in,
        has_password=has_password,
    )


@router.post("/account/password")
async def change_password(
    request: Request,
    parts: Parts,
    old: Secret = "",
    new: Secret = "",
    person: Person = anyone(),
) -> Response:
    """Set a new password; every other browser is logged out."""
    if not parts.options.passwords:
        raise Refused(_("nobody logs in by password here, so there is none to change"))
    now, address = parts.now(), address_of(request)
    try:
        async with parts.db.look() as session:
            await logins.check_throttle(session, person.email, address, now=now)
            user = await queries.user(session, person.id)
        if not await asyncio.to_thread(passwords.matches, old, user.password_hash):
            async with parts.db.work() as session:
                await logins.note_failure(session, person.email, address, now=now)
            raise Invalid(_("your present password is not right"))
        passwords.check(new, email=person.email)
        password_hash = await asyncio.to_thread(passwords.hashed, new)
    except (Invalid, TooMany) as error:
        return await _account(parts, person, fault=render.sentence(error))
    async with parts.db.work() as session:
        await access.set_password(session, person.id, password_hash, now=now)
        await note(session, person, request, "password.set", person.id, now=now)
    return _to("/account?done=password", await _log_in(parts, request, person.id, "password"))


@router.post("/account/logins/{login_id}/end")
async def end_one_login(
    login_id: str, request: Request, parts: Parts, person: Person = anyone()
) -> Response:
    """Log out one browser of one's own; another's are not found."""
    async with parts.db.work() as session:
        mine = await logins.of_user(session, person.id, now=parts.now())
        if login_id not in {one.id for one in mine}:
            raise NotFound(_("you are not logged in there any more"))
        await logins.end(session, login_id, person.id, now=parts.now())
        await note(session, person, request, "login.revoked", login_id, now=parts.now())
    if login_id == person.login_id:
        return _to("/login", log_out=True)
    return _to("/account?done=login")


@router.post("/account/logins/end")
async def end_other_logins(request: Request, parts: Parts, person: Person = anyone()) -> Response:
    """Log out every browser but this one."""
    async with parts.db.work() as session:
        await access.end_logins(session, person.id, now=parts.now(), but=person.login_id)
        await note(session, person, request, "logins.ended", now=parts.now())
    return _to("/account?done=logins")


# Everybody ----------------------------------------------------------------------------------------


@router.get("/people")
async def people_page(
    parts: Parts, done: str = "", person: Person = may("people:write")
) -> Response:
    """Everybody with their role and how they log in, and the links that are still open."""
    return await _people(parts, person, done=done)


def _ways(web: Web, user: User) -> str:
    """How somebody logs in, in words."""
    options = web.options.sign_in
    linked = options is not None and user.oidc_issuer == options.issuer
    provider = options.label if options else ""
    if web.options.passwords and user.password_hash is not None:
        if linked:
            return _("Logs in with %(provider)s or password", provider=provider)
        return _("Logs in with password")
    if linked:
        return _("Logs in with %(provider)s", provider=provider)
    if options:
        return _("Has not used %(provider)s yet", provider=provider)
    return _("Needs a link for a password")


async def _people(
    web: Web,
    person: Person,
    *,
    fault: str | None = None,
    link: str | None = None,
    link_for: str | None = None,
    done: str = "",
) -> Response:
    async with web.db.look() as session:
        everybody = await queries.users(session)
        invites = await queries.open_invites(session, now=web.now())
        seen = await logins.seen(session, now=web.now())
    return render.page(
        "people.html",
        person=person,
        status=422 if fault else 200,
        headers=door.NO_STORE,
        everybody=everybody,
        seen=seen,
        ways={one.id: _ways(web, one) for one in everybody},
        passwords=web.options.passwords,
        sign_in=web.options.sign_in,
        done=_DONE.get(done, ""),
        invites=[invite for invite in invites if invite.email is not None],
        roles=list(Role),
        means=MEANS,
        fault=fault,
        link=link,
        link_for=link_for,
    )


@router.post("/people/invite")
async def invite_person(
    request: Request,
    parts: Parts,
    email: Text = "",
    role: Text = "",
    person: Person = may("people:write"),
) -> Response:
    """Make a link for somebody and show it, this once."""
    try:
        async with parts.db.work() as session:
            row, token = await access.invite(
                session, role=role, email=email, by=person.id, now=parts.now()
            )
            await note(
                session,
                person,
                request,
                "user.invited",
                row.id,
                {"email": row.email, "role": row.role},
                now=parts.now(),
            )
    except Invalid as error:
        return await _people(parts, person, fault=render.sentence(error))
    return await _people(parts, person, link=_link(request, token), link_for=row.email)


@router.post("/people/{user_id}/role")
async def change_role(
    user_id: str,
    request: Request,
    parts: Parts,
    role: Text = "",
    person: Person = may("people:write"),
) -> Response:
    """Give somebody another role."""
    return await _change(parts, request, person, user_id, "user.role", role=role)


@router.post("/people/{user_id}/disable")
async def shut_out(
    user_id: str, request: Request, parts: Parts, person: Person = may("people:write")
) -> Response:
    """Shut somebody out, at once and in every browser."""
    return await _change(parts, request, person, user_id, "user.disabled")


@router.post("/people/{user_id}/enable")
async def let_in(
    user_id: str, request: Request, parts: Parts, person: Person = may("people:write")
) -> Response:
    """Let somebody in again."""
    return await _change(parts, request, person, user_id, "user.enabled")


@router.post("/people/{user_id}/logins/end")
async def log_somebody_out(
    user_id: str, request: Request, parts: Parts, person: Person = may("people:write")
) -> Response:
    """Log somebody out in every browser; they may log in again."""
    async with parts.db.work() as session:
        await queries.user(session, user_id)
        but = person.login_id if user_id == person.id else None
        await access.end_logins(session, user_id, now=parts.now(), but=but)
        await note(session, person, request, "user.logged_out", user_id, now=parts.now())
    return _to("/people?done=out")


@router.post("/people/{user_id}/detach")
async def detach(
    user_id: str, request: Request, parts: Parts, person: Person = may("people:write")
) -> Response:
    """Forget who somebody is at the identity provider: their address was given to another person there."""
    async with parts.db.work() as session:
        await queries.user(session, user_id)
        await oidc.detach(session, user_id, now=parts.now())
        await note(session, person, request, "user.detached", user_id, now=parts.now())
    return _to("/people?done=detached")


async def _change(
    web: Web, request: Request, person: Person, user_id: str, action: str, *, role: str = ""
) -> Response:
    now = web.now()
    if not is_id("usr", user_id):
        raise NotFound(_("there is nobody with this id"))
    try:
        async with web.db.work() as session:
            match action:
                case "user.role":
                    await access.set_role(session, user_id, role, now=now)
                case "user.disabled":
                    await access.disable(session, user_id, now=now)
                case _:
                    await access.enable(session, user_id)
            await note(
                session, person, request, action, user_id, {"role": role} if role else {}, now=now
            )
    except NotFound:
        raise
    except TrunklineError as error:
        return await _people(web, person, fault=render.sentence(error))
    return _to("/people")


@router.post("/people/{user_id}/link")
async def new_link(
    user_id: str, request: Request, parts: Parts, person: Person = may("people:write")
) -> Response:
    """A link with which somebody sets a new password."""
    async with parts.db.work() as session:
        user = await queries.user(session, user_id)
        if not parts.options.passwords and user.role != Role.OWNER:
            raise Refused(
                _("nobody logs in by password here; only an owner may have a link instead")
            )
        _invite, token = await access.invite(
            session, role=user.role, email=user.email, by=person.id, now=parts.now()
        )
        await note(session, person, request, "user.link", user_id, now=parts.now())
    return await _people(parts, person, link=_link(request, token), link_for=user.email)


def _link(request: Request, token: str) -> str:
    return door.address(request, f"/welcome/{token}")


@router.get("/audit")
async def audit_page(
    parts: Parts,
    before: Annotated[str | None, Query(max_length=60)] = None,
    actor_id: Annotated[str | None, Query(alias="by", max_length=60)] = None,
    subject: Annotated[str | None, Query(alias="of", max_length=60)] = None,
    action: Annotated[str | None, Query(max_length=60)] = None,
    person: Person = may("audit:read"),
) -> Response:
    """Who did or looked at what, the latest first."""
    async with parts.db.look() as session:
        rows = list(
            await queries.audit(
                session,
                before=before if before and is_id("aud", before) else None,
                actor_id=actor_id or None,
                subject=subject or None,
                action=action or None,
                limit=_ON_A_PAGE + 1,
            )
        )
    more = rows[_ON_A_PAGE - 1].id if len(rows) > _ON_A_PAGE else None
    return render.page(
        "audit.html",
        person=person,
        rows=rows[:_ON_A_PAGE],
        more=more,
        filters={"by": actor_id, "of": subject, "action": action},
    )
