"""/v1: what events there are, and the log of all that happened."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from trunkline import events
from trunkline.access.models import ApiKey
from trunkline.desk import event_log
from trunkline.errors import NotFound
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import waiting
from trunkline.outbox.record import as_bytes
from trunkline.web import paging
from trunkline.web.auth import AnyKey, needs
from trunkline.web.deps import Parts, Web
from trunkline.web.errors import documented
from trunkline.webhooks import filters

router = APIRouter(prefix="/v1", tags=["events"])

_EVENT = "evt_01kf0q8m3s7t9v1w3x5y7z9abs"
_LONGEST_WAIT_S = 30
_LOOK_AT_LEAST_EVERY_S = 5.0
"""Should a ring get lost."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
"""Between looks while something is committed and not yet given its place in the log."""


class EventType(BaseModel):
    """A kind of event."""

    type: str = Field(examples=["deal.updated"])
    description: str = Field(description="When it fires, and what its fields mean.")
    opt_in: bool = Field(description="Whether wildcards leave it out, so that it is to be named.")
    json_schema: dict[str, Any] = Field(
        alias="schema", description="JSON Schema (2020-12) of a body."
    )
    sample: dict[str, Any] = Field(
        description="A body with values that look like real ones.",
        examples=[events.sample_body("deal.updated")],
    )


class EventTypes(BaseModel):
    """The catalogue."""

    data: list[EventType]


class EventBody(BaseModel):
    """An event; its `data` fits the schema of its type."""

    type: str = Field(examples=["deal.updated"])
    timestamp: datetime = Field(examples=[events.sample_body("deal.updated")["timestamp"]])
    data: dict[str, Any] = Field(examples=[events.sample_body("deal.updated")["data"]])


class EventEntry(BaseModel):
    """One event of the log."""

    id: str = Field(
        description="The `webhook-id` of its deliveries: do each only once.", examples=[_EVENT]
    )
    body: EventBody = Field(description="Byte for byte what a delivery carries.")


class EventPage(BaseModel):
    """Events in the order all readers see."""

    data: list[EventEntry]
    next_cursor: str = Field(
        description="Store it when you have dealt with `data`, and send it as `after`.",
        examples=[paging.write_position(1)],
    )
    has_more: bool = Field(description="Whether there is more already; then ask at once.")


def _described(type_: str) -> EventType:
    return EventType(
        type=type_,
        description=events.summary(type_),
        opt_in=type_ in events.OPT_IN,
        schema=events.schema(type_),
        sample=events.sample_body(type_),
    )


@router.get(
    "/event-types", operation_id="list_event_types", summary="List event types",
    responses=documented(401),
)  # fmt: skip
async def list_event_types(key: AnyKey) -> EventTypes:
    """Everything that is told to other systems, with schema and sample."""
    return EventTypes(data=[_described(type_) for type_ in events.CATALOGUE])


@router.get(
    "/event-types/{type}/schema", operation_id="get_event_schema", summary="Get a schema",
    response_class=Response,
    responses={
        200: {
            "description": "JSON Schema (2020-12) of a body of this type.",
            "content": {"application/schema+json": {"schema": {"type": "object"}}},
        },
        **documented(401, 404, 422),
    },
)  # fmt: skip
async def get_event_schema(
    type_: Annotated[
        str, Path(alias="type", description="The event's type.", examples=["deal.updated"])
    ],
    key: AnyKey,
) -> Response:
    """The schema by itself, for tools that make types or check bodies."""
    if type_ not in events.CATALOGUE:
        raise NotFound(f"there is no event {type_!r}; GET /v1/event-types lists them all")
    return JSONResponse(events.schema(type_), media_type="application/schema+json")


