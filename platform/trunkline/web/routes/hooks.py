"""/v1/hooks: REST hooks, as Zapier, n8n and Make subscribe (https://resthooks.org)."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.errors import NotFound
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.paging import LongLimit, NextCursor, PageCursor
from trunkline.web.routes.webhooks import ENDPOINT_ID
from trunkline.webhooks import queries, service

router = APIRouter(prefix="/v1", tags=["hooks"])


class NewHook(BaseModel):
    """A subscription. What else an automation tool sends along is let pass."""

    target_url: str = Field(examples=["https://hooks.zapier.com/hooks/standard/1/abc"])
    event: str = Field(
        description="A type, `call.*`, or `*`.", examples=["call.ended"], max_length=100
    )
    ignored_sources: list[str] = Field(
        [], description="Events with this `data.source` are left out.", examples=[["zapier"]]
    )


class Hook(BaseModel):
    """The subscription."""

    id: str = Field(description="For DELETE /v1/hooks/{id}.", examples=[ENDPOINT_ID])
    secret: str = Field(
        description="Proves deliveries, for those who check. Shown this once.",
        examples=["whsec_plJ3nmyCDGBKInavdOK15jsl"],
    )


class HookOut(BaseModel):
    """A subscription as it is."""

    id: str = Field(examples=[ENDPOINT_ID])
    target_url: str = Field(examples=["https://hooks.zapier.com/hooks/standard/1/abc"])
    event: str = Field(examples=["call.ended"])
    ignored_sources: list[str] = Field(examples=[["zapier"]])
    enabled: bool
    disabled_reason: str | None = Field(examples=[None])
    created_at: datetime = Field(examples=["2026-01-15T09:30:00Z"])


class HookList(BaseModel):
    """A page of subscriptions, oldest first."""

    data: list[HookOut]
    next_cursor: NextCursor


@router.post(
    "/hooks", operation_id="create_hook", summary="Subscribe", status_code=201,
    response_model=Hook, responses=documented(401, 403, 422),
)  # fmt: skip
async def create_hook(
    body: NewHook, parts: Parts, once: DoOnce, key: ApiKey = needs("webhooks:write")
) -> Response:
    """Sends the event to `target_url` from now on. An answer of 410 ends the subscription.

    For samples of the event: GET /v1/events/samples?type=…
    """

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        endpoint, secret = await service.add_endpoint(
            session,
            options=parts.endpoint_options,
            url=body.target_url,
            events=[body.event],
            ignored_sources=body.ignored_sources,
            hook=True,
            now=parts.now(),
        )
        return 201, Hook(id=endpoint.id, secret=secret)

    return await once.run(work, secret=True)


@router.get(
    "/hooks", operation_id="list_hooks", summary="List subscriptions",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_hooks(
    parts: Parts,
    limit: LongLimit = 1000,
    cursor: PageCursor = None,
    key: ApiKey = needs("webhooks:read"),
) -> HookList:
    """All that are there, oldest first. A secret is shown only when it is made."""
    after = paging.read_id("whk", cursor)
    async with parts.db.look() as session:
        found = await queries.endpoints_page(session, after=after, limit=limit + 1, hooks_only=True)
    found, more = paging.cut(found, limit)
    return HookList(
        data=[
            HookOut(
                id=each.id,
                target_url=each.url,
                event=each.events[0],
                ignored_sources=each.ignored_sources,
                enabled=each.enabled,
                disabled_reason=each.disabled_reason,
                created_at=each.created_at,
            )
            for each in found
        ],
        next_cursor=more,
    )


@router.delete(
    "/hooks/{hook_id}", operation_id="delete_hook", summary="Unsubscribe", status_code=204,
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def delete_hook(
    hook_id: Annotated[str, Path(description="The hook's id.", examples=[ENDPOINT_ID])],
    parts: Parts,
    key: ApiKey = needs("webhooks:write"),
) -> None:
    """Nothing more is sent to it."""
    async with parts.db.work() as session:
        if not (await queries.endpoint(session, hook_id)).hook:
            raise NotFound(f"{hook_id} is no hook; DELETE /v1/endpoints/{hook_id} removes it")
        await service.remove_endpoint(session, hook_id, now=parts.now())
