"""Verbs of access: keys of the API, people and their roles, the audit."""

import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.models import ApiKey, Audit, Invite, Login, User
from trunkline.access.roles import ABOUT_ACCESS, FOR_PEOPLE, SCOPES, Role
from trunkline.errors import Conflict, Invalid, NotFound, Refused
from trunkline.kit.ids import new_id

KEY_SCOPES = {scope: what for scope, what in SCOPES.items() if scope not in FOR_PEOPLE}
"""What a key of the API may be allowed."""

READS = tuple(
    scope for scope in KEY_SCOPES if scope.endswith(":read") and scope not in ABOUT_ACCESS
)
"""Scopes that change nothing; what a key may do of which nothing else was said."""

PREFIX = "tl_"
"""Begins every key, so that scanners for leaked secrets can find one."""

LONGEST_KEY = timedelta(days=3650)
LONGEST_OVERLAP = timedelta(days=30)

_NAME_LENGTH = 100
_NOTE_USE_EVERY = timedelta(minutes=1)


def digest(token: str) -> str:
    """SHA-256 of a key in hex. A slow hash would gain nothing: a key holds 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()


async def add_key(
    session: AsyncSession,
    *,
    name: str,
    scopes: Sequence[str],
    lasts: timedelta | None = None,
    now: datetime,
) -> tuple[ApiKey, str]:
    """Make a key. The second value is the key itself, which cannot be shown again.

    It ends after *lasts*, or never. Raises Invalid for an empty or overlong name, for no scope, for one that
    does not exist, and for a lifetime that is none.
    """
    if lasts is not None and not timedelta(0) < lasts <= LONGEST_KEY:
        raise Invalid(f"a key lasts 1 to {LONGEST_KEY.days} days, or for ever")
    name = name.strip()
    if not 0 < len(name) <= _NAME_LENGTH:
        raise Invalid(f"a key needs a name of 1 to {_NAME_LENGTH} characters that says who uses it")
    unknown = sorted(set(scopes) - set(KEY_SCOPES))
    if unknown or not scopes:
        fault = f"{', '.join(unknown)} is no scope" if unknown else "a key needs a scope"
        raise Invalid(f"{fault}; choose from {', '.join(KEY_SCOPES)}")
    token = PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key", now=now),
        name=name,
        sha256=digest(token),
        last4=token[-4:],
        scopes=sorted(set(scopes)),
        created_at=now,
        expires_at=now + lasts if lasts is not None else None,
    )
    session.add(key)
    await session.flush()
    return key, token


def opens(key: ApiKey, *, now: datetime) -> bool:
    """Whether the key can be used: neither taken back nor past its end."""
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


async def rotate_key(
    session: AsyncSession, key_id: str, *, overlap: timedelta, now: datetime
) -> tuple[ApiKey, str]:
    """A new key of the same name and scopes, that lasts as long; the old one works for *overlap* more.

    So a program can be given the new one without a gap. Raises NotFound, Conflict for a key that opens
    nothing any more, and Invalid for an overlap that is none.
    """
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise Invalid(f"the old key may work for at most {LONGEST_OVERLAP.days} days more")
    old = await session.get(ApiKey, key_id, with_for_update=True, populate_existing=True)
    if old is None:
        raise NotFound(f"there is no API key {key_id}")
    if not opens(old, now=now):
        raise Conflict("this key opens nothing any more; make a new one")
    lasts = old.expires_at - old.created_at if old.expires_at else None
    made = await add_key(session, name=old.name, scopes=old.scopes, lasts=lasts, now=now)
    old.expires_at = min(now + overlap, old.expires_at or now + overlap)
    await session.flush()
    return made


async def note_use(session: AsyncSession, key_id: str, *, now: datetime) -> None:
    """Remember that the key was used; written at most once a minute, however many ask at once."""
    await session.execute(
        update(ApiKey)
        .where(
            ApiKey.id == key_id,
            or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= now - _NOTE_USE_EVERY),
        )
        .values(last_used_at=now)
    )


def use_is_due(key: ApiKey, *, now: datetime) -> bool:
    """Whether ``note_use`` would write, so that most requests need no writing transaction."""
    return key.last_used_at is None or key.last_used_at <= now - _NOTE_USE_EVERY


async def revoke_key(session: AsyncSession, key_id: str, *, now: datetime) -> ApiKey:
    """Take a key back at once and for good; doing it twice changes nothing. Raises NotFound."""
    key = await session.get(ApiKey, key_id)
    if key is None:
        raise NotFound(f"there is no API key {key_id}")
    if key.revoked_at is None:
        key.revoked_at = now
        await session.flush()
    return key


# People ---------------------------------------------------------------------------------------

INVITE_FOR = timedelta(days=3)
"""How long a link to make an account can be used."""

_EMAIL = re.compile(r"[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]{1,189}")


async def invite(
    session: AsyncSession, *, role: str, email: str | None, by: str | None, now: datetime
) -> tuple[Invite, str]:
    """Make a link for one account. The second value is its token, which cannot be shown again.

    For the address of somebody who has an account already it sets a new password. *by* is the id of who
    invites. Raises Invalid for an unknown role or no address.
    """
    token = secrets.token_urlsafe(32)
    row = Invite(
        id=new_id("inv", now=now),
        sha256=digest(token),
        email=address_of(email) if email is not None else None,
        role=_role(role),
        invited_by=by,
        created_at=now,
        expires_at=now + INVITE_FOR,
    )
    session.add(row)
    await session.flush()
    return row, token


async def first_owner(session: AsyncSession, *, now: datetime) -> str | None:
    """The token of a link for the first owner; None once anybody has an account.

    Links that were made for it before stop working, so that only the one shown last does.
    """
    if await session.scalar(select(User.id).limit(1)) is not None:
        return None
    await session.execute(
        update(Invite).where(Invite.email.is_(None), Invite.used_at.is_(None)).values(used_at=now)
    )
    _, token = await invite(session, role=Role.OWNER, email=None, by=None, now=now)
    return token


async def accept(
    session: AsyncSession,
    token: str,
    *,
    email: str,
    name: str,
    password_hash: str | None,
    now: datetime,
) -> User:
    """Make the account of a link, or set the new password of one that is there, once.

    Without *password_hash* the password stays as it is: the link is then the way in itself.

    Raises NotFound for a link that is none, or was used, or is too old; Invalid for name or address;
    Conflict when a first owner exists already.
    """
    row = await session.scalar(
        select(Invite).where(Invite.sha256 == digest(token)).with_for_update()
    )
    if row is None or row.used_at is not None or row.expires_at <= now:
        raise NotFound(
            "this link is not valid any more; ask for a new one: trunkline user add EMAIL"
        )
    address = row.email or address_of(email)
    user = await session.scalar(select(User).where(User.email == address).with_for_update())
    if user is not None and row.email is None:
        raise Conflict("there is an account with this address already; log in with it")
    if user is None:
        user = User(
            id=new_id("usr", now=now),
            email=address,
            name=person_name(name),
            role=row.role,
            created_at=now,
        )
        session.add(user)
    if user.disabled_at is not None:
        raise Refused("this account was shut out; ask an owner to let it in again")
    if password_hash is not None:
        user.password_hash = password_hash
    row.used_at = now
    await session.flush()
    return user


async def set_password(
    session: AsyncSession, user_id: str, password_hash: str, *, now: datetime
) -> None:
    """Replace the password. All logins end but those that the caller opens afterwards."""
    user = await _user(session, user_id)
    user.password_hash = password_hash
    await end_logins(session, user_id, now=now)


async def set_role(session: AsyncSession, user_id: str, role: str, *, now: datetime) -> User:
    """Give somebody another role; their logins end. Raises Refused for the last owner."""
    user = await _user(session, user_id)
    wanted = _role(role)
    if user.role == wanted:
        return user
    await _not_the_last_owner(session, user, "give another role to")
    user.role = wanted
    await end_logins(session, user_id, now=now)
    return user


async def disable(session: AsyncSession, user_id: str, *, now: datetime) -> User:
    """Shut somebody out at once. Raises Refused for the last owner."""
    user = await _user(session, user_id)
    if user.disabled_at is None:
        await _not_the_last_owner(session, user, "shut out")
        user.disabled_at = now
        await end_logins(session, user_id, now=now)
    return user


async def enable(session: AsyncSession, user_id: str) -> User:
    """Let somebody in again."""
    user = await _user(session, user_id)
    user.disabled_at = None
    await session.flush()
    return user


async def end_logins(
    session: AsyncSession, user_id: str, *, now: datetime, but: str | None = None
) -> None:
    """Log somebody out everywhere, except in the login *but*."""
    statement = update(Login).where(Login.user_id == user_id, Login.ended_at.is_(None))
    if but is not None:
        statement = statement.where(Login.id != but)
    await session.execute(statement.values(ended_at=now))


async def note(
    session: AsyncSession,
    *,
    actor_id: str | None,
    actor: str,
    action: str,
    subject: str | None = None,
    details: Mapping[str, Any] | None = None,
    address: str | None = None,
    now: datetime,
) -> None:
    """Write into the audit, in the transaction of what is told of."""
    session.add(
        Audit(
            id=new_id("aud", now=now),
            at=now,
            actor_id=actor_id,
            actor=actor[:254],
            action=action,
            subject=subject,
            details=dict(details or {}),
            address=address,
        )
    )


def address_of(text: str) -> str:
    """An e-mail address as it is kept. Raises Invalid."""
    address = text.strip().lower()
    if not _EMAIL.fullmatch(address):
        raise Invalid("this is no e-mail address; write one like dana@example.com")
    return address


def person_name(text: str) -> str:
    """A person's name as it is kept. Raises Invalid."""
    name = " ".join(text.split())
    if not 1 <= len(name) <= _NAME_LENGTH:
        raise Invalid(f"a name must have 1 to {_NAME_LENGTH} characters")
    return name


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise Invalid(f"{text!r} is no role; the roles are {', '.join(Role)}") from None


async def _user(session: AsyncSession, user_id: str) -> User:
    user = await session.get(User, user_id, with_for_update=True, populate_existing=True)
    if user is None:
        raise NotFound(f"there is nobody with the id {user_id}")
    return user


async def _not_the_last_owner(session: AsyncSession, user: User, what: str) -> None:
    if user.role != Role.OWNER or user.disabled_at is not None:
        return
    owners = select(User.id).where(User.role == Role.OWNER, User.disabled_at.is_(None))
    # Locked: of two owners who shut out each other at the same moment, one must fail.
    found = (await session.scalars(owners.order_by(User.id).with_for_update())).all()
    if len(found) < 2:
        raise Refused(f"you cannot {what} the last owner; make somebody else owner first")
