"""Tables of a call: the call itself, its legs, turns, tool runs and recording."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.kit.db import Base


class Call(Base):
    """One telephone call, from the first ring to the hang-up."""

    __tablename__ = "calls"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    room: Mapped[str] = mapped_column(String(200), unique=True)
    """The LiveKit room, or the loopback line's own name for it: whoever sees the call first stores it."""
    direction: Mapped[str] = mapped_column(String(10))
    """inbound or outbound."""
    channel: Mapped[str] = mapped_column(String(10))
    """sip, web, loopback or test."""
    state: Mapped[str] = mapped_column(String(20), index=True)
    end_reason: Mapped[str | None] = mapped_column(String(30))
    from_number: Mapped[str | None] = mapped_column(String(32))
    """E.164; None when the caller withheld it."""
    to_number: Mapped[str | None] = mapped_column(String(32))
    sip_call_id: Mapped[str | None] = mapped_column(String(200))
    sip_trunk_id: Mapped[str | None] = mapped_column(String(60))
    contact_id: Mapped[str | None] = mapped_column(String(40))
    profile_version_id: Mapped[str | None] = mapped_column(String(40))
    attestation: Mapped[str | None] = mapped_column(String(1))
    """How far the carrier vouches for the caller's number: A, B or C (STIR/SHAKEN)."""
    door: Mapped[str | None] = mapped_column(String(20))
    """How an inbound call was let in or turned away, a ``desk.door.Kind``; None until that is decided."""
    door_reason: Mapped[str | None] = mapped_column(String(200))
    reason: Mapped[str | None] = mapped_column(String(600))
    """Why we call, in words that may be said to the person called."""
    activity_id: Mapped[str | None] = mapped_column(String(40), index=True)
    """The task that the call is made for."""
    retry_of: Mapped[str | None] = mapped_column(String(40))
    """The first call of those that try to reach the same person; None for that one."""
    attempt: Mapped[int] = mapped_column(Integer, default=1, server_default="1")
    """Which of them this one is, from 1."""
    due_at: Mapped[datetime | None]
    """While queued: when an agent is sent for next."""
    sent_at: Mapped[datetime | None]
    """When an agent was first sent for to dial it."""
    sent: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    """How often one was."""
    started_at: Mapped[datetime]
    """When it rang; of a call that we place, when it was asked for."""
    answered_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    """Last sign of life of the agent that holds the lease."""
    usage: Mapped[dict[str, Any] | None]
    """What it took of its providers and what that cost, as ``calls.usage.bill`` writes it."""
    lease_epoch: Mapped[int] = mapped_column(Integer, default=0)
    """Counts the agents this call has had; a write with an older epoch is refused."""
    duration_ms: Mapped[int | None] = mapped_column(Integer)
    """From the answer to the end; None when nobody answered or the call goes on."""
    transferred: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether a person has taken the caller over."""
    crm_failed: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether a tool that writes to the CRM failed, and did not succeed after that."""
    test: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether it was placed to try something, or is demo data; lists can leave such calls out."""
    review: Mapped[str | None] = mapped_column(String(10))
    """needed, done, or None: nobody has said anything."""
    reviewed_by: Mapped[str | None] = mapped_column(String(100))
    """The name, at that time, of whoever said so."""
    reviewed_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_calls_started_at_id", "started_at", "id"),
        Index("ix_calls_from_number_started_at", "from_number", "started_at"),
        Index("ix_calls_to_number_started_at", "to_number", "started_at"),
        Index(
            "ix_calls_queued",
            "due_at",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        # For the caps: as many rows as there are calls at this moment.
        Index(
            "ix_calls_live",
            "profile_version_id",
            "door",
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
        # Each filter of the list has its calls in the list's own order.
        Index("ix_calls_direction_started_at", "direction", "started_at", "id"),
        Index("ix_calls_end_reason_started_at", "end_reason", "started_at", "id"),
        Index("ix_calls_profile_started_at", "profile_version_id", "started_at", "id"),
        Index("ix_calls_contact_started_at", "contact_id", "started_at", "id"),
        Index("ix_calls_test_started_at", "test", "started_at", "id"),
        Index("ix_calls_review_started_at", "review", "started_at", "id"),
        Index("ix_calls_transferred_started_at", "transferred", "started_at", "id"),
        Index("ix_calls_crm_failed_started_at", "crm_failed", "started_at", "id"),
        Index("ix_calls_duration_ms", "duration_ms"),
    )


class Leg(Base):
    """One participant's way in a call: the caller, a callee, a person consulted, a browser."""

    __tablename__ = "legs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"), index=True)
    kind: Mapped[str] = mapped_column(String(10))
    """caller, callee, consult or browser."""
    participant: Mapped[str | None] = mapped_column(String(200))
    number: Mapped[str | None] = mapped_column(String(32))
    started_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(30))


