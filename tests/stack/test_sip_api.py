"""The simulated telephones behave in a real room as livekit-sip's participants do."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from livekit import api, rtc

from trunkline.agent.audio import FRAME, FRAME_S
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.kit.livekit import LiveKit, LiveKitFailed, LiveKitOptions, SipFailed, open_livekit
from trunkline.sandbox.phones import (
    BUSY,
    DECLINES,
    RINGS_OUT,
    TRUNK_DOWN,
    UNKNOWN,
    UNREACHABLE,
    Listener,
    Phone,
)
from trunkline.sandbox.sip import Dial, SipCall

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

    from trunkline.sandbox.sip_api import SipApi

S = timedelta(seconds=1)
TO = "+12025550177"
TONE = b"".join(
    (8000 if n % 20 < 10 else -8000).to_bytes(2, "little", signed=True) for n in range(FRAME)
)
"""400 Hz, loud."""


@pytest.fixture
async def port(sip_api: "SipApi") -> AsyncIterator[LiveKit]:
    """The product's own port, through the front."""
    async with open_livekit(sip_api.options) as opened:
        yield opened


@pytest.fixture
async def watcher(sip_api: "SipApi") -> AsyncIterator[rtc.Room]:
    """Somebody in the room through the front's websocket, who publishes a tone."""
    token = (
        api.AccessToken(sip_api.options.api_key, sip_api.options.api_secret)
        .with_identity("watcher")
        .with_grants(api.VideoGrants(room_join=True, room="phones"))
        .to_jwt()
    )
    room = rtc.Room()
    await room.connect(sip_api.options.url, token)
    source = rtc.AudioSource(LINE_RATE_HZ, 1, queue_size_ms=200)
    track = rtc.LocalAudioTrack.create_audio_track("tone", source)
    await room.local_participant.publish_track(
        track, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    )

    async def sound() -> None:
        while True:
            await source.capture_frame(rtc.AudioFrame(TONE, LINE_RATE_HZ, 1, FRAME))
            await asyncio.sleep(FRAME_S)  # pace: a track runs in real time

    sounding = asyncio.create_task(sound())
    yield room
    sounding.cancel()
    await room.disconnect()


async def dial(port: LiveKit, *, ringing: timedelta = 5 * S, wait: bool = True) -> str:
    trunk = await port.outbound_trunk("+12025550100")
    assert trunk is not None
    return await port.dial(
        room="phones",
        trunk=trunk,
        to=TO,
        caller_id="+12025550100",
        identity="callee",
        ringing=ringing,
        max_duration=60 * S,
        attributes={"trunkline.leg": "leg_1"},
        headers={"X-Reason": "callback"},
        wait=wait,
    )


class Gone:
    """The reason for which a participant leaves."""

    def __init__(self, room: rtc.Room) -> None:
        self.reason: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.seen: list[str] = []
        room.on("participant_disconnected", self._left)
        room.on("participant_attributes_changed", self._changed)

    def _left(self, who: rtc.RemoteParticipant) -> None:
        if not self.reason.done():
            self.reason.set_result(who.disconnect_reason)

    def _changed(self, changed: dict[str, str], who: rtc.Participant) -> None:
        if "sip.callStatus" in changed:
            self.seen.append(changed["sip.callStatus"])


async def test_a_phone_that_answers(sip_api: "SipApi", port: LiveKit, watcher: rtc.Room) -> None:
    """The call comes back when it is answered; the phone hears the room, gets keys and can hang up."""
    gone = Gone(watcher)

    class Hears(Listener):
        def __init__(self) -> None:
            self.loud = 0

        def exchange(self, heard: bytes) -> bytes | None:
            self.loud += max(heard) > 10
            return None if self.loud > 100 else TONE

    sip_api.phones[TO] = Phone(who=Hears)
    call_id = await dial(port)
    placed = await sip_api.placed(TO)
    callee = watcher.remote_participants["callee"]
    assert callee.kind == rtc.ParticipantKind.PARTICIPANT_KIND_SIP
    assert callee.attributes["sip.callID"] == call_id
    assert callee.attributes["trunkline.leg"] == "leg_1"
    assert callee.attributes["sip.phoneNumber"] == TO
    assert (placed.caller_id, placed.headers) == ("+12025550100", {"X-Reason": "callback"})
    for digit in "1#":
        await watcher.local_participant.publish_dtmf(code="0123456789*#".index(digit), digit=digit)
    async with asyncio.timeout(120):
        assert await gone.reason == rtc.DisconnectReason.CLIENT_INITIATED
        await placed.over.wait()
    assert placed.keys == "1#"
    assert placed.outcome == "answered"
    assert gone.seen[-2:] == ["active", "hangup"]  # ringing may come with the joining


