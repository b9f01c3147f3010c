"""Transfers, keys and a bad line through real rooms and a real worker, with telephones at the far end."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
import pytest_asyncio

from trunkline.agent.audio import FRAME_S, SILENCE, rms
from trunkline.calls import queries as calls
from trunkline.calls.models import Call
from trunkline.desk import call_page
from trunkline.desk.call_page import CallPage
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.audio import read_wav, wav_bytes
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.kit.livekit import open_livekit
from trunkline.kit.processes import spawn
from trunkline.profiles import queries, service
from trunkline.profiles.body import read
from trunkline.sandbox.caller import (
    AUDIBLE_RMS,
    PATIENCE,
    Caller,
    HangUp,
    Listen,
    Overhear,
    Pause,
    Press,
    Say,
    StayOn,
    Step,
)
from trunkline.sandbox.line_faults import SOUND, Echo, Faults
from trunkline.sandbox.phones import BUSY, DECLINES, RINGS_OUT, Listener, Phone
from trunkline.sandbox.sip import Dial, SipCall
from trunkline.sandbox.sip_api import SipApi
from trunkline.sandbox.story import OUR_NUMBER, PROFILE, STORIES, seed
from trunkline.sandbox.worker import WorkerOrders

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

DANA = "+12025550134"
SUPPORT, OFFICE = "+12025550188", "+12025550189"
START = timedelta(seconds=90)
TARGETS = [
    {"name": "Support", "number": SUPPORT, "when": "Something is broken.", "ring_s": 5},
    {"name": "Office", "number": OFFICE, "when": "Bills.", "mode": "cold", "ring_s": 5},
]
MUSIC_HZ = (261.63, 329.63, 392.0, 523.25)
"""The first chord of the music."""


class Tone:
    """Somebody who presses *keys* after the briefing began and then whistles at *hz*, for *long*."""

    def __init__(self, keys: str, hz: float, long: timedelta, *, before: timedelta) -> None:
        self._keys, self._frame = keys, 0
        self._before, self._until = before / timedelta(milliseconds=20), long.total_seconds() * 50
        at = np.arange(400) / 8000
        pcm = (8000 * np.sin(2 * np.pi * hz * at)).astype("<i2").tobytes()
        self._pcm = [pcm[:320], pcm[320:640]]

    def ringing(self) -> bool:
        return True

    def exchange(self, heard: bytes) -> bytes | None:
        self._frame += 1
        if self._frame > self._before + self._until:
            return None
        return self._pcm[self._frame % 2]

    def pressed(self) -> str:
        if self._frame >= self._before and self._keys:
            keys, self._keys = self._keys, ""
            return keys
        return ""


def power(pcm: bytes | np.ndarray, hz: float) -> float:
    """How much of *pcm*'s energy lies within 8 Hz of *hz*, 0 to 1."""
    samples = np.frombuffer(pcm, "<i2") if isinstance(pcm, bytes | bytearray) else pcm
    spectrum = np.abs(np.fft.rfft(samples.astype(float))) ** 2
    near = np.abs(np.fft.rfftfreq(samples.size, 1 / 8000) - hz) < 8
    return float(spectrum[near].sum() / max(spectrum.sum(), 1.0))


def halves(pcm: np.ndarray, hz: float) -> list[bool]:
    """For each half second of *pcm*, whether most of it is the tone *hz*."""
    return [power(pcm[i : i + 4000], hz) > 0.5 for i in range(0, pcm.size - 4000, 4000)]


