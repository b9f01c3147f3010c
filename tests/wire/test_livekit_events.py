"""LiveKit's webhooks, signed as livekit-server signs them, and what they leave behind."""

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from google.protobuf.json_format import MessageToJson
from livekit import api
from sqlalchemy import func, select

from trunkline.calls import queries, service
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.models import Call
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.kit.livekit import LiveKitOptions
from trunkline.outbox.models import EventRow
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make

OPTIONS = LiveKitOptions("ws://127.0.0.1:1", "devkey", "a-secret-of-the-tests-not-of-anything-real")
ROOM = "call_12025550100_x"
ATTRIBUTES = {
    "sip.callID": "SCL_1",
    "sip.ruleID": "SDR_1",
    "sip.trunkID": "ST_1",
    "sip.phoneNumber": "+12025550134",
    "sip.trunkPhoneNumber": "+12025550100",
    "sip.callStatus": "ringing",
}


@asynccontextmanager
async def started(db: Database, folder: Path, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    """A LiveKit on another machine, and a server that was just started and remembers nothing."""
    blobs = open_blobs(BlobOptions(str(folder)))
    app = create_app(db, blobs, WebOptions(livekit=OPTIONS), clock=lambda: now)
    far = httpx.ASGITransport(app=app, client=("203.0.113.9", 4711), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=far, base_url="https://trunkline.example") as client:
        yield client


@pytest.fixture
async def web(db: Database, tmp_path: Path, now: datetime) -> AsyncIterator[httpx.AsyncClient]:
    async with started(db, tmp_path, now) as client:
        yield client


def caller(reason: Any = None, **changed: str) -> api.ParticipantInfo:
    found = api.ParticipantInfo(
        identity="sip_+12025550134",
        kind=api.ParticipantInfo.Kind.SIP,
        attributes={**ATTRIBUTES, **changed},
    )
    if reason is not None:
        found.disconnect_reason = reason
    return found


def told(event: str, id: str, participant: api.ParticipantInfo | None = None) -> api.WebhookEvent:
    return api.WebhookEvent(event=event, id=id, room=api.Room(name=ROOM), participant=participant)


JOINED = told("participant_joined", "EV_1", caller())
LEFT = told("participant_left", "EV_2", caller(api.DisconnectReason.CLIENT_INITIATED))
FINISHED = told("room_finished", "EV_3")


async def send(
    web: httpx.AsyncClient, event: api.WebhookEvent, *, secret: str = OPTIONS.api_secret
) -> httpx.Response:
    """As livekit-server does: the body's SHA-256 in a token that the secret signs."""
    body = MessageToJson(event)
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    token = api.AccessToken(OPTIONS.api_key, secret).with_sha256(digest).to_jwt()
    return await web.post(
        "/livekit/webhook",
        content=body,
        headers={"Authorization": token, "Content-Type": "application/webhook+json"},
    )


async def call_of(db: Database) -> Call | None:
    async with db.look() as session:
        return await queries.call_in_room(session, ROOM)


async def test_a_call_that_nobody_answered(
    web: httpx.AsyncClient, db: Database, make: "Make", now: datetime
) -> None:
    """A call that no worker ever saw is stored, with its caller, and ended with its reason."""
    async with db.work() as session:
        contact = await make.contact(session)
        number = contact.phones[0].e164
    await send(web, told("participant_joined", "EV_1", caller(**{"sip.phoneNumber": number})))
    rings = await call_of(db)
    assert rings is not None
    assert (rings.state, rings.from_number, rings.contact_id) == ("ringing", number, contact.id)
    await send(web, LEFT)
    over = await call_of(db)
    assert over is not None
    assert (over.state, over.end_reason) == ("ended", "cancelled")


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((JOINED, LEFT, FINISHED), "cancelled"),
        ((LEFT, JOINED), "cancelled"),  # delivered in the wrong order
        ((FINISHED, LEFT), "cancelled"),  # the end is told of a call nobody knows yet
        ((LEFT,), "cancelled"),  # the first one was lost
        ((JOINED, FINISHED), "no_answer"),  # the second one was lost
        ((JOINED, JOINED, LEFT, LEFT, FINISHED, JOINED), "cancelled"),  # sent again
        (
            (
                JOINED,
                told("participant_left", "EV_4", caller(api.DisconnectReason.CONNECTION_TIMEOUT)),
            ),
            "line_lost",  # a SIP node died
        ),
    ],
)
async def test_any_order_twice_or_not_at_all(
    events: tuple[api.WebhookEvent, ...], reason: str, web: httpx.AsyncClient, db: Database
) -> None:
    """However the events come, there is one call with one start and one end."""
    for event in events:
        assert (await send(web, event)).status_code == 200
    call = await call_of(db)
    assert call is not None
    assert (call.state, call.end_reason) == ("ended", reason)
    async with db.look() as session:
        told = select(EventRow.type, func.count()).where(EventRow.subject == call.id)
        counts = {row[0]: row[1] for row in await session.execute(told.group_by(EventRow.type))}
    assert counts["call.started"] == counts["call.ended"] == 1