@pytest.mark.parametrize(
    ("phone", "ringing", "status", "reason", "outcome"),
    [
        (BUSY, 5 * S, 486, rtc.DisconnectReason.USER_REJECTED, "refused"),
        (DECLINES, 5 * S, 603, rtc.DisconnectReason.USER_REJECTED, "refused"),
        (UNKNOWN, 5 * S, 404, rtc.DisconnectReason.USER_REJECTED, "refused"),
        (UNREACHABLE, 5 * S, 480, rtc.DisconnectReason.USER_REJECTED, "refused"),
        (TRUNK_DOWN, 5 * S, 503, rtc.DisconnectReason.USER_REJECTED, "refused"),
        (RINGS_OUT, 0.3 * S, 408, rtc.DisconnectReason.USER_UNAVAILABLE, "rang out"),
    ],
)
async def test_a_phone_that_is_not_answered(
    sip_api: "SipApi",
    port: LiveKit,
    watcher: rtc.Room,
    phone: Phone,
    ringing: timedelta,
    status: int,
    reason: int,
    outcome: str,
) -> None:
    """Each refusal is an error with its SIP status, and the participant leaves for its own reason."""
    sip_api.phones[TO] = phone
    gone = Gone(watcher)
    with pytest.raises(SipFailed) as failed:
        await dial(port, ringing=ringing)
    assert failed.value.status == status
    async with asyncio.timeout(120):
        assert await gone.reason == reason
    assert (await sip_api.placed(TO)).outcome == outcome


async def test_a_call_that_is_given_up_while_it_rings(
    sip_api: "SipApi", port: LiveKit, watcher: rtc.Room
) -> None:
    """Without waiting the call comes back at once; removing the participant stops the ringing."""
    sip_api.phones[TO] = RINGS_OUT
    await dial(port, wait=False)
    await port.remove_participant("phones", "callee")
    placed = await sip_api.placed(TO)
    async with asyncio.timeout(120):
        await placed.over.wait()
    assert placed.outcome == "cancelled"


@pytest.mark.parametrize(
    ("phone", "status"),
    [(Phone(), None), (BUSY, 486), (DECLINES, 603), (RINGS_OUT, 408)],
)
async def test_a_caller_is_referred(
    sip_api: "SipApi",
    port: LiveKit,
    watcher: rtc.Room,
    phone: Phone,
    status: int | None,
) -> None:
    """An accepted REFER takes the caller away as if they had hung up; a refused one leaves them there."""
    sip_api.phones[TO] = phone
    gone = Gone(watcher)
    call = SipCall(
        sip_api.options, Dial("phones", "+12025550134", "+12025550100", agent=None), Listener()
    )
    calling = asyncio.create_task(call.run())
    async with asyncio.timeout(120):
        await call.wait_answered()
    if status is None:
        await port.refer("phones", "sip_+12025550134", f"tel:{TO}", ringing=2 * S)
        async with asyncio.timeout(120):
            assert (await calling).how == "transferred"
            assert await gone.reason == rtc.DisconnectReason.CLIENT_INITIATED
    else:
        with pytest.raises(SipFailed) as failed:
            await port.refer("phones", "sip_+12025550134", f"tel:{TO}", ringing=0.5 * S)
        assert failed.value.status == status
        assert not calling.done()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    placed = await sip_api.placed(TO)
    assert placed.outcome == ("transferred" if status is None else "refused")