@router.get(
    "/events/samples", operation_id="list_event_samples", summary="Samples of an event",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def list_event_samples(
    parts: Parts,
    type_: Annotated[
        str, Query(alias="type", description="The event's type.", examples=["deal.updated"])
    ],
    key: ApiKey = needs("events:read"),
) -> list[EventBody]:
    """The last three bodies of the type, the newest first; made-up ones while there is none.

    The list that Zapier's and others' editors show while somebody sets up a trigger.
    """
    async with parts.db.look() as session:
        return [EventBody(**body) for body in await event_log.samples(session, type_)]


@router.get(
    "/events/{event_id}", operation_id="get_event", summary="Get an event",
    response_class=Response,
    responses={
        200: {"model": EventBody, "description": "Byte for byte the body of its deliveries."},
        **documented(401, 403, 404, 422),
    },
)  # fmt: skip
async def get_event(
    event_id: Annotated[str, Path(description="The event's id.", examples=[_EVENT])],
    parts: Parts,
    key: ApiKey = needs("events:read"),
) -> Response:
    """One event, as it is delivered."""
    async with parts.db.look() as session:
        row = await event_log.event(session, event_id)
    return Response(as_bytes(row), media_type="application/json")


@router.get(
    "/events", operation_id="list_events", summary="Read the log of events",
    response_class=Response,
    responses={
        200: {"model": EventPage, "description": "Events, or none when `wait` ended first."},
        **documented(401, 403, 422),
    },
)  # fmt: skip
async def list_events(
    request: Request,
    parts: Parts,
    key: ApiKey = needs("events:read"),
    after: Annotated[
        str | None,
        Query(
            description="`next_cursor` of the page before; `now` for what is still to come; nothing "
            "for the beginning.",
            max_length=200,
        ),
    ] = None,
    wait: Annotated[
        int,
        Query(
            ge=0,
            le=_LONGEST_WAIT_S,
            description="Seconds to wait when there is nothing yet. The answer comes with the event.",
        ),
    ] = 0,
    type_: Annotated[
        list[str],
        Query(
            alias="type",
            description="Which events, as endpoints filter them: `call.*`, `deal.updated`. May be "
            "repeated.",
            max_length=100,
        ),
    ] = ["*"],  # noqa: B006 - FastAPI copies it
    ignored_source: Annotated[
        list[str],
        Query(
            description="Leaves out events with this `data.source`: your own, so that nothing "
            "echoes. May be repeated.",
            max_length=20,
        ),
    ] = [],  # noqa: B006 - FastAPI copies it
    limit: Annotated[int, Query(ge=1, le=500, description="Events on a page.")] = 100,
) -> Response:
    """Every event once and in order, without a gap, for those whom no webhook can reach.

    The bodies are the very bytes that deliveries carry. Deal with a page, store `next_cursor`, ask again
    with it: whatever dies in between, nothing is lost. With `wait=30` the answer comes as soon as
    something happens.
    """
    types = filters.checked(type_)
    if after == "now":
        async with parts.db.look() as session:
            position = await event_log.last_position(session)
    else:
        position = paging.read_position(after)
    ignored = frozenset(ignored_source)
    page = await _await(request, parts, position, types, ignored, limit=limit, wait_s=wait)
    entries = b",".join(_entry(row) for row in page.events)
    cursor = paging.write_position(page.position).encode()
    more = b"true" if page.more else b"false"
    body = b'{"data":[' + entries + b'],"next_cursor":"' + cursor + b'","has_more":' + more + b"}"
    return Response(body, media_type="application/json")


def _entry(row: EventRow) -> bytes:
    return b'{"id":"' + row.id.encode() + b'","body":' + as_bytes(row) + b"}"


async def _await(
    request: Request,
    parts: Web,
    position: int,
    types: list[str],
    ignored: frozenset[str],
    *,
    limit: int,
    wait_s: int,
) -> event_log.Page:
    """The first page that holds something, or the last one looked at when *wait_s* is over."""

    async def look() -> tuple[event_log.Page, bool]:
        async with parts.db.look() as session:
            # First, so that what is published in between is seen below.
            coming = await waiting(session)
            page = await event_log.page(
                session, after=position, types=types, ignored_sources=ignored, limit=limit
            )
        return page, coming

    loop = asyncio.get_running_loop()
    until = loop.time() + wait_s
    page, _ = await look()
    if page.events or page.more or not wait_s:
        return page
    pause = _FIRST_PAUSE_S
    async with parts.bell.listening():
        while True:
            rung = parts.bell.rung
            page, coming = await look()
            position = page.position
            left = until - loop.time()
            if page.events or page.more or left <= 0 or await request.is_disconnected():
                return page
            try:
                async with asyncio.timeout(min(left, pause if coming else _LOOK_AT_LEAST_EVERY_S)):
                    await rung.wait()
            except TimeoutError:
                pass
            except asyncio.CancelledError:
                # The server stops. An answer now is better than a connection that breaks.
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                return page
            pause = min(2 * pause, _LONGEST_PAUSE_S) if coming else _FIRST_PAUSE_S
