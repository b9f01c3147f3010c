"""Calls that find no agent are answered all the same, through a real livekit-server."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.agent.options import WorkerOptions
from trunkline.agent.rescue_server import RescueProcess
from trunkline.calls import queries as calls
from trunkline.desk import call_page
from trunkline.desk.call_page import CallPage
from trunkline.desk.sip import RESCUE
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.kit.livekit import LiveKit
from trunkline.kit.processes import spawn
from trunkline.profiles import queries as profile_reads
from trunkline.profiles import service as profiles
from trunkline.profiles.body import read
from trunkline.sandbox.caller import Caller, HangUp, Listen, Pause, Press, StayOn, Step
from trunkline.sandbox.callers import sandbox_providers
from trunkline.sandbox.phones import BUSY, Listener, Phone
from trunkline.sandbox.sip import Dial, SipCall
from trunkline.sandbox.story import OUR_NUMBER, STORIES, seed
from trunkline.sandbox.worker import WorkerOrders

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

    from trunkline.sandbox.sip_api import SipApi

START = timedelta(seconds=90)
LONGEST_S = 150.0
PERSON = "+12025550188"


class Shop:
    """A furnished database and a LiveKit; workers as a test wants them."""

    def __init__(self, folder: Path, server: "LiveKitServer", livekit: LiveKit) -> None:
        self.url = f"sqlite+aiosqlite:///{folder / 'trunkline.db'}"
        self.blob_options = BlobOptions(str(folder / "blobs"))
        self.db: Database = open_database(DatabaseOptions(self.url))
        self.blobs: Blobs = open_blobs(self.blob_options)
        self.server, self.livekit = server, livekit

    @asynccontextmanager
    async def process(self, module: str, *arguments: str) -> AsyncIterator[str]:
        process = await spawn(
            module, *arguments, on_error_line=lambda line: print(line, file=sys.stderr)
        )
        try:
            yield await process.ready(START)
        finally:
            await process.stop(timedelta(seconds=15))

    def worker(self, sandbox_port: str = "9", **given: Any) -> Any:
        orders = WorkerOrders(
            word_after_ms=None,
            livekit_url=self.server.url,
            livekit_key=self.server.api_key,
            livekit_secret=self.server.api_secret,
            database_url=self.url,
            blobs_url=self.blob_options.url,
            sandbox_port=int(sandbox_port),
            **given,
        )
        return self.process("trunkline.sandbox.worker", orders.dump())

    def call(self, room: str, party: Any, from_raw: str) -> SipCall:
        dial = Dial(room, from_raw=from_raw, to_raw=OUR_NUMBER, number=OUR_NUMBER)
        return SipCall(self.server.options, dial, party)

    async def stored(self, room: str) -> CallPage:
        """The call of *room* once it is over and stored."""
        async with asyncio.timeout(120):
            while True:
                async with self.db.look() as session:
                    call = await calls.call_in_room(session, room)
                    page = await call_page.page(session, call.id) if call else None
                if page is not None and not page.call.live:
                    return page
                await asyncio.sleep(0.1)  # pace: another process stores it


@pytest.fixture
async def shop(
    sqlite_template: Path, tmp_path: Path, livekit_server: "LiveKitServer", livekit: LiveKit
) -> AsyncIterator[Shop]:
    shutil.copyfile(sqlite_template, tmp_path / "trunkline.db")
    made = Shop(tmp_path, livekit_server, livekit)
    async with made.db.work() as session:
        await seed(session, now=utc_now())
    yield made
    await made.db.close()


class Patient(Listener):
    """Rings as long as it takes, hears for a moment, hangs up."""

    def __init__(self, frames: int = 75) -> None:
        self._left = frames

    def exchange(self, heard: bytes) -> bytes | None:
        self._left -= 1
        return super().exchange(heard) if self._left else None


async def guarded(guardian: Guardian, over: "asyncio.Task[Any]") -> None:
    """What the guardian's process does, until *over* is."""
    async with asyncio.timeout(LONGEST_S):
        while not over.done():
            await guardian.send_again()
            await asyncio.sleep(0.2)  # pace: it looks again and again


async def test_a_full_worker(shop: Shop) -> None:
    """The call that is one too many meets the menu, where keys are obeyed; the first call goes on."""
    async with (
        shop.process("trunkline.sandbox.server") as port,
        shop.worker(port, capacity=1, warm=1),
    ):
        first = shop.call("call_first", Caller((StayOn(),)), "+12025550134")
        talking = asyncio.create_task(first.run())
        await asyncio.wait_for(first.wait_answered(), 120)
        caller = Caller((Listen(timedelta(milliseconds=300)), Press("3"), StayOn()))
        second = shop.call("call_second", caller, "+12025550177")
        over = await asyncio.wait_for(second.run(), LONGEST_S)
        assert over.how == "agent"
        page = await shop.stored("call_second")
        assert page.call.end_reason == "callback_booked"
        assert [one.kind for one in page.activities] == ["task"]
        async with shop.db.look() as session:
            held = await calls.call_in_room(session, "call_first")
        assert held is not None
        assert held.state == "talking"
        await shop.livekit.delete_room("call_first")
        await asyncio.wait_for(talking, 120)
    # The worker saw a published profile and rendered its sentences in its own voice.
    said = [turn.text for turn in page.turns if turn.role == "agent"]
    assert said[-1].startswith("Thank you. Somebody will call you back")