async def test_what_the_front_refuses(sip_api: "SipApi", port: LiveKit) -> None:
    """A wrong key, an unknown trunk and a participant who is not there are told as livekit-server does."""
    with pytest.raises(LiveKitFailed, match="trunk does not exist"):
        await port.dial(
            room="phones",
            trunk="ST_none",
            to=TO,
            caller_id=None,
            identity="x",
            ringing=S,
            max_duration=S,
        )
    with pytest.raises(LiveKitFailed):
        await port.refer("phones", "sip_nobody", f"tel:{TO}", ringing=S)
    wrong = LiveKitOptions(sip_api.options.url, sip_api.options.api_key, "not-the-secret" * 4)
    async with open_livekit(wrong) as stranger:
        with pytest.raises(LiveKitFailed, match="does not accept the key"):
            await stranger.refer("phones", "x", f"tel:{TO}", ringing=S)
        with pytest.raises(LiveKitFailed, match="does not accept the key"):
            await stranger.rooms()
    assert await port.outbound_trunk("+12025550199") is None


CALL = api.SIPGrants(call=True)
ADMIN = api.VideoGrants(room_admin=True, room="phones")


@pytest.mark.parametrize("method", ["CreateSIPParticipant", "TransferSIPParticipant"])
@pytest.mark.parametrize(
    ("grants", "body"),
    [
        (None, b"{}"),
        ("Basic abc", b"{}"),
        ("Bearer abc", b"{}"),
        ((), b"{}"),
        ((), b'{"room_name": "phones", "participant_identity": "x"}'),
        ((CALL,), b'{"room_name": "phones", "participant_identity": "x"}'),
        ((ADMIN,), b'{"room_name": "phones", "participant_identity": "x"}'),
        ((CALL, api.VideoGrants(room_admin=True, room="other")), b'{"room_name": "phones"}'),
        ((CALL, ADMIN), b"{not json"),
        ((CALL, ADMIN), b'{"no_such_field": 1}'),
        ((CALL, ADMIN), b'{"room_name": "phones"}'),
        ((CALL, ADMIN), b'{"sip_trunk_id": "ST_x", "room_name": "phones"}'),
        ((CALL, ADMIN), b'{"sip_trunk_id": "ST_x", "sip_call_to": "+12025550177"}'),
        ((CALL, ADMIN), b'{"sipTrunkId": "ST_x", "sipCallTo": "+1202", "roomName": "phones"}'),
        ((CALL, ADMIN), b'{"room_name": "phones", "participant_identity": "x"}'),
    ],
)
async def test_the_front_answers_what_the_server_answers(
    sip_api: "SipApi", livekit_server: "LiveKitServer", method: str, grants: Any, body: bytes
) -> None:
    """What never gets as far as livekit-sip is refused by the front word for word as by the server."""
    headers = {"Content-Type": "application/json"}
    if isinstance(grants, str):
        headers["Authorization"] = grants
    elif grants is not None:
        token = api.AccessToken(livekit_server.api_key, livekit_server.api_secret)
        for grant in grants:
            is_sip = isinstance(grant, api.SIPGrants)
            token = token.with_sip_grants(grant) if is_sip else token.with_grants(grant)
        headers["Authorization"] = f"Bearer {token.to_jwt()}"
    told = []
    async with httpx.AsyncClient(timeout=60) as client:
        for options in (livekit_server.options, sip_api.options):
            url = options.url.replace("ws", "http", 1) + f"/twirp/livekit.SIP/{method}"
            answer = await client.post(url, headers=headers, content=body)
            kind = answer.headers["Content-Type"].partition(";")[0]
            said = answer.json() if kind == "application/json" else answer.text.strip()
            told.append((answer.status_code, kind, said))
    assert told[0][0] >= 400
    assert told[1] == told[0]


