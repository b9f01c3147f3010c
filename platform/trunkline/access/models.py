"""Tables of access: people and keys, what each may do, their logins, and the audit of what they did."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from trunkline.kit.db import Base


class ApiKey(Base):
    """A key of the API. Only its hash is kept; the key itself is shown once."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    last4: Mapped[str] = mapped_column(String(4))
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]
    """From then on it opens nothing; None for one that lasts."""


class IdempotencyKey(Base):
    """A request that was answered, by the word its sender gave it (``Idempotency-Key``)."""

    __tablename__ = "idempotency_keys"

    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    """Whose word it is; two keys of the API never meet."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    """SHA-256 of method, path and body, to tell a repeat from another request."""
    status: Mapped[int] = mapped_column(Integer)
    body: Mapped[str] = mapped_column(Text)
    """The answer as it was sent."""
    created_at: Mapped[datetime] = mapped_column(index=True)


class User(Base):
    """A person who may log in."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    email: Mapped[str] = mapped_column(String(254), unique=True)
    """In lower case: nobody tells addresses apart by their capitals."""
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(20))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    """None for somebody who logs in through the organisation's own identity provider."""
    created_at: Mapped[datetime]
    last_login_at: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    oidc_issuer: Mapped[str | None] = mapped_column(String(255))
    oidc_subject: Mapped[str | None] = mapped_column(String(255))
    """Who they are at the identity provider. An address may pass to somebody else there, this never does."""

    __table_args__ = (
        Index("ix_users_oidc_issuer_oidc_subject", "oidc_issuer", "oidc_subject", unique=True),
    )


class SignIn(Base):
    """An attempt to come in through the identity provider that is still under way. Holds no secret."""

    __tablename__ = "sign_ins"

    state_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    browser_sha256: Mapped[str] = mapped_column(String(64))
    """Which browser began it; another cannot end it."""
    next: Mapped[str] = mapped_column(String(2000))
    address: Mapped[str] = mapped_column(String(60), index=True)
    created_at: Mapped[datetime] = mapped_column(index=True)


class Invite(Base):
    """A link that makes one account, or sets a new password, once."""

    __tablename__ = "invites"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    email: Mapped[str | None] = mapped_column(String(254))
    """Whom it is for; None for the first owner, who says it."""
    role: Mapped[str] = mapped_column(String(20))
    invited_by: Mapped[str | None] = mapped_column(String(40))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class Login(Base):
    """One browser in which somebody is logged in. Only the hash of its token is kept."""

    __tablename__ = "logins"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    former_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    """The token before the last rotation, good for a moment more: pages load in parallel."""
    created_at: Mapped[datetime]
    rotated_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    address: Mapped[str | None] = mapped_column(String(60))
    browser: Mapped[str | None] = mapped_column(String(200))
    ended_at: Mapped[datetime | None]
    method: Mapped[str] = mapped_column(String(20), server_default="password")
    """password, oidc, or link for one opened by a one-time link."""


class LoginFailure(Base):
    """A login that failed, by whom it was tried on and from where, so that guessing is slowed down."""

    __tablename__ = "login_failures"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    account_sha256: Mapped[str] = mapped_column(String(64))
    address: Mapped[str] = mapped_column(String(60))
    at: Mapped[datetime]

    __table_args__ = (
        Index("ix_login_failures_account_sha256_at", "account_sha256", "at"),
        Index("ix_login_failures_address_at", "address", "at"),
    )


class Audit(Base):
    """Something that a person or a key did or looked at. Never changed."""

    __tablename__ = "audit"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    actor_id: Mapped[str | None] = mapped_column(String(40), index=True)
    """A user or a key; None for nobody known, as in a failed login."""
    actor: Mapped[str] = mapped_column(String(254))
    """Their name at that time."""
    action: Mapped[str] = mapped_column(String(60))
    """A stable word: recording.heard, login.failed, user.invited …"""
    subject: Mapped[str | None] = mapped_column(String(60), index=True)
    """The id of what it was done to."""
    details: Mapped[dict[str, Any]]
    address: Mapped[str | None] = mapped_column(String(60))
