"""Write an event beside the change it tells of."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.events import Event
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.outbox.models import EventRow, Stream


async def record(session: AsyncSession, event: Event, *, now: datetime) -> EventRow:
    """Add *event* to the session's transaction, with the next ``seq`` of its subject.

    Taking the ``seq`` locks the subject's counter until the transaction ends, so two
    writers of one call never get the same number.
    """
    upsert = insert_for(session, Stream).values(subject=event.subject, seq=1)
    upsert = upsert.on_conflict_do_update(
        index_elements=[Stream.subject], set_={"seq": Stream.seq + 1}
    ).returning(Stream.seq)
    seq = (await session.execute(upsert)).scalar_one()
    stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    row = EventRow(
        id=new_id("evt", now=now),
        type=event.type,
        subject=event.subject,
        seq=seq,
        body={"type": event.type, "timestamp": stamp, "data": {**event.data(), "seq": seq}},
        recorded_at=now,
    )
    session.add(row)
    await session.flush()
    return row