@dataclass
class House:
    """A worker behind whose number people can be reached."""

    db: Database
    blobs: Blobs
    server: "LiveKitServer"
    front: SipApi
    worker_url: str

    async def kill_agent(self, room: str) -> None:
        """End the process of the call's agent as the kernel would when memory runs out."""
        async with httpx.AsyncClient(timeout=60) as client:
            told = (await client.get(f"{self.worker_url}/ready")).json()
        (pid,) = [job["pid"] for job in told["calls"] if job["room"] == room]
        os.kill(pid, signal.SIGKILL)

    def line(self, room: str, *steps: Step, faults: Faults = SOUND) -> tuple[SipCall, Caller]:
        """A call that is not made yet, and who makes it."""
        caller = Caller(steps)
        dial = Dial(room, from_raw=DANA, to_raw=OUR_NUMBER, number=OUR_NUMBER, faults=faults)
        return SipCall(self.server.options, dial, caller), caller

    async def call(self, room: str, *steps: Step) -> tuple[CallPage, Caller]:
        """Make a call and wait until it is over and stored."""
        line, caller = self.line(room, *steps)
        await asyncio.wait_for(line.run(), 120)
        return await self.over(room), caller

    async def over(self, room: str) -> CallPage:
        """The call of *room* once it is over and stored, with its recording."""
        return await self.until(
            room,
            lambda page: (
                not page.call.live and (page.recording is None or page.recording.state != "open")
            ),
        )

    async def until(self, room: str, is_so: Callable[[CallPage], bool]) -> CallPage:
        """The call of *room* as soon as *is_so* holds of it."""
        async with asyncio.timeout(120):
            while True:
                async with self.db.look() as session:
                    call: Call | None = await calls.call_in_room(session, room)
                    page = await call_page.page(session, call.id) if call else None
                if page is not None and is_so(page):
                    return page
                await asyncio.sleep(0.1)  # pace: another process stores it

    async def sides(self, page: CallPage) -> tuple[np.ndarray, np.ndarray]:
        """Both channels of the call's recording, 8 kHz."""
        samples, rate = read_wav(await self.blobs.get(f"recordings/{page.call.id}.wav"))
        assert rate == 8000
        return samples[:, 0], samples[:, 1]

    async def no_room_is_left(self) -> None:
        """Nobody is kept in a room of their own."""
        async with open_livekit(self.server.options) as livekit, asyncio.timeout(120):
            while any("consult" in room.name for room in await livekit.rooms()):  # noqa: ASYNC110 - asked of another process
                await asyncio.sleep(0.1)  # pace: LiveKit ends rooms in its own time


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, livekit_server: "LiveKitServer"
) -> AsyncIterator[House]:
    """A furnished database, telephones, the sandbox's providers and a worker."""
    folder = tmp_path_factory.mktemp("transfers")
    shutil.copyfile(sqlite_template, folder / "trunkline.db")
    url = f"sqlite+aiosqlite:///{folder / 'trunkline.db'}"
    db, blobs = open_database(DatabaseOptions(url)), BlobOptions(str(folder / "blobs"))
    tools = [*PROFILE["tools"], "transfer_to_person", "press_keys"]  # type: ignore[misc]
    body = read({**PROFILE, "tools": tools, "transfers": TARGETS})
    async with db.work() as session:
        await seed(session, now=utc_now())
        (profile,) = await queries.profiles(session)
        await service.publish(session, profile.id, body, now=utc_now())
    async with open_livekit(livekit_server.options) as livekit:
        trunk = await livekit.create(
            "outbound",
            {"name": "phones", "address": "127.0.0.1:5060", "numbers": [OUR_NUMBER]},
        )
        async with SipApi(livekit_server.options) as front:
            sandbox = await spawn("trunkline.sandbox.server")
            orders = WorkerOrders(
                word_after_ms=None,
                livekit_url=front.options.url,
                livekit_key=livekit_server.api_key,
                livekit_secret=livekit_server.api_secret,
                database_url=url,
                blobs_url=blobs.url,
                sandbox_port=int(await sandbox.ready(START)),
                log_level="info",
                warm=1,
            )
            worker = await spawn(
                "trunkline.sandbox.worker",
                orders.dump(),
                on_error_line=lambda line: print(line, file=sys.stderr),
            )
            try:
                port = await worker.ready(START)
                at = f"http://127.0.0.1:{port}"
                yield House(db, open_blobs(blobs), livekit_server, front, at)
            finally:
                await worker.stop(timedelta(seconds=15))
                await sandbox.stop(timedelta(seconds=5))
        await livekit.delete("outbound", trunk)
    await db.close()


