"""Write an event beside the change it tells of."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.events import Event, fitted
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.outbox import bell
from trunkline.outbox.models import EventRow, Stream

CHANNEL = "trunkline_events"
"""PostgreSQL's channel that is notified when a transaction with events commits."""


async def record(
    session: AsyncSession, event: Event, *, now: datetime, sample_for: str | None = None
) -> EventRow:
    """Add *event* to the session's transaction, with the next ``seq`` of its subject.

    Long texts are cut so that the body stays under 20 kB (:func:`trunkline.events.fitted`). With
    *sample_for*, an endpoint's id, it is a sample: marked as one, and of that endpoint's subject.

    Taking the ``seq`` locks the subject's counter until the transaction ends, so two
    writers of one call never get the same number. Raises ValueError if the event holds a number
    that JSON cannot write (NaN, infinity), before anyone has to read it.
    """
    subject = sample_for or event.subject
    upsert = insert_for(session, Stream).values(subject=subject, seq=1)
    upsert = upsert.on_conflict_do_update(
        index_elements=[Stream.subject], set_={"seq": Stream.seq + 1}
    ).returning(Stream.seq)
    seq = (await session.execute(upsert)).scalar_one()
    row = EventRow(
        id=new_id("evt", now=now),
        type=event.type,
        subject=subject,
        seq=seq,
        body=_body(event, seq, now, **({"sample": True} if sample_for else {})),
        recorded_at=now,
    )
    session.add(row)
    await session.flush()
    await _notify(session)
    return row


async def record_all(session: AsyncSession, events: Sequence[Event], *, now: datetime) -> None:
    """``record`` many events in a few statements; those of one subject keep their order."""
    if not events:
        return
    count = Counter(one.subject for one in events)
    upsert = insert_for(session, Stream)
    upsert = upsert.on_conflict_do_update(
        index_elements=[Stream.subject], set_={"seq": Stream.seq + upsert.excluded.seq}
    ).returning(Stream.subject, Stream.seq)
    # In one order, so that two writers of the same subjects cannot wait for each other.
    counters = [{"subject": subject, "seq": count[subject]} for subject in sorted(count)]
    given = {
        subject: seq - count[subject] for subject, seq in await session.execute(upsert, counters)
    }
    rows = []
    for one in events:
        seq = given[one.subject] = given[one.subject] + 1
        rows.append(
            {
                "id": new_id("evt", now=now),
                "type": one.type,
                "subject": one.subject,
                "seq": seq,
                "body": _body(one, seq, now),
                "recorded_at": now,
            }
        )
    await session.execute(insert(EventRow), rows)
    await _notify(session)


def _body(event: Event, seq: int, now: datetime, **more: Any) -> dict[str, Any]:
    stamp = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    data = fitted({**event.data(), "seq": seq, **more})
    return {"type": event.type, "timestamp": stamp, "data": data}


async def _notify(session: AsyncSession) -> None:
    if session.get_bind().dialect.name == "postgresql":
        # Sent at commit, once however many events the transaction holds.
        await session.execute(text(f"NOTIFY {CHANNEL}"))
    else:
        bell.ring_at_commit(session)


def as_bytes(row: EventRow) -> bytes:
    """The event's body as it goes over the wire; every delivery and every reader gets these very bytes."""
    return encoded(row.body)


def encoded(body: Mapping[str, Any]) -> bytes:
    """*body* as the one JSON text that stands for it."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    # Half a surrogate pair, which UTF-8 cannot write, stays the JSON escape it came as.
    return text.encode("utf-8", "backslashreplace")
