"""Tables of webhooks: where to send, what is to be sent, and every attempt at it."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.kit.db import Base


class Endpoint(Base):
    """A receiver of events."""

    __tablename__ = "endpoints"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    url: Mapped[str] = mapped_column(String(2000))
    description: Mapped[str | None] = mapped_column(String(200))
    events: Mapped[list[str]]
    """Types it wants: exact names, ``call.*``, or ``*``; opt-in types only by their exact name."""
    secret: Mapped[str] = mapped_column(String(200))
    """``whsec_…`` as Standard Webhooks writes it."""
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]


class Delivery(Base):
    """One event on its way to one endpoint."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id"))
    event_id: Mapped[str] = mapped_column(String(40))
    event_type: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(40), index=True)
    state: Mapped[str] = mapped_column(String(10))
    """pending, delivered or failed."""
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    next_at: Mapped[datetime]
    """When it is due; while an attempt is under way, when its lease ends and another may try."""
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        Index("uq_deliveries_endpoint_event", "endpoint_id", "event_id", unique=True),
        Index(
            "ix_deliveries_due",
            # The next of one endpoint is found in one step, however long its queue.
            "endpoint_id",
            "next_at",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
    )


class Attempt(Base):
    """One try at a delivery, and what came back."""

    __tablename__ = "attempts"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    delivery_id: Mapped[str] = mapped_column(ForeignKey("deliveries.id"), index=True)
    number: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[datetime]
    ms: Mapped[int] = mapped_column(Integer)
    status: Mapped[int | None] = mapped_column(Integer)
    """HTTP status; None when no answer came."""
    error: Mapped[str | None] = mapped_column(String(300))
    """In words, when no answer came."""
    request_headers: Mapped[dict[str, Any]]
    response_headers: Mapped[dict[str, Any] | None]
    response_body: Mapped[str | None] = mapped_column(Text)
    """At most its first 4 kB."""
