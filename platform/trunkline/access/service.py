"""Verbs of access: hand out an API key, note its use, take it back."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.models import ApiKey
from trunkline.errors import Invalid, NotFound
from trunkline.kit.ids import new_id

SCOPES: dict[str, str] = {
    "calls:read": "Calls with their transcript, tool runs, CRM changes and webhook deliveries.",
    "recordings:read": "The sound of a call.",
    "contacts:read": "Contacts, companies, deals and activities.",
    "contacts:write": "Make and change contacts, deals and activities.",
    "events:read": "Every event, as a log to be read from any point on.",
    "webhooks:read": "Webhook endpoints and their deliveries.",
    "webhooks:write": "Make and change endpoints, send tests, send deliveries again.",
}
"""What a key may be allowed: scope → what it opens."""

READS = tuple(scope for scope in SCOPES if scope.endswith(":read"))
"""Scopes that change nothing."""

PREFIX = "tl_"
"""Begins every key, so that scanners for leaked secrets can find one."""

_NAME_LENGTH = 100
_NOTE_USE_EVERY = timedelta(minutes=1)


def digest(token: str) -> str:
    """SHA-256 of a key in hex. A slow hash would gain nothing: a key holds 256 random bits."""
    return hashlib.sha256(token.encode()).hexdigest()


async def add_key(
    session: AsyncSession, *, name: str, scopes: Sequence[str], now: datetime
) -> tuple[ApiKey, str]:
    """Make a key. The second value is the key itself, which cannot be shown again.

    Raises Invalid for an empty or overlong name, for no scope and for one that does not exist.
    """
    name = name.strip()
    if not 0 < len(name) <= _NAME_LENGTH:
        raise Invalid(f"a key needs a name of 1 to {_NAME_LENGTH} characters that says who uses it")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        fault = f"{', '.join(unknown)} is no scope" if unknown else "a key needs a scope"
        raise Invalid(f"{fault}; choose from {', '.join(SCOPES)}")
    token = PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=new_id("key", now=now),
        name=name,
        sha256=digest(token),
        last4=token[-4:],
        scopes=sorted(set(scopes)),
        created_at=now,
    )
    session.add(key)
    await session.flush()
    return key, token


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
