"""/v1: contacts, as other systems push and read them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.crm import models, queries, upsert
from trunkline.crm.service import Cause
from trunkline.crm.upsert import Named, checked_source
from trunkline.desk import merge
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.paging import NextCursor, PageCursor
from trunkline.web.people import note
from trunkline.web.routes.pushed import (
    CONTACT_ID,
    Limit,
    OfExternalId,
    OfSource,
    OurId,
    Pushed,
    Text,
    both,
    given,
    numbers,
)

router = APIRouter(prefix="/v1", tags=["contacts"])

_AT = "2026-01-15T09:30:00Z"
_OTHER = "con_01kf0q8m3s7t9v1w3x5y7z9abf"

ContactId = Annotated[str, Path(description="The contact's id.", examples=[CONTACT_ID])]


class ContactPush(Pushed):
    """A contact of yours."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "source": "hubspot",
                    "external_id": "48213",
                    "name": "Dana Whitfield",
                    "phones": ["+1 202 555 0134"],
                    "company": "Whitfield Bakery",
                    "email": "dana@example.com",
                    "tags": ["vip"],
                }
            ]
        }
    )

    id: OurId | None = Field(None, description="Ours, when you know it.", examples=[CONTACT_ID])
    phones: list[str] = Field(
        [], max_length=20, description="Added to those there are. A number belongs to one contact."
    )
    region: str | None = Field(
        None,
        description="Where numbers without a country code are: two letters of ISO 3166.",
        examples=["US"],
    )
    name: str | None = Field(None, max_length=200, examples=["Dana Whitfield"])
    company: str | None = Field(
        None, max_length=200, description="By its name; made if it is new.", examples=["Acme"]
    )
    email: str | None = Field(None, max_length=320, examples=["dana@example.com"])
    tags: list[Text] = Field([], max_length=50, description="Replace those there are.")
    do_not_call: bool = False
    do_not_call_reason: str | None = Field(
        None, max_length=200, description="Only with do_not_call.", examples=["Asked on 12 May"]
    )


class PhoneOut(BaseModel):
    """A telephone number of a contact."""

    e164: str = Field(examples=["+12025550134"])
    label: str | None = Field(examples=["desk"])


class ContactOut(BaseModel):
    """A contact."""

    id: str = Field(examples=[CONTACT_ID])
    name: str | None = Field(examples=["Dana Whitfield"])
    phones: list[PhoneOut]
    company: str | None = Field(examples=["Whitfield Bakery"])
    email: str | None = Field(examples=["dana@example.com"])
    tags: list[str] = Field(examples=[["vip"]])
    do_not_call: bool
    do_not_call_reason: str | None = Field(examples=[None])
    do_not_call_by: str | None = Field(
        description="Who said so, by their name then: a person, or a key of the API.",
        examples=[None],
    )
    do_not_call_at: datetime | None = Field(description="When they said so.", examples=[None])
    external_ids: dict[str, str] = Field(
        description="What other systems call it, by source.", examples=[{"hubspot": "48213"}]
    )
    source: str = Field(description="Who made it.", examples=["hubspot"])
    created_at: datetime = Field(examples=[_AT])
    updated_at: datetime = Field(examples=[_AT])


class ContactPushed(BaseModel):
    """The contact as it is now."""

    created: bool = Field(description="Whether it was new.")
    contact: ContactOut


class ContactPage(BaseModel):
    """A page of contacts."""

    data: list[ContactOut]
    next_cursor: NextCursor


class MergedAway(BaseModel):
    """The contact was merged into another, which has all that was its own."""

    merged_into: str = Field(examples=[CONTACT_ID])


