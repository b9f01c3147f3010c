"""A request sent twice is done once: ``Idempotency-Key`` (draft-ietf-httpapi-idempotency-key-header-07).

The answer is kept in the transaction that did the work. So there is an answer exactly when the work was
done, and of two equal requests at the same moment the second waits for the first: the row of the first is
locked until it commits.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.access.models import IdempotencyKey
from trunkline.errors import KeyReused
from trunkline.kit.db import insert_for

KEEP = timedelta(hours=24)
"""How long an answer is remembered; the same key then makes a new request."""

_PURGED_AT_ONCE = 100


@dataclass(frozen=True)
class Answer:
    """What was answered the first time."""

    status: int
    body: str


async def begin(
    session: AsyncSession, *, api_key_id: str, key: str, fingerprint: str, now: datetime
) -> Answer | None:
    """None when the request is new and is to be done, with ``keep`` at its end; else its answer.

    Raises KeyReused when the key came with another request before.
    """
    await _purge(session, now=now)
    fresh = {"fingerprint": fingerprint, "created_at": now}
    claimed = await session.scalar(
        insert_for(session, IdempotencyKey)
        .values(api_key_id=api_key_id, key=key, status=0, body="", **fresh)
        .on_conflict_do_update(
            index_elements=[IdempotencyKey.api_key_id, IdempotencyKey.key],
            set_=fresh,
            where=IdempotencyKey.created_at <= now - KEEP,
        )
        .returning(IdempotencyKey.key)
    )
    if claimed is not None:
        return None
    row = await session.get_one(IdempotencyKey, (api_key_id, key))
    if row.fingerprint != fingerprint:
        raise KeyReused(
            "this Idempotency-Key was used for another request; send each new request with a new key"
        )
    return Answer(row.status, row.body)


async def keep(session: AsyncSession, answer: Answer, *, api_key_id: str, key: str) -> None:
    """Remember the answer to the request that ``begin`` let through."""
    await session.execute(
        update(IdempotencyKey)
        .where(IdempotencyKey.api_key_id == api_key_id, IdempotencyKey.key == key)
        .values(status=answer.status, body=answer.body)
    )


async def _purge(session: AsyncSession, *, now: datetime) -> None:
    """Forget some of the oldest. Those that another request looks at are left to it."""
    old = (
        select(IdempotencyKey.api_key_id, IdempotencyKey.key)
        .where(IdempotencyKey.created_at <= now - KEEP)
        .order_by(IdempotencyKey.created_at)
        .limit(_PURGED_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    rows = [tuple(row) for row in await session.execute(old)]
    if rows:
        await session.execute(
            delete(IdempotencyKey).where(
                tuple_(IdempotencyKey.api_key_id, IdempotencyKey.key).in_(rows)
            )
        )
