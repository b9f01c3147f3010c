"""LiveKit's SIP API in front of a real livekit-server, for when livekit-sip is not there.

Without livekit-sip the server answers CreateSIPParticipant and TransferSIPParticipant with 503. This front
answers those two itself, with the errors that were observed, and forwards everything else, websockets
included; an agent differs only in its LIVEKIT_URL::

    async with SipApi(server_options) as front:
        front.phones["+12025550177"] = BUSY          # what a number does; others answer and listen
        front.options                                # LiveKitOptions for the agent
        placed = await front.placed("+12025550177")  # waits for the call; .heard .keys .outcome .over

A transfer (REFER) to a number succeeds when its phone answers, and fails with the status its phone refuses
with; the caller's participant is then told to leave, as when the carrier's BYE comes, by a data packet
that ``sandbox.sip.SipCall`` and ``sandbox.phones.Callee`` know (topic BYE).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientSession, ClientTimeout, WSMsgType, web
from google.protobuf.json_format import MessageToDict, Parse, ParseError
from google.protobuf.message import DecodeError, Message
from livekit import api
from livekit.api.access_token import Claims
from livekit.protocol.sip import SIPTransferStatus, TransferSIPParticipantResponse

from trunkline.kit.livekit import LiveKitOptions
from trunkline.sandbox.phones import ANSWERS, Callee, Phone, Placed
from trunkline.sandbox.sip_leg import BYE

_RINGING = timedelta(seconds=30)
"""livekit-sip's own limit when the request names none."""

_STATUS = {
    "canceled": 408,
    "invalid_argument": 400,
    "malformed": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "resource_exhausted": 429,
    "failed_precondition": 412,
    "unavailable": 503,
}
"""Twirp's code → HTTP status (https://twitchtv.github.io/twirp/docs/errors.html)."""

_WRAPPED = "twirp error unknown: "
"""livekit-server 1.13.5 wraps the errors of a transfer so."""

_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length"}
)


