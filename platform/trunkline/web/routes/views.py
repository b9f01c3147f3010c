"""/v1: filters of the list of calls that are kept under a name."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from trunkline.access.models import ApiKey
from trunkline.calls import views
from trunkline.calls.models import View
from trunkline.desk import asked
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.paging import Limit, NextCursor, PageCursor
from trunkline.web.people import note
from trunkline.web.routes.marks import by_key

router = APIRouter(prefix="/v1", tags=["calls"])

_ID = "view_01kf0q8m3s7t9v1w3x5y7z9abx"
_QUERY = "review=needed&tag=billing"


class ViewRequest(BaseModel):
    """Which calls a view shows."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": _QUERY, "shared": True}]}
    )

    query: str = Field(
        max_length=views.LONGEST_QUERY,
        description="The filters as in the query of GET /v1/calls; empty for all calls. Other names in it "
        "are left out.",
        examples=[_QUERY],
    )
    shared: StrictBool = Field(
        False, description="Whether everybody sees it beside the list of calls, or this key alone."
    )


class ViewOut(BaseModel):
    """Filters of the list of calls that somebody has given a name."""

    id: str = Field(examples=[_ID])
    name: str = Field(examples=["Billing to review"])
    query: str = Field(description="To be sent to GET /v1/calls.", examples=[_QUERY])
    shared: bool = Field(description="Whether everybody sees it, or its owner alone.")
    mine: bool = Field(description="Whether this key has made it, and so may remove it.")
    owner: str = Field(description="Who made it, by their name then.", examples=["Maria Santos"])
    created_at: datetime = Field(examples=["2026-01-15T09:30:00Z"])


class ViewPage(BaseModel):
    """A page of views, in the order in which they were made."""

    data: list[ViewOut]
    next_cursor: NextCursor


def _out(view: View, key: ApiKey) -> ViewOut:
    return ViewOut(
        id=view.id,
        name=view.name,
        query=view.query,
        shared=view.shared,
        mine=view.owner_id == key.id,
        owner=view.owner,
        created_at=view.created_at,
    )


@router.get(
    "/views", operation_id="list_views", summary="List saved views",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_views(
    parts: Parts,
    limit: Limit = 50,
    cursor: PageCursor = None,
    key: ApiKey = needs("calls:read"),
) -> ViewPage:
    """Those that everybody sees, whoever made them, and the key's own."""
    after = paging.read_id("view", cursor)
    async with parts.db.look() as session:
        rows = await views.page(session, key.id, after=after, limit=limit + 1)
    rows, more = paging.cut(rows, limit)
    return ViewPage(data=[_out(row, key) for row in rows], next_cursor=more)


@router.put(
    "/views/{name}", operation_id="save_view", summary="Save a view",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def save_view(
    name: Annotated[
        str,
        Path(
            description=f"What it is called, in up to {views.LONGEST_NAME} characters.",
            examples=["Billing to review"],
        ),
    ],
    body: ViewRequest,
    request: Request,
    parts: Parts,
    key: ApiKey = needs("calls:write"),
) -> ViewOut:
    """Keeps filters under a name. The key's own view of that name is replaced, nobody else's is touched.
    404: the filters name a profile that does not exist."""
    async with parts.db.work() as session:
        now = parts.now()
        wishes = asked.given(body.query.removeprefix("?"))
        await asked.read(session, wishes)
        view = await views.save(
            session,
            name=name,
            query=asked.as_query(wishes),
            shared=body.shared,
            by=by_key(key),
            now=now,
        )
        await note(session, key, request, "view.saved", view.id, {"name": view.name}, now=now)
        return _out(view, key)


@router.delete(
    "/views/{name}", operation_id="remove_view", summary="Remove a view", status_code=204,
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def remove_view(
    name: Annotated[str, Path(description="The view's id, or what it is called.", examples=[_ID])],
    request: Request,
    parts: Parts,
    key: ApiKey = needs("calls:write"),
) -> None:
    """Takes back one of the key's own; somebody else's is not found."""
    async with parts.db.work() as session:
        view = await views.remove(session, name, by=by_key(key))
        await note(
            session, key, request, "view.removed", view.id, {"name": view.name}, now=parts.now()
        )
