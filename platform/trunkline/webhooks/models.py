"""Tables of webhooks: where to send, what is to be sent, and every attempt at it."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, false, text
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
    secret: Mapped[str] = mapped_column(Text)
    """``whsec_…`` as Standard Webhooks writes it, sealed (kit.crypt)."""
    old_secret: Mapped[str | None] = mapped_column(Text)
    """The one before, sealed; it signs too until ``old_secret_until``."""
    old_secret_until: Mapped[datetime | None]
    headers: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    """Sent with every delivery: name in lower case → value, sealed, for it may be a password."""
    format: Mapped[str] = mapped_column(String(10), server_default="standard")
    """standard, or retell."""
    ordered: Mapped[bool] = mapped_column(server_default=false())
    """Whether an event of a call waits until the one before it is through."""
    hook: Mapped[bool] = mapped_column(server_default=false())
    """Whether it was made by a REST hook subscription: 410 removes it."""
    ignored_sources: Mapped[list[str]] = mapped_column(server_default="[]")
    """Events with one of these as ``data.source`` pass it by, so that nobody hears their own echo."""
    rate_per_s: Mapped[int | None] = mapped_column(Integer)
    """Most deliveries in a second; None for no limit."""
    not_before: Mapped[datetime | None]
    """When the rate limit lets the next delivery go."""
    failing_since: Mapped[datetime | None]
    """The first failure after the last success."""
    failures: Mapped[int] = mapped_column(Integer, server_default="0")
    """Failed attempts since the last success."""
    enabled: Mapped[bool] = mapped_column(default=True)
    disabled_reason: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    """A deleted endpoint stays as long as the log that names it, without its secrets."""


class Delivery(Base):
    """One event on its way to one endpoint."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("endpoints.id"))
    event_id: Mapped[str] = mapped_column(String(40))
    event_type: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str] = mapped_column(String(40), index=True)
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The event's place in the one order of all."""
    state: Mapped[str] = mapped_column(String(10))
    """pending, held (an earlier one of an ordered endpoint comes first), delivered or failed."""
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    resent_after: Mapped[int] = mapped_column(Integer, server_default="0")
    """How many attempts there were when it was last sent anew: the schedule begins again after them."""
    next_at: Mapped[datetime]
    """When it is due; while an attempt is under way, when its lease ends and another may try."""
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        Index("uq_deliveries_endpoint_event", "endpoint_id", "event_id", unique=True),
        Index(
            "ix_deliveries_due",
            # The next of one endpoint is found in one step, however long its queue, also when a whole
            # batch of it is due at the same moment.
            "endpoint_id",
            "next_at",
            "id",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        # What an ordered endpoint still has of one call.
        Index(
            "ix_deliveries_queue",
            "endpoint_id",
            "subject",
            "position",
            sqlite_where=text("state IN ('pending', 'held')"),
            postgresql_where=text("state IN ('pending', 'held')"),
        ),
        # Dead letters are few among many.
        Index(
            "ix_deliveries_failed",
            "endpoint_id",
            "id",
            sqlite_where=text("state = 'failed'"),
            postgresql_where=text("state = 'failed'"),
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
    next_at: Mapped[datetime | None]
    """When it is to be tried again; None when it is not."""