class _Refused(Exception):
    """An answer that is an error, as Twirp tells it."""

    def __init__(self, code: str, message: str, meta: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.meta = code, message, meta

    def response(self) -> web.Response:
        told: dict[str, Any] = {"code": self.code, "msg": self.message}
        if self.meta:
            told["meta"] = self.meta
        status = _STATUS.get(self.code, 500)
        return web.json_response(told, status=status)


class _Stranger(_Refused):
    """Refused before any method looks at the request, which is told in plain text."""

    def __init__(self, message: str) -> None:
        super().__init__("unauthenticated", message)

    def response(self) -> web.Response:
        return web.Response(status=401, text=self.message)


class SipApi:
    """The front; an async context manager. ``options`` are for those who shall use it."""

    def __init__(self, behind: LiveKitOptions) -> None:
        self._behind = behind
        self._http_url = behind.url.replace("ws", "http", 1)
        self.phones: dict[str, Phone] = {}
        """Number → what it does when called."""
        self.calls: list[Placed] = []
        """Every call and transfer that was asked for, in order."""
        self._came = asyncio.Condition()
        self._callees: list[Callee] = []
        self._pending: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        self.options = behind

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_post("/twirp/livekit.SIP/CreateSIPParticipant", self._create)
        app.router.add_post("/twirp/livekit.SIP/TransferSIPParticipant", self._transfer)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._client = ClientSession(timeout=ClientTimeout(total=None), auto_decompress=False)
        self._api = api.LiveKitAPI(self._behind.url, self._behind.api_key, self._behind.api_secret)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.options = LiveKitOptions(
            f"ws://127.0.0.1:{port}", self._behind.api_key, self._behind.api_secret
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)
        for callee in self._callees:
            await callee.aclose()
        assert self._runner is not None
        await self._runner.cleanup()
        await self._client.close()
        await self._api.aclose()

    async def placed(self, number: str, nth: int = 1) -> Placed:
        """Wait until *number* is called for the *nth* time; the call may still ring."""
        async with self._came:
            while len(found := [call for call in self.calls if call.number == number]) < nth:
                await self._came.wait()
        return found[nth - 1]

    async def _note(self, placed: Placed) -> None:
        async with self._came:
            self.calls.append(placed)
            self._came.notify_all()

    # The two ----------------------------------------------------------------------------------

    async def _create(self, request: web.Request) -> web.Response:
        async with _answering() as answer:
            claims = self._claims(request)
            asked = await _read(request, api.CreateSIPParticipantRequest())
            assert isinstance(asked, api.CreateSIPParticipantRequest)
            if not _may_call(claims):
                raise _Refused("unauthenticated", "permissions denied")
            if not asked.sip_trunk_id:
                raise _Refused("invalid_argument", "missing sip trunk id and sip number")
            if not asked.sip_call_to:
                raise _Refused("invalid_argument", "missing sip callee number")
            if not asked.room_name:
                raise _Refused("invalid_argument", "missing room name")
            trunks = await self._api.sip.list_outbound_trunk(api.ListSIPOutboundTrunkRequest())
            trunk = next((t for t in trunks.items if t.sip_trunk_id == asked.sip_trunk_id), None)
            if trunk is None:
                raise _Refused("not_found", "requested sip trunk does not exist")
            placed = Placed(
                asked.sip_call_to,
                asked.room_name,
                asked.participant_identity or f"sip_{asked.sip_call_to}",
                asked.sip_number or next(iter(trunk.numbers), ""),
                dict(asked.headers),
            )
            phone = self.phones.get(asked.sip_call_to, ANSWERS)
            callee = Callee(self._behind, phone, placed)
            self._callees.append(callee)
            attributes = dict(asked.participant_attributes)
            attributes["sip.trunkID"] = trunk.sip_trunk_id
            if not asked.hide_phone_number:
                attributes["sip.phoneNumber"] = asked.sip_call_to
                attributes["sip.trunkPhoneNumber"] = placed.caller_id
            sid = await callee.join(attributes)
            await self._note(placed)
            ringing = asked.ringing_timeout.ToTimedelta() or _RINGING
            limit = asked.max_call_duration.ToTimedelta()
            rings = asyncio.create_task(self._ring(callee, ringing, limit))
            self._pending.add(rings)
            rings.add_done_callback(self._pending.discard)
            if asked.wait_until_answered:
                failed = await asyncio.shield(rings)
                if failed is not None:
                    raise _failure(*failed)
            answer.message = api.SIPParticipantInfo(
                participant_id=sid,
                participant_identity=placed.identity,
                room_name=placed.room,
                sip_call_id=callee.call_id,
            )
        return answer.response(request)

    async def _ring(
        self, callee: Callee, ringing: timedelta, limit: timedelta
    ) -> tuple[int, str] | None:
        failed = await callee.answer(ringing)
        if failed is None and limit:
            task = asyncio.create_task(self._hang_up_after(callee, limit))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)
        return failed

    async def _hang_up_after(self, callee: Callee, limit: timedelta) -> None:
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await callee.placed.over.wait()
        except TimeoutError:
            await callee.aclose()

    async def _transfer(self, request: web.Request) -> web.Response:
        async with _answering() as answer:
            claims = self._claims(request)
            asked = await _read(request, api.TransferSIPParticipantRequest())
            assert isinstance(asked, api.TransferSIPParticipantRequest)
            if not asked.room_name:
                raise _Refused("invalid_argument", f"{_WRAPPED}Missing room name")
            if not asked.participant_identity:
                raise _Refused("invalid_argument", f"{_WRAPPED}Missing participant identity")
            video = claims.video if claims else None
            rules_it = video and video.room_admin and video.room == asked.room_name
            if not _may_call(claims) or not rules_it:
                raise _Refused("unauthenticated", "permissions denied")
            if not asked.transfer_to:
                raise _Refused("invalid_argument", "missing transfer to")
            found = await self._api.room.list_participants(
                api.ListParticipantsRequest(room=asked.room_name)
            )
            if not any(one.identity == asked.participant_identity for one in found.participants):
                raise _Refused("not_found", f"{_WRAPPED}participant does not exist")
            to = asked.transfer_to
            number = to.partition(":")[2].partition("@")[0] if ":" in to else to
            placed = Placed(
                number, asked.room_name, asked.participant_identity, headers=dict(asked.headers)
            )
            await self._note(placed)
            phone = self.phones.get(number, ANSWERS)
            ringing = asked.ringing_timeout.ToTimedelta() or _RINGING
            rings = phone.rings
            await asyncio.sleep((ringing if rings is None else min(rings, ringing)).total_seconds())
            placed.over.set()
            if rings is None or rings > ringing:
                placed.outcome = "refused"
                raise _Refused(
                    "canceled", "transfer timed out", {"sip_transfer_reason": "STR_RINGING_TIMEOUT"}
                )
            if phone.refuses is not None:
                placed.outcome = "refused"
                raise _failure(*phone.refuses, transfer=True)
            placed.outcome = "transferred"
            await self._api.room.send_data(
                api.SendDataRequest(
                    room=asked.room_name,
                    kind=api.DataPacket.Kind.RELIABLE,
                    destination_identities=[asked.participant_identity],
                    topic=BYE,
                )
            )
            answer.message = TransferSIPParticipantResponse(
                status=SIPTransferStatus.STS_TRANSFER_SUCCESSFUL
            )
        return answer.response(request)

    def _claims(self, request: web.Request) -> Claims | None:
        """What the token allows; None without one, which each method refuses for itself."""
        given = request.headers.get("Authorization", "")
        if not given:
            return None
        scheme, _, token = given.partition(" ")
        if scheme != "Bearer":
            raise _Stranger("invalid authorization header. Must start with Bearer ")
        if token.count(".") != 2:
            raise _Stranger("invalid authorization token")
        try:
            return api.TokenVerifier(self._behind.api_key, self._behind.api_secret).verify(token)
        except Exception as error:
            raise _Stranger(f"invalid token: {token}, error: {error}") from None

    # Everything else ----------------------------------------------------------------------------

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        url = self._http_url + request.rel_url.raw_path_qs
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._relay(request, url, headers)
        async with self._client.request(
            request.method, url, headers=headers, data=await request.read()
        ) as answer:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    async def _relay(
        self, request: web.Request, url: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        kept = {k: v for k, v in headers.items() if not k.lower().startswith("sec-websocket")}
        try:
            theirs = await self._client.ws_connect(url, headers=kept, max_msg_size=0)
        except Exception as error:
            return web.Response(status=getattr(error, "status", 502), text=str(error))
        ours = web.WebSocketResponse(max_msg_size=0)
        await ours.prepare(request)

        async def pump(source: Any, sink: Any) -> None:
            async for message in source:
                if message.type is WSMsgType.BINARY:
                    await sink.send_bytes(message.data)
                elif message.type is WSMsgType.TEXT:
                    await sink.send_str(message.data)
            await sink.close()

        ways = [asyncio.create_task(pump(ours, theirs)), asyncio.create_task(pump(theirs, ours))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await theirs.close()
            await ours.close()
        return ours


class _Answer:
    """What a method answers: a message, or an error."""

    message: Message | None = None
    refused: _Refused | None = None

    def response(self, request: web.Request) -> web.Response:
        if self.refused is not None:
            return self.refused.response()
        assert self.message is not None
        if request.content_type == "application/json":
            return web.json_response(MessageToDict(self.message, preserving_proto_field_name=True))
        return web.Response(
            body=self.message.SerializeToString(), content_type="application/protobuf"
        )


@contextlib.asynccontextmanager
async def _answering() -> AsyncIterator[_Answer]:
    answer = _Answer()
    try:
        yield answer
    except _Refused as refused:
        answer.refused = refused


async def _read(request: web.Request, message: Message) -> Message:
    body = await request.read()
    is_json = request.content_type == "application/json"
    try:
        if is_json:
            Parse(body, message, ignore_unknown_fields=True)
        else:
            message.ParseFromString(body)
    except (ParseError, DecodeError):
        form = "json" if is_json else "protobuf"
        raise _Refused("malformed", f"the {form} request could not be decoded") from None
    return message


def _may_call(claims: Claims | None) -> bool:
    return claims is not None and claims.sip is not None and bool(claims.sip.call)


def _failure(status: int, phrase: str, *, transfer: bool = False) -> _Refused:
    """A refusal as livekit-sip tells it; ringing out comes without a SIP status."""
    if status == 408:
        return _Refused("canceled", "sip request timed out")
    if status == 487:
        return _Refused("canceled", "call was cancelled")
    meta = {"sip_status_code": str(status), "sip_status": phrase}
    if transfer:
        meta["sip_transfer_reason"] = "STR_REJECTED"
    return _Refused("resource_exhausted", f"sip status: {status}: {phrase}", meta)