class Turn(Base):
    """What one side said, or pressed, until the other's turn. Grows while it is spoken."""

    __tablename__ = "turns"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"))
    leg_id: Mapped[str | None] = mapped_column(ForeignKey("legs.id"))
    seq: Mapped[int] = mapped_column(Integer)
    role: Mapped[str] = mapped_column(String(10))
    """user or agent."""
    language: Mapped[str | None] = mapped_column(String(20))
    text: Mapped[str] = mapped_column(Text)
    """Redacted; of an interrupted agent turn only what was heard."""
    started_ms: Mapped[int] = mapped_column(Integer)
    """Milliseconds from the answer (= the recording's start)."""
    ended_ms: Mapped[int | None] = mapped_column(Integer)
    """None while it is still being spoken."""
    interrupted: Mapped[bool] = mapped_column(default=False)
    latency: Mapped[dict[str, Any] | None]
    """Parts of the reply time in milliseconds, as the agent measured them."""
    models: Mapped[dict[str, Any] | None]
    """Part (stt; llm, tts) → provider and model that heard, or thought and spoke it."""

    __table_args__ = (Index("ix_turns_call_id_seq", "call_id", "seq", unique=True),)


class Spoken(Base):
    """The words of a turn that is over, as they are searched (``calls.words.indexed``).

    PostgreSQL has a GIN index over them, SQLite an FTS5 table; migration 0010 makes both by hand.
    """

    __tablename__ = "spoken"

    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    turn_id: Mapped[str] = mapped_column(
        String(40), ForeignKey("turns.id", ondelete="CASCADE"), unique=True
    )
    call_id: Mapped[str] = mapped_column(String(40), index=True)
    role: Mapped[str] = mapped_column(String(10))
    words: Mapped[str] = mapped_column(Text)


class ToolRun(Base):
    """One run of one tool. ``started`` until it is ``ok`` or ``error``."""

    __tablename__ = "tool_runs"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"))
    turn_id: Mapped[str | None] = mapped_column(String(40))
    seq: Mapped[int] = mapped_column(Integer)
    name: Mapped[str] = mapped_column(String(60))
    arguments: Mapped[dict[str, Any]]
    writes: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether it changes the CRM."""
    state: Mapped[str] = mapped_column(String(10))
    result: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(String(60))
    started_at: Mapped[datetime]
    offset_ms: Mapped[int | None] = mapped_column(Integer)
    ms: Mapped[int | None] = mapped_column(Integer)
    """How long it took, in milliseconds; None while it runs."""
    key: Mapped[str] = mapped_column(String(64))
    """SHA-256 over call, tool and canonical arguments."""

    __table_args__ = (
        Index("ix_tool_runs_call_id_seq", "call_id", "seq", unique=True),
        # A success happens once; a failure may be tried again.
        Index(
            "uq_tool_runs_key_ok",
            "key",
            unique=True,
            sqlite_where=text("state = 'ok'"),
            postgresql_where=text("state = 'ok'"),
        ),
    )


class Recording(Base):
    """The audio of a call: stereo, the caller left, the agent right."""

    __tablename__ = "recordings"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id"), unique=True)
    state: Mapped[str] = mapped_column(String(12))
    """open (segments are being written), ready, or incomplete (the writer died; what it wrote is there)."""
    blob_key: Mapped[str | None] = mapped_column(String(200))
    segments: Mapped[list[str]]
    """Blob keys in order, empty once they are joined under ``blob_key``."""
    sample_rate_hz: Mapped[int] = mapped_column(Integer)
    duration_ms: Mapped[int | None] = mapped_column(Integer)
    peaks: Mapped[list[dict[str, Any]] | None]
    """Waveform, one ``{"left": 0…100, "right": 0…100}`` per bucket of ``duration_ms / len(peaks)``."""
    replies: Mapped[list[dict[str, Any]] | None]
    """How long the caller waited for each reply, measured from the sound: ``{"at_ms", "after_ms"}``,
    where the agent began and how long after the caller's last sound. None when it was not measured."""
    started_at: Mapped[datetime]


