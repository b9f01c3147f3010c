"""/v1: our numbers, who answers them, and callers who are not put through."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.errors import Invalid
from trunkline.kit import phone
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles import models, queries, service
from trunkline.profiles.service import KEEP
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.paging import Limit, NextCursor, PageCursor
from trunkline.web.routes.pushed import Moment

router = APIRouter(prefix="/v1", tags=["numbers"])

_AT = "2026-01-15T09:30:00Z"
_BLOCK_ID = "blk_01kf0q8m3s7t9v1w3x5y7z9abv"

E164 = Annotated[
    str,
    Path(description="The number in E.164; the + as %2B or as it is.", examples=["+12025550100"]),
]


class NumberFields(BaseModel):
    """Who answers a number, and where it rings. What is left out of an existing one stays."""

    model_config = ConfigDict(extra="forbid")

    profile: str = Field(description="Name of the profile that answers.", examples=["Front desk"])
    region: str | None = Field(
        None,
        description="Where callers' national numbers are read: two letters of ISO 3166. Null for a "
        "new number means the country it belongs to.",
        examples=["US"],
    )
    timezone: str | None = Field(
        None,
        description="IANA name of where it rings; null: where the profile is.",
        examples=["Europe/Berlin"],
    )
    label: str | None = Field(None, max_length=100, examples=["Main line"])


class NumberOut(BaseModel):
    """A number of ours."""

    number: str = Field(description="E.164.", examples=["+12025550100"])
    profile: str = Field(examples=["Front desk"])
    region: str = Field(examples=["US"])
    timezone: str | None = Field(examples=["Europe/Berlin"])
    label: str | None = Field(examples=["Main line"])
    created_at: datetime = Field(examples=[_AT])


class NumberSet(BaseModel):
    """The number as it is now. LiveKit learns of a new one by `trunkline sip apply`."""

    created: bool = Field(description="Whether it was new.")
    previous_profile: str | None = Field(
        description="Which profile answered it until now, if it was another.", examples=[None]
    )
    number: NumberOut


class Numbers(BaseModel):
    """A page of numbers, in the order in which they were added."""

    data: list[NumberOut]
    next_cursor: NextCursor


class NewBlock(BaseModel):
    """A caller who is not to be put through."""

    model_config = ConfigDict(extra="forbid")

    caller: str = Field(
        max_length=100,
        description="A number, or the beginning of many and a star.",
        examples=["+4490*", "+12025550134"],
    )
    action: Literal["reject", "message"] = Field(
        "reject", description="reject: the line ends unanswered; message: they may leave one."
    )
    reason: str | None = Field(None, max_length=200, examples=["advertising"])
    expires_at: Moment | None = Field(
        None, description="Until when; null for good.", examples=["2026-02-15T09:30:00Z"]
    )


class BlockOut(BaseModel):
    """A blocked caller."""

    id: str = Field(examples=[_BLOCK_ID])
    caller: str = Field(examples=["+4490*"])
    action: Literal["reject", "message"]
    reason: str | None = Field(examples=["advertising"])
    created_at: datetime = Field(examples=[_AT])
    expires_at: datetime | None = Field(examples=[None])


class Blocks(BaseModel):
    """A page of blocked callers, the newest first; also those whose time has run out."""

    data: list[BlockOut]
    next_cursor: NextCursor


def _number(text: str) -> PhoneNumber:
    try:
        return phone.parse(text, region=None)
    except ValueError as error:
        raise Invalid(str(error)) from None


def _out(row: models.Number, owner: models.Profile) -> NumberOut:
    return NumberOut(
        number=row.e164,
        profile=owner.name,
        region=row.region,
        timezone=row.timezone,
        label=row.label,
        created_at=row.created_at,
    )


def _block_out(row: models.BlockedCaller) -> BlockOut:
    return BlockOut.model_validate(
        {
            **{name: getattr(row, name, None) for name in BlockOut.model_fields},
            "caller": row.pattern,
        }
    )


@router.get(
    "/numbers", operation_id="list_numbers", summary="List numbers",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_numbers(
    parts: Parts,
    limit: Limit = 50,
    cursor: PageCursor = None,
    key: ApiKey = needs("profiles:read"),
) -> Numbers:
    """Numbers that lead to us, and who answers them."""
    after = paging.read_id("num", cursor)
    async with parts.db.look() as session:
        rows = await queries.numbers_page(session, after=after, limit=limit + 1)
    rows, more = paging.cut(rows, limit, lambda row: row[0].id)
    return Numbers(data=[_out(*row) for row in rows], next_cursor=more)


@router.get(
    "/numbers/{number}", operation_id="get_number", summary="Get a number",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_number(number: E164, parts: Parts, key: ApiKey = needs("profiles:read")) -> NumberOut:
    """One number and who answers it."""
    async with parts.db.look() as session:
        return _out(*await queries.number(session, _number(number).e164))


@router.put(
    "/numbers/{number}", operation_id="set_number", summary="Let a profile answer a number",
    response_model=NumberSet,
    responses={
        201: {"model": NumberSet, "description": "It was new."},
        **documented(401, 403, 404, 422),
    },
)  # fmt: skip
async def set_number(
    number: E164,
    body: NumberFields,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("profiles:write"),
) -> Response:
    """A number has one profile: the one it had before no longer answers it."""
    ours, given = _number(number), body.model_fields_set

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        owner = await queries.named(session, body.profile)
        before = await queries.find_number(session, ours.e164)
        region = body.region or (before[0].region if before else service.region_of(ours))
        if region is None:
            raise Invalid("this number belongs to no country; say where callers are: region")
        row = await service.assign_number(
            session,
            ours,
            owner.id,
            region=region,
            label=body.label if "label" in given else KEEP,
            timezone=body.timezone if "timezone" in given else KEEP,
            now=parts.now(),
        )
        moved = before is not None and before[1].id != owner.id
        shown = NumberSet(
            created=before is None,
            previous_profile=before[1].name if before and moved else None,
            number=_out(row, owner),
        )
        return 200 if before else 201, shown

    return await once.run(work)


@router.delete(
    "/numbers/{number}", operation_id="delete_number", summary="Let nobody answer a number",
    status_code=204, responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def delete_number(number: E164, parts: Parts, key: ApiKey = needs("profiles:write")) -> None:
    """Calls to it are stored as `no_profile` until `trunkline sip apply` takes its rule away."""
    async with parts.db.work() as session:
        await service.remove_number(session, _number(number).e164)


@router.get(
    "/blocked-callers", operation_id="list_blocked_callers", summary="List blocked callers",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_blocked_callers(
    parts: Parts,
    limit: Limit = 50,
    cursor: PageCursor = None,
    key: ApiKey = needs("profiles:read"),
) -> Blocks:
    """Who is not put through, and what happens instead."""
    before = paging.read_id("blk", cursor)
    async with parts.db.look() as session:
        rows = await queries.blocks_page(session, before=before, limit=limit + 1)
    rows, more = paging.cut(rows, limit)
    return Blocks(data=[_block_out(row) for row in rows], next_cursor=more)


@router.post(
    "/blocked-callers", operation_id="block_caller", summary="Block a caller",
    response_model=BlockOut,
    responses={
        201: {"model": BlockOut, "description": "It was new."},
        **documented(401, 403, 409, 422),
    },
)  # fmt: skip
async def block_caller(
    body: NewBlock, parts: Parts, once: DoOnce, key: ApiKey = needs("profiles:write")
) -> Response:
    """A pattern that is there already gets the new action, reason and end.

    Of several that mean a caller the narrowest counts, so a single number may be an exception.
    """

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        row, is_new = await service.block_caller(
            session,
            body.caller,
            action=body.action,
            reason=body.reason,
            expires_at=body.expires_at,
            now=parts.now(),
        )
        return 201 if is_new else 200, _block_out(row)

    return await once.run(work)


@router.delete(
    "/blocked-callers/{block_id}", operation_id="unblock_caller",
    summary="Put a caller through again", status_code=204,
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def unblock_caller(
    block_id: Annotated[str, Path(description="The block's id.", examples=[_BLOCK_ID])],
    parts: Parts,
    key: ApiKey = needs("profiles:write"),
) -> None:
    """From the next call on."""
    async with parts.db.work() as session:
        await service.unblock(session, block_id)