def said(page: CallPage) -> str:
    """All that the agent said."""
    return " ".join(turn.text for turn in page.turns if turn.role == "agent")


def runs(page: CallPage) -> list[tuple[str, str, str | None]]:
    """The tools that ran."""
    return [(run.name, run.state, run.error) for run in page.tool_runs]


async def test_a_warm_transfer(house: House, tmp_path: Path) -> None:
    """Until the person pressed one, music here and no caller there; then each hears the other."""
    whistle = Tone("1", 1000.0, timedelta(seconds=12), before=timedelta(seconds=3))
    house.front.phones[SUPPORT] = Phone(who=lambda: whistle)
    hum = tmp_path / "hum.wav"
    at = np.arange(8000 * 25) / 8000
    hum.write_bytes(
        wav_bytes((6000 * np.sin(2 * np.pi * 700 * at)).astype("<i2").tobytes(), 8000, 1)
    )
    page, _ = await house.call(
        "warm", Listen(), Press("3"), Pause(timedelta(seconds=4)), Say(str(hum)), StayOn()
    )
    placed = await house.front.placed(SUPPORT)
    assert (page.call.end_reason, runs(page)) == (
        "transferred",
        [("transfer_to_person", "ok", None)],
    )
    assert placed.caller_id == OUR_NUMBER
    assert "Support is on the line. I am connecting you now." in said(page)
    assert "[put through to Support]" in said(page)
    assert "Harbor Fiber, with a call for" not in said(page), "the briefing is not the caller's"
    _, agent = await house.sides(page)
    whistled = halves(agent, 1000.0)
    assert sum(whistled) >= 6, "the caller heard the person"
    joined = whistled.index(True)
    music = [
        max(power(agent[i : i + 4000], hz) for hz in MUSIC_HZ) > 0.2
        for i in range(0, joined * 4000, 4000)
    ]
    assert sum(music) >= 3, "the caller heard music before"
    hummed = halves(np.frombuffer(bytes(placed.heard), "<i2"), 700.0)
    assert sum(hummed) >= 6, "the person heard the caller"
    # The person pressed one three seconds after picking up, and was joined some seconds later.
    assert not any(hummed[:6]), "and nothing of them before"
    await house.no_room_is_left()


async def test_a_cold_transfer(house: House) -> None:
    """The carrier takes the caller: the call has ended as transferred, not as hung up."""
    house.front.phones[OFFICE] = Phone()
    page, _ = await house.call("cold", Listen(), Press("4"), StayOn())
    assert (page.call.end_reason, runs(page)) == (
        "transferred",
        [("transfer_to_person", "ok", None)],
    )


@pytest.mark.parametrize(
    ("key", "number", "phone", "outcome", "words"),
    [
        ("4", OFFICE, BUSY, "busy", "the line of Office is busy"),
        ("4", OFFICE, RINGS_OUT, "no_answer", "nobody answered at Office"),
        (
            "4",
            OFFICE,
            Phone(refuses=(405, "Method Not Allowed")),
            "failed",
            "can't put you through",
        ),
        ("3", SUPPORT, BUSY, "busy", "the line of Support is busy"),
        ("3", SUPPORT, DECLINES, "rejected", "Support can't take the call"),
        ("3", SUPPORT, RINGS_OUT, "no_answer", "nobody answered at Support"),
    ],
)
async def test_not_put_through(
    house: House, key: str, number: str, phone: Phone, outcome: str, words: str
) -> None:
    """The agent is back with the caller, says why, and goes on with the same conversation."""
    house.front.phones[number] = phone
    room = f"not_{key}_{outcome}"
    page, _ = await house.call(
        room, Listen(), Press(key), Listen(timedelta(milliseconds=3000)), Press("2"), StayOn()
    )
    assert runs(page)[0] == ("transfer_to_person", "error", f"transfer_{outcome}")
    assert ("request_callback", "ok", None) in runs(page), said(page)
    assert words in said(page)
    assert page.call.end_reason == "agent_hangup"


