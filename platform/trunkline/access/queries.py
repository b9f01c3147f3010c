"""Reads of access."""

import hmac
import re
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.models import ApiKey
from trunkline.access.service import PREFIX, digest

_FORM = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


async def key_for(session: AsyncSession, token: str) -> ApiKey | None:
    """The key that *token* is, or None when it is none of ours or was revoked."""
    if not _FORM.fullmatch(token):
        return None
    sha256 = digest(token)
    key = await session.scalar(select(ApiKey).where(ApiKey.sha256 == sha256))
    if key is None or not hmac.compare_digest(key.sha256, sha256) or key.revoked_at is not None:
        return None
    return key


async def keys(session: AsyncSession) -> Sequence[ApiKey]:
    """All keys, also revoked ones, the newest first."""
    return (await session.scalars(select(ApiKey).order_by(ApiKey.id.desc()))).all()
