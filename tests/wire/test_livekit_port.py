"""What LiveKit answers when we place a call or transfer one, and what the port makes of each answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from livekit.protocol.sip import SIPTransferStatus, TransferSIPParticipantResponse

from trunkline.kit.livekit import LiveKit, LiveKitFailed, LiveKitOptions, SipFailed, open_livekit

RINGING = timedelta(seconds=0.1)
FAILED, ONGOING = SIPTransferStatus.STS_TRANSFER_FAILED, SIPTransferStatus.STS_TRANSFER_ONGOING


@asynccontextmanager
async def livekit_that(answer: web.Response | None) -> AsyncIterator[LiveKit]:
    """A LiveKit that answers everything with *answer*; None: never."""

    never = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if answer is not None:
            return answer
        stream = web.StreamResponse()
        await stream.prepare(request)
        await request.content.wait_eof()
        await never.wait()
        return stream

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        options = LiveKitOptions(url, "key", "secret" * 6, timeout=timedelta(seconds=0.5))
        async with open_livekit(options) as port:
            yield port
    finally:
        never.set()
        await runner.cleanup()


async def act(port: LiveKit, what: str) -> None:
    """Place a call, or transfer one."""
    if what == "dial":
        await port.dial(
            room="r", trunk="ST_1", to="+12025550177", caller_id=None, identity="callee",
            ringing=RINGING, max_duration=timedelta(minutes=1),
        )  # fmt: skip
    else:
        await port.refer("r", "sip_1", "tel:+12025550177", ringing=RINGING)


def refusal(status: int, code: str, message: str, **meta: str) -> web.Response:
    """An error as Twirp writes it (https://twitchtv.github.io/twirp/docs/errors.html)."""
    body: dict[str, Any] = {"code": code, "msg": message, "meta": meta}
    return web.json_response(body, status=status)


def done(**fields: Any) -> web.Response:
    """A transfer's answer that is no error."""
    message = TransferSIPParticipantResponse(**fields)
    return web.Response(body=message.SerializeToString(), content_type="application/protobuf")


@pytest.mark.parametrize(
    ("what", "answer", "status"),
    [
        ("dial", lambda: refusal(408, "canceled", "sip request timed out"), 408),
        ("dial", lambda: refusal(408, "deadline_exceeded", "request timed out"), 408),
        ("dial", lambda: refusal(408, "deadline_exceeded", "context deadline exceeded"), 408),
        (
            "dial",
            lambda: refusal(429, "resource_exhausted", "sip status: 486", sip_status_code="486"),
            486,
        ),
        (
            "dial",
            lambda: refusal(500, "unknown", "sip status", sip_status_code="none", sip_status="Odd"),
            None,
        ),
        ("refer", lambda: refusal(408, "canceled", "sip request timed out"), 408),
        # livekit-server wraps what it is told of a transfer.
        ("refer", lambda: refusal(500, "unknown", "twirp error unknown: request timed out"), 408),
        (
            "refer",
            lambda: refusal(
                408, "canceled", "transfer", sip_transfer_reason="STR_RINGING_TIMEOUT"
            ),
            408,
        ),
        (
            "refer",
            lambda: refusal(
                429, "resource_exhausted", "no", sip_status_code="603",
                sip_transfer_reason="STR_REJECTED",
            ),
            603,
        ),
        ("refer", lambda: done(transfer_id="T", status=FAILED, sip_status={"code": 486}), 486),
        ("refer", lambda: done(transfer_id="T", status=FAILED), None),
        ("refer", lambda: done(transfer_id="T", status=ONGOING), None),
    ],
)  # fmt: skip
async def test_not_reached(what: str, answer: Any, status: int | None) -> None:
    """However it is told that nobody was reached, the SIP status says why; 408 is nobody answering."""
    async with livekit_that(answer()) as port:
        with pytest.raises(SipFailed) as failed:
            await act(port, what)
    assert failed.value.status == status


@pytest.mark.parametrize("fields", [{}, {"status": SIPTransferStatus.STS_TRANSFER_SUCCESSFUL}])
async def test_transferred(fields: dict[str, Any]) -> None:
    """An empty answer is how livekit-server 1.13.5 tells success."""
    async with livekit_that(done(**fields)) as port:
        await act(port, "refer")


@pytest.mark.parametrize("what", ["dial", "refer"])
@pytest.mark.parametrize(
    ("answer", "says", "reached"),
    [
        (lambda: refusal(503, "unavailable", "no response from servers"), "livekit-sip", True),
        (lambda: refusal(401, "unauthenticated", "no permissions"), "LIVEKIT_API_KEY", True),
        (lambda: refusal(404, "not_found", "trunk does not exist"), "trunk does not exist", True),
        (lambda: web.Response(status=404, text="nginx"), "LiveKit", True),
        (lambda: None, "no answer in time", False),
    ],
    ids=["no-sip", "key", "trunk", "other", "silent"],
)
async def test_livekit_cannot(what: str, answer: Any, says: str, reached: bool) -> None:
    """What is wrong with LiveKit itself is no SIP outcome, and the message says what to do."""
    async with livekit_that(answer()) as port:
        with pytest.raises(LiveKitFailed, match=says) as failed:
            await act(port, what)
    assert not isinstance(failed.value, SipFailed)
    assert failed.value.reached == reached