async def test_an_announcement_is_no_answer(
    sip_api: "SipApi", port: LiveKit, watcher: rtc.Room
) -> None:
    """What a phone plays before it answers is heard in the room, while the call still rings."""
    sip_api.phones[TO] = Phone(rings=None, early_media=TONE * 500)
    loud: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    hearing: list[asyncio.Task[None]] = []

    async def listen(track: rtc.Track, who: rtc.RemoteParticipant) -> None:
        stream = rtc.AudioStream.from_track(track=track, sample_rate=8000, num_channels=1)
        async for event in stream:
            if max(event.frame.data) > 4000 and not loud.done():
                loud.set_result(who.attributes["sip.callStatus"])
        await stream.aclose()

    watcher.on(
        "track_subscribed",
        lambda track, _, who: hearing.append(asyncio.create_task(listen(track, who))),
    )
    dialling = asyncio.create_task(dial(port, ringing=30 * S))
    placed = await sip_api.placed(TO)
    async with asyncio.timeout(120):
        assert await loud == "ringing"
    assert not dialling.done()
    assert not placed.answered.is_set()
    await port.remove_participant("phones", "callee")
    with pytest.raises(LiveKitFailed):
        await dialling
    assert placed.outcome == "cancelled"
    for task in hearing:
        task.cancel()
    await asyncio.gather(*hearing, return_exceptions=True)


class GivesUp(Listener):
    """Rings for a while and puts the receiver down."""

    def __init__(self) -> None:
        self.rang = 0

    def ringing(self) -> bool:
        self.rang += 1
        return self.rang < 25


async def test_a_caller_gives_up_before_the_answer(
    sip_api: "SipApi", watcher: rtc.Room, port: LiveKit
) -> None:
    """CANCEL while it rings: the caller leaves by itself, was never answered and never published a track."""
    for publication in list(watcher.local_participant.track_publications.values()):
        await watcher.local_participant.unpublish_track(publication.sid)
    gone, tracks = Gone(watcher), []
    watcher.on("track_published", lambda *which: tracks.append(which))
    dial = Dial("phones", "+12025550134", "+12025550100", agent=None)
    over = await SipCall(sip_api.options, dial, GivesUp()).run()
    assert (over.how, over.rang_ms, over.first_sound_ms) == ("gave up", None, None)
    async with asyncio.timeout(120):
        assert await gone.reason == rtc.DisconnectReason.CLIENT_INITIATED
    assert "active" not in gone.seen  # the hangup may come with the leaving
    assert not tracks


class Presses(Listener):
    """Presses keys once answered, and hangs up after three seconds."""

    def __init__(self, keys: str) -> None:
        self._keys = list(keys)
        self._frames = round(3 / FRAME_S)

    def exchange(self, heard: bytes) -> bytes | None:
        self._frames -= 1
        return TONE if self._frames else None

    def pressed(self) -> str:
        return self._keys.pop(0) if self._keys else ""


async def test_keys_and_late_attributes(sip_api: "SipApi", watcher: rtc.Room) -> None:
    """Each key is one packet with its code, twice the same key is two; attributes may come afterwards."""
    keys: list[tuple[int, str]] = []
    changed: list[dict[str, str]] = []
    watcher.on("sip_dtmf_received", lambda packet: keys.append((packet.code, packet.digit)))
    watcher.on("participant_attributes_changed", lambda what, who: changed.append(what))
    told: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
    watcher.on("participant_connected", lambda who: told.set_result(dict(who.attributes)))
    gone = asyncio.Event()
    watcher.on("participant_disconnected", lambda who: gone.set())
    dial = Dial("phones", "+12025550134", "+12025550100", agent=None, late=1.5 * S)
    call = asyncio.create_task(SipCall(sip_api.options, dial, Presses("115*#5550")).run())
    async with asyncio.timeout(120):
        assert "sip.callID" not in await told
        assert (await call).how == "caller"
        await gone.wait()  # what came before it has been heard of, too
        while len(keys) < len("115*#5550"):  # noqa: ASYNC110 - LiveKit tells by callback
            await asyncio.sleep(0.01)  # pace: packets are not in step with who comes and goes
    assert "".join(digit for _, digit in keys) == "115*#5550"
    assert keys[3:5] == [(10, "*"), (11, "#")]
    assert any(what.get("sip.trunkPhoneNumber") == "+12025550100" for what in changed)
