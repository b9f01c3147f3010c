"""What a caller's line needs beside itself: a carrier that takes the caller, a line to a person asked.

The person is called into a room of their own. Both rooms end in this process, and joining them means
passing on what each side says (decision 0015).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import structlog
from livekit import api, rtc
from livekit.agents import AgentSession, io

from trunkline.agent.audio import InStep
from trunkline.agent.room import NoCaller, RoomLine, arrive
from trunkline.calls.lifecycle import EndReason
from trunkline.errors import Unavailable
from trunkline.kit.livekit import (
    CONSULT_ROOM,
    LiveKit,
    LiveKitFailed,
    LiveKitOptions,
    SipFailed,
    open_livekit,
)

log = structlog.get_logger()

_PLACING = timedelta(seconds=1)
"""How long placing a call takes at most until its participant is in the room."""

PERSON = "person"
"""Identity of whom we call in the room in which they are asked."""


class Switchboard:
    """Reaches LiveKit on behalf of one call; connects only when it is needed."""

    def __init__(self, options: LiveKitOptions) -> None:
        self._options = options

    async def refer(self, room: str, identity: str, to: str, ringing: timedelta) -> None:
        """See ``Line.refer``."""
        async with self._livekit() as livekit:
            await livekit.refer(room, identity, to, ringing=ringing)

    async def consult(
        self,
        caller: RoomLine,
        number: str,
        *,
        caller_id: str | None,
        ringing: timedelta,
        longest: timedelta,
    ) -> "RoomConsultation":
        """See ``Line.consult``. Leaves nothing behind when it fails or is cancelled."""
        name = f"{CONSULT_ROOM}{caller.arrival.room}"
        room = rtc.Room()

        async def end_room() -> None:
            try:
                async with self._livekit() as livekit:
                    await livekit.delete_room(name)
            except Unavailable as error:
                log.warning("room_not_ended", room=name, detail=str(error))
            await room.disconnect()

        try:
            async with self._livekit() as livekit:
                trunk = await livekit.outbound_trunk(caller_id)
                if trunk is None:
                    trunk, caller_id = await livekit.outbound_trunk(None), None
                if trunk is None:
                    raise Unavailable("LiveKit has no outbound trunk; add one in sip/trunks, apply")
                await room.connect(self._options.url, self._token(name))
                await livekit.dial(
                    room=name,
                    trunk=trunk,
                    to=number,
                    caller_id=caller_id,
                    identity=PERSON,
                    ringing=ringing,
                    max_duration=longest,
                )
            person = await arrive(room, end_room, late=timedelta(0))
            await person.answer()
        except (NoCaller, rtc.ConnectError) as error:
            await end_room()
            raise Unavailable(f"the person could not be brought into {name}") from error
        except asyncio.CancelledError:
            # The caller hung up meanwhile: then it must stop ringing there.
            await asyncio.shield(self._end_for_good(name, end_room))
            raise
        except BaseException:
            await asyncio.shield(end_room())
            raise
        return RoomConsultation(caller, person)

    async def _end_for_good(self, name: str, end_room: Callable[[], Awaitable[None]]) -> None:
        """End the room, and once more: a call that is being placed may bring somebody in afterwards."""
        await end_room()
        await asyncio.sleep(_PLACING.total_seconds())
        async with self._livekit() as livekit:
            await livekit.delete_room(name)

    @asynccontextmanager
    async def _livekit(self) -> AsyncIterator[LiveKit]:
        try:
            async with open_livekit(self._options) as livekit:
                yield livekit
        except SipFailed:
            raise
        except LiveKitFailed as error:
            raise Unavailable(str(error)) from error

    def _token(self, room: str) -> str:
        token = api.AccessToken(self._options.api_key, self._options.api_secret)
        grants = api.VideoGrants(room_join=True, room=room, agent=True)
        return token.with_identity("agent").with_kind("agent").with_grants(grants).to_jwt()


class RoomConsultation:
    """Implements ``agent.line.Consultation`` with a second room."""

    def __init__(self, caller: RoomLine, person: RoomLine) -> None:
        self._caller, self._person = caller, person

    async def attach(self, session: AgentSession[Any]) -> None:
        await self._person.attach(session, _Unread())

    def on_digit(self, callback: Any) -> None:
        self._person.on_digit(callback)

    def hold(self) -> None:
        self._person.hold()

    def join(self) -> None:
        to_caller, to_person = InStep(), InStep()
        self._person.patch(to_person.take, to_caller.push)
        self._caller.patch(to_caller.take, to_person.push)

    async def ended(self) -> EndReason:
        return await self._person.ended()

    async def hang_up(self) -> None:
        await self._person.hang_up()


class _Unread(io.TextOutput):
    """For words that stay between the agent and the person asked."""

    def __init__(self) -> None:
        super().__init__(label="unread", next_in_chain=None)

    async def capture_text(self, text: str) -> None:
        return

    def flush(self) -> None:
        return