async def test_repeats_after_a_restart_change_nothing(
    db: Database, tmp_path: Path, now: datetime
) -> None:
    """A server that has forgotten every id is told everything twice, in every order: nothing is new."""

    async def stored() -> list[Any]:
        async with db.look() as session:
            rows = await session.execute(
                select(EventRow.id, EventRow.type, EventRow.seq).order_by(EventRow.id)
            )
            call = await queries.call_in_room(session, ROOM)
            assert call is not None
            return [call.id, call.state, call.end_reason, call.ended_at, *rows.all()]

    async with started(db, tmp_path, now) as client:
        for event in (JOINED, LEFT, FINISHED):
            assert (await send(client, event)).json() == {"taken": True}
    before = await stored()
    for order in permutations((JOINED, LEFT, FINISHED)):
        async with started(db, tmp_path, now + timedelta(minutes=5)) as client:
            for event in (*order, *order):
                assert (await send(client, event)).status_code == 200
        assert await stored() == before


async def test_a_call_that_a_worker_has(
    web: httpx.AsyncClient, db: Database, now: datetime
) -> None:
    """What the worker stored stays: an answered call is its agent's to end."""
    await send(web, JOINED)
    call = await call_of(db)
    assert call is not None
    async with db.work() as session:
        lease = await service.take_lease(session, call.id, now=now)
        await service.answer(session, lease, now=now)
    await send(web, LEFT)
    await send(web, FINISHED)
    still = await call_of(db)
    assert still is not None
    assert still.state == "talking"
    async with db.work() as session:
        await service.end(session, call.id, EndReason.CALLER_HANGUP, now=now, lease=lease)
    await send(web, told("participant_joined", "EV_9", caller()))
    over = await call_of(db)
    assert over is not None
    assert over.end_reason == "caller_hangup"


async def test_an_event_is_taken_once(web: httpx.AsyncClient) -> None:
    """A repeat of an id is recognised."""
    assert (await send(web, JOINED)).json() == {"taken": True}
    assert (await send(web, JOINED)).json() == {"taken": False}


@pytest.mark.parametrize(
    "event",
    [
        told("room_started", "EV_1"),
        told("participant_joined", "EV_1", api.ParticipantInfo(identity="agent", kind="AGENT")),
        told("room_finished", "EV_1"),  # a room that was no call
        api.WebhookEvent(event="egress_started", id="EV_1"),
        api.WebhookEvent(event="something new", id="EV_1"),
    ],
    ids=["room_started", "agent", "unknown-room", "egress", "unknown"],
)
async def test_what_is_no_call(
    event: api.WebhookEvent, web: httpx.AsyncClient, db: Database
) -> None:
    """Other rooms and events are taken without a trace."""
    assert (await send(web, event)).status_code == 200
    assert await call_of(db) is None


async def test_a_forged_event(web: httpx.AsyncClient, db: Database) -> None:
    """Another secret, another body, no signature: refused with the setting to look at."""
    body = MessageToJson(JOINED)
    digest = base64.b64encode(hashlib.sha256(b"another body").digest()).decode()
    other = api.AccessToken(OPTIONS.api_key, OPTIONS.api_secret).with_sha256(digest).to_jwt()
    tried = [
        await send(web, JOINED, secret="another secret that is long enough to sign"),
        await web.post("/livekit/webhook", content=body, headers={"Authorization": other}),
        await web.post("/livekit/webhook", content=body),
        await web.post("/livekit/webhook", content=body, headers={"Authorization": "Bearer x"}),
    ]
    assert [answer.status_code for answer in tried] == [401] * 4
    assert "webhook.api_key in livekit.yaml" in tried[0].json()["detail"]
    assert await call_of(db) is None


@pytest.mark.parametrize("body", [b"\xff\xfe", b"x" * (4 * 1024 * 1024 + 1)])
async def test_no_event_at_all(body: bytes, web: httpx.AsyncClient) -> None:
    """What cannot be an event is refused before anything is done with it."""
    answer = await web.post("/livekit/webhook", content=body)
    assert answer.status_code == 422


async def test_without_a_livekit(db: Database, tmp_path: Path) -> None:
    """A server that knows no secret takes no event, and says what is missing."""
    app = create_app(db, open_blobs(BlobOptions(str(tmp_path))), WebOptions())
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        answer = await send(client, JOINED)
    assert answer.status_code == 404
    assert "LIVEKIT_API_KEY" in answer.json()["detail"]