class MergeRequest(BaseModel):
    """Who is the same person."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"merged_id": _OTHER}]}
    )

    merged_id: OurId = Field(description="The contact that goes.", examples=[_OTHER])
    source: str = Field("api", description="Your system's name.", examples=["hubspot"])


class MergeOut(BaseModel):
    """Two contacts are one."""

    contact: ContactOut
    merged_id: str = Field(examples=[_OTHER])
    change_id: str = Field(
        description="Undo this change to take the merge back.",
        examples=["chg_01kf0q8m3s7t9v1w3x5y7z9abk"],
    )


class Duplicates(BaseModel):
    """Who may be the same person."""

    data: list[ContactOut]


async def _out(session: AsyncSession, contact: models.Contact) -> ContactOut:
    [shown] = await _outs(session, [contact])
    return shown


async def _outs(session: AsyncSession, rows: Sequence[models.Contact]) -> list[ContactOut]:
    names = await queries.external_ids(session, "contact", [row.id for row in rows])
    return [_shown(row, names[row.id]) for row in rows]


def _shown(contact: models.Contact, external_ids: dict[str, str]) -> ContactOut:
    return ContactOut(
        id=contact.id,
        name=contact.name,
        phones=[PhoneOut(e164=row.e164, label=row.label) for row in contact.phones],
        company=contact.company.name if contact.company else None,
        email=contact.email,
        tags=contact.tags,
        do_not_call=contact.do_not_call,
        do_not_call_reason=contact.do_not_call_reason,
        do_not_call_by=contact.do_not_call_by,
        do_not_call_at=contact.do_not_call_at,
        external_ids=external_ids,
        source=contact.source,
        created_at=contact.created_at,
        updated_at=contact.updated_at,
    )


@router.post(
    "/contacts:upsert", operation_id="upsert_contact", summary="Make or update a contact",
    response_model=ContactPushed,
    responses={
        201: {"model": ContactPushed, "description": "It was new."},
        **documented(401, 403, 404, 409, 422),
    },
)  # fmt: skip
async def upsert_contact(
    body: ContactPush,
    request: Request,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("contacts:write"),
) -> Response:
    """Found by `id`, by `external_id`, else by its numbers; made if nothing matches.

    Fields that are left out stay as they are. What changed stands in the ledger and raises
    `contact.created` or `contact.updated` with your `source`.
    """
    cause, now = body.caused_by(key), parts.now()
    phones = numbers(body.phones, region=body.region)
    named = Named(cause.source, body.id, body.external_id, phones)
    fields = given(body, "name", "company", "email", "tags", "do_not_call", "do_not_call_reason")

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        contact, created = await upsert.upsert_contact(session, named, fields, cause=cause, now=now)
        if contact.do_not_call_at == now:
            why = {"reason": contact.do_not_call_reason or ""}
            await note(session, key, request, "contact.do_not_call", contact.id, why, now=now)
        shown = ContactPushed(created=created, contact=await _out(session, contact))
        return 201 if created else 200, shown

    return await once.run(work)


@router.get(
    "/contacts", operation_id="list_contacts", summary="List contacts",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_contacts(
    parts: Parts,
    source: OfSource = None,
    external_id: OfExternalId = None,
    number: Annotated[
        str | None,
        Query(
            description="The one with this number, in E.164.",
            max_length=100,
            examples=["+12025550134"],
        ),
    ] = None,
    cursor: PageCursor = None,
    limit: Limit = 50,
    key: ApiKey = needs("contacts:read"),
) -> ContactPage:
    """In the order they were made. By `source` and `external_id`, or by `number`: the one, or none."""
    named = both(source, external_id)
    e164 = numbers([number], region=None)[0].e164 if number is not None else None
    after = paging.read_id("con", cursor)
    async with parts.db.look() as session:
        rows = await queries.contacts(session, named=named, e164=e164, after=after, limit=limit + 1)
        rows, more = paging.cut(rows, limit)
        return ContactPage(data=await _outs(session, rows), next_cursor=more)


@router.get(
    "/contacts/{contact_id}", operation_id="get_contact", summary="Get a contact",
    response_model=ContactOut,
    responses={
        307: {
            "model": MergedAway,
            "description": "It was merged; `Location` leads to whom.",
            "headers": {"Location": {"schema": {"type": "string"}}},
        },
        **documented(401, 403, 404, 422),
    },
)  # fmt: skip
async def get_contact(
    contact_id: ContactId, parts: Parts, key: ApiKey = needs("contacts:read")
) -> ContactOut | Response:
    """One contact with its numbers and what other systems call it."""
    async with parts.db.look() as session:
        found = await queries.contact(session, contact_id)
        if found.id != contact_id:
            away = {"Location": f"/v1/contacts/{found.id}"}
            return JSONResponse({"merged_into": found.id}, 307, away)
        return await _out(session, found)


@router.get(
    "/contacts/{contact_id}/duplicates", operation_id="list_duplicates",
    summary="List likely duplicates", responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def list_duplicates(
    contact_id: ContactId, parts: Parts, key: ApiKey = needs("contacts:read")
) -> Duplicates:
    """Contacts of the same address or name, whatever the case; at most 20. Numbers are never shared."""
    async with parts.db.look() as session:
        contact = await queries.contact(session, contact_id)
        found = await queries.duplicates(session, contact, limit=20)
        return Duplicates(data=await _outs(session, found))


@router.post(
    "/contacts/{contact_id}/merge", operation_id="merge_contacts", summary="Merge two contacts",
    response_model=MergeOut, responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def merge_contacts(
    contact_id: ContactId,
    body: MergeRequest,
    request: Request,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("contacts:write"),
) -> Response:
    """The contact in the path stays; numbers, calls, deals, activities and external ids of the other move to
    it.

    Its own fields stay too; what it lacks comes from the other. The other's id leads here from then on, when
    read (307) and when written to. One `contact.merged` tells of it; undoing the change takes it back.
    """
    cause = Cause(checked_source(body.source), actor=key.name)

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        now = parts.now()
        contact, change = await merge.merge(
            session, contact_id, body.merged_id, cause=cause, now=now
        )
        await note(
            session,
            key,
            request,
            "contact.merged",
            contact_id,
            {"merged_id": body.merged_id},
            now=now,
        )
        shown = await _out(session, contact)
        return 200, MergeOut(contact=shown, merged_id=body.merged_id, change_id=change.id)

    return await once.run(work)
