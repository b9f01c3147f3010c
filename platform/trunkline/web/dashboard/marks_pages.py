"""Forms about one call: review, tags, comments. Each leads back to the page it came from."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from trunkline.access.logins import Person
from trunkline.calls import review
from trunkline.calls.review import By, Review
from trunkline.errors import Invalid
from trunkline.web.deps import Parts
from trunkline.web.people import may, next_page, note

router = APIRouter(include_in_schema=False)

Back = Annotated[str, Form(max_length=4000)]
"""Where the form stood, as a path of ours."""


def _back(call_id: str, path: str) -> Response:
    where = next_page(path)
    return RedirectResponse(where if where != "/" else f"/calls/{call_id}", 303)


@router.post("/calls/{call_id}/review")
async def set_review(
    call_id: str,
    request: Request,
    parts: Parts,
    review_: Annotated[str, Form(alias="review", max_length=10)] = "",
    back: Back = "",
    person: Person = may("calls:write"),
) -> Response:
    """Mark the call: ``needed``, ``done``, or empty to take the mark away."""
    if review_ not in ("", *Review):
        raise Invalid(f"{review_!r} is no review; use one of: needed, done, or nothing")
    wanted = Review(review_) if review_ else None
    by = By(person.id, person.name)
    async with parts.db.work() as session:
        if await review.set_review(session, call_id, wanted, by=by, now=parts.now()):
            await note(
                session,
                person,
                request,
                "call.review",
                call_id,
                {"review": wanted},
                now=parts.now(),
            )
    return _back(call_id, back)


@router.post("/calls/{call_id}/tags")
async def add_tag(
    call_id: str,
    request: Request,
    parts: Parts,
    tag: Annotated[str, Form(max_length=200)] = "",
    back: Back = "",
    person: Person = may("calls:write"),
) -> Response:
    """Put a tag on the call."""
    by = By(person.id, person.name)
    async with parts.db.work() as session:
        if await review.add_tag(session, call_id, tag, by=by, now=parts.now()):
            word = review.tag_of(tag)
            await note(
                session, person, request, "call.tagged", call_id, {"tag": word}, now=parts.now()
            )
    return _back(call_id, back)


@router.post("/calls/{call_id}/tags/remove")
async def remove_tag(
    call_id: str,
    request: Request,
    parts: Parts,
    tag: Annotated[str, Form(max_length=200)] = "",
    back: Back = "",
    person: Person = may("calls:write"),
) -> Response:
    """Take a tag off the call."""
    async with parts.db.work() as session:
        if await review.remove_tag(session, call_id, tag):
            await note(
                session, person, request, "call.untagged", call_id, {"tag": tag}, now=parts.now()
            )
    return _back(call_id, back)


@router.post("/calls/{call_id}/comments")
async def add_comment(
    call_id: str,
    request: Request,
    parts: Parts,
    text: Annotated[str, Form(max_length=20_000)] = "",
    offset_ms: Annotated[int | None, Form(ge=0, le=2**31 - 1)] = None,
    back: Back = "",
    person: Person = may("calls:write"),
) -> Response:
    """Write something beside the call."""
    by = By(person.id, person.name)
    async with parts.db.work() as session:
        row = await review.comment(
            session, call_id, text, offset_ms=offset_ms, by=by, now=parts.now()
        )
        await note(
            session,
            person,
            request,
            "call.commented",
            call_id,
            {"comment_id": row.id},
            now=parts.now(),
        )
    return _back(call_id, back)


@router.post("/calls/{call_id}/comments/{comment_id}/remove")
async def remove_comment(
    call_id: str,
    comment_id: str,
    request: Request,
    parts: Parts,
    back: Back = "",
    person: Person = may("calls:write"),
) -> Response:
    """Take back one's own comment."""
    by = By(person.id, person.name)
    async with parts.db.work() as session:
        await review.remove_comment(session, call_id, comment_id, by=by)
        details = {"comment_id": comment_id}
        await note(session, person, request, "call.uncommented", call_id, details, now=parts.now())
    return _back(call_id, back)
