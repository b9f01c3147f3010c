"""/v1: deals, as other systems push and read them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StrictInt
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
    CONTACT_ID,
    DEAL_ID,
    ContactRef,
    Limit,
    OfExternalId,
    OfSource,
    OurId,
    Pushed,
    Text,
    both,
    given,
)

router = APIRouter(prefix="/v1", tags=["deals"])

_AT = "2026-01-15T09:30:00Z"
_MOST = 2**63 - 1  # what a BIGINT holds


class DealPush(Pushed):
    """A deal of yours; by `id` or `external_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "source": "hubspot",
                    "external_id": "9001",
                    "contact": {"external_id": "48213"},
                    "title": "Office Fiber",
                    "pipeline": "Sales",
                    "stage": "proposal",
                    "amount_minor": 240000,
                    "currency": "USD",
                }
            ]
        }
    )

    id: OurId | None = Field(None, description="Ours, when you know it.", examples=[DEAL_ID])
    contact: ContactRef | None = Field(None, description="Whose it is; null for nobody's.")
    title: Text | None = Field(None, description="Needed when it is new.", max_length=200)
    pipeline: str | None = Field(
        None, description="When it is new and there are several.", examples=["Sales"], max_length=60
    )
    stage: str | None = Field(
        None, description="By its name; the first one when left out.", max_length=60
    )
    amount_minor: StrictInt | None = Field(
        None, ge=0, le=_MOST, description="In cents or the like.", examples=[240_000]
    )
    currency: str | None = Field(
        None,
        pattern="^[A-Z]{3}$",
        description="ISO 4217; needed when it is new.",
        examples=["USD"],
    )


class DealOut(BaseModel):
    """A deal."""

    id: str = Field(examples=[DEAL_ID])
    title: str = Field(examples=["Office Fiber"])
    contact_id: str | None = Field(examples=[CONTACT_ID])
    pipeline: str = Field(examples=["Sales"])
    stage: str = Field(examples=["proposal"])
    outcome: str = Field(description="open, won or lost: the stage's.", examples=["open"])
    amount_minor: int = Field(examples=[240_000])
    currency: str = Field(examples=["USD"])
    external_ids: dict[str, str] = Field(
        description="What other systems call it, by source.", examples=[{"hubspot": "9001"}]
    )
    created_at: datetime = Field(examples=[_AT])
    updated_at: datetime = Field(examples=[_AT])


class DealPushed(BaseModel):
    """The deal as it is now."""

    created: bool = Field(description="Whether it was new.")
    deal: DealOut


class DealPage(BaseModel):
    """A page of deals."""

    data: list[DealOut]
    next_cursor: NextCursor


async def _out(session: AsyncSession, deal: models.Deal) -> DealOut:
    [shown] = await _outs(session, [deal])
    return shown


async def _outs(session: AsyncSession, rows: Sequence[models.Deal]) -> list[DealOut]:
    names = await queries.external_ids(session, "deal", [row.id for row in rows])
    return [_shown(row, names[row.id]) for row in rows]


def _shown(deal: models.Deal, external_ids: dict[str, str]) -> DealOut:
    return DealOut(
        id=deal.id,
        title=deal.title,
        contact_id=deal.contact_id,
        pipeline=deal.pipeline,
        stage=deal.stage,
        outcome=deal.outcome,
        amount_minor=deal.amount_minor,
        currency=deal.currency,
        external_ids=external_ids,
        created_at=deal.created_at,
        updated_at=deal.updated_at,
    )


@router.post(
    "/deals:upsert", operation_id="upsert_deal", summary="Make or update a deal",
    response_model=DealPushed,
    responses={
        201: {"model": DealPushed, "description": "It was new."},
        **documented(401, 403, 404, 409, 422),
    },
)  # fmt: skip
async def upsert_deal(
    body: DealPush, parts: Parts, once: DoOnce, key: ApiKey = needs("contacts:write")
) -> Response:
    """Found by `id` or `external_id`; made if your `external_id` is new.

    Fields that are left out stay as they are. What changed stands in the ledger, field by field, and
    raises one `deal.updated` with `before`, `after` and your `source`.
    """
    cause, now = body.caused_by(key), parts.now()
    whose = body.contact.named(cause.source) if body.contact else None
    # Null and left out mean the same, but for whose it is.
    fields = {
        name: value
        for name, value in given(
            body, "title", "pipeline", "stage", "amount_minor", "currency"
        ).items()
        if value is not None
    }

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        if "contact" in body.model_fields_set:
            fields["contact_id"] = whose and await upsert.contact_id_of(session, whose)
        named = Named(cause.source, body.id, body.external_id)
        deal, created = await upsert.upsert_deal(session, named, fields, cause=cause, now=now)
        shown = DealPushed(created=created, deal=await _out(session, deal))
        return 201 if created else 200, shown

    return await once.run(work)


@router.get(
    "/deals", operation_id="list_deals", summary="List deals",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_deals(
    parts: Parts,
    source: OfSource = None,
    external_id: OfExternalId = None,
    contact_id: Annotated[
        str | None, Query(description="Those of a contact.", max_length=40)
    ] = None,
    outcome: Annotated[
        Literal["open", "won", "lost"] | None, Query(description="Those of one outcome.")
    ] = None,
    cursor: PageCursor = None,
    limit: Limit = 50,
    key: ApiKey = needs("contacts:read"),
) -> DealPage:
    """In the order they were made."""
    named = both(source, external_id)
    after = paging.read_id("deal", cursor)
    async with parts.db.look() as session:
        rows = await queries.deals(
            session,
            named=named,
            contact_id=contact_id,
            outcome=outcome,
            after=after,
            limit=limit + 1,
        )
        rows, more = paging.cut(rows, limit)
        return DealPage(data=await _outs(session, rows), next_cursor=more)


@router.get(
    "/deals/{deal_id}", operation_id="get_deal", summary="Get a deal",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_deal(
    deal_id: Annotated[str, Path(description="The deal's id.", examples=[DEAL_ID])],
    parts: Parts,
    key: ApiKey = needs("contacts:read"),
) -> DealOut:
    """One deal and what other systems call it."""
    async with parts.db.look() as session:
        return await _out(session, await queries.deal(session, deal_id))
