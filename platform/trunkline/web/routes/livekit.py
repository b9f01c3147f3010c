"""What LiveKit tells of its rooms by its own webhooks (https://docs.livekit.io/home/server/webhooks/).

Signed with the API secret that LiveKit and we share. Deliveries come in any order, twice, late, or not at
all, so each is an idempotent report and the guardian looks for itself.
"""

from collections import OrderedDict

import structlog
from fastapi import APIRouter, Request
from livekit import api
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from trunkline.calls.lifecycle import EndReason
from trunkline.desk import ringing
from trunkline.errors import Invalid, NotFound, Unauthorized
from trunkline.kit.livekit import CONSULT_ROOM, PROBE_ROOM, LiveKitOptions
from trunkline.web.deps import Parts, Web
from trunkline.web.errors import documented

log = structlog.get_logger()

router = APIRouter(prefix="/livekit", tags=["livekit"])

LARGEST_BYTES = 4 * 1024 * 1024
"""A participant's attributes may hold dozens of headers of 64 kB."""

_REMEMBERED = 10_000
"""Event ids kept to skip a repeat early. A repeat that reaches another process, or comes after a restart,
changes nothing either."""


class Taken(BaseModel):
    """The event was read."""

    taken: bool
    """False for an event that was taken before, or that tells nothing about calls."""


class Probe(BaseModel):
    """Whether LiveKit told us of a room that was made to try just that."""

    seen: bool


class Seen:
    """The latest ids, each once."""

    def __init__(self, size: int = _REMEMBERED) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._size = size

    def __contains__(self, id: str) -> bool:
        return id in self._ids

    def add(self, id: str) -> None:
        """Remember *id*; the oldest is forgotten when there are too many."""
        self._ids[id] = None
        if len(self._ids) > self._size:
            self._ids.popitem(last=False)


@router.post(
    "/webhook",
    operation_id="take_livekit_event",
    summary="Receive an event from LiveKit",
    include_in_schema=False,  # LiveKit's, not an integrator's
    responses=documented(401, 404, 422),
)
async def take(request: Request, parts: Parts) -> Taken:
    """For LiveKit's own use: set it under `webhook.urls` of livekit.yaml."""
    options = parts.options.livekit
    if options is None:
        raise NotFound(
            "this server was started without LIVEKIT_API_KEY and LIVEKIT_API_SECRET, "
            "so it can't check what LiveKit sends; set both"
        )
    body = await _body(request)
    event = await run_in_threadpool(
        verified, body, request.headers.get("authorization", ""), options
    )
    seen: Seen = request.app.state.livekit_seen
    if event.room.name.startswith(PROBE_ROOM):
        request.app.state.livekit_probes.add(event.room.name)
    if event.id and event.id in seen:
        return Taken(taken=False)
    taken = await reconcile(parts, event)
    # After the commit: what failed is sent again and must not be taken for a repeat.
    seen.add(event.id)
    return Taken(taken=taken)


@router.get("/probe/{room}", include_in_schema=False)
async def probe(room: str, request: Request) -> Probe:
    """For ``trunkline doctor``: its room's name is as hard to guess as a key, and tells nothing."""
    return Probe(seen=room in request.app.state.livekit_probes)


def verified(body: bytes, token: str, options: LiveKitOptions) -> api.WebhookEvent:
    """The event in *body*, if *token* proves that it comes from LiveKit. Raises Unauthorized, Invalid."""
    receiver = api.WebhookReceiver(api.TokenVerifier(options.api_key, options.api_secret))
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Invalid("a LiveKit event is UTF-8 text") from None
    try:
        return receiver.receive(text, token.removeprefix("Bearer "))
    except (
        Exception
    ) as error:  # livekit-api raises its own, PyJWT's, protobuf's and plain Exception
        log.warning("livekit_event_refused", why=type(error).__name__)
        raise Unauthorized(
            "the event's signature is not one of LiveKit with this API key; "
            "webhook.api_key in livekit.yaml must be our LIVEKIT_API_KEY"
        ) from None


async def reconcile(parts: Web, event: api.WebhookEvent) -> bool:
    """Store what *event* says of a call, beside what its worker saw. Returns whether it says anything."""
    room, who, now = event.room.name, event.participant, parts.now()
    is_caller = who.kind == api.ParticipantInfo.Kind.SIP
    if not room or room.startswith(CONSULT_ROOM):
        return False
    attributes = dict(who.attributes)
    if event.event == "participant_joined" and is_caller:
        async with parts.db.work() as session:
            await ringing.seen(session, room=room, attributes=attributes, now=now)
        return True
    if event.event == "participant_left" and is_caller:
        reason = _LEFT.get(who.disconnect_reason, EndReason.LINE_LOST)
        async with parts.db.work() as session:
            await ringing.left(session, room=room, attributes=attributes, reason=reason, now=now)
        return True
    if event.event == "room_finished":
        async with parts.db.work() as session:
            await ringing.closed(session, room=room, now=now)
        return True
    return False


_LEFT = {
    api.DisconnectReason.CLIENT_INITIATED: EndReason.CANCELLED,
    api.DisconnectReason.USER_UNAVAILABLE: EndReason.NO_ANSWER,
    api.DisconnectReason.USER_REJECTED: EndReason.REJECTED,
    api.DisconnectReason.SIP_TRUNK_FAILURE: EndReason.TRUNK_ERROR,
    api.DisconnectReason.ROOM_DELETED: EndReason.NO_ANSWER,
}
"""Why a SIP participant left, while nobody had answered."""


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BYTES:
            raise Invalid(f"an event of more than {LARGEST_BYTES} bytes is none of LiveKit's")
    return bytes(body)
