"""/v1: endpoints, what was sent to them, and how to send it again."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, cast

from fastapi import APIRouter, Header, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from trunkline.access.models import ApiKey
from trunkline.web import paging
from trunkline.web.auth import needs
from trunkline.web.deps import Parts
from trunkline.web.errors import documented
from trunkline.web.once import DoOnce
from trunkline.web.paging import LongLimit, NextCursor, PageCursor
from trunkline.web.routes.pushed import Moment
from trunkline.webhooks import models, queries, repair, service, versions
from trunkline.webhooks.queries import DeliveryLog

router = APIRouter(prefix="/v1", tags=["webhooks"])

ENDPOINT_ID = "whk_01kf0q8m3s7t9v1w3x5y7z9abp"
_DELIVERY = "dlv_01kf0q8m3s7t9v1w3x5y7z9abr"
_EVENT = "evt_01kf0q8m3s7t9v1w3x5y7z9abs"
_CALL = "call_01kf0q8m3s7t9v1w3x5y7z9abc"
_SECRET = "whsec_plJ3nmyCDGBKInavdOK15jsl"  # noqa: S105 - an example
_AT = "2026-01-15T09:30:00Z"
_LONGEST_OVERLAP_S = 7 * 24 * 3600

EndpointId = Annotated[str, Path(description="The endpoint's id.", examples=[ENDPOINT_ID])]
DeliveryId = Annotated[str, Path(description="The delivery's id.", examples=[_DELIVERY])]


class EndpointFields(BaseModel):
    """What can be set on an endpoint."""

    model_config = ConfigDict(extra="forbid")

    description: str | None = Field(None, max_length=200, examples=["Into the warehouse"])
    headers: dict[str, str] = Field(
        {},
        description="Sent with every delivery; never shown again.",
        examples=[{"authorization": "Bearer abc"}],
    )
    format: Literal["standard", "retell"] = Field(
        "standard", description="retell: the names and shape of Retell's call events."
    )
    ordered: StrictBool = Field(
        False, description="Whether an event of a call waits until the one before it arrived."
    )
    ignored_sources: list[str] = Field(
        [],
        description="Events with this `data.source` are left out: your own, so that nothing echoes.",
        examples=[["hubspot"]],
    )
    rate_per_s: StrictInt | None = Field(
        None, description="Most deliveries in a second; null for no limit.", examples=[20]
    )


class NewEndpoint(EndpointFields):
    """A receiver of events."""

    url: str = Field(
        description="https, at a public address.", examples=["https://example.com/hooks"]
    )
    events: list[str] = Field(
        description="Names, `call.*`, or `*` for all but the opt-in ones.",
        examples=[["call.*", "deal.updated"]],
    )
    send_test: StrictBool = Field(False, description="Whether to send `endpoint.test` at once.")


class EndpointChange(EndpointFields):
    """What is to be changed; what is left out stays."""

    url: str = Field("", examples=["https://example.com/hooks"])
    events: list[str] = Field([], examples=[["call.*"]])
    enabled: StrictBool = Field(
        True,
        description="Off: new events pass it by. What waits goes on waiting, until it is on again.",
    )


class EndpointOut(BaseModel):
    """An endpoint. Its secret and the values of its headers are never shown again."""

    id: str = Field(examples=[ENDPOINT_ID])
    url: str = Field(examples=["https://example.com/hooks"])
    description: str | None
    events: list[str] = Field(examples=[["call.*", "deal.updated"]])
    header_names: list[str] = Field(examples=[["authorization"]])
    format: Literal["standard", "retell"]
    ordered: bool
    ignored_sources: list[str]
    rate_per_s: int | None
    hook: bool = Field(description="Whether POST /v1/hooks made it.")
    enabled: bool
    disabled_reason: str | None = Field(examples=[None])
    failures: int = Field(description="Failed attempts since the last success.", examples=[0])
    failing_since: datetime | None = Field(examples=[None])
    old_secret_until: datetime | None = Field(
        description="Until when the secret before the last rotation signs too.", examples=[None]
    )
    created_at: datetime = Field(examples=[_AT])
    version: str = Field(
        description="Of its settings. Sent with a change as If-Match, it lets none of somebody else's get "
        "lost.",
        examples=["3f1c0a9b2d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60"],
    )


class EndpointMade(EndpointOut):
    """An endpoint with its secret, which is shown this once."""

    secret: str = Field(description="Proves deliveries. Keep it safe.", examples=[_SECRET])


class Endpoints(BaseModel):
    """A page of endpoints, oldest first."""

    data: list[EndpointOut]
    next_cursor: NextCursor


class Rotation(BaseModel):
    """How to replace a secret."""

    model_config = ConfigDict(extra="forbid")

    overlap_s: StrictInt | None = Field(
        None,
        ge=0,
        le=_LONGEST_OVERLAP_S,
        description="For how many seconds the old one signs too; 24 hours when left out.",
        examples=[3600],
    )


class Rotated(BaseModel):
    """The new secret, which is shown this once."""

    secret: str = Field(examples=[_SECRET])
    old_secret_until: datetime | None = Field(
        description="Until when both sign.", examples=["2026-01-16T09:30:00Z"]
    )


class SampleAsked(BaseModel):
    """Which event to send a sample of."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(examples=["call.ended"])


