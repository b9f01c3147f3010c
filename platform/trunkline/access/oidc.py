"""Who may come in through the identity provider, and as whom.

The provider's claims are checked already (kit.oidc). Here they become a person: known by issuer and subject,
the first time by the verified e-mail address. An attempt to sign in belongs to one browser and is good
once; its nonce and PKCE verifier follow from the browser's own token, so nothing secret is stored.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.models import Invite, SignIn, User
from trunkline.access.options import SignInOptions
from trunkline.access.roles import Role
from trunkline.access.service import address_of, digest, end_logins, set_role
from trunkline.errors import Invalid, Refused, TooMany
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id

LASTS = timedelta(minutes=10)
"""How long somebody may take at the provider."""
PER_ADDRESS = 100
"""Attempts under way from one address; a whole office may sit behind one."""


class NotLetIn(Refused):
    """The provider says who it is, and we do not let them in. ``reason`` is for the audit."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Attempt:
    """What goes to the provider and must come back."""

    state: str
    nonce: str
    verifier: str
    next: str
    """The page to go to afterwards."""


@dataclass(frozen=True)
class Identity:
    """Somebody, as the provider knows them."""

    issuer: str
    subject: str
    email: str
    name: str
    role: Role | None
    """What the claims give; None when they give none."""


def _derived(what: str, browser: str, state: str) -> str:
    mac = hmac.digest(browser.encode(), f"{what}:{state}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def _attempt(state: str, browser: str, next: str) -> Attempt:
    return Attempt(
        state, _derived("nonce", browser, state), _derived("verifier", browser, state), next
    )


async def begin(
    session: AsyncSession, *, browser: str, next: str, address: str, now: datetime
) -> Attempt:
    """Begin to sign in; *browser* is the random token that this browser keeps. Raises TooMany."""
    await session.execute(delete(SignIn).where(SignIn.created_at <= now - LASTS))
    under_way = await session.scalar(
        select(func.count()).select_from(SignIn).where(SignIn.address == address)
    )
    if (under_way or 0) >= PER_ADDRESS:
        raise TooMany("too many log-ins were begun from here; wait 10 minutes", retry_after=LASTS)
    state = secrets.token_urlsafe(32)
    session.add(
        SignIn(
            state_sha256=digest(state),
            browser_sha256=digest(browser),
            next=next,
            address=address,
            created_at=now,
        )
    )
    await session.flush()
    return _attempt(state, browser, next)


async def take(
    session: AsyncSession, *, state: str, browser: str | None, now: datetime
) -> Attempt | None:
    """The attempt that came back, once; None for one that another browser began, or is over."""
    if not browser:
        return None
    next = await session.scalar(
        delete(SignIn)
        .where(
            SignIn.state_sha256 == digest(state),
            SignIn.browser_sha256 == digest(browser),
            SignIn.created_at > now - LASTS,
        )
        .returning(SignIn.next)
    )
    return None if next is None else _attempt(state, browser, next)


def identity(claims: Mapping[str, Any], options: SignInOptions) -> Identity:
    """Who they are, if the provider vouches for their address and its domain is ours. Raises NotLetIn."""
    try:
        email = address_of(str(claims.get("email") or ""))
    except Invalid:
        raise NotLetIn(
            "no_email",
            f"{options.label} did not tell your e-mail address; ask who runs it to send the claim email",
        ) from None
    # Some providers send the word instead of the truth value.
    if claims.get("email_verified") not in (True, "true"):
        raise NotLetIn(
            "email_not_verified",
            f"{options.label} has not verified your address {email}; verify it there, then log in again",
        )
    if options.domains and email.rpartition("@")[2] not in options.domains:
        raise NotLetIn(
            "domain",
            f"addresses like {email} are not let in here; "
            f"choose your account at {' or '.join(options.domains)}",
        )
    name = next(
        (
            " ".join(value.split())[:100]
            for value in (claims.get("name"), claims.get("preferred_username"))
            if isinstance(value, str) and value.strip()
        ),
        email.partition("@")[0],
    )
    return Identity(options.issuer, str(claims["sub"]), email, name, _role(claims, options))


def _role(claims: Mapping[str, Any], options: SignInOptions) -> Role | None:
    if options.role_claim is None:
        return None
    value: Any = claims.get(options.role_claim)
    if value is None:
        value = claims
        for part in options.role_claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    given = value if isinstance(value, list) else [value]
    roles = [role for word, role in options.roles if word in given]
    return min(roles, key=list(Role).index, default=None)


@dataclass(frozen=True)
class Arrived:
    """Who came in, and what that changed: ``user.joined``, ``user.linked``, ``user.role``."""

    user: User
    done: tuple[str, ...]


async def arrive(
    session: AsyncSession, who: Identity, options: SignInOptions, *, now: datetime
) -> Arrived:
    """The account of *who*; a new one if they may have one. Raises NotLetIn."""
    done: list[str] = []
    user = await _known(session, who)
    if user is None and await _make(session, who, options, now=now):
        done.append("user.joined")
    user = user or await _known(session, who)
    assert user is not None
    if user.disabled_at is not None:
        raise NotLetIn(
            "disabled", "your account here was shut out; ask an owner to let you in again"
        )
    if (user.oidc_issuer, user.oidc_subject) != (who.issuer, who.subject):
        if user.oidc_issuer == who.issuer:
            raise NotLetIn(
                "other_subject",
                f"the account of {who.email} here belongs to another person at {options.label}; "
                "ask an owner to detach it on the page People",
            )
        user.oidc_issuer, user.oidc_subject = who.issuer, who.subject
        done.append("user.linked")
    if options.decides_roles and "user.joined" not in done:
        wanted = who.role or options.default_role
        if wanted is None:
            raise _no_role(who, options)
        if user.role != wanted:
            try:
                await set_role(session, user.id, wanted, now=now)
                done.append("user.role")
            except Refused:
                # The last owner stays one, or nobody could ever change anything again.
                pass
    await session.flush()
    return Arrived(user, tuple(done))


async def _known(session: AsyncSession, who: Identity) -> User | None:
    by_subject = select(User).where(
        User.oidc_issuer == who.issuer, User.oidc_subject == who.subject
    )
    found = await session.scalar(by_subject.with_for_update())
    if found is not None:
        return found
    return await session.scalar(select(User).where(User.email == who.email).with_for_update())


async def _make(
    session: AsyncSession, who: Identity, options: SignInOptions, *, now: datetime
) -> bool:
    """Make the account; False when another request made it at this moment."""
    open_ones = (Invite.email == who.email, Invite.used_at.is_(None), Invite.expires_at > now)
    invited = await session.scalar(
        select(Invite.role).where(*open_ones).order_by(Invite.id.desc()).limit(1)
    )
    role = who.role or (Role(invited) if invited else options.default_role)
    if role is None:
        raise _no_role(who, options)
    owner = select(User.id).where(User.role == Role.OWNER, User.disabled_at.is_(None)).limit(1)
    if role != Role.OWNER and await session.scalar(owner) is None:
        raise NotLetIn(
            "no_owner",
            "there is no owner yet; open the link that the server printed when it started, or print a new "
            "one with: trunkline user add --first",
        )
    made = await session.scalar(
        insert_for(session, User)
        .values(
            id=new_id("usr", now=now),
            email=who.email,
            name=who.name,
            role=role,
            created_at=now,
            oidc_issuer=who.issuer,
            oidc_subject=who.subject,
        )
        .on_conflict_do_nothing()
        .returning(User.id)
    )
    await session.execute(update(Invite).where(*open_ones).values(used_at=now))
    return made is not None


def _no_role(who: Identity, options: SignInOptions) -> NotLetIn:
    if options.decides_roles:
        return NotLetIn(
            "no_role",
            f"{options.label} gives {who.email} no role here; ask who runs it for a group that has one",
        )
    return NotLetIn(
        "not_invited", f"nobody has invited {who.email} yet; ask an owner for an invitation"
    )


async def detach(session: AsyncSession, user_id: str, *, now: datetime) -> None:
    """Forget who somebody is at the provider, and log them out everywhere.

    Whoever comes next with their verified address has the account.
    """
    await end_logins(session, user_id, now=now)
    await session.execute(
        update(User).where(User.id == user_id).values(oidc_issuer=None, oidc_subject=None)
    )


def wanted(options: SignInOptions) -> tuple[str, ...]:
    """The claims that ``identity`` looks at."""
    roles = (options.role_claim.partition(".")[0],) if options.role_claim else ()
    return ("email", "email_verified", *roles)
