"""The keypad menu on a line: what a caller hears, presses and leaves behind."""

import math
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from trunkline.agent.arrival import Arrival
from trunkline.agent.audio import FRAME, SILENCE
from trunkline.agent.bare import BEEP
from trunkline.agent.clips import packaged
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.options import AgentOptions, ProviderAccess
from trunkline.agent.rescue import rescue
from trunkline.agent.services import Services
from trunkline.calls import queries as calls
from trunkline.calls import service
from trunkline.calls.lifecycle import EndReason
from trunkline.desk import call_page
from trunkline.desk.call_page import CallPage
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.sandbox.loopback import LoopbackLine
from trunkline.sandbox.story import OUR_NUMBER, seed

NOWHERE = ProviderAccess("none", "http://127.0.0.1:9")
CALLER = "+12025550177"
VOICE = array(
    "h", [round(6000 * math.sin(2 * math.pi * 220 * n / LINE_RATE_HZ)) for n in range(FRAME)]
).tobytes()
"""20 ms of something as loud as speech."""


def tone_in(pcm: bytes) -> bool:
    """Whether the tone of the menu is in *pcm*: Goertzel's filter at 1000 Hz."""
    samples = array("h", pcm)
    turn = 2 * math.cos(2 * math.pi * 1000 / LINE_RATE_HZ)
    one = two = 0.0
    for sample in samples:
        one, two = sample + turn * one - two, one
    power = one * one + two * two - turn * one * two
    energy = sum(sample * sample for sample in samples)
    return energy > 1e6 and power / energy > 0.35 * len(samples)


class Guest:
    """A caller who does one step after the other: seconds to wait, keys, tone, speak, hang up."""

    def __init__(self, *steps: float | str) -> None:
        self._steps = list(steps)
        self._left = 0
        self._keys = ""
        self._beeped = False
        self.heard = bytearray()

    def ringing(self) -> bool:
        return True

    def exchange(self, heard: bytes) -> bytes | None:
        self.heard += heard
        self._beeped = self._beeped or tone_in(heard)
        if self._left:
            self._left -= 1
            return VOICE if self._speaking else SILENCE
        self._speaking = False
        if not self._steps:
            return SILENCE
        step = self._steps[0]
        if step == "tone":
            if self._beeped and not tone_in(heard):
                self._steps.pop(0)
            return SILENCE
        self._steps.pop(0)
        match step:
            case "hang up":
                return None
            case "speak":
                self._speaking, self._left = True, 75
            case float() | int():
                self._left = round(float(step) * 50)
            case _:
                self._keys += str(step)
        return SILENCE

    _speaking = False

    def pressed(self) -> str:
        keys, self._keys = self._keys, ""
        return keys


@dataclass(frozen=True)
class Rescued:
    reason: EndReason
    page: CallPage
    guest: Guest
    blobs: Blobs


Call = Callable[..., Awaitable[Rescued]]


@pytest.fixture
def call(sqlite_db: Database, tmp_path: Any) -> Call:
    """``await call(2.0, "3", …)``: a caller meets the menu; no provider can be reached."""

    async def call(
        *steps: float | str, caller: str | None = CALLER, made: Any = LoopbackLine
    ) -> Rescued:
        async with sqlite_db.work() as session:
            await seed(session, now=utc_now())
        blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
        options = AgentOptions(deepgram=NOWHERE, openai=NOWHERE, cartesia=NOWHERE)
        guest = Guest(*steps)
        line = made(Arrival("menu", "loopback", caller, OUR_NUMBER), guest)
        line.ring()
        reason = await rescue(line, Services(sqlite_db, blobs, options, utc_now))
        async with sqlite_db.look() as session:
            (row,) = (await _calls(session)).calls
            page = await call_page.page(session, row.id)
        return Rescued(reason, page, guest, blobs)

    return call


async def _calls(session: Any) -> Any:
    from trunkline.desk import call_list

    return await call_list.page(session, before=None, limit=10)


def words(rescued: Rescued) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in rescued.page.turns]


async def test_a_message_is_left(call: Call) -> None:
    """Two, the tone, the message, the hash key: it is stored with its place in the recording."""
    rescued = await call(0.5, "2", "tone", "speak", "#")
    assert rescued.reason is EndReason.MESSAGE_TAKEN
    assert rescued.page.call.end_reason == "message_taken"
    said = words(rescued)
    assert said[0] == ("agent", "Thank you for calling. All our lines are busy right now.")
    assert ("user", "[keys 2]") in said
    assert said[-1][1].startswith("Thank you. Your message")
    (note,) = rescued.page.activities
    assert note.kind == "note"
    assert "Message: " in note.summary
    assert "of the recording" in note.summary
    recording = rescued.page.recording
    assert recording is not None
    assert recording.state == "ready"
    # The recording's clock is the call's: it holds what came before the message as well.
    last = rescued.page.turns[-1].ended_ms
    assert last is not None
    assert recording.duration_ms is not None
    assert abs(recording.duration_ms - last) < 600


