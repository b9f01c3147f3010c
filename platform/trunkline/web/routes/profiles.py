"""/v1: profiles, their versions, and what differs between two."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.profiles import models, queries, service, text
from trunkline.profiles.body import ProfileBody
from trunkline.profiles.diff import differences
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts, Web
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce, Once
from trunkline.web.paging import Limit, LongLimit, NextCursor, PageCursor
from trunkline.web.people import note

router = APIRouter(prefix="/v1", tags=["profiles"])

_AT = "2026-01-15T09:30:00Z"
_WHOLE = text.parse(text.example()).model_dump(mode="json")
_BODY = text.parse(text.example()).model_dump(mode="json", exclude_defaults=True)
"""For the description: what ``trunkline profile example`` prints."""

_YAML = {"application/yaml": {"schema": {"type": "object"}, "example": _BODY}}
_MOST_BYTES = 4 * text.LONGEST
"""UTF-8 has at most 4 bytes for a character."""

ProfileName = Annotated[str, Path(description="The profile's name.", examples=["Front desk"])]
IfMatch = Annotated[
    str | None,
    Header(
        description="The `version` it was read with, so that nobody's work is overwritten unseen.",
        max_length=40,
        examples=["3"],
    ),
]


class ProfileSummary(BaseModel):
    """A profile."""

    name: str = Field(examples=["Front desk"])
    version: int = Field(description="The one that answers now.", examples=[3])
    numbers: int = Field(description="How many numbers lead to it.", examples=[1])
    created_at: datetime = Field(examples=[_AT])
    published_at: datetime = Field(description="When this version was.", examples=[_AT])


class ProfileDetail(ProfileSummary):
    """A profile and what it says."""

    body: ProfileBody = Field(examples=[_WHOLE])


class Profiles(BaseModel):
    """A page of profiles, in the order in which they were made."""

    data: list[ProfileSummary]
    next_cursor: NextCursor


class FieldChange(BaseModel):
    """One field that is not the same."""

    field: str = Field(description="Its path.", examples=["limits.max_call_s"])
    before: Any = Field(description="Null also when it was not there.", examples=[1800])
    after: Any = Field(description="Null also when it is no longer there.", examples=[900])


class Published(BaseModel):
    """What answers from now on."""

    created: bool = Field(description="Whether the profile was new.")
    version: int = Field(description="The same as before if nothing changed.", examples=[3])
    changes: list[FieldChange] = Field(description="Against the version before.")


class VersionSummary(BaseModel):
    """One version of a profile. A call keeps the one it began with."""

    version: int = Field(examples=[3])
    created_at: datetime = Field(examples=[_AT])
    published: bool = Field(description="Whether it is the one that answers now.")


class Versions(BaseModel):
    """A page of versions of a profile, the latest first."""

    data: list[VersionSummary]
    next_cursor: NextCursor


class VersionDetail(VersionSummary):
    """A version and what it says."""

    body: dict[str, Any] = Field(
        description="As it was stored; older ones may lack fields of today.", examples=[_BODY]
    )


class Diff(BaseModel):
    """What differs between two versions."""

    before: int = Field(examples=[2])
    after: int = Field(examples=[3])
    changes: list[FieldChange]


def _summary(
    owner: models.Profile, current: models.ProfileVersion, counts: dict[str, int]
) -> dict[str, Any]:
    return {
        "name": owner.name,
        "version": current.version,
        "numbers": counts.get(owner.id, 0),
        "created_at": owner.created_at,
        "published_at": current.created_at,
    }


def _version(owner: models.Profile, one: models.ProfileVersion) -> dict[str, Any]:
    return {
        "version": one.version,
        "created_at": one.created_at,
        "published": one.id == owner.published_version_id,
    }


def _changes(before: models.ProfileVersion, after: models.ProfileVersion) -> list[FieldChange]:
    return [
        FieldChange(field=one.path, before=one.before, after=one.after)
        for one in differences(before.body, after.body)
    ]


@router.get(
    "/profiles", operation_id="list_profiles", summary="List profiles",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_profiles(
    parts: Parts,
    limit: Limit = 50,
    cursor: PageCursor = None,
    key: ApiKey = needs("profiles:read"),
) -> Profiles:
    """Who can answer."""
    after = paging.read_id("pro", cursor)
    async with parts.db.look() as session:
        rows = await queries.profiles_page(session, after=after, limit=limit + 1)
        counts = await queries.number_counts(session)
    rows, more = paging.cut(rows, limit, lambda row: row[0].id)
    shown = [ProfileSummary(**_summary(owner, current, counts)) for owner, current in rows]
    return Profiles(data=shown, next_cursor=more)


@router.get(
    "/profiles/{name}", operation_id="get_profile", summary="Get a profile",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_profile(
    name: ProfileName, parts: Parts, key: ApiKey = needs("profiles:read")
) -> ProfileDetail:
    """One profile and what it says now."""
    async with parts.db.look() as session:
        owner = await queries.named(session, name)
        current, body = await queries.published(session, owner.id)
        counts = await queries.number_counts(session)
    return ProfileDetail(**_summary(owner, current, counts), body=body)


@router.put(
    "/profiles/{name}", operation_id="publish_profile", summary="Publish a profile",
    response_model=Published,
    responses={
        201: {"model": Published, "description": "The profile was new."},
        **documented(401, 403, 409, 422),
    },
    openapi_extra={
        "requestBody": {"content": {"application/json": {"example": _BODY}}, "required": True}
    },
)  # fmt: skip
async def publish_profile(
    name: ProfileName,
    body: ProfileBody,
    request: Request,
    parts: Parts,
    once: DoOnce,
    if_match: IfMatch = None,
    key: ApiKey = needs("profiles:write"),
) -> Response:
    """Makes a new version, which answers from the next call on; the same again changes nothing.

    With `If-Match` it is refused (409) when another version answers by now; `detail` names the fields that
    changed meanwhile. 422 names each field whose model, voice or key its provider refuses."""
    return await _publish(name, body, request, parts, once, if_match, key)


async def _publish(
    name: str,
    body: ProfileBody,
    request: Request,
    parts: Web,
    once: Once,
    if_match: str | None,
    key: ApiKey,
) -> Response:
    if parts.objections is not None and (against := await parts.objections(body)):
        raise Invalid(f"the profile is not valid: {'; '.join(against)}")

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        now = parts.now()
        await _still(session, name, if_match)
        version, before = await service.put_profile(session, name=name, body=body, now=now)
        if before is None or before.version != version.version:
            await note(
                session,
                key,
                request,
                "profile.published",
                version.profile_id,
                {"version": str(version.version)},
                now=now,
            )
        changes = _changes(before, version) if before else []
        shown = Published(created=before is None, version=version.version, changes=changes)
        return 200 if before else 201, shown

    return await once.run(work)


async def _still(session: AsyncSession, name: str, if_match: str | None) -> None:
    """Raises Conflict, with what somebody else changed, when *if_match* is not what answers now."""
    # A proxy that compresses the answer makes its ETag a weak one: W/"3".
    seen = if_match.strip().removeprefix("W/").strip('" ') if if_match not in (None, "*") else None
    if seen is None:
        return
    owner = await queries.profile_named(session, " ".join(name.split()))
    if owner is None:
        raise Conflict(f"there is no profile {name!r} by now; leave out If-Match to make it")
    # Locked, so that of two who read the same version only one publishes.
    await session.get(models.Profile, owner.id, with_for_update=True, populate_existing=True)
    current, _ = await queries.published(session, owner.id)
    if seen == str(current.version):
        return
    known = seen.isascii() and seen.isdecimal() and int(seen) < 2**31
    before = await queries.version_numbered(session, owner.id, int(seen)) if known else None
    if before is None:
        raise Conflict(f"If-Match: there is no version {seen!r}; version {current.version} answers")
    theirs = ", ".join(one.field for one in _changes(before, current)) or "nothing"
    raise Conflict(
        f"version {current.version} was published after version {seen} was read; it changed: {theirs}. "
        f"See GET /v1/profiles/{{name}}/diff?before={seen}, then send yours with If-Match: "
        f"{current.version}"
    )


@router.get(
    "/profiles/{name}/yaml", operation_id="get_profile_yaml", summary="Get a profile as YAML",
    response_class=Response,
    responses={
        200: {
            "content": _YAML,
            "description": "What `trunkline profile export` prints.",
            "headers": {
                "ETag": {
                    "description": "The version, for `If-Match`.",
                    "schema": {"type": "string"},
                    "example": '"3"',
                }
            },
        },
        **documented(401, 403, 404, 422),
    },
)  # fmt: skip
async def get_profile_yaml(
    name: ProfileName, parts: Parts, key: ApiKey = needs("profiles:read")
) -> Response:
    """What it says now, each field with its meaning as a comment: to be kept as a file and sent back."""
    async with parts.db.look() as session:
        owner = await queries.named(session, name)
        current, body = await queries.published(session, owner.id)
    shown = text.write(body).strip() + "\n"
    headers = {"ETag": f'"{current.version}"'}
    return Response(shown, media_type="application/yaml", headers=headers)


@router.put(
    "/profiles/{name}/yaml", operation_id="publish_profile_yaml",
    summary="Publish a profile from YAML", response_model=Published,
    responses={
        201: {"model": Published, "description": "The profile was new."},
        **documented(401, 403, 409, 422),
    },
    openapi_extra={"requestBody": {"content": _YAML, "required": True}},
)  # fmt: skip
async def publish_profile_yaml(
    name: ProfileName,
    request: Request,
    parts: Parts,
    once: DoOnce,
    if_match: IfMatch = None,
    key: ApiKey = needs("profiles:write"),
) -> Response:
    """Does what `PUT /v1/profiles/{name}` does, of a file such as `trunkline profile example` prints:
    YAML 1.2 in UTF-8, at most 200,000 characters. 422 names the line, or each field that is not right."""
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > _MOST_BYTES:
            raise Invalid(f"the file has more than {text.LONGEST:,} characters; it is no profile")
    try:
        written = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Invalid(f"line {line} is not UTF-8; save the file in UTF-8") from None
    body = await asyncio.to_thread(text.parse, written)
    return await _publish(name, body, request, parts, once, if_match, key)


@router.get(
    "/profiles/{name}/versions", operation_id="list_profile_versions", summary="List versions",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def list_versions(
    name: ProfileName,
    parts: Parts,
    limit: LongLimit = 1000,
    cursor: PageCursor = None,
    key: ApiKey = needs("profiles:read"),
) -> Versions:
    """Everything the profile ever said, by number and time."""
    before = paging.read_id("pfv", cursor)
    async with parts.db.look() as session:
        owner = await queries.named(session, name)
        rows = await queries.versions_page(session, owner.id, before=before, limit=limit + 1)
    rows, more = paging.cut(rows, limit)
    data = [VersionSummary(**_version(owner, one)) for one in rows]
    return Versions(data=data, next_cursor=more)


async def _numbered(
    session: AsyncSession, owner: models.Profile, number: int
) -> models.ProfileVersion:
    found = await queries.version_numbered(session, owner.id, number)
    if found is None:
        raise NotFound(f"{owner.name!r} has no version {number}")
    return found


VersionNumber = Annotated[
    int, Path(ge=1, le=2_147_483_647, description="The version's number.", examples=[3])
]


@router.get(
    "/profiles/{name}/versions/{version}", operation_id="get_profile_version",
    summary="Get a version", responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_version(
    name: ProfileName,
    version: VersionNumber,
    parts: Parts,
    key: ApiKey = needs("profiles:read"),
) -> VersionDetail:
    """What the profile said then."""
    async with parts.db.look() as session:
        owner = await queries.named(session, name)
        one = await _numbered(session, owner, version)
    return VersionDetail(**_version(owner, one), body=one.body)


@router.get(
    "/profiles/{name}/diff", operation_id="diff_profile", summary="Compare two versions",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def diff_profile(
    name: ProfileName,
    parts: Parts,
    before: Annotated[
        int, Query(ge=1, le=2_147_483_647, description="A version's number.", examples=[2])
    ],
    after: Annotated[
        int | None,
        Query(ge=1, le=2_147_483_647, description="The published one when left out.", examples=[3]),
    ] = None,
    key: ApiKey = needs("profiles:read"),
) -> Diff:
    """Field by field what is not the same."""
    async with parts.db.look() as session:
        owner = await queries.named(session, name)
        one = await _numbered(session, owner, before)
        other = (
            await queries.version(session, owner.published_version_id or "")
            if after is None
            else await _numbered(session, owner, after)
        )
    return Diff(before=one.version, after=other.version, changes=_changes(one, other))
