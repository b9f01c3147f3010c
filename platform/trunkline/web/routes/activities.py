"""/v1: activities, as other systems push and read them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.crm import models, queries, upsert
from trunkline.crm.upsert import Named
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.paging import NextCursor, PageCursor
from trunkline.web.routes.pushed import (
    ACTIVITY_ID,
    CONTACT_ID,
    DEAL_ID,
    ContactRef,
    DealRef,
    Limit,
    Moment,
    OfExternalId,
    OfSource,
    OurId,
    Pushed,
    Text,
    both,
    given,
)

router = APIRouter(prefix="/v1", tags=["activities"])

_AT = "2026-01-15T09:30:00Z"


class ActivityPush(Pushed):
    """An activity of yours. Without `id` and `external_id` it is always a new one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "source": "hubspot",
                    "external_id": "note-77",
                    "kind": "task",
                    "summary": "Call back about the invoice",
                    "contact": {"external_id": "48213"},
                    "due_at": _AT,
                }
            ]
        }
    )

    id: OurId | None = Field(None, description="Ours, when you know it.", examples=[ACTIVITY_ID])
    kind: Literal["call", "note", "task", "meeting"] | None = Field(
        None, description="Needed when it is new; stays as it was made."
    )
    summary: Text | None = Field(None, description="Needed when it is new.", max_length=10_000)
    contact: ContactRef | None = Field(None, description="With whom; stays as it was made.")
    deal: DealRef | None = Field(None, description="About which deal; stays as it was made.")
    due_at: Moment | None = Field(
        None, description="A task, and only a task, needs it.", examples=[_AT]
    )
    done: StrictBool | None = Field(None, description="Whether a task is done.")


class ActivityOut(BaseModel):
    """An activity."""

    id: str = Field(examples=[ACTIVITY_ID])
    kind: str = Field(examples=["task"])
    summary: str = Field(examples=["Call back about the invoice"])
    contact_id: str | None = Field(examples=[CONTACT_ID])
    deal_id: str | None = Field(examples=[DEAL_ID])
    call_id: str | None = Field(description="The call in which it was logged.", examples=[None])
    due_at: datetime | None = Field(examples=[_AT])
    done_at: datetime | None = Field(examples=[None])
    external_ids: dict[str, str] = Field(
        description="What other systems call it, by source.", examples=[{"hubspot": "note-77"}]
    )
    created_at: datetime = Field(examples=[_AT])


class ActivityPushed(BaseModel):
    """The activity as it is now."""

    created: bool = Field(description="Whether it was new.")
    activity: ActivityOut


class ActivityPage(BaseModel):
    """A page of activities."""

    data: list[ActivityOut]
    next_cursor: NextCursor


async def _out(session: AsyncSession, activity: models.Activity) -> ActivityOut:
    [shown] = await _outs(session, [activity])
    return shown


async def _outs(session: AsyncSession, rows: Sequence[models.Activity]) -> list[ActivityOut]:
    names = await queries.external_ids(session, "activity", [row.id for row in rows])
    return [_shown(row, names[row.id]) for row in rows]


def _shown(activity: models.Activity, external_ids: dict[str, str]) -> ActivityOut:
    return ActivityOut(
        id=activity.id,
        kind=activity.kind,
        summary=activity.summary,
        contact_id=activity.contact_id,
        deal_id=activity.deal_id,
        call_id=activity.call_id,
        due_at=activity.due_at,
        done_at=activity.done_at,
        external_ids=external_ids,
        created_at=activity.created_at,
    )


@router.post(
    "/activities:upsert", operation_id="upsert_activity", summary="Log or update an activity",
    response_model=ActivityPushed,
    responses={
        201: {"model": ActivityPushed, "description": "It was new."},
        **documented(401, 403, 404, 409, 422),
    },
)  # fmt: skip
async def upsert_activity(
    body: ActivityPush, parts: Parts, once: DoOnce, key: ApiKey = needs("contacts:write")
) -> Response:
    """A call, note, task or meeting; found by `id` or `external_id`, else made.

    Making it stands in the ledger and raises `activity.logged` with your `source`. Its summary, and
    of a task when it is due and whether it is done, may change; that stands in the ledger.
    """
    cause, now = body.caused_by(key), parts.now()
    about = body.contact.named(cause.source) if body.contact else None
    deal = body.deal.named(cause.source) if body.deal else None
    fields = {
        name: value
        for name, value in given(body, "kind", "summary", "due_at").items()
        if value is not None
    }

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        if about:
            fields["contact_id"] = await upsert.contact_id_of(session, about)
        if deal:
            fields["deal_id"] = await upsert.deal_id_of(session, deal)
        named = Named(cause.source, body.id, body.external_id)
        activity, created = await upsert.upsert_activity(
            session, named, fields, done=body.done, cause=cause, now=now
        )
        shown = ActivityPushed(created=created, activity=await _out(session, activity))
        return 201 if created else 200, shown

    return await once.run(work)


@router.get(
    "/activities", operation_id="list_activities", summary="List activities",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_activities(
    parts: Parts,
    source: OfSource = None,
    external_id: OfExternalId = None,
    contact_id: Annotated[
        str | None, Query(description="Those with a contact.", max_length=40)
    ] = None,
    deal_id: Annotated[str | None, Query(description="Those about a deal.", max_length=40)] = None,
    call_id: Annotated[
        str | None, Query(description="Those logged in a call.", max_length=40)
    ] = None,
    cursor: PageCursor = None,
    limit: Limit = 50,
    key: ApiKey = needs("contacts:read"),
) -> ActivityPage:
    """In the order they were made."""
    named = both(source, external_id)
    after = paging.read_id("act", cursor)
    async with parts.db.look() as session:
        rows = await queries.activities(
            session,
            named=named,
            contact_id=contact_id,
            deal_id=deal_id,
            call_id=call_id,
            after=after,
            limit=limit + 1,
        )
        rows, more = paging.cut(rows, limit)
        return ActivityPage(data=await _outs(session, rows), next_cursor=more)


@router.get(
    "/activities/{activity_id}", operation_id="get_activity", summary="Get an activity",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_activity(
    activity_id: Annotated[str, Path(description="The activity's id.", examples=[ACTIVITY_ID])],
    parts: Parts,
    key: ApiKey = needs("contacts:read"),
) -> ActivityOut:
    """One activity and what other systems call it."""
    async with parts.db.look() as session:
        return await _out(session, await queries.activity(session, activity_id))
