"""Reads of access."""

import hmac
import re
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.models import ApiKey, Audit, Invite, User
from trunkline.access.service import PREFIX, digest, opens
from trunkline.errors import NotFound

_FORM = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


async def key_for(session: AsyncSession, token: str, *, now: datetime) -> ApiKey | None:
    """The key that *token* is, or None when it is none of ours, was revoked or is past its end."""
    if not _FORM.fullmatch(token):
        return None
    sha256 = digest(token)
    key = await session.scalar(select(ApiKey).where(ApiKey.sha256 == sha256))
    if key is None or not hmac.compare_digest(key.sha256, sha256) or not opens(key, now=now):
        return None
    return key


async def keys(session: AsyncSession) -> Sequence[ApiKey]:
    """All keys, also revoked ones and those past their end, the newest first."""
    return (await session.scalars(select(ApiKey).order_by(ApiKey.id.desc()))).all()


async def keys_page(session: AsyncSession, *, after: str | None, limit: int) -> Sequence[ApiKey]:
    """Keys as :func:`keys` has them, but in the order in which they were made, those after the id *after*."""
    statement = select(ApiKey).order_by(ApiKey.id).limit(limit)
    if after is not None:
        statement = statement.where(ApiKey.id > after)
    return (await session.scalars(statement)).all()


async def user_by_email(session: AsyncSession, email: str) -> User | None:
    """The account of an address, in whatever capitals it is written."""
    return await session.scalar(select(User).where(User.email == email.strip().lower()))


async def user(session: AsyncSession, user_id: str) -> User:
    """One account. Raises NotFound."""
    found = await session.get(User, user_id)
    if found is None:
        raise NotFound(f"there is nobody with the id {user_id}")
    return found


async def users(session: AsyncSession) -> Sequence[User]:
    """Everybody, also those who are shut out, by name."""
    return (await session.scalars(select(User).order_by(User.name, User.id))).all()


async def users_page(session: AsyncSession, *, after: str | None, limit: int) -> Sequence[User]:
    """Everybody, in the order in which they came, those after the id *after*."""
    statement = select(User).order_by(User.id).limit(limit)
    if after is not None:
        statement = statement.where(User.id > after)
    return (await session.scalars(statement)).all()


async def open_invite(session: AsyncSession, token: str, *, now: datetime) -> Invite | None:
    """The link that *token* is, if it can still be used."""
    found = await session.scalar(select(Invite).where(Invite.sha256 == digest(token)))
    good = found is not None and found.used_at is None and found.expires_at > now
    return found if good else None


async def open_invites(session: AsyncSession, *, now: datetime) -> Sequence[Invite]:
    """Links that can still be used, the latest first."""
    statement = select(Invite).where(Invite.used_at.is_(None), Invite.expires_at > now)
    return (await session.scalars(statement.order_by(Invite.id.desc()))).all()


async def audit(
    session: AsyncSession,
    *,
    before: str | None = None,
    actor_id: str | None = None,
    subject: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
) -> Sequence[Audit]:
    """The audit, the latest first; *before* is the id of the last row of the page before.

    *since* is the first moment of which it tells, *until* the first of which it no longer does.
    """
    statement = select(Audit).order_by(Audit.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(Audit.id < before)
    if actor_id is not None:
        statement = statement.where(Audit.actor_id == actor_id)
    if subject is not None:
        statement = statement.where(Audit.subject == subject)
    if action is not None:
        statement = statement.where(Audit.action == action)
    if since is not None:
        statement = statement.where(Audit.at >= since)
    if until is not None:
        statement = statement.where(Audit.at < until)
    return (await session.scalars(statement)).all()