async def test_declined_by_key(house: House) -> None:
    """Whoever presses two is not joined, and the caller hears that they can't take the call."""
    whistle = Tone("2", 1000.0, timedelta(seconds=30), before=timedelta(seconds=2))
    house.front.phones[SUPPORT] = Phone(who=lambda: whistle)
    page, _ = await house.call(
        "declined", Listen(), Press("3"), Pause(timedelta(seconds=9)), HangUp()
    )
    assert runs(page) == [("transfer_to_person", "error", "transfer_rejected")]
    _, agent = await house.sides(page)
    assert not any(
        power(agent[i : i + 4000], 1000.0) > 0.3 for i in range(0, agent.size - 4000, 4000)
    )
    await house.no_room_is_left()


@pytest.mark.parametrize("after_s", [5, 8])  # while it is being placed, and while it rings
async def test_the_caller_hangs_up_on_hold(house: House, after_s: int) -> None:
    """Then it stops ringing at the person's, and the call was not transferred."""
    house.front.phones[SUPPORT] = RINGS_OUT
    before = len(house.front.calls)
    page, _ = await house.call(
        f"given_up_{after_s}", Listen(), Press("3"), Pause(timedelta(seconds=after_s)), HangUp()
    )
    for placed in house.front.calls[before:]:
        await asyncio.wait_for(placed.over.wait(), 120)
    assert page.call.end_reason == "caller_hangup"
    assert runs(page) == [("transfer_to_person", "error", "transfer_cancelled")]
    await house.no_room_is_left()


@pytest.mark.parametrize(
    ("line", "ends", "run"),
    [
        (
            "yes_please_go_ahead_with_the_bigger_plan.wav",
            "transferred",
            ("transfer_to_person", "ok", None),
        ),
        (
            "no_thank_you_goodbye.wav",
            "caller_hangup",
            ("transfer_to_person", "error", "transfer_rejected"),
        ),
    ],
    ids=["yes", "no"],
)
async def test_the_person_answers_in_words(
    house: House, line: str, ends: str, run: tuple[str, str, str | None]
) -> None:
    """A spoken yes joins them with the caller, a spoken no does not."""
    house.front.phones[SUPPORT] = Phone(
        who=lambda: Caller((Listen(), Say(line), Pause(timedelta(seconds=8)), HangUp()))
    )
    page, _ = await house.call(
        f"word_{ends}", Listen(), Press("3"), Pause(timedelta(seconds=32)), HangUp()
    )
    assert (page.call.end_reason, runs(page)[0]) == (ends, run), said(page)
    assert ("[put through to Support]" in said(page)) == (ends == "transferred")
    await house.no_room_is_left()


async def test_the_person_hangs_up_during_the_briefing(house: House) -> None:
    """The caller hears that they can't take the call, and the agent goes on."""
    house.front.phones[SUPPORT] = Phone(
        who=lambda: Caller((Overhear(timedelta(seconds=2)), HangUp()))
    )
    page, _ = await house.call(
        "hung_up", Listen(), Press("3"), Listen(timedelta(seconds=3)), Press("2"), StayOn()
    )
    assert runs(page)[0] == ("transfer_to_person", "error", "transfer_rejected")
    assert "Support can't take the call" in said(page)
    assert ("request_callback", "ok", None) in runs(page), said(page)
    await house.no_room_is_left()