class Tag(Base):
    """A word that somebody put on a call."""

    __tablename__ = "call_tags"

    call_id: Mapped[str] = mapped_column(
        ForeignKey("calls.id", ondelete="CASCADE"), primary_key=True
    )
    tag: Mapped[str] = mapped_column(String(40), primary_key=True)
    by: Mapped[str] = mapped_column(String(100))
    """Whose it is, by the name they had then."""
    at: Mapped[datetime]

    __table_args__ = (Index("ix_call_tags_tag_call_id", "tag", "call_id"),)


class Comment(Base):
    """What somebody wrote beside a call."""

    __tablename__ = "call_comments"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    call_id: Mapped[str] = mapped_column(ForeignKey("calls.id", ondelete="CASCADE"), index=True)
    by_id: Mapped[str] = mapped_column(String(40))
    by: Mapped[str] = mapped_column(String(100))
    """The writer's name at that time."""
    text: Mapped[str] = mapped_column(Text)
    """Redacted."""
    offset_ms: Mapped[int | None] = mapped_column(Integer)
    """The place in the recording that it is about; None for the whole call."""
    at: Mapped[datetime]


class View(Base):
    """A way to look at the list of calls that somebody has given a name."""

    __tablename__ = "call_views"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(String(40))
    owner: Mapped[str] = mapped_column(String(100))
    name: Mapped[str] = mapped_column(String(60))
    query: Mapped[str] = mapped_column(String(2000))
    """The filters as they stand behind the ``?`` of the list's address."""
    shared: Mapped[bool]
    """Whether everybody sees it, or its owner alone."""
    created_at: Mapped[datetime]

    __table_args__ = (Index("ix_call_views_owner_id_name", "owner_id", "name", unique=True),)


class Export(Base):
    """A file of calls that somebody has asked for. ``queued`` → ``running`` → ``done`` or ``failed``."""

    __tablename__ = "call_exports"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner_id: Mapped[str] = mapped_column(String(40))
    """Who may fetch it: a person or a key of the API."""
    owner: Mapped[str] = mapped_column(String(100))
    query: Mapped[str] = mapped_column(String(2000))
    """The filters as they stand behind the ``?`` of the list's address."""
    timezone: Mapped[str] = mapped_column(String(64))
    """In which the days of the filters are meant."""
    bom: Mapped[bool]
    """Whether the file begins with a byte order mark, without which some spreadsheets misread it."""
    state: Mapped[str] = mapped_column(String(10))
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    """How often somebody began to write it."""
    leased_until: Mapped[datetime | None]
    """While running: when whoever writes it is given up."""
    rows: Mapped[int | None] = mapped_column(Integer)
    blob_key: Mapped[str | None] = mapped_column(String(200))
    error: Mapped[str | None] = mapped_column(String(300))
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        Index("ix_call_exports_owner_id_created_at", "owner_id", "created_at"),
        Index(
            "ix_call_exports_open",
            "created_at",
            sqlite_where=text("finished_at IS NULL"),
            postgresql_where=text("finished_at IS NULL"),
        ),
    )