async def test_hanging_up_keeps_the_message(call: Call) -> None:
    """Whoever hangs up after speaking has left a message."""
    rescued = await call(0.2, "2", "tone", "speak", "hang up")
    assert rescued.reason is EndReason.MESSAGE_TAKEN
    assert [one.kind for one in rescued.page.activities] == ["note"]


async def test_a_call_back_is_booked(call: Call) -> None:
    """Three books a call back to the number they call from."""
    rescued = await call(0.2, "3")
    assert rescued.reason is EndReason.CALLBACK_BOOKED
    (task,) = rescued.page.activities
    assert task.kind == "task"
    assert task.due_at is not None
    assert words(rescued)[-1][1].endswith("Goodbye.")


async def test_a_hidden_caller_keys_in_a_number(call: Call) -> None:
    """A number that cannot be read is asked for again."""
    rescued = await call(0.2, "3", 0.5, "12#", 0.5, "2025550134#", caller=None)
    assert rescued.reason is EndReason.CALLBACK_BOOKED
    assert ("agent", "I could not read that number.") in words(rescued)


async def test_nothing_is_pressed(call: Call) -> None:
    """The menu is read twice, then a call back is promised, and the call ends for want of a line."""
    rescued = await call()
    assert rescued.reason is EndReason.CAPACITY
    said = [text for _, text in words(rescued)]
    assert said.count("To leave a message, press 2.") == 2
    assert said[-1] == "We will call you back as soon as possible. Goodbye."
    assert [one.kind for one in rescued.page.activities] == ["task"]


async def test_a_key_without_a_choice(call: Call) -> None:
    """It is said so, and the choices are read again; a caller who hangs up has hung up."""
    rescued = await call(0.2, "7", 4.0, "hang up")
    assert rescued.reason is EndReason.CALLER_HANGUP
    assert ("agent", "That key has no choice.") in words(rescued)
    assert not rescued.page.activities


async def test_a_message_of_silence_is_none(call: Call) -> None:
    """Nobody's silence becomes somebody's work."""
    rescued = await call(0.2, "2", "tone", "#", 0.2, "hang up")
    assert not rescued.page.activities
    assert ("agent", "I did not hear anything.") in words(rescued)


@pytest.mark.parametrize(
    ("keys", "caller", "reason"),
    [
        (("33",), CALLER, EndReason.CALLBACK_BOOKED),  # a key that was hit twice
        (("22", "tone", "speak", "##"), CALLER, EndReason.MESSAGE_TAKEN),
        (("3", 0.5, "2025550134##"), None, EndReason.CALLBACK_BOOKED),  # the hash key twice
    ],
)
async def test_too_many_keys(
    call: Call, keys: tuple[float | str, ...], caller: str | None, reason: EndReason
) -> None:
    """Keys pressed too often never cut off the last words, which say what was promised."""
    rescued = await call(0.2, *keys, caller=caller)
    assert rescued.reason is reason
    assert words(rescued)[-1][1].endswith("Goodbye.")


async def test_a_wrong_key_twice(call: Call) -> None:
    """A wrong key that was hit twice is one mistake: the caller hears of it and may choose again."""
    rescued = await call(0.2, "99", 2.0, "3")
    assert rescued.reason is EndReason.CALLBACK_BOOKED
    assert ("agent", "That key has no choice.") in words(rescued)


async def test_another_agent_took_the_call(call: Call, sqlite_db: Database) -> None:
    """The rescue whose lease is gone steps out; it never hangs up on the other agent's caller."""
    did: list[str] = []

    class Taken(LoopbackLine):
        async def answer(self) -> bool:
            async with sqlite_db.work() as session:
                held = await calls.call_in_room(session, "menu")
                assert held is not None
                await service.take_lease(session, held.id, now=utc_now())
            return await super().answer()

        async def leave(self) -> None:
            did.append("left")
            await super().leave()

    rescued = await call(1.0, "hang up", made=Taken)
    assert rescued.reason is EndReason.AGENT_LOST
    assert did == ["left"]
    assert rescued.page.call.live


def test_the_tone() -> None:
    """The test's own ear knows the tone from speech."""
    assert tone_in(BEEP[4000:4320].ljust(320, b"\0")) or tone_in(BEEP[1600:1920])
    assert not tone_in(VOICE)


async def test_a_database_that_is_gone(sqlite_db: Database, tmp_path: Any) -> None:
    """What cannot be stored is not promised, but the caller is answered and told."""
    gone = open_database(DatabaseOptions(f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"))
    options = AgentOptions(deepgram=NOWHERE, openai=NOWHERE, cartesia=NOWHERE)
    guest = Guest()
    line = LoopbackLine(Arrival("menu", "loopback", CALLER, OUR_NUMBER), guest)
    line.ring()
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    assert await rescue(line, Services(gone, blobs, options, utc_now)) is EndReason.INTERNAL_ERROR
    await gone.close()
    said = packaged("trouble").pcm + packaged("goodbye").pcm
    assert len(guest.heard) > len(said) * 0.9
    assert max(array("h", bytes(guest.heard))) > 3000