class Sent(BaseModel):
    """What was put on its way to this endpoint alone."""

    event_id: str = Field(description="The `webhook-id` it will carry.", examples=[_EVENT])


class Since(BaseModel):
    """From when on."""

    model_config = ConfigDict(extra="forbid")

    since: Moment = Field(description="ISO 8601 with a zone.", examples=[_AT])


class Recovered(BaseModel):
    """What is being sent again."""

    count: int = Field(examples=[12])


class ReplayAsked(BaseModel):
    """Which part of what happened to send, as if for the first time."""

    model_config = ConfigDict(extra="forbid")

    events: list[str] | None = Field(
        None, description="The endpoint's own filter when left out.", examples=[["call.ended"]]
    )
    since: Moment | None = Field(None, examples=[_AT])
    until: Moment | None = Field(None, description="Not including.", examples=[_AT])
    subject: str | None = Field(
        None, description="One call, deal or contact.", examples=[_CALL], max_length=40
    )
    cursor: str | None = Field(
        None, description="`next_cursor` of the part before.", max_length=200
    )


class Replayed(BaseModel):
    """How far it came."""

    count: int = Field(description="Deliveries made or begun anew.", examples=[1000])
    next_cursor: str | None = Field(
        description="Ask again with it as `cursor`; null when all is done.", examples=[None]
    )


DeliveryState = Literal["pending", "held", "delivered", "failed"]


class DeliverySummary(BaseModel):
    """One event on its way to one endpoint."""

    id: str = Field(examples=[_DELIVERY])
    endpoint_id: str = Field(examples=[ENDPOINT_ID])
    url: str = Field(examples=["https://example.com/hooks"])
    event_id: str = Field(examples=[_EVENT])
    event_type: str = Field(examples=["deal.updated"])
    subject: str = Field(description="The call, or what changed.", examples=[_CALL])
    state: DeliveryState = Field(
        description="held: an earlier event of the call comes first; failed: given up."
    )
    attempt_count: int = Field(examples=[1])
    last_status: int | None = Field(examples=[200])
    last_error: str | None = Field(description="Why no answer came.", examples=[None])
    next_at: datetime | None = Field(
        description="When it is tried next; null when it is not.", examples=[None]
    )
    created_at: datetime = Field(examples=[_AT])
    delivered_at: datetime | None = Field(examples=[_AT])


