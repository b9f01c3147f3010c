"""Logins: who is behind a browser's cookie, for how long, and how guessing passwords is slowed down.

A login is a random token, of which only the hash is kept. It ends when it is not used for ``IDLE``, at the
latest after ``LONGEST``, and its token is replaced every ``ROTATE`` (OWASP Session Management).
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.models import Login, LoginFailure, User
from trunkline.access.roles import MAY, Role
from trunkline.access.service import digest
from trunkline.errors import TooMany
from trunkline.kit.ids import new_id

IDLE = timedelta(hours=12)
LONGEST = timedelta(days=14)
ROTATE = timedelta(hours=1)
OVERLAP = timedelta(minutes=1)
"""How long a replaced token still works: a page loads its parts in parallel."""
_SEEN_EVERY = timedelta(minutes=1)

Method = Literal["password", "oidc", "link"]
"""How somebody came in: by password, through the identity provider, by a one-time link."""

WINDOW = timedelta(minutes=15)
"""Failed logins count for this long."""
PER_ACCOUNT_AND_ADDRESS, PER_ADDRESS, PER_ACCOUNT = 5, 30, 100
"""Failures within the window after which no password is looked at any more. An account alone bears many, so
that nobody can lock its owner out from elsewhere."""


@dataclass(frozen=True)
class Person:
    """Somebody who is logged in."""

    id: str
    name: str
    email: str
    role: Role
    login_id: str

    def may(self, scope: str) -> bool:
        """Whether their role has *scope*."""
        return scope in MAY[self.role]


async def check_throttle(session: AsyncSession, email: str, address: str, *, now: datetime) -> None:
    """Raise TooMany when too many logins failed lately, on this account or from this address."""
    since = now - WINDOW
    account = digest(email)
    counts = (
        await session.execute(
            select(
                func.count().filter(
                    LoginFailure.account_sha256 == account, LoginFailure.address == address
                ),
                func.count().filter(LoginFailure.address == address),
                func.count().filter(LoginFailure.account_sha256 == account),
                func.min(LoginFailure.at),
            ).where(
                LoginFailure.at > since,
                or_(LoginFailure.account_sha256 == account, LoginFailure.address == address),
            )
        )
    ).one()
    pair, from_there, on_account, first = counts
    if pair >= PER_ACCOUNT_AND_ADDRESS or from_there >= PER_ADDRESS or on_account >= PER_ACCOUNT:
        wait = max(timedelta(minutes=1), first + WINDOW - now)
        raise TooMany(
            f"too many logins failed; try again in {round(wait.total_seconds() / 60)} minutes",
            retry_after=wait,
        )


async def note_failure(session: AsyncSession, email: str, address: str, *, now: datetime) -> None:
    """Remember a login that failed, and forget those that no longer count."""
    session.add(
        LoginFailure(
            id=new_id("lgf", now=now), account_sha256=digest(email), address=address, at=now
        )
    )
    await session.execute(delete(LoginFailure).where(LoginFailure.at <= now - WINDOW))


async def open_login(
    session: AsyncSession,
    user: User,
    *,
    method: Method,
    address: str | None,
    browser: str | None,
    former: str | None = None,
    now: datetime,
) -> tuple[Login, str]:
    """Log *user* in. The second value is the token for the cookie.

    The login of the token *former*, which this browser had until now, ends.
    """
    if former:
        sha256 = digest(former)
        await session.execute(
            update(Login)
            .where(
                or_(Login.sha256 == sha256, Login.former_sha256 == sha256),
                Login.ended_at.is_(None),
            )
            .values(ended_at=now)
        )
    token = secrets.token_urlsafe(32)
    login = Login(
        id=new_id("lgn", now=now),
        user_id=user.id,
        sha256=digest(token),
        created_at=now,
        rotated_at=now,
        seen_at=now,
        address=address,
        browser=browser[:200] if browser else None,
        method=method,
    )
    session.add(login)
    user.last_login_at = now
    await session.flush()
    return login, token


async def person(session: AsyncSession, token: str, *, now: datetime) -> Person | None:
    """Who is behind *token*; None when it is none, or its login has ended."""
    sha256 = digest(token)
    found = (
        await session.execute(
            select(Login, User)
            .join(User, User.id == Login.user_id)
            .where(or_(Login.sha256 == sha256, Login.former_sha256 == sha256))
        )
    ).one_or_none()
    if found is None:
        return None
    login, user = found
    over = (
        login.ended_at is not None
        or user.disabled_at is not None
        or login.seen_at <= now - IDLE
        or login.created_at <= now - LONGEST
        or (login.sha256 != sha256 and login.rotated_at <= now - OVERLAP)
    )
    if over:
        return None
    return Person(user.id, user.name, user.email, Role(user.role), login.id)


async def keep_fresh(session: AsyncSession, token: str, *, now: datetime) -> str | None:
    """Note that the login is used; returns a new token when it was time to replace it.

    A token that was just replaced by another request is left alone.
    """
    sha256 = digest(token)
    login = await session.scalar(
        select(Login).where(Login.sha256 == sha256, Login.ended_at.is_(None)).with_for_update()
    )
    if login is None:
        return None
    login.seen_at = now
    if login.rotated_at > now - ROTATE:
        return None
    fresh = secrets.token_urlsafe(32)
    login.former_sha256, login.sha256, login.rotated_at = sha256, digest(fresh), now
    return fresh


async def use_is_due(session: AsyncSession, person: Person, *, now: datetime) -> bool:
    """Whether ``keep_fresh`` would write, so that most requests need no writing transaction."""
    login = await session.get(Login, person.login_id)
    return login is not None and login.seen_at <= now - _SEEN_EVERY


async def end(session: AsyncSession, login_id: str, user_id: str, *, now: datetime) -> None:
    """Log out one browser of *user_id*. Doing it twice changes nothing."""
    await session.execute(
        update(Login)
        .where(Login.id == login_id, Login.user_id == user_id, Login.ended_at.is_(None))
        .values(ended_at=now)
    )


async def seen(session: AsyncSession, *, now: datetime) -> dict[str, tuple[datetime, int]]:
    """Person → when they last used a page, and in how many browsers they are logged in now."""
    is_open = and_(
        Login.ended_at.is_(None), Login.seen_at > now - IDLE, Login.created_at > now - LONGEST
    )
    rows = await session.execute(
        select(Login.user_id, func.max(Login.seen_at), func.count().filter(is_open)).group_by(
            Login.user_id
        )
    )
    return {user_id: (at, count) for user_id, at, count in rows}


async def of_user(session: AsyncSession, user_id: str, *, now: datetime) -> Sequence[Login]:
    """Where somebody is logged in, the latest first."""
    statement = (
        select(Login)
        .where(
            Login.user_id == user_id,
            Login.ended_at.is_(None),
            Login.seen_at > now - IDLE,
            Login.created_at > now - LONGEST,
        )
        .order_by(Login.seen_at.desc())
    )
    return (await session.scalars(statement)).all()
