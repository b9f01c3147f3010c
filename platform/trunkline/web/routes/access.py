"""/v1: people, keys of the API and the audit, to be read; they are changed on the pages, by people."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from trunkline.access import queries
from trunkline.access.models import ApiKey
from trunkline.access.roles import Role
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.paging import Limit, NextCursor, PageCursor
from trunkline.web.routes.pushed import Moment

router = APIRouter(prefix="/v1", tags=["access"])

_AT = "2026-01-15T09:30:00Z"
_USER = "usr_01kf0q8m3s7t9v1w3x5y7z9abs"
_KEY = "key_01kf0q8m3s7t9v1w3x5y7z9abt"
_CALL = "call_01kf0q8m3s7t9v1w3x5y7z9aba"


class UserOut(BaseModel):
    """Somebody who has an account."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=[_USER])
    name: str = Field(examples=["Maria Santos"])
    email: str = Field(examples=["maria@example.com"])
    role: Role = Field(examples=["manager"])
    created_at: datetime = Field(examples=[_AT])
    last_login_at: datetime | None = Field(examples=[_AT])
    disabled_at: datetime | None = Field(
        description="Since when they are shut out; null for whoever may log in.", examples=[None]
    )


class Users(BaseModel):
    """A page of people, in the order in which they came."""

    data: list[UserOut]
    next_cursor: NextCursor


class KeyOut(BaseModel):
    """A key of the API, but for the key itself, which nobody can read again."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=[_KEY])
    name: str = Field(description="Who uses it.", examples=["Zapier"])
    last4: str = Field(description="How the key itself ends.", examples=["x7Qd"])
    scopes: list[str] = Field(examples=[["calls:read"]])
    created_at: datetime = Field(examples=[_AT])
    last_used_at: datetime | None = Field(description="To the minute; null: never.", examples=[_AT])
    expires_at: datetime | None = Field(
        description="From then on it opens nothing; null for one that lasts.", examples=[None]
    )
    revoked_at: datetime | None = Field(description="Since when it is taken back.", examples=[None])


class Keys(BaseModel):
    """A page of keys, in the order in which they were made."""

    data: list[KeyOut]
    next_cursor: NextCursor


class AuditLine(BaseModel):
    """Something that somebody did or looked at."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["aud_01kf0q8m3s7t9v1w3x5y7z9abw"])
    at: datetime = Field(examples=[_AT])
    actor_id: str | None = Field(
        description="A person or a key; null for nobody known, as in a failed login.",
        examples=[_USER],
    )
    actor: str = Field(description="Their name at that time.", examples=["Maria Santos"])
    action: str = Field(description="A stable word.", examples=["recording.heard"])
    subject: str | None = Field(description="The id of what it was done to.", examples=[_CALL])
    details: dict[str, Any] = Field(examples=[{}])
    address: str | None = Field(description="Where they were.", examples=["203.0.113.7"])


class AuditPage(BaseModel):
    """A page of the audit, the latest first."""

    data: list[AuditLine]
    next_cursor: NextCursor


@router.get(
    "/users", operation_id="list_users", summary="List people",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_users(
    parts: Parts,
    limit: Limit = 50,
    cursor: PageCursor = None,
    key: ApiKey = needs("people:read"),
) -> Users:
    """Everybody who has an account, also those who are shut out. People are invited on the pages."""
    after = paging.read_id("usr", cursor)
    async with parts.db.look() as session:
        rows = await queries.users_page(session, after=after, limit=limit + 1)
    rows, more = paging.cut(rows, limit)
    return Users(data=[UserOut.model_validate(row) for row in rows], next_cursor=more)


@router.get(
    "/keys", operation_id="list_keys", summary="List keys of the API",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_keys(
    parts: Parts,
    limit: Limit = 50,
    cursor: PageCursor = None,
    key: ApiKey = needs("keys:read"),
) -> Keys:
    """All keys, also those that are taken back or past their end. Keys are made on the pages, or with
    `trunkline key add`."""
    after = paging.read_id("key", cursor)
    async with parts.db.look() as session:
        rows = await queries.keys_page(session, after=after, limit=limit + 1)
    rows, more = paging.cut(rows, limit)
    return Keys(data=[KeyOut.model_validate(row) for row in rows], next_cursor=more)


@router.get(
    "/audit", operation_id="list_audit", summary="List what people and keys did",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_audit(
    parts: Parts,
    action: Annotated[
        str | None, Query(description="Of one kind.", max_length=60, examples=["recording.heard"])
    ] = None,
    actor_id: Annotated[
        str | None, Query(description="By one person or key.", max_length=60, examples=[_USER])
    ] = None,
    subject: Annotated[
        str | None, Query(description="Done to one thing.", max_length=60, examples=[_CALL])
    ] = None,
    since: Annotated[
        Moment | None, Query(description="The first moment of which to tell.", examples=[_AT])
    ] = None,
    until: Annotated[
        Moment | None,
        Query(description="The first moment of which not to tell any more.", examples=[_AT]),
    ] = None,
    limit: Limit = 50,
    cursor: PageCursor = None,
    key: ApiKey = needs("audit:read"),
) -> AuditPage:
    """Who did or looked at what, the latest first. Nothing of it is ever changed."""
    before = paging.read_id("aud", cursor)
    async with parts.db.look() as session:
        rows = await queries.audit(
            session,
            before=before,
            actor_id=actor_id,
            subject=subject,
            action=action,
            since=since,
            until=until,
            limit=limit + 1,
        )
    rows, more = paging.cut(rows, limit)
    return AuditPage(data=[AuditLine.model_validate(row) for row in rows], next_cursor=more)