class AttemptOut(BaseModel):
    """One try, and what came back."""

    model_config = ConfigDict(from_attributes=True)

    number: int = Field(examples=[1])
    started_at: datetime = Field(examples=[_AT])
    ms: int = Field(description="How long it took.", examples=[41])
    status: int | None = Field(description="Null when no answer came.", examples=[200])
    error: str | None = Field(description="Why it failed, in words.", examples=[None])
    request_headers: dict[str, str] = Field(
        examples=[{"webhook-id": _EVENT, "webhook-timestamp": "1768469400"}]
    )
    response_headers: dict[str, str] | None = Field(examples=[{"content-type": "text/plain"}])
    response_body: str | None = Field(description="At most its first 4 kB.", examples=["ok"])
    next_at: datetime | None = Field(description="What followed: the next try.", examples=[None])


class DeliveryDetail(DeliverySummary):
    """A delivery with every attempt. The body is GET /v1/events/{event_id}."""

    attempts: list[AttemptOut]


class Deliveries(BaseModel):
    """A page of deliveries, newest first."""

    data: list[DeliverySummary]
    next_cursor: str | None = Field(
        description="Send as `cursor` for the next, older page; null on the last one."
    )


def shown(endpoint: models.Endpoint) -> EndpointOut:
    """The endpoint without what is secret."""
    return EndpointOut.model_validate(
        {
            **{name: getattr(endpoint, name, None) for name in EndpointOut.model_fields},
            "header_names": sorted(endpoint.headers or {}),
            "version": versions.version(endpoint),
        }
    )


def _summary(log: DeliveryLog) -> DeliverySummary:
    delivery = log.delivery
    last = log.attempts[-1] if log.attempts else None
    return DeliverySummary.model_validate(
        {
            **{name: getattr(delivery, name, None) for name in DeliverySummary.model_fields},
            "url": log.endpoint.url,
            "attempt_count": delivery.attempts,
            "last_status": last and last.status,
            "last_error": last and last.error,
            "next_at": delivery.next_at if delivery.state == queries.PENDING else None,
        }
    )


# --- endpoints ---------------------------------------------------------------------------------


@router.post(
    "/endpoints", operation_id="create_endpoint", summary="Create an endpoint", status_code=201,
    response_model=EndpointMade, responses=documented(401, 403, 422),
)  # fmt: skip
async def create_endpoint(
    body: NewEndpoint, parts: Parts, once: DoOnce, key: ApiKey = needs("webhooks:write")
) -> Response:
    """It gets what happens from now on. Its secret is shown this once."""
    now = parts.now()
    fields = {name: getattr(body, name) for name in EndpointFields.model_fields}

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        endpoint, secret = await service.add_endpoint(
            session,
            options=parts.endpoint_options,
            url=body.url,
            events=body.events,
            now=now,
            **fields,
        )
        if body.send_test:
            await service.send_test(session, endpoint.id, now=now)
        return 201, EndpointMade(**shown(endpoint).model_dump(), secret=secret)

    return await once.run(work, secret=True)