async def test_no_worker_of_the_agent(shop: Shop) -> None:
    """A call that no agent takes is answered by the rescue that the guardian sends."""
    soon = GuardianOptions(rescue_after=timedelta(seconds=1.5))
    guardian = Guardian(shop.db, shop.blobs, soon, livekit=shop.livekit)
    async with (
        shop.process("trunkline.sandbox.server") as port,
        shop.worker(port, capacity=1, warm=1),
    ):
        first = shop.call("call_taken", Patient(10_000), "+12025550134")
        talking = asyncio.create_task(first.run())
        await asyncio.wait_for(first.wait_answered(), 120)
        second = shop.call("call_rings", Patient(), "+12025550177")
        running = asyncio.create_task(second.run())
        await guarded(guardian, running)
        assert running.result().how == "caller"
        page = await shop.stored("call_rings")
        assert page.call.end_reason == "caller_hangup"
        assert page.turns[0].text.startswith("Thank you for calling")
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)


@pytest.mark.parametrize(("phone", "ends"), [(Phone(), "transferred"), (BUSY, "callback_booked")])
async def test_a_person_by_key(shop: Shop, sip_api: "SipApi", phone: Phone, ends: str) -> None:
    """One connects the caller with the profile's first person; when they are busy the menu goes on."""
    sip_api.phones[PERSON] = phone
    async with shop.db.work() as session:
        (owner,) = await profile_reads.profiles(session)
        _, body = await profile_reads.published(session, owner.id)
        target = {"name": "Support", "number": PERSON, "when": "Always.", "ring_s": 5}
        changed = read({**body.model_dump(mode="json"), "transfers": [target]})
        await profiles.publish(session, owner.id, changed, now=utc_now())
    options = WorkerOptions(
        livekit=sip_api.options,
        database=DatabaseOptions(shop.url),
        blobs=shop.blob_options,
        agent=sandbox_providers(9, "sandbox"),
    )
    process = RescueProcess(options)
    running = asyncio.create_task(process.run())
    async with asyncio.timeout(120):
        while not process.ready:  # noqa: ASYNC110 - another process says so
            await asyncio.sleep(0.1)  # pace: it starts
    steps = (Listen(), Press("1"), Pause(timedelta(seconds=6)), Press("3"), StayOn())
    dial = Dial(
        "call_person",
        from_raw="+12025550177",
        to_raw=OUR_NUMBER,
        number=OUR_NUMBER,
        agent=RESCUE,
    )
    call = SipCall(shop.server.options, dial, Caller(steps))
    over = await asyncio.wait_for(call.run(), LONGEST_S)
    page = await shop.stored("call_person")
    assert page.call.end_reason == ends
    assert over.how == ("transferred" if ends == "transferred" else "agent")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_four_at_once(shop: Shop) -> None:
    """Four callers at the same time, the whole way by voice: each gets what they asked for."""

    def told(steps: Sequence[Step]) -> Caller:
        return Caller(steps)

    story = STORIES[0]
    async with (
        shop.process("trunkline.sandbox.server") as port,
        shop.worker(port, capacity=4, warm=4),
    ):
        calls_ = [
            shop.call("call_voice", told(story.steps), story.from_raw or ""),
            shop.call("call_keys", told((Listen(), Press("2"), StayOn())), "+12025550141"),
            shop.call("call_hang_up", told((Listen(), HangUp())), "+12025550142"),
            shop.call("call_more_keys", told((Listen(), Press("2"), StayOn())), "+12025550143"),
        ]
        overs = await asyncio.wait_for(asyncio.gather(*(call.run() for call in calls_)), LONGEST_S)
        assert [over.rang_ms is not None for over in overs] == [True] * 4
        voice = await shop.stored("call_voice")
        moved = [(c.title, c.before, c.after) for c in voice.changes if c.entity == "deal"]
        assert moved == [("Office Fiber", "proposal", "won")]
        for room in ("call_keys", "call_more_keys"):
            page = await shop.stored(room)
            assert "[keys 2]" in [turn.text for turn in page.turns]
            assert "request_callback" in [run.name for run in page.tool_runs if run.state == "ok"]
        assert (await shop.stored("call_hang_up")).call.end_reason == "caller_hangup"
