"""LiveKit's server API, as much of it as the product uses: what it stores for telephony, rooms, dispatch.

The only way to LiveKit outside a job. Bodies of trunks and rules are LiveKit's own messages in
protobuf's JSON form with snake_case names (``ringing_timeout: "60s"``), without what the server
writes itself (ids, times), so that two of them can be compared field by field whoever wrote them.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

import aiohttp
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from livekit import api
from livekit.protocol.sip import SIPTransferStatus

Dispatch = api.AgentDispatch
"""What was sent for to a room, with the jobs that came of it."""

Kind = Literal["inbound", "outbound", "rule"]
"""What LiveKit stores for telephony: trunks for calls that come and that go, and dispatch rules."""

PROBE = "trunkline.probe"
"""Metadata of a dispatch that only asks whether an agent is there. A worker that knows it rejects the
request (``JobRequest.reject()`` ends the job as done), which counts as being there and starts nothing."""

PROBE_ROOM = "trunkline-probe-"
"""How the rooms begin that only try something out."""

CONSULT_ROOM = "trunkline-consult-"
"""How the rooms begin in which somebody is asked, apart from the caller, whether they take a call; the
name of the caller's room follows. They are no calls of their own."""

_MESSAGES: dict[Kind, type[Message]] = {
    "inbound": api.SIPInboundTrunkInfo,
    "outbound": api.SIPOutboundTrunkInfo,
    "rule": api.SIPDispatchRuleInfo,
}
_ID: dict[Kind, str] = {
    "inbound": "sip_trunk_id",
    "outbound": "sip_trunk_id",
    "rule": "sip_dispatch_rule_id",
}
_SERVERS_OWN = frozenset({"sip_trunk_id", "sip_dispatch_rule_id", "created_at", "updated_at"})
_DIAL, _REFER = "place the call", "transfer the call"
_RANG_OUT = ("sip request timed out", "request timed out", "context deadline exceeded")
"""What is said, without a SIP status, when nobody answers: by livekit-sip (code canceled) of a call that
rings out, by livekit-server (deadline_exceeded, ``wrapSIPContextError``) when *ringing* is over first."""
_WRAPPED = "twirp error unknown: "
"""Before what livekit-server 1.13.5 is told of a transfer by livekit-sip."""
_SETS = frozenset(
    {"numbers", "allowed_addresses", "allowed_numbers", "inbound_numbers", "trunk_ids"}
)
"""Lists whose order means nothing."""


@dataclass(frozen=True)
class LiveKitOptions:
    """Where LiveKit is and who we are to it. ``url`` as LIVEKIT_URL has it: ws, wss, http or https."""

    url: str
    api_key: str
    api_secret: str = field(repr=False)
    timeout: timedelta = timedelta(seconds=10)
    """Of one request."""


class LiveKitFailed(Exception):
    """LiveKit did not do what it was asked; the message is one sentence that says what to do.

    ``reached`` is False when no answer came, so that nobody can know whether it was done.
    """

    def __init__(self, message: str, *, reached: bool = True) -> None:
        super().__init__(message)
        self.reached = reached