@router.get(
    "/endpoints", operation_id="list_endpoints", summary="List endpoints",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_endpoints(
    parts: Parts,
    limit: LongLimit = 1000,
    cursor: PageCursor = None,
    key: ApiKey = needs("webhooks:read"),
) -> Endpoints:
    """All endpoints, oldest first, with how they fare."""
    after = paging.read_id("whk", cursor)
    async with parts.db.look() as session:
        rows = await queries.endpoints_page(session, after=after, limit=limit + 1)
    rows, more = paging.cut(rows, limit)
    return Endpoints(data=[shown(row) for row in rows], next_cursor=more)


@router.get(
    "/endpoints/{endpoint_id}", operation_id="get_endpoint", summary="Get an endpoint",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_endpoint(
    endpoint_id: EndpointId, parts: Parts, key: ApiKey = needs("webhooks:read")
) -> EndpointOut:
    """One endpoint and how it fares."""
    async with parts.db.look() as session:
        return shown(await queries.endpoint(session, endpoint_id))


@router.patch(
    "/endpoints/{endpoint_id}", operation_id="update_endpoint", summary="Change an endpoint",
    responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def update_endpoint(
    endpoint_id: EndpointId,
    body: EndpointChange,
    parts: Parts,
    if_match: Annotated[
        str | None, Header(description="The `version` it was read with.", max_length=200)
    ] = None,
    key: ApiKey = needs("webhooks:write"),
) -> EndpointOut:
    """Sets what is given and leaves the rest; `enabled` switches it off and on. With `If-Match` it is refused
    when somebody changed the settings since, and told what they changed."""
    now = parts.now()
    given = body.model_dump(exclude_unset=True)
    enabled = given.pop("enabled", None)
    fields = cast(service.EndpointFields, given)
    async with parts.db.work() as session:
        endpoint = await service.update_endpoint(
            session,
            endpoint_id,
            fields,
            options=parts.endpoint_options,
            seen=if_match.strip('" ') if if_match not in (None, "*") else None,
            now=now,
        )
        if enabled is not None:
            endpoint = await service.set_enabled(session, endpoint_id, enabled, now=now)
        return shown(endpoint)


@router.delete(
    "/endpoints/{endpoint_id}", operation_id="delete_endpoint", summary="Delete an endpoint",
    status_code=204, responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def delete_endpoint(
    endpoint_id: EndpointId, parts: Parts, key: ApiKey = needs("webhooks:write")
) -> None:
    """What waited for it is given up; its deliveries stay in the log."""
    async with parts.db.work() as session:
        await service.remove_endpoint(session, endpoint_id, now=parts.now())


@router.post(
    "/endpoints/{endpoint_id}/rotate", operation_id="rotate_secret", summary="Rotate the secret",
    response_model=Rotated, responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def rotate_secret(
    endpoint_id: EndpointId,
    parts: Parts,
    once: DoOnce,
    body: Rotation | None = None,
    key: ApiKey = needs("webhooks:write"),
) -> Response:
    """A new secret, shown this once. During the overlap each delivery carries both signatures."""
    overlap_s = body.overlap_s if body else None

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        secret = await service.rotate_secret(
            session,
            endpoint_id,
            options=parts.endpoint_options,
            overlap=None if overlap_s is None else timedelta(seconds=overlap_s),
            now=parts.now(),
        )
        endpoint = await queries.endpoint(session, endpoint_id)
        return 200, Rotated(secret=secret, old_secret_until=endpoint.old_secret_until)

    return await once.run(work, secret=True)


@router.post(
    "/endpoints/{endpoint_id}/test", operation_id="send_test", summary="Send a test",
    status_code=202, response_model=Sent, responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def send_test(
    endpoint_id: EndpointId, parts: Parts, once: DoOnce, key: ApiKey = needs("webhooks:write")
) -> Response:
    """Sends `endpoint.test` to this endpoint alone, whatever its filter."""

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        await repair.is_on(session, endpoint_id)
        event = await service.send_test(session, endpoint_id, now=parts.now())
        return 202, Sent(event_id=event.id)

    return await once.run(work)


@router.post(
    "/endpoints/{endpoint_id}/sample", operation_id="send_sample", summary="Send a sample",
    status_code=202, response_model=Sent, responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def send_sample(
    endpoint_id: EndpointId,
    body: SampleAsked,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("webhooks:write"),
) -> Response:
    """Sends the catalogue's sample of an event to this endpoint alone, with `data.sample` true."""

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        await repair.is_on(session, endpoint_id)
        event = await repair.send_sample(session, endpoint_id, body.type, now=parts.now())
        return 202, Sent(event_id=event.id)

    return await once.run(work)


@router.post(
    "/endpoints/{endpoint_id}/recover", operation_id="recover_endpoint",
    summary="Send again what failed", status_code=202, response_model=Recovered,
    responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def recover_endpoint(
    endpoint_id: EndpointId,
    body: Since,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("webhooks:write"),
) -> Response:
    """Every delivery made since then that was given up, with the whole schedule before it."""

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        count = await repair.recover(session, endpoint_id, since=body.since, now=parts.now())
        return 202, Recovered(count=count)

    return await once.run(work)


@router.post(
    "/endpoints/{endpoint_id}/replay", operation_id="replay_endpoint", summary="Replay events",
    status_code=202, response_model=Replayed, responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def replay_endpoint(
    endpoint_id: EndpointId,
    body: ReplayAsked,
    parts: Parts,
    once: DoOnce,
    key: ApiKey = needs("webhooks:write"),
) -> Response:
    """Sends what happened to this endpoint, delivered before or not, also from before it existed.

    A part at a time: ask again with `next_cursor` until it is null. Each event keeps its `webhook-id`.
    """
    after = paging.read_position(body.cursor)

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        done = await repair.replay(
            session,
            endpoint_id,
            events=body.events,
            since=body.since,
            until=body.until,
            subject=body.subject,
            after=after,
            now=parts.now(),
        )
        cursor = None if done.after is None else paging.write_position(done.after)
        return 202, Replayed(count=done.count, next_cursor=cursor)

    return await once.run(work)


# --- deliveries --------------------------------------------------------------------------------


@router.get(
    "/deliveries", operation_id="list_deliveries", summary="List deliveries",
    responses=documented(401, 403, 422),
)  # fmt: skip
async def list_deliveries(
    parts: Parts,
    key: ApiKey = needs("webhooks:read"),
    endpoint_id: Annotated[
        str | None,
        Query(description="Those to one endpoint.", examples=[ENDPOINT_ID], max_length=40),
    ] = None,
    state: Annotated[DeliveryState | None, Query(description="failed: the dead letters.")] = None,
    type_: Annotated[
        str | None, Query(alias="type", description="The event's type.", max_length=40)
    ] = None,
    subject: Annotated[
        str | None,
        Query(description="A call's id, or of what changed.", examples=[_CALL], max_length=40),
    ] = None,
    cursor: PageCursor = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Deliveries on a page.")] = 50,
) -> Deliveries:
    """Deliveries, newest first. Follow `next_cursor` for older ones."""
    after = paging.read_id("dlv", cursor)
    async with parts.db.look() as session:
        logs = await queries.deliveries(
            session,
            endpoint_id=endpoint_id,
            state=state,
            event_type=type_,
            subject=subject,
            after=after,
            limit=limit + 1,
        )
        page, more = paging.cut(logs, limit, lambda log: log.delivery.id)
        return Deliveries(data=[_summary(log) for log in page], next_cursor=more)


@router.get(
    "/deliveries/{delivery_id}", operation_id="get_delivery", summary="Get a delivery",
    responses=documented(401, 403, 404, 422),
)  # fmt: skip
async def get_delivery(
    delivery_id: DeliveryId, parts: Parts, key: ApiKey = needs("webhooks:read")
) -> DeliveryDetail:
    """One delivery with every attempt: what was sent, what came back, and when it is tried next."""
    async with parts.db.look() as session:
        log = await queries.delivery(session, delivery_id)
        return DeliveryDetail(
            **_summary(log).model_dump(),
            attempts=[AttemptOut.model_validate(attempt) for attempt in log.attempts],
        )


@router.post(
    "/deliveries/{delivery_id}/resend", operation_id="resend_delivery", summary="Send again",
    status_code=202, response_model=DeliverySummary,
    responses=documented(401, 403, 404, 409, 422),
)  # fmt: skip
async def resend_delivery(
    delivery_id: DeliveryId, parts: Parts, once: DoOnce, key: ApiKey = needs("webhooks:write")
) -> Response:
    """Sends it at once, whatever became of it, with the whole schedule before it."""

    async def work(session: AsyncSession) -> tuple[int, BaseModel]:
        await repair.resend(session, delivery_id, now=parts.now())
        return 202, _summary(await queries.delivery(session, delivery_id))

    return await once.run(work)
