"""Write an event beside the change it tells of."""

import json
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.events import Event
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.outbox.models import EventRow, Stream

CHANNEL = "trunkline_events"
"""PostgreSQL's channel that is notified when a transaction with events commits."""


async def record(session: AsyncSession, event: Event, *, now: datetime) -> EventRow:
    """Add *event* to the session's transaction, with the next ``seq`` of its subject.

    Taking the ``seq`` locks the subject's counter until the transaction ends, so two
    writers of one call never get the same number. Raises ValueError if the event holds a number
    that JSON cannot write (NaN, infinity), before anyone has to read it.
    """
    upsert = insert_for(session, Stream).values(subject=event.subject, seq=1)
    upsert = upsert.on_conflict_do_update(
        index_elements=[Stream.subject], set_={"seq": Stream.seq + 1}
    ).returning(Stream.seq)
    seq = (await session.execute(upsert)).scalar_one()
    stamp = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"type": event.type, "timestamp": stamp, "data": {**event.data(), "seq": seq}}
    json.dumps(body, allow_nan=False)
    row = EventRow(
        id=new_id("evt", now=now),
        type=event.type,
        subject=event.subject,
        seq=seq,
        body=body,
        recorded_at=now,
    )
    session.add(row)
    await session.flush()
    if session.get_bind().dialect.name == "postgresql":
        # Sent at commit, once however many events the transaction holds.
        await session.execute(text(f"NOTIFY {CHANNEL}"))
    return row


def as_bytes(row: EventRow) -> bytes:
    """The event's body as it goes over the wire; every delivery and every reader gets these very bytes."""
    body = json.dumps(row.body, separators=(",", ":"), ensure_ascii=False)
    # Half a surrogate pair, which UTF-8 cannot write, stays the JSON escape it came as.
    return body.encode("utf-8", "backslashreplace")
