"""The keypad menu that needs no model: a person, leave a message, be called back.

It is what a caller meets when all lines are busy, when no agent came, or when a provider failed in
mid-call. It knows a line, clips and keys; what is said and pressed is stored as it happens.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import structlog

from trunkline.agent import clips
from trunkline.agent.bare import BEEP, Ear, Voice
from trunkline.agent.clips import Clip
from trunkline.agent.keys import Entry, Keypad
from trunkline.agent.line import Line
from trunkline.agent.scribe import Scribe
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.service import Lease
from trunkline.crm import service as crm
from trunkline.desk import callbacks
from trunkline.errors import Unavailable
from trunkline.kit import phone
from trunkline.kit.blobs import Blobs
from trunkline.kit.db import Database
from trunkline.kit.livekit import SipFailed
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles.body import ProfileBody

log = structlog.get_logger()

TRIES = 2
"""How often the menu is read before it says goodbye by itself."""
CHOICE = Entry(length=1, terminator=None, first=timedelta(seconds=8))
"""From the menu's last word: time to take the telephone from the ear, open its keypad and find the key."""
NUMBER = Entry(first=timedelta(seconds=10), between=timedelta(seconds=5), longest=20)
_HANDED_OVER = timedelta(seconds=5)
"""How long after a caller's leaving the carrier may take to say that it has connected them."""
DUE_IN = timedelta(minutes=15)


Record = Callable[[], Awaitable[None]]
"""Sees to it that the call is being recorded from now on."""
Person = Callable[[], Awaitable[bool]]
"""Connects the caller to somebody; True once they are connected, False when nobody could be reached."""


def person_of(line: Line, body: ProfileBody | None) -> Person | None:
    """Who answers instead of us: the profile's first transfer target, reached by the carrier (REFER)."""
    if body is None or not body.transfers:
        return None
    target = body.transfers[0]

    async def connect() -> bool:
        try:
            await line.refer(target.uri, timedelta(seconds=target.ring_s))
        except (SipFailed, Unavailable) as error:
            log.info("not_put_through", target=target.name, detail=str(error))
            return False
        return True

    return connect


@dataclass(frozen=True)
class Caller:
    """Whom the menu serves, and what they are promised for."""

    number: PhoneNumber | None
    contact_id: str | None
    region: str | None
    """Where a number that they key in is read."""
    about: str
    """Why the menu answered, for whoever calls back: ``all lines were busy``."""


