"""/v1: what people say of a call: review, tags, comments."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.calls import review
from trunkline.calls.review import By, Review
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.people import note
from trunkline.web.routes.calls import CallId

router = APIRouter(prefix="/v1", tags=["calls"])

_AT = "2026-01-15T09:45:00Z"
_COMMENT = "cmt_01kf0q8m3s7t9v1w3x5y7z9abu"


class Comment(BaseModel):
    """What somebody wrote beside a call."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=[_COMMENT])
    by: str = Field(description="The writer's name at that time.", examples=["Maria Santos"])
    text: str = Field(description="Redacted.", examples=["Called back, all is well."])
    offset_ms: int | None = Field(
        description="The place in the recording that it is about; null for the whole call.",
        examples=[21_340],
    )
    at: datetime = Field(examples=[_AT])


class Marks(BaseModel):
    """What people have said of a call."""

    model_config = ConfigDict(from_attributes=True)

    review: Review | None = Field(description="Null: nobody has said anything.", examples=["done"])
    reviewed_by: str | None = Field(examples=["Maria Santos"])
    reviewed_at: datetime | None = Field(examples=[_AT])
    test: bool = Field(description="Placed to try something, or demo data.", examples=[False])
    tags: list[str] = Field(description="In alphabetical order.", examples=[["billing"]])
    comments: list[Comment] = Field(description="The oldest first.")


class ReviewRequest(BaseModel):
    """What is to be said of the call."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"review": "done"}]})

    review: Review | None = Field(
        description="`needed`, `done`, or null to take the mark away.", examples=["done"]
    )


class CommentRequest(BaseModel):
    """Something to write beside the call."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "Called back, all is well."}]}
    )

    text: str = Field(
        min_length=1, max_length=review.LONGEST_COMMENT, examples=["Called back, all is well."]
    )
    offset_ms: StrictInt | None = Field(None, ge=0, le=2**31 - 1, examples=[21_340])


TagPath = Annotated[
    str, Path(min_length=1, max_length=200, description="The tag.", examples=["billing"])
]


def by_key(key: ApiKey) -> By:
    """The key as whoever did it."""
    return By(key.id, key.name)


@router.get(
    "/calls/{call_id}/marks", operation_id="get_marks", summary="Get review, tags and comments",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_marks(call_id: CallId, parts: Parts, key: ApiKey = needs("calls:read")) -> Marks:
    """What people have said of the call."""
    async with parts.db.look() as session:
        return Marks.model_validate(await review.marks(session, call_id))


@router.put(
    "/calls/{call_id}/review", operation_id="set_review", summary="Mark as reviewed",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def set_review(
    call_id: CallId,
    body: ReviewRequest,
    request: Request,
    parts: Parts,
    key: ApiKey = needs("calls:write"),
) -> Marks:
    """Says that the call needs a review, or has had one. A repeat keeps the first name and time."""
    async with parts.db.work() as session:
        now = parts.now()
        if await review.set_review(session, call_id, body.review, by=by_key(key), now=now):
            await note(
                session, key, request, "call.review", call_id, {"review": body.review}, now=now
            )
        return Marks.model_validate(await review.marks(session, call_id))


@router.put(
    "/calls/{call_id}/tags/{tag}", operation_id="add_tag", summary="Add a tag",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def add_tag(
    call_id: CallId,
    tag: TagPath,
    request: Request,
    parts: Parts,
    key: ApiKey = needs("calls:write"),
) -> Marks:
    """Puts a tag on the call; capitals make no other tag. A repeat changes nothing."""
    async with parts.db.work() as session:
        now = parts.now()
        if await review.add_tag(session, call_id, tag, by=by_key(key), now=now):
            await note(
                session, key, request, "call.tagged", call_id, {"tag": review.tag_of(tag)}, now=now
            )
        return Marks.model_validate(await review.marks(session, call_id))


@router.delete(
    "/calls/{call_id}/tags/{tag}", operation_id="remove_tag", summary="Remove a tag",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def remove_tag(
    call_id: CallId,
    tag: TagPath,
    request: Request,
    parts: Parts,
    key: ApiKey = needs("calls:write"),
) -> Marks:
    """Takes a tag off the call. One that is not there is no error."""
    async with parts.db.work() as session:
        now = parts.now()
        if await review.remove_tag(session, call_id, tag):
            await note(
                session,
                key,
                request,
                "call.untagged",
                call_id,
                {"tag": tag[: review.LONGEST_TAG]},
                now=now,
            )
        return Marks.model_validate(await review.marks(session, call_id))


@router.post(
    "/calls/{call_id}/comments", operation_id="add_comment", summary="Write a comment",
    status_code=201, response_model=Comment, responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def add_comment(
    call_id: CallId,
    body: CommentRequest,
    request: Request,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("calls:write"),
) -> Response:
    """Writes something beside the call, or beside a place of it. Card numbers are blacked out."""

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        now = parts.now()
        written = await review.comment(
            session, call_id, body.text, offset_ms=body.offset_ms, by=by_key(key), now=now
        )
        await note(
            session, key, request, "call.commented", call_id, {"comment_id": written.id}, now=now
        )
        return 201, Comment.model_validate(written)

    return await once.run(work)
