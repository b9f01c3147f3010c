"""/v1: the ledger of the CRM, and taking a change back."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.crm import queries
from trunkline.crm.service import Cause
from trunkline.desk import merge
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.paging import NextCursor, PageCursor
from trunkline.web.people import note
from trunkline.web.routes.pushed import DEAL_ID, Limit

router = APIRouter(prefix="/v1", tags=["changes"])

_ID = "chg_01kf0q8m3s7t9v1w3x5y7z9abk"
_AT = "2026-01-15T09:30:00Z"

ChangeId = Annotated[str, Path(description="The change's id.", examples=[_ID])]


class LedgerLine(BaseModel):
    """One field of a contact, deal or activity that changed; `*` when the thing itself came or went,
    `merged` when another contact was merged into it."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=[_ID])
    entity: str = Field(examples=["deal"])
    entity_id: str = Field(examples=[DEAL_ID])
    field: str = Field(examples=["stage"])
    before: Any = Field(examples=["proposal"])
    after: Any = Field(examples=["won"])
    source: str = Field(
        description="call, person, import, or the system that sent it.", examples=["call"]
    )
    actor: str | None = Field(
        description="The person's or the key's name, where there was one.", examples=[None]
    )
    call_id: str | None = Field(examples=["call_01kf0q8m3s7t9v1w3x5y7z9aba"])
    tool_run_id: str | None = Field(examples=["run_01kf0q8m3s7t9v1w3x5y7z9abn"])
    turn_id: str | None = Field(examples=["turn_01kf0q8m3s7t9v1w3x5y7z9abe"])
    offset_ms: int | None = Field(
        description="Where in the recording it was agreed to.", examples=[21_340]
    )
    created_at: datetime = Field(examples=[_AT])
    undone_at: datetime | None = Field(examples=[None])


class LedgerPage(BaseModel):
    """A page of the ledger."""

    data: list[LedgerLine]
    next_cursor: NextCursor


class Undone(BaseModel):
    """A change was taken back."""

    change: LedgerLine = Field(description="The one that was taken back.")
    undone_by: LedgerLine = Field(description="The one that did so; it may be undone in turn.")


@router.get(
    "/changes", operation_id="list_changes", summary="List changes of the CRM",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_changes(
    parts: Parts,
    entity: Annotated[
        Literal["contact", "deal", "activity"] | None, Query(description="Those of one kind.")
    ] = None,
    entity_id: Annotated[
        str | None, Query(description="Those of one thing.", max_length=40, examples=[DEAL_ID])
    ] = None,
    call_id: Annotated[str | None, Query(description="Those of one call.", max_length=40)] = None,
    source: Annotated[
        str | None, Query(description="Those of one source.", max_length=20, examples=["call"])
    ] = None,
    cursor: PageCursor = None,
    limit: Limit = 50,
    key: ApiKey = needs("contacts:read"),
) -> LedgerPage:
    """In the order they were made."""
    after = paging.read_id("chg", cursor)
    async with parts.db.look() as session:
        rows = await queries.changes(
            session,
            entity=entity,
            entity_id=entity_id,
            call_id=call_id,
            source=source,
            after=after,
            limit=limit + 1,
        )
    rows, more = paging.cut(rows, limit)
    return LedgerPage(data=[LedgerLine.model_validate(row) for row in rows], next_cursor=more)


@router.get(
    "/changes/{change_id}", operation_id="get_change", summary="Get a change",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_change(
    change_id: ChangeId, parts: Parts, key: ApiKey = needs("contacts:read")
) -> LedgerLine:
    """What was before and after, by whom, and the second of the call in which it was agreed to."""
    async with parts.db.look() as session:
        return LedgerLine.model_validate(await queries.change(session, change_id))


@router.post(
    "/changes/{change_id}/undo", operation_id="undo_change", summary="Undo a change",
    response_model=Undone, responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def undo_change(
    change_id: ChangeId,
    request: Request,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("contacts:write"),
) -> Response:
    """What it was before it is again, unless it was changed since (409). Raises `change.undone`.

    A contact that came into being stays (403): calls may name it.
    """

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        now = parts.now()
        back = await merge.undo(session, change_id, cause=Cause("api", actor=key.name), now=now)
        await note(session, key, request, "change.undone", change_id, now=now)
        await session.flush()
        change = await queries.change(session, change_id)
        return 200, Undone(
            change=LedgerLine.model_validate(change), undone_by=LedgerLine.model_validate(back)
        )

    return await once.run(work)
