"""Tables of profiles: what answers, its versions, and which number leads to it."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.kit.db import Base


class Profile(Base):
    """A way to answer. What it says is in its versions; one of them is published."""

    __tablename__ = "profiles"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(60), unique=True)
    published_version_id: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]


class ProfileVersion(Base):
    """One state of a profile, never changed once stored: a call keeps the version it began with."""

    __tablename__ = "profile_versions"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    profile_id: Mapped[str] = mapped_column(ForeignKey("profiles.id"))
    version: Mapped[int] = mapped_column(Integer)
    body: Mapped[dict[str, Any]]
    """A ``profiles.body.ProfileBody`` as JSON."""
    created_at: Mapped[datetime]

    __table_args__ = (
        Index("ix_profile_versions_profile_id_version", "profile_id", "version", unique=True),
    )


class Number(Base):
    """A number of ours that people dial, and the profile that answers it."""

    __tablename__ = "numbers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    e164: Mapped[str] = mapped_column(String(32), unique=True)
    profile_id: Mapped[str] = mapped_column(ForeignKey("profiles.id"))
    region: Mapped[str] = mapped_column(String(2))
    """ISO 3166 country in which callers' national numbers are read."""
    timezone: Mapped[str | None] = mapped_column(String(60))
    """IANA name of where the number rings; None: the profile's own."""
    label: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[datetime]


class BlockedCaller(Base):
    """A caller, or all whose numbers begin alike, who is not put through."""

    __tablename__ = "blocked_callers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    pattern: Mapped[str] = mapped_column(String(32), unique=True)
    """E.164, or the beginning of it and a star: ``+4490*``."""
    action: Mapped[str] = mapped_column(String(10))
    """reject, or message: they may leave one."""
    reason: Mapped[str | None] = mapped_column(String(200))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
