"""Calls that we place through a real livekit-server, to telephones at the far end of its SIP API."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio

from trunkline.agent.audio import SILENCE
from trunkline.crm.service import Cause
from trunkline.desk import call_page, dial
from trunkline.desk.call_page import CallPage
from trunkline.dialer import Dialer
from trunkline.kit.blobs import BlobOptions
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.kit.livekit import open_livekit
from trunkline.kit.phone import parse
from trunkline.kit.processes import spawn
from trunkline.profiles import service as profiles
from trunkline.profiles.body import read
from trunkline.sandbox.caller import Caller as Person
from trunkline.sandbox.caller import HangUp, Listen, Say, load_line
from trunkline.sandbox.phones import BUSY, DECLINES, RINGS_OUT, TRUNK_DOWN, UNKNOWN, Phone, Placed
from trunkline.sandbox.sip_api import SipApi
from trunkline.sandbox.story import OUR_NUMBER, PROFILE, seed
from trunkline.sandbox.worker import WorkerOrders

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

DANA = "+12025550134"
SALES = "+12025550101"
"""Shown by a profile that lets it ring for five seconds only."""

RATE_HZ = 8000
LONGEST_S = 90.0


class Machine:
    """An answering machine: plays its greeting, beeps or not, and listens."""

    def __init__(self, *lines: str, beep_ms: int) -> None:
        time = np.arange(RATE_HZ * beep_ms // 1000) / RATE_HZ
        beep = (8000 * np.sin(2 * np.pi * 1000 * time)).astype("<i2").tobytes()
        size = len(SILENCE)
        frames = [beep[at : at + size] for at in range(0, len(beep), size)]
        pause = [SILENCE] * 20
        self._sounds = [*pause, *(f for line in lines for f in load_line(line)), *pause, *frames]
        self.greeting_frames = len(self._sounds)

    def ringing(self) -> bool:
        return True

    def exchange(self, heard: bytes) -> bytes | None:
        return self._sounds.pop(0) if self._sounds else SILENCE

    def pressed(self) -> str:
        return ""


@dataclass
class World:
    """A database, a worker whose LiveKit has telephones behind it, and a dialer."""

    db: Database
    front: SipApi

    async def call(self, to: str, phone: Phone, **given: Any) -> tuple[Placed, CallPage]:
        """Have *to* called, and wait until the call is over and stored."""
        self.front.phones[to] = phone
        before = len([one for one in self.front.calls if one.number == to])
        async with self.db.work() as session:
            call = await dial.queue_call(
                session, to=to, **{"from_number": OUR_NUMBER, **given},
                cause=Cause(source="api"), now=utc_now(),
            )  # fmt: skip
        async with asyncio.timeout(LONGEST_S):
            placed = await self.front.placed(to, before + 1)
            await placed.over.wait()
            return placed, await self.until(call.id, lambda page: not page.call.live)

    async def until(self, call_id: str, is_so: Callable[[CallPage], bool]) -> CallPage:
        while True:
            async with self.db.look() as session:
                page = await call_page.page(session, call_id)
            if is_so(page):
                return page
            await asyncio.sleep(0.1)  # pace: another process stores it


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[str]:
    process = await spawn(
        module, *arguments, on_error_line=lambda line: print(line, file=sys.stderr)
    )
    try:
        yield await process.ready(timedelta(seconds=90))
    finally:
        await process.stop(timedelta(seconds=15))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
    livekit_server: "LiveKitServer",
) -> AsyncIterator[World]:
    """Everything that a call out needs."""
    folder = tmp_path_factory.mktemp("outbound")
    shutil.copyfile(sqlite_template, folder / "trunkline.db")
    url = f"sqlite+aiosqlite:///{folder / 'trunkline.db'}"
    db = open_database(DatabaseOptions(url))
    async with db.work() as session:
        await seed(session, now=utc_now())
        quick = {"opening": "Hello.", "hours": [], "ring_s": 5, "max_calls": 9}
        made = await profiles.create_profile(
            session, name="Sales", body=read({**PROFILE, "outbound": quick}), now=utc_now()
        )
        await profiles.assign_number(
            session, parse(SALES, region=None), made.profile_id, region="US", now=utc_now()
        )
    trunk = {"name": "out", "address": "127.0.0.1:5060", "numbers": [OUR_NUMBER, SALES]}
    async with open_livekit(livekit_server.options) as livekit:
        trunk_id = await livekit.create("outbound", trunk)
        async with (
            SipApi(livekit_server.options) as front,
            child("trunkline.sandbox.server") as port,
        ):
            orders = WorkerOrders(
                livekit_url=front.options.url,
                livekit_key=front.options.api_key,
                livekit_secret=front.options.api_secret,
                database_url=url,
                blobs_url=BlobOptions(str(folder / "blobs")).url,
                sandbox_port=int(port),
            )
            async with child("trunkline.sandbox.worker", orders.dump()):
                dialling = asyncio.create_task(Dialer(db, livekit).run())
                yield World(db, front)
                dialling.cancel()
                await asyncio.gather(dialling, return_exceptions=True)
        await livekit.delete("outbound", trunk_id)
    await db.close()


async def test_a_person_answers(world: World) -> None:
    """Somebody says hello and hears, within a second or so, who is calling and why."""

    def person() -> Person:
        return Person((Say("hello.wav"), Listen(), HangUp()))

    placed, page = await world.call(DANA, Phone(who=person), reason="your new line")
    agent = [turn for turn in page.turns if turn.role == "agent"]
    assert agent[0].text.startswith("Hello Dana, this is Robin from Harbor Fiber"), page.turns
    assert "calling about your new line" in agent[0].text
    assert page.call.end_reason == "callee_hangup"
    assert page.call.answered_at is not None
    assert placed.caller_id == OUR_NUMBER


@pytest.mark.parametrize(
    ("to", "phone", "reason"),
    [
        ("+12025550171", BUSY, "busy"),
        ("+12025550172", DECLINES, "rejected"),
        ("+12025550173", RINGS_OUT, "no_answer"),
        ("+12025550174", UNKNOWN, "invalid_number"),
        ("+12025550175", TRUNK_DOWN, "trunk_error"),
    ],
    ids=["busy", "declined", "rings-out", "unknown", "trunk-down"],
)
async def test_nobody_answers(to: str, phone: Phone, reason: str, world: World) -> None:
    """Each way of not answering is told apart, and nobody is said to have answered."""
    _, page = await world.call(to, phone, from_number=SALES)
    assert (page.call.end_reason, page.call.answered_at) == (reason, None)
    assert page.turns == ()


@pytest.mark.parametrize("beep_ms", [400, 0], ids=["beep", "no-beep"])
async def test_a_machine_answers(beep_ms: int, world: World) -> None:
    """The whole message is left, and none of it before the machine records."""
    lines = ("the_quick_brown_fox_jumps_over_the_lazy_dog.wav", "what_plans_do_you_have.wav")
    machine = Machine(*lines, beep_ms=beep_ms)
    to = "+12025550145" if beep_ms else "+12025550156"
    placed, page = await world.call(to, Phone(who=lambda: machine))
    assert page.call.end_reason == "voicemail_left", page.turns
    message = [turn.text for turn in page.turns if turn.role == "agent"]
    assert len(message) == 1
    assert message[0].endswith("Please call us back. Goodbye.")
    heard = np.frombuffer(bytes(placed.heard), dtype="<i2").astype(float)
    loud = np.flatnonzero(np.abs(heard) > 500)
    assert loud[0] / RATE_HZ > machine.greeting_frames * 0.02, "after the greeting and its beep"
    assert (loud[-1] - loud[0]) / RATE_HZ > 4, "to its end"