async def test_the_person_never_decides(house: House) -> None:
    """Whoever picks up and says nothing is not waited for: the agent is back and offers something else."""
    house.front.phones[SUPPORT] = Phone()
    before = len(house.front.calls)
    page, _ = await house.call(
        "undecided", Listen(), Press("3"), Pause(timedelta(seconds=24)),
        Listen(timedelta(seconds=3)), Press("2"), StayOn(),
    )  # fmt: skip
    assert runs(page)[0] == ("transfer_to_person", "error", "transfer_no_answer")
    assert ("request_callback", "ok", None) in runs(page), said(page)
    (placed,) = house.front.calls[before:]
    assert placed.over.is_set(), "they are not kept on the line"
    await house.no_room_is_left()


class Stranded(Listener):
    """Asks for a person; once ``left`` is set, waits to hear a voice or the line end, then hangs up."""

    def __init__(self) -> None:
        self.left, self.heard_again = False, False
        self._frame = self._since = 0

    def exchange(self, heard: bytes) -> bytes | None:
        self._frame += 1
        if not self.left:
            return SILENCE
        self._since += 1
        # What was on its way to us when the agent died is not an answer.
        self.heard_again |= self._since > 50 and rms(heard) >= AUDIBLE_RMS
        waited_s = self._since * FRAME_S
        return None if self.heard_again or waited_s > PATIENCE.total_seconds() else SILENCE

    def pressed(self) -> str:
        return "3" if self._frame == 250 else ""


async def test_the_agent_dies_in_a_transfer(house: House) -> None:
    """Kill -9 while a person is being asked: the caller is not left in silence, nor is the person."""
    caller, person = Stranded(), Phone()
    house.front.phones[SUPPORT] = person
    nth = len([one for one in house.front.calls if one.number == SUPPORT]) + 1
    dial = Dial("killed", from_raw=DANA, to_raw=OUR_NUMBER, number=OUR_NUMBER)
    async with open_livekit(house.server.options) as livekit:
        guardian = Guardian(house.db, house.blobs, GuardianOptions(), livekit=livekit)
        guarding = asyncio.create_task(guardian.run())
        calling = asyncio.create_task(SipCall(house.server.options, dial, caller).run())
        async with asyncio.timeout(120):
            placed = await house.front.placed(SUPPORT, nth)
            await placed.answered.wait()
            await house.kill_agent("killed")
            caller.left = True
            over = await calling
            await placed.over.wait()
            assert over.how == "agent" or caller.heard_again
            page = await house.until("killed", lambda page: not page.call.live)
        await house.no_room_is_left()
        guarding.cancel()
        await asyncio.gather(guarding, return_exceptions=True)
    assert runs(page) == [("transfer_to_person", "error", "agent_lost")]


async def test_keys_are_sent_in_order(house: House) -> None:
    """Keys that the agent presses are heard at the other end in the order in which it pressed them."""
    line, _ = house.line("menu", Listen(), Press("5"), Listen(timedelta(seconds=2)), HangUp())
    await asyncio.wait_for(line.run(), 120)
    page = await house.over("menu")
    assert runs(page) == [("press_keys", "ok", None)]
    assert line.keys == "1*2#"


async def test_a_spoiled_line(house: House) -> None:
    """Loss, jitter, noise and an echo of the agent's own voice: the caller is understood all the same."""
    faults = Faults(
        loss=0.01,
        jitter=timedelta(milliseconds=15),
        noise_dbfs=-55.0,
        # What a network's echo canceller leaves (ITU-T G.168).
        echo=Echo(timedelta(milliseconds=40), 45.0),
    )
    line, caller = house.line("spoiled", *STORIES[0].steps, faults=faults)
    await asyncio.wait_for(line.run(), 120)
    page = await house.over("spoiled")
    assert caller.gave_up is None
    assert [(c.title, c.before, c.after) for c in page.changes if c.entity == "deal"] == [
        ("Office Fiber", "proposal", "won")
    ], page.turns
    assert page.call.end_reason == "agent_hangup"
    cut = [(turn.text, turn.started_ms, turn.ended_ms) for turn in page.turns if turn.interrupted]
    assert cut == [], "its echo does not cut the agent off"