class SipFailed(LiveKitFailed):
    """A call that we placed, or a transfer, did not come about.

    ``status`` is the final SIP status (RFC 3261 §21: 486 busy, 603 declined, 408 nobody answered …), None
    when none came; ``reason`` the phrase beside it.
    """

    def __init__(self, message: str, *, status: int | None, reason: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Stored:
    """A trunk or a rule that LiveKit has."""

    kind: Kind
    id: str
    body: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """The name people gave it; may be empty."""
        return str(self.body.get("name", ""))


class LiveKit:
    """An open connection; every method raises LiveKitFailed and takes at most the options' timeout."""

    def __init__(self, client: api.LiveKitAPI, options: LiveKitOptions) -> None:
        self._client, self._options = client, options

    @property
    def url(self) -> str:
        """The address it was opened with."""
        return self._options.url

    async def stored(self) -> list[Stored]:
        """All inbound trunks, outbound trunks and rules, each kind in order of its ids."""
        async with self._asking("list its trunks and rules"):
            sip = self._client.sip
            lists: dict[Kind, Any] = {
                "inbound": await sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest()),
                "outbound": await sip.list_outbound_trunk(api.ListSIPOutboundTrunkRequest()),
                "rule": await sip.list_dispatch_rule(api.ListSIPDispatchRuleRequest()),
            }
        found = [
            Stored(kind, str(getattr(item, _ID[kind])), canonical(kind, body_of(item)))
            for kind, listed in lists.items()
            for item in listed.items
        ]
        return sorted(found, key=lambda one: (list(lists).index(one.kind), one.id))

    async def create(self, kind: Kind, body: Mapping[str, Any]) -> str:
        """Store a new one and return its id. LiveKit refuses one that conflicts with another."""
        message: Any = _message(kind, body)
        sip = self._client.sip
        async with self._asking(f"create {_WORDS[kind]} {body.get('name', '')!r}"):
            if kind == "inbound":
                made: Any = await sip.create_inbound_trunk(
                    api.CreateSIPInboundTrunkRequest(trunk=message)
                )
            elif kind == "outbound":
                made = await sip.create_outbound_trunk(
                    api.CreateSIPOutboundTrunkRequest(trunk=message)
                )
            else:
                made = await sip.create_dispatch_rule(
                    api.CreateSIPDispatchRuleRequest(dispatch_rule=message)
                )
        return str(getattr(made, _ID[kind]))

    async def replace(self, kind: Kind, id: str, body: Mapping[str, Any]) -> None:
        """Make the stored one exactly *body*; what *body* leaves out is unset."""
        message: Any = _message(kind, body)
        sip = self._client.sip
        async with self._asking(f"change {_WORDS[kind]} {id}"):
            if kind == "inbound":
                await sip.update_inbound_trunk(id, message)
            elif kind == "outbound":
                await sip.update_outbound_trunk(id, message)
            else:
                await sip.update_dispatch_rule(id, message)

    async def delete(self, kind: Kind, id: str) -> None:
        """Remove it; one that is gone already is no error."""
        sip = self._client.sip
        async with self._asking(f"delete {_WORDS[kind]} {id}", gone_is_fine=True):
            if kind == "rule":
                await sip.delete_dispatch_rule(
                    api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=id)
                )
            else:
                await sip.delete_trunk(api.DeleteSIPTrunkRequest(sip_trunk_id=id))

    async def rooms(self, *names: str) -> list[api.Room]:
        """The rooms of these names that exist; all of them without a name."""
        async with self._asking("list its rooms"):
            listed = await self._client.room.list_rooms(api.ListRoomsRequest(names=names))
        return list(listed.rooms)

    async def participants(self, room: str) -> list[api.ParticipantInfo]:
        """Who is in the room; nobody when there is no such room."""
        found: list[api.ParticipantInfo] = []
        async with self._asking(f"list who is in {room}", gone_is_fine=True):
            request = api.ListParticipantsRequest(room=room)
            found += (await self._client.room.list_participants(request)).participants
        return found

    async def dispatch(self, room: str, agent: str, *, metadata: str = "") -> str:
        """Send for *agent* to *room*, which is made if need be. Returns the dispatch's id.

        LiveKit accepts it also when no worker is there, and then never tries again.
        """
        async with self._asking(f"dispatch {agent} to {room}"):
            made = await self._client.agent_dispatch.create_dispatch(
                api.CreateAgentDispatchRequest(agent_name=agent, room=room, metadata=metadata)
            )
        return made.id

    async def dispatches(self, room: str) -> list[Dispatch]:
        """What was sent for to the room, each with the jobs that came of it; nothing without such a room."""
        found: list[Dispatch] = []
        async with self._asking(f"list the dispatches of {room}", gone_is_fine=True):
            try:
                found += await self._client.agent_dispatch.list_dispatch(room)
            except api.ServerError as error:
                # Asked of the node that holds the room, which there is none of.
                if "no response from servers" not in error.message:
                    raise
        return found

    async def outbound_trunk(self, number: str | None) -> str | None:
        """The id of the outbound trunk that may show *number* (E.164); None: of the first there is.

        A trunk whose numbers are ``*`` may show any. None when no trunk fits.
        """
        async with self._asking("list its outbound trunks"):
            found = await self._client.sip.list_outbound_trunk(api.ListSIPOutboundTrunkRequest())
        for trunk in sorted(found.items, key=lambda one: one.sip_trunk_id):
            if number is None or number in trunk.numbers or "*" in trunk.numbers:
                return trunk.sip_trunk_id
        return None

    async def dial(
        self,
        *,
        room: str,
        trunk: str,
        to: str,
        caller_id: str | None,
        identity: str,
        ringing: timedelta,
        max_duration: timedelta,
        attributes: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        display_name: str | None = None,
        wait: bool = True,
    ) -> str:
        """Call *to* over *trunk* and put them into *room* as participant *identity*; returns ``sip.callID``.

        With *wait* it comes back when they have answered, at the latest after *ringing*. *caller_id* is
        one of the trunk's numbers. Raises SipFailed when nobody answered or the carrier refused.
        """
        request = api.CreateSIPParticipantRequest(
            sip_trunk_id=trunk,
            sip_call_to=to,
            sip_number=caller_id or "",
            room_name=room,
            participant_identity=identity,
            participant_attributes=dict(attributes or {}),
            headers=dict(headers or {}),
            wait_until_answered=wait,
        )
        if display_name is not None:
            request.display_name = display_name
        request.ringing_timeout.FromTimedelta(ringing)
        request.max_call_duration.FromTimedelta(max_duration)
        async with self._asking(_DIAL):
            # Longer than the ringing, of which livekit-sip tells by itself when it is over.
            timeout = ringing + self._options.timeout if wait else self._options.timeout
            placed = await self._client.sip.create_sip_participant(
                request, timeout=timeout.total_seconds()
            )
        return placed.sip_call_id

    async def refer(
        self,
        room: str,
        identity: str,
        to: str,
        *,
        ringing: timedelta,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let the carrier connect the caller *identity* with *to*, a ``tel:`` or ``sip:`` URI (RFC 3515).

        Comes back when they are connected; the caller has left the room then. Raises SipFailed when the
        carrier refuses or they are not reached: the caller is still there.
        """
        request = api.TransferSIPParticipantRequest(
            room_name=room,
            participant_identity=identity,
            transfer_to=to,
            headers=dict(headers or {}),
        )
        request.ringing_timeout.FromTimedelta(ringing)
        async with self._asking(_REFER):
            timeout = ringing + self._options.timeout
            done = await self._client.sip.transfer_sip_participant(
                request, timeout=timeout.total_seconds()
            )
        # A failure may come as an answer too (livekit-api 1.2, TransferSIPParticipantResponse).
        # livekit-server 1.13.5 answers a success with an empty one (service/sip.go), which reads as ongoing.
        ongoing = done.transfer_id and done.status == SIPTransferStatus.STS_TRANSFER_ONGOING
        if ongoing or done.status == SIPTransferStatus.STS_TRANSFER_FAILED:
            status = int(done.sip_status.code) or None
            raise _sip_failed(_REFER, status, done.sip_status.status)

    async def remove_participant(self, room: str, identity: str) -> None:
        """Take somebody out of the room; one who is gone already is no error."""
        async with self._asking(f"remove a participant of {room}", gone_is_fine=True):
            await self._client.room.remove_participant(
                api.RoomParticipantIdentity(room=room, identity=identity)
            )

    async def open_room(self, room: str) -> None:
        """Make an empty room, which LiveKit ends by itself after half a minute."""
        async with self._asking(f"make the room {room}"):
            await self._client.room.create_room(api.CreateRoomRequest(name=room, empty_timeout=30))

    async def delete_room(self, room: str) -> None:
        """End the room for everybody: callers hear the line close. One that is gone is no error."""
        async with self._asking(f"delete the room {room}", gone_is_fine=True):
            await self._client.room.delete_room(api.DeleteRoomRequest(room=room))

    async def answers(self, agent: str, *, patience: timedelta = timedelta(seconds=7)) -> bool:
        """Whether a worker of that name is registered and free for a call.

        The open-source server has no list of its workers (1.13.5: ``AgentHandler.workers`` is behind
        no API), so this sends for the agent to a room of its own, with PROBE as metadata, and deletes
        the room. A full worker looks like none, since LiveKit asks neither. *patience* ought to exceed
        the 5 s for which the server collects who is there (``CheckEnabledTimeout``) before it shows a
        job; it remembers that for a minute, and is at once then.
        """
        room = f"{PROBE_ROOM}{uuid.uuid4().hex}"
        send_for = api.RoomAgentDispatch(agent_name=agent, metadata=PROBE)
        try:
            async with asyncio.timeout(patience.total_seconds()):
                async with self._asking(f"make the room {room}"):
                    await self._client.room.create_room(
                        api.CreateRoomRequest(name=room, empty_timeout=30, agents=[send_for])
                    )
                # No event tells us that the job was noted.
                while not any(d.state.jobs for d in await self.dispatches(room)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return False
        else:
            return True
        finally:
            await self.delete_room(room)

    @asynccontextmanager
    async def _asking(self, what: str, *, gone_is_fine: bool = False) -> AsyncIterator[None]:
        try:
            yield
        except api.ServerError as error:
            if isinstance(error, api.SipCallError):
                reason = error.sip_status or error.sip_transfer_reason or error.message
                timed_out = error.sip_transfer_reason == "STR_RINGING_TIMEOUT"
                status = error.sip_status_code or (408 if timed_out else None)
                raise _sip_failed(what, status, reason) from error
            said = error.message.removeprefix(_WRAPPED)
            if what in (_DIAL, _REFER) and said.startswith(_RANG_OUT):
                raise _sip_failed(what, 408, "Request Timeout") from error
            if not (gone_is_fine and error.code == api.ServerErrorCode.NOT_FOUND):
                raise LiveKitFailed(_refused(error, what, self._options)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise LiveKitFailed(
                f"LiveKit at {self.url} cannot be reached ({_why(error)}); "
                "is livekit-server running, and is LIVEKIT_URL right?",
                reached=False,
            ) from error


@asynccontextmanager
async def open_livekit(options: LiveKitOptions) -> AsyncIterator[LiveKit]:
    """Connect; nothing is asked yet. Raises LiveKitFailed when the address is none."""
    scheme, _, host = options.url.partition("://")
    if scheme not in ("ws", "wss", "http", "https") or not host:
        raise LiveKitFailed(
            f"LIVEKIT_URL {options.url!r} is no address; write it like ws://127.0.0.1:7880"
        )
    client = api.LiveKitAPI(
        options.url,
        options.api_key,
        options.api_secret,
        timeout=aiohttp.ClientTimeout(total=options.timeout.total_seconds()),
    )
    try:
        yield LiveKit(client, options)
    finally:
        await client.aclose()


def canonical(kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
    """*body* as it compares: without ids and times, sets in order, nothing said in two ways.

    Raises LiveKitFailed when it is no message of that kind.
    """
    plain = body_of(_message(kind, body))
    kept = {name: value for name, value in plain.items() if name not in _SERVERS_OWN}
    # Deprecated, and what the server itself upgrades it to (livekit/protocol sip.go UpgradeWith).
    old = kept.pop("media_encryption", None)
    media = dict(kept.pop("media", {}))
    if old is not None:
        media.setdefault("encryption", old)
    if media:
        kept["media"] = media
    if not kept.get("room_config", True):
        del kept["room_config"]
    return {n: sorted(v) if n in _SETS else v for n, v in kept.items()}


def body_of(message: Message) -> dict[str, Any]:
    """A message in protobuf's JSON form, with the names the protocol files use."""
    return MessageToDict(message, preserving_proto_field_name=True)


_WORDS: dict[Kind, str] = {
    "inbound": "the inbound trunk",
    "outbound": "the outbound trunk",
    "rule": "the rule",
}


def _message(kind: Kind, body: Mapping[str, Any]) -> Message:
    try:
        return ParseDict(dict(body), _MESSAGES[kind]())
    except ParseError as error:
        raise LiveKitFailed(f"this is not {_WORDS[kind]} as LiveKit knows it: {error}") from error


def _sip_failed(what: str, status: int | None, reason: str) -> SipFailed:
    told = f"{status} {reason}".strip() if status else reason or "no reason given"
    return SipFailed(f"the other side did not let us {what}: {told}", status=status, reason=reason)


def _refused(error: api.ServerError, what: str, options: LiveKitOptions) -> str:
    said = error.message.strip() or f"status {error.status}"
    if error.status in (401, 403) or error.code in ("unauthenticated", "permission_denied"):
        return (
            f"LiveKit at {options.url} does not accept the key {options.api_key!r} ({said}); LIVEKIT_API_KEY "
            "and LIVEKIT_API_SECRET must be a pair that its livekit.yaml lists under keys"
        )
    if "sip not connected" in said:
        return (
            f"LiveKit at {options.url} runs without Redis and so keeps no trunks; "
            "set redis.address in its livekit.yaml"
        )
    if what in (_DIAL, _REFER) and "no response from servers" in said:
        return (
            f"LiveKit at {options.url} has nobody who makes telephone calls; is livekit-sip running, with "
            "the same Redis?"
        )
    if error.status == 404 and error.code in ("unknown", "bad_route"):
        return f"what answers at {options.url} is not LiveKit's server API; is LIVEKIT_URL right?"
    return f"LiveKit at {options.url} would not {what}: {said}"


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name was not found"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or "no connection"
    return str(error) or type(error).__name__