class Menu:
    """One caller in the menu. ``run`` it once; ``hear`` gets the caller's side all the while."""

    def __init__(
        self,
        *,
        db: Database,
        blobs: Blobs,
        clock: Callable[[], datetime],
        lease: Lease,
        line: Line,
        scribe: Scribe,
        body: ProfileBody | None,
        caller: Caller,
        voice: Voice,
        record: Record,
        person: Person | None = None,
        otherwise: EndReason,
        message_only: bool = False,
    ) -> None:
        """*otherwise* is why the call ends when the caller chooses nothing."""
        self._message_only = message_only
        self._db, self._blobs, self._clock, self._lease = db, blobs, clock, lease
        self._line, self._scribe, self._body, self._caller = line, scribe, body, caller
        self._voice, self._record, self._person = voice, record, person
        self._otherwise = otherwise
        self.keypad = Keypad()
        self._ear = Ear()
        self._keeping: asyncio.Task[None] | None = None
        self.handing_over = False
        """Whether the carrier is asked to connect the caller elsewhere: their leaving may be just that."""
        self.kept: EndReason | None = None
        """What the caller has already been promised, if they hang up now."""

    def hear(self, caller: bytes) -> None:
        """The caller's next 20 ms, PCM16 at LINE_RATE_HZ."""
        self._ear.hear(caller)

    async def run(self, opening: Sequence[str]) -> EndReason:
        """Say the phrases *opening*, offer the choices, do what is chosen. Returns how the call ends."""
        if self._message_only:
            await self._say(*opening)
            return await self._message() or self._otherwise
        choices: dict[str, Callable[[], Awaitable[EndReason | None]]] = {}
        if self._person is not None:
            choices["1"] = self._to_person
        choices |= {"2": self._message, "3": self._call_back}
        offered = [name for key, name in _OFFERS.items() if key in choices]
        before: Sequence[str] = opening
        for _ in range(TRIES):
            await self._say(*before, *offered)
            pressed = await self.keypad.collect(CHOICE)
            if pressed.keys:
                self._scribe.caller_pressed(pressed.keys, self._line.position_ms())
            do = choices.get(pressed.keys)
            if do is None:
                # A key that was hit twice is one mistake, and must not cut off the words about it.
                self.keypad.forget()
                before = ("again",) if pressed.keys else ()
                continue
            ended = await do()
            if ended is not None:
                return ended
            if do == self._to_person:
                choices.pop("1", None)
                offered = [name for key, name in _OFFERS.items() if key in choices]
            before = ()
        return await self._nothing_chosen()

    async def do(self, action: Literal["message", "callback"]) -> EndReason | None:
        """Do what was chosen elsewhere. None when it came to nothing: no message, no number."""
        return await (self._message() if action == "message" else self._call_back())

    def note_keys(self, keys: str) -> None:
        """Store keys that were pressed as a choice."""
        self._scribe.caller_pressed(keys, self._line.position_ms())

    async def promise_if_known(self) -> None:
        """Promise a call back to a caller whose number is known."""
        if self._caller.number is not None:
            await self._promise(self._caller.number.e164)

    async def _nothing_chosen(self) -> EndReason:
        await self.promise_if_known()
        if self._caller.number is not None:
            await self._part("goodbye_callback")
        else:
            await self._part("goodbye")
        return self._otherwise

    # The choices -------------------------------------------------------------------------------

    async def _to_person(self) -> EndReason | None:
        assert self._person is not None
        await self._say("connecting")
        self.handing_over = True
        if await self._person():
            return EndReason.TRANSFERRED
        self.handing_over = False
        await self._say("nobody")
        return None

    async def _message(self) -> EndReason | None:
        await self._say("after_tone")
        await self._record()
        await self._beep()
        self.keypad.forget()
        began_ms = self._line.position_ms()
        self._ear.begin()
        done = asyncio.create_task(self.keypad.pressed.wait())
        over = asyncio.create_task(self._line.ended())
        try:
            while not (done.done() or over.done() or self._ear.is_over(self._line_ms(began_ms))):
                await asyncio.wait([done, over], timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Also when the caller hangs up in the middle of it, which cancels us: what was said counts.
            done.cancel()
            over.cancel()
            self.keypad.forget()
            if self._ear.heard_a_message:
                self._keeping = asyncio.create_task(self._keep_message(began_ms))
                await asyncio.shield(self._keeping)
        if self.kept is None:
            await self._say("no_message")
            return None
        await self._part("message_taken")
        return EndReason.MESSAGE_TAKEN

    def _line_ms(self, since_ms: int) -> int:
        return self._line.position_ms() - since_ms

    async def _keep_message(self, began_ms: int) -> None:
        length = max(1, round(self._line_ms(began_ms) / 1000))
        minutes, seconds = divmod(began_ms // 1000, 60)
        async with self._db.work() as session:
            await callbacks.take_message(
                session,
                contact_id=self._caller.contact_id,
                text=f"{length} s of speech, at {minutes}:{seconds:02} of the recording",
                cause=self._cause(began_ms),
                now=self._clock(),
            )
        self.kept = EndReason.MESSAGE_TAKEN

    async def settled(self) -> None:
        """Wait until what the caller left behind is stored, though they have hung up meanwhile."""
        if self._keeping is not None:
            await asyncio.wait([self._keeping])
            if not self._keeping.cancelled() and (error := self._keeping.exception()) is not None:
                log.error("message_not_stored", call_id=self._lease.call_id, exc_info=error)

    async def _call_back(self) -> EndReason | None:
        number = self._caller.number
        if number is None:
            number = await self._ask_number()
            if number is None:
                return None
        await self._promise(number.e164)
        await self._part("callback_booked")
        return EndReason.CALLBACK_BOOKED

    async def _ask_number(self) -> PhoneNumber | None:
        for _ in range(TRIES):
            await self._say("which_number")
            entered = await self.keypad.collect(NUMBER)
            if entered.keys:
                self._scribe.caller_pressed(entered.keys, self._line.position_ms())
            try:
                return phone.parse(_dialled(entered.keys), region=self._caller.region)
            except ValueError:
                self.keypad.forget()
                await self._say("no_number")
        return None

    async def _promise(self, number: str) -> None:
        now = self._clock()
        async with self._db.work() as session:
            await callbacks.request_callback(
                session,
                contact_id=self._caller.contact_id,
                number=number,
                due=now + DUE_IN,
                reason=self._caller.about,
                cause=self._cause(self._line.position_ms()),
                now=now,
            )
        self.kept = EndReason.CALLBACK_BOOKED

    def _cause(self, offset_ms: int) -> crm.Cause:
        return crm.Cause(source="call", call_id=self._lease.call_id, offset_ms=offset_ms)

    # Speaking ----------------------------------------------------------------------------------

    async def _say(self, *names: str) -> None:
        """Say these phrases one after the other; a key that is pressed cuts them off."""
        for name in names:
            if self.keypad.pressed.is_set():
                return
            clip = await clips.load(self._blobs, self._body, name)
            await self._voice.say(clip, self.keypad.pressed)

    async def _part(self, name: str) -> None:
        """Say the last words of the call, whole: keys that were pressed too often answer nothing."""
        clip = await clips.load(self._blobs, self._body, name)
        await self._voice.say(clip, asyncio.Event())

    async def _beep(self) -> None:
        await self._voice.say(Clip("", BEEP), asyncio.Event())


_OFFERS = {"1": "person", "2": "message", "3": "callback"}


def _dialled(keys: str) -> str:
    """A number as it is keyed in: two zeros are how most of the world writes the plus sign."""
    return f"+{keys[2:]}" if keys.startswith("00") else keys


async def until_over(menu: Menu, line: Line, opening: Sequence[str]) -> EndReason:
    """Run *menu* until it is done or the caller hangs up. What they were promised then counts."""
    running = asyncio.create_task(menu.run(opening), name="menu")
    over = asyncio.create_task(line.ended())
    try:
        await asyncio.wait([running, over], return_when=asyncio.FIRST_COMPLETED)
        if not running.done() and menu.handing_over:
            await asyncio.wait([running], timeout=_HANDED_OVER.total_seconds())
        if running.done():
            return running.result()
        running.cancel()
        await asyncio.wait([running])
        await menu.settled()
        return menu.kept or over.result()
    finally:
        for task in (running, over):
            task.cancel()
        await asyncio.gather(running, over, return_exceptions=True)
