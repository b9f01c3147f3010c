"""Tables of the outbox: events as they were recorded, and the counter of each subject."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.kit.db import Base


class EventRow(Base):
    """One event. Written in the transaction of the change it tells of; never changed but for ``position``."""

    __tablename__ = "events"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    type: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(40), index=True)
    seq: Mapped[int] = mapped_column(Integer)
    """Order within the subject, from 1."""
    body: Mapped[dict[str, Any]]
    """``{type, timestamp, data}``, the bytes of every delivery are this, serialised once the same way."""
    recorded_at: Mapped[datetime]
    position: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    """Order over all events, given after commit by the publisher; None until then."""

    __table_args__ = (
        Index("ix_events_subject_seq", "subject", "seq", unique=True),
        # The publisher looks only at the few rows that have no position yet.
        Index(
            "ix_events_unpublished",
            "seq",
            "id",
            sqlite_where=text("position IS NULL"),
            postgresql_where=text("position IS NULL"),
        ),
    )


class Stream(Base):
    """The last ``seq`` given within a subject. The subject ``*`` holds the last ``position``."""

    __tablename__ = "streams"

    subject: Mapped[str] = mapped_column(String(40), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
