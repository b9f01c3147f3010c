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
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import pytest_asyncio

from trunkline.agent.audio import SILENCE
from trunkline.calls import service as calls
from trunkline.crm import queries as crm_reads
from trunkline.crm import service as crm
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
from trunkline.profiles import queries as reads
from trunkline.profiles import service as profiles
from trunkline.profiles.body import read
from trunkline.sandbox.caller import Caller as Person
from trunkline.sandbox.caller import HangUp, Listen, Pause, Press, Say, StayOn, load_line
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

DAYTIME = "+12025550102"
"""Shown by a profile that never calls at this hour."""
SUPPORT, OFFICE = "+12025550188", "+12025550189"
PEOPLE = [
    {"name": "Support", "number": SUPPORT, "when": "Something is broken.", "ring_s": 5},
    {"name": "Office", "number": OFFICE, "when": "Bills.", "mode": "cold", "ring_s": 5},
]

RATE_HZ = 8000
LONGEST_S = 90.0
ALL_DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class Machine:
    """An answering machine: plays its greeting, beeps or not, and listens."""

    def __init__(self, *lines: str, beep_ms: int, between: int = 0) -> None:
        time = np.arange(RATE_HZ * beep_ms // 1000) / RATE_HZ
        beep = (8000 * np.sin(2 * np.pi * 1000 * time)).astype("<i2").tobytes()
        size = len(SILENCE)
        frames = [beep[at : at + size] for at in range(0, len(beep), size)]
        pause = [SILENCE] * 20
        spoken = [f for line in lines for f in (*load_line(line), *[SILENCE] * between)]
        self._sounds = [*pause, *spoken, *pause, *frames]
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
        (front_desk,) = await reads.profiles(session)
        tools = [*PROFILE["tools"], "transfer_to_person"]  # type: ignore[misc]
        body = read({**PROFILE, "tools": tools, "transfers": PEOPLE})
        await profiles.publish(session, front_desk.id, body, now=utc_now())
        quick = {"opening": "Hello.", "hours": [], "ring_s": 5, "max_calls": 9}
        made = await profiles.create_profile(
            session, name="Sales", body=read({**PROFILE, "outbound": quick}), now=utc_now()
        )
        await profiles.assign_number(
            session, parse(SALES, region=None), made.profile_id, region="US", now=utc_now()
        )
        there = (utc_now() + timedelta(hours=6)).astimezone(ZoneInfo("America/New_York"))
        later = there + timedelta(hours=2)
        hours = [{"days": ALL_DAYS, "opens": f"{there:%H:00}", "closes": f"{later:%H:00}"}]
        made = await profiles.create_profile(
            session,
            name="Daytime",
            body=read({**PROFILE, "outbound": {**quick, "hours": hours}}),
            now=utc_now(),
        )
        await profiles.assign_number(
            session, parse(DAYTIME, region=None), made.profile_id, region="US", now=utc_now()
        )
    trunk = {"name": "out", "address": "127.0.0.1:5060", "numbers": [OUR_NUMBER, SALES, DAYTIME]}
    async with open_livekit(livekit_server.options) as livekit:
        trunk_id = await livekit.create("outbound", trunk)
        async with (
            SipApi(livekit_server.options) as front,
            child("trunkline.sandbox.server") as port,
        ):
            orders = WorkerOrders(
                word_after_ms=None,
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


async def test_a_machine_that_was_taken_for_a_person(world: World) -> None:
    """It pauses after "hello": the opening is broken off when it beeps, and the message is left then."""
    machine = Machine(
        "hello.wav", "the_quick_brown_fox_jumps_over_the_lazy_dog.wav", beep_ms=400, between=60
    )
    placed, page = await world.call("+12025550157", Phone(who=lambda: machine))
    assert page.call.end_reason == "voicemail_left", page.turns
    opening, message = [turn for turn in page.turns if turn.role == "agent"]
    assert (opening.interrupted, message.interrupted) == (True, False)
    assert message.text.endswith("Please call us back. Goodbye.")
    heard = np.frombuffer(bytes(placed.heard), dtype="<i2").astype(float)
    after = np.flatnonzero(np.abs(heard[round(machine.greeting_frames * 0.02 * RATE_HZ) :]) > 500)
    assert (after[-1] - after[0]) / RATE_HZ > 4, "all of it after the beep"


@pytest.mark.parametrize("pause_ms", [300, 1000], ids=["asks", "taken-for-a-person"])
async def test_a_screened_call(pause_ms: int, world: World) -> None:
    """A service that asks hears who is calling and why, also when its question breaks the opening off.

    Whoever comes then hears the opening.
    """

    def screening() -> Person:
        return Person(
            (
                Say("hello.wav"),
                Pause(timedelta(milliseconds=pause_ms)),
                Say("please_state_your_name_and_why_you_are_calling.wav"),
                Listen(),
                Pause(timedelta(seconds=3)),
                Say("hello.wav"),
                Listen(),
                HangUp(),
            )
        )

    to = "+12025550158" if pause_ms < 500 else "+12025550161"
    _, page = await world.call(to, Phone(who=screening), reason="your new line")
    # On a slow machine either pause is long enough for an opening.
    whole = [turn for turn in page.turns if turn.role == "agent" and not turn.interrupted]
    agent = [turn.text for turn in whole]
    assert agent[0] == "This is Robin from Harbor Fiber. I am calling about your new line."
    assert agent[1].startswith("Hello, this is Robin from Harbor Fiber"), page.turns
    assert page.call.end_reason == "callee_hangup"


async def test_a_person_is_put_through_to_another(world: World) -> None:
    """Whom we call can be transferred like whoever calls us: asked first, or by the carrier."""

    def person(*steps: Any) -> Person:
        return Person((Say("hello.wav"), Listen(), *steps))

    def colleague() -> Person:
        return Person((Listen(), Press("1"), Pause(timedelta(seconds=4)), HangUp()))

    world.front.phones[SUPPORT] = Phone(who=colleague)
    placed, page = await world.call(
        "+12025550159", Phone(who=lambda: person(Press("3"), Pause(timedelta(seconds=24))))
    )
    assert page.call.end_reason == "transferred", page.turns
    assert [(run.name, run.state) for run in page.tool_runs] == [("transfer_to_person", "ok")]
    asked = await world.front.placed(SUPPORT)
    assert asked.caller_id == OUR_NUMBER
    assert "Support is on the line." in " ".join(turn.text for turn in page.turns)
    assert placed.over.is_set()

    world.front.phones[OFFICE] = Phone()
    _, page = await world.call("+12025550160", Phone(who=lambda: person(Press("4"), StayOn())))
    assert page.call.end_reason == "transferred", page.turns
    assert (await world.front.placed(OFFICE)).outcome == "transferred"


async def test_nobody_is_rung_against_the_rules(world: World) -> None:
    """Somebody who asked meanwhile not to be called, or whose hour has passed, hears no ringing."""
    async with world.db.work() as session:
        now = utc_now()
        maria = await crm_reads.contact_by_number(session, "+12025550156")
        assert maria is not None
        asked = await dial.queue_call(
            session, to="+12025550156", from_number=SALES, cause=Cause(source="api"), now=now
        )
        await crm.update_contact(
            session, maria.id, {"do_not_call": True}, cause=Cause(source="api"), now=now
        )
        late = await dial.queue_call(
            session, to="+12025550161", from_number=DAYTIME, cause=Cause(source="api"), now=now,
            not_before=now + timedelta(hours=6),
        )  # fmt: skip
        # It was to be dialled at an hour that was allowed, and that passed while no agent was there.
        await calls.postpone(session, late, due_at=now)
    before = len(world.front.calls)
    for call, reason in ((asked, "do_not_call"), (late, "outside_hours")):
        async with asyncio.timeout(LONGEST_S):
            page = await world.until(call.id, lambda page: not page.call.live)
        assert (page.call.end_reason, page.call.answered_at) == (reason, None)
    assert len(world.front.calls) == before
