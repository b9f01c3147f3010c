"""Calls that come in through a real LiveKit room, to a real worker, with the sandbox's providers."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
from livekit import api, rtc

from trunkline.calls import queries as calls
from trunkline.desk import call_page
from trunkline.desk.call_page import CallPage
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.audio import read_wav, sounds
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.kit.livekit import LiveKit, open_livekit
from trunkline.kit.processes import Child, spawn
from trunkline.sandbox.caller import Caller, HangUp, Listen, Press, Say, StayOn, Step
from trunkline.sandbox.sip import Dial, Over, SipCall
from trunkline.sandbox.story import OUR_NUMBER, STORIES, seed
from trunkline.sandbox.worker import WorkerOrders

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALLER = "+12025550134"
"""Dana Whitfield of the story, whom the CRM knows."""

START = timedelta(seconds=90)
LONGEST_S = 120.0


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[tuple[Child, str]]:
    """A process of the product and what it said when it was ready."""
    process = await spawn(
        module, *arguments, on_error_line=lambda line: print(line, file=sys.stderr)
    )
    try:
        yield process, await process.ready(START)
    finally:
        await process.stop(timedelta(seconds=15))


@dataclass
class Stack:
    """A furnished database, a running worker and a LiveKit that sends it calls; for all tests here."""

    db: Database
    blobs: Blobs
    server: "LiveKitServer"
    livekit: LiveKit
    worker_port: int
    pid: int = 0
    """The worker's."""

    def ring(self, room: str, steps: Sequence[Step], **dial: Any) -> tuple[SipCall, Caller]:
        """A call that is ready to be made, by a known caller to our number unless *dial* says otherwise."""
        given = {"from_raw": CALLER, "to_raw": OUR_NUMBER, "number": OUR_NUMBER, **dial}
        caller = Caller(steps)
        return SipCall(self.server.options, Dial(room, **given), caller), caller

    async def call(self, room: str, steps: Sequence[Step], **dial: Any) -> tuple[Over, CallPage]:
        """Make a call and wait until it is over and stored."""
        sip, caller = self.ring(room, steps, **dial)
        over = await asyncio.wait_for(sip.run(), LONGEST_S)
        assert caller.gave_up is None
        return over, await self.stored(room)

    async def stored(self, room: str) -> CallPage:
        """The call of *room* once it has ended and its recording is closed."""
        async with asyncio.timeout(120):
            while True:
                page = await self.look(room)
                done = page is not None and not page.call.live
                if page and done and (page.recording is None or page.recording.state != "open"):
                    return page
                await asyncio.sleep(0.1)  # pace: another process stores it

    async def ready(self) -> dict[str, Any]:
        """What the worker's /ready says."""
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.get(f"http://127.0.0.1:{self.worker_port}/ready")
        told: dict[str, Any] = answer.json()
        assert answer.status_code == (200 if told["ready"] else 503)
        return told

    async def look(self, room: str) -> CallPage | None:
        """What is stored of the call of *room* now."""
        async with self.db.look() as session:
            call = await calls.call_in_room(session, room)
            return await call_page.page(session, call.id) if call else None

    async def until(self, room: str, is_so: Callable[[CallPage], bool]) -> CallPage:
        """The call of *room* as soon as *is_so* holds of it."""
        async with asyncio.timeout(120):
            while True:
                page = await self.look(room)
                if page is not None and is_so(page):
                    return page
                await asyncio.sleep(0.1)  # pace: another process stores it


@dataclass
class World:
    """Everything a worker needs, and how to start one."""

    db: Database
    blobs: Blobs
    server: "LiveKitServer"
    livekit: LiveKit
    orders: WorkerOrders

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Stack]:
        """The worker as it runs in production, its providers the sandbox's."""
        async with child("trunkline.sandbox.worker", self.orders.dump()) as (one, port):
            yield Stack(self.db, self.blobs, self.server, self.livekit, int(port), one.pid)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
    livekit_server: "LiveKitServer",
) -> AsyncIterator[World]:
    """A furnished database, LiveKit and the sandbox's providers; no worker yet."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copyfile(sqlite_template, folder / "trunkline.db")
    url = f"sqlite+aiosqlite:///{folder / 'trunkline.db'}"
    blobs = BlobOptions(str(folder / "blobs"))
    db = open_database(DatabaseOptions(url))
    async with db.work() as session:
        await seed(session, now=utc_now())
    async with (
        open_livekit(livekit_server.options) as livekit,
        child("trunkline.sandbox.server") as (_, port),
    ):
        orders = WorkerOrders(
            word_after_ms=None,
            livekit_url=livekit_server.url,
            livekit_key=livekit_server.api_key,
            livekit_secret=livekit_server.api_secret,
            database_url=url,
            blobs_url=blobs.url,
            sandbox_port=int(port),
        )
        yield World(db, open_blobs(blobs), livekit_server, livekit, orders)
    await db.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(world: World) -> AsyncIterator[Stack]:
    """A world with a worker in it."""
    async with world.worker() as running:
        yield running


async def test_nobody_was_free(world: World) -> None:
    """LiveKit asks its workers once; a caller who came in a bad moment gets an agent from the guardian.

    First in this file, while no other test's worker is there to take the call.
    """
    room = "call_alone"
    livekit = world.livekit
    stack = Stack(world.db, world.blobs, world.server, livekit, 0)
    patient = GuardianOptions(rescue_after=timedelta(seconds=90))
    guardian = Guardian(world.db, world.blobs, patient, livekit=livekit)
    sip, _ = stack.ring(room, (Listen(), HangUp()))
    running = asyncio.create_task(sip.run())
    await asyncio.wait_for(sip.wait_ringing(), 120)
    assert await guardian.send_again() == [], "it may still be on the way"
    async with world.worker(), asyncio.timeout(120):
        while (sent := await guardian.send_again()) != [room]:
            assert sent == []
            await asyncio.sleep(0.1)  # pace: LiveKit's clock is not ours
        page = await stack.look(room)
        assert page is not None, "stored, though no worker has seen it"
        assert (page.call.state, page.call.contact.name if page.call.contact else None) == (
            "ringing",
            "Dana Whitfield",
        )
        assert await guardian.send_again() == [], "an agent was sent for just now"
        await running
        assert (await stack.stored(room)).call.end_reason == "caller_hangup"


async def test_nobody_is_sent_to_a_worker_that_drains(world: World) -> None:
    """Told to stop, a worker lets its call go on to the end, and /ready turns false meanwhile."""
    room = "call_drained"
    async with world.worker() as stack:
        sip, _ = stack.ring(room, (Listen(), HangUp()))
        running = asyncio.create_task(sip.run())
        await asyncio.wait_for(sip.wait_answered(), 120)
        os.kill(stack.pid, signal.SIGTERM)
        async with asyncio.timeout(120):
            while (await stack.ready())["ready"]:  # noqa: ASYNC110 - asked of another process
                await asyncio.sleep(0.05)  # pace: a signal takes its time
        over = await asyncio.wait_for(running, LONGEST_S)
        # Inside the block, whose end is a second signal: that one waits for nothing.
        assert (await stack.stored(room)).call.end_reason == "caller_hangup"
    assert over.how == "caller"


async def test_a_whole_call(stack: Stack) -> None:
    """A known caller's order is confirmed by voice alone, through a room, and all of it is stored."""
    story = STORIES[0]
    over, page = await stack.call("call_story", story.steps, from_raw=story.from_raw)
    assert over.how == "agent"
    assert page.call.end_reason == "agent_hangup", [(t.role, t.text) for t in page.turns]
    assert page.call.channel == "sip"
    assert page.turns[0].text.startswith("Hello Dana")
    moved = [(c.title, c.before, c.after) for c in page.changes if c.entity == "deal"]
    assert moved == [("Office Fiber", "proposal", "won")]
    assert page.turns[-1].role == "agent"
    samples, rate = read_wav(await stack.blobs.get(f"recordings/{page.call.id}.wav"))
    assert rate == 8000
    left, right = sounds(samples[:, 0], rate), sounds(samples[:, 1], rate)
    assert right[0].start_ms < left[0].start_ms, "the agent greets first"
    assert len(left) >= 3


async def test_keys_reach_the_agent(stack: Stack) -> None:
    """Keys come as SIP DTMF packets and the model sees them as a turn."""
    _, page = await stack.call("call_keys", (Listen(), Press("2"), StayOn()))
    assert "[keys 2]" in [turn.text for turn in page.turns if turn.role == "user"]
    assert "request_callback" in [run.name for run in page.tool_runs if run.state == "ok"]


@pytest.mark.parametrize(
    ("dial", "contact", "from_number"),
    [
        # Other builds of livekit-sip say who calls a moment after the participant is there.
        ({"late": timedelta(milliseconds=300)}, "Dana Whitfield", CALLER),
        # hide_phone_number: neither number is told; the rule's own attribute says whose was dialled.
        ({"hidden": True}, None, None),
        # A carrier that withholds the number sends a word in its place.
        ({"from_raw": "anonymous"}, None, None),
        # A rule that is not ours, so without our attribute.
        ({"number": None}, "Dana Whitfield", CALLER),
        ({"attributes": {"sip.h.x-junk": "ø'; DROP TABLE calls;--" * 2000}}, "Dana Whitfield", CALLER),
    ],
    ids=["late", "hidden", "anonymous", "no-rule-attribute", "huge-header"],
)  # fmt: skip
async def test_who_calls_whom(
    dial: dict[str, Any],
    contact: str | None,
    from_number: str | None,
    stack: Stack,
    request: pytest.FixtureRequest,
) -> None:
    """Whatever the line tells of the caller and however late, the call is answered by the right profile."""
    over, page = await stack.call(f"call_{request.node.name}", (Listen(), HangUp()), **dial)
    assert over.how == "caller"
    assert page.call.to_number == OUR_NUMBER
    assert page.call.from_number == from_number
    assert (page.call.contact.name if page.call.contact else None) == contact
    assert page.call.end_reason == "caller_hangup"
    greeting = page.turns[0].text
    assert greeting.startswith("Hello Dana, " if contact else "Hello, this is Harbor Fiber")


async def test_a_number_that_is_not_ours(stack: Stack) -> None:
    """The call is stored, nobody answers, and the caller is let go rather than left ringing."""
    sip, _ = stack.ring("call_wrong", (StayOn(),), to_raw="+12025550199", number="+12025550199")
    over = await asyncio.wait_for(sip.run(), LONGEST_S)
    assert (over.how, over.rang_ms) == ("agent", None)
    page = await stack.stored("call_wrong")
    assert page.call.end_reason == "no_profile"
    assert page.call.answered_at is None


async def test_the_agents_process_is_killed(stack: Stack) -> None:
    """Another agent takes the call over, says so, hears the caller, and nothing that was said is lost."""
    room = "call_killed"
    # The second time it listens to the agent that takes over.
    sip, _ = stack.ring(room, (Listen(), Listen(), Press("2"), StayOn()))
    running = asyncio.create_task(sip.run())
    said = await stack.until(
        room, lambda page: any("Dana" in t.text and t.ended_ms is not None for t in page.turns)
    )
    (job,) = [job["pid"] for job in (await stack.ready())["calls"] if job["room"] == room]
    os.kill(job, signal.SIGKILL)
    over = await asyncio.wait_for(running, LONGEST_S)
    page = await stack.stored(room)
    assert (over.how, page.call.end_reason) == ("agent", "agent_hangup")
    assert page.call.contact is not None
    assert page.call.contact.name == "Dana Whitfield"
    texts = [(turn.role, turn.text) for turn in page.turns]
    assert texts[0] == ("agent", said.turns[0].text)
    back = next(turn for turn in page.turns if "I'm back" in turn.text)
    assert ("user", "[keys 2]") in texts
    starts = [turn.started_ms for turn in page.turns]
    assert starts == sorted(starts)
    assert back.started_ms > (page.turns[0].ended_ms or 0), "the call's clock goes on"
    assert page.recording is not None
    samples, rate = read_wav(await stack.blobs.get(f"recordings/{page.call.id}.wav"))
    agent = sounds(samples[:, 1], rate)
    assert agent[-1].start_ms >= back.started_ms - 500, "both agents are in the one recording"
    kept_until = samples.shape[0] * 1000 / rate
    assert back.ended_ms is not None
    assert kept_until > back.ended_ms, "the gap between them is silence, not left out"


async def test_a_caller_who_gives_up(stack: Stack) -> None:
    """A caller who hangs up while the agent is still coming leaves a call that nobody answered."""

    class Hasty:
        def __init__(self) -> None:
            self.ticks = 0

        def ringing(self) -> bool:
            self.ticks += 1
            return self.ticks < 12  # a quarter of a second: before any agent can be there

        def exchange(self, heard: bytes) -> bytes | None:
            return None

        def pressed(self) -> str:
            return ""

    room = "call_hasty"
    dial = Dial(room, CALLER, OUR_NUMBER, number=OUR_NUMBER)
    over = await asyncio.wait_for(SipCall(stack.server.options, dial, Hasty()).run(), LONGEST_S)
    assert over.how == "gave up"
    # With a webhook it would be stored in any case; here the worker's job may find the room empty.
    page = await stack.look(room)
    assert page is None or page.call.answered_at is None


async def test_the_worker_says_when_it_can_take_calls(stack: Stack) -> None:
    """/ready names the process of each call that is on, and nothing else."""
    sip, _ = stack.ring("call_ready", (Listen(), HangUp()))
    running = asyncio.create_task(sip.run())
    await asyncio.wait_for(sip.wait_answered(), 120)
    told = await stack.ready()
    assert told["ready"]
    (job,) = [job for job in told["calls"] if job["room"] == "call_ready"]
    os.kill(job["pid"], 0)  # raises unless there is such a process
    await running


async def test_anybody_in_the_room_reads_along(stack: Stack) -> None:
    """A plain LiveKit client gets both sides' words on LiveKit's own topic, the caller's interim ones too,
    and sees what the agent does by its attribute."""
    room = "call_captions"
    steps = (Listen(), Say("wait_what_are_your_opening_hours.wav"), Listen(), HangUp())
    sip, _ = stack.ring(room, steps)
    running = asyncio.create_task(sip.run())
    await asyncio.wait_for(sip.wait_answered(), 120)
    reader = rtc.Room()
    states: list[str] = []
    said: list[tuple[str, str, str, str]] = []
    reading: list[asyncio.Task[None]] = []

    async def read(stream: rtc.TextStreamReader, sender: str) -> None:
        text = await stream.read_all()
        known = stream.info.attributes or {}
        said.append((sender, known["lk.segment_id"], known["lk.transcription_final"], text))

    def on_stream(stream: rtc.TextStreamReader, sender: str) -> None:
        reading.append(asyncio.create_task(read(stream, sender)))

    def on_attributes(changed: dict[str, str], participant: rtc.Participant) -> None:
        if "lk.agent.state" in changed:
            states.append(changed["lk.agent.state"])

    reader.register_text_stream_handler("lk.transcription", on_stream)
    reader.on("participant_attributes_changed", on_attributes)
    options = stack.server.options
    grants = api.VideoGrants(room_join=True, room=room, can_publish=False, hidden=True)
    token = api.AccessToken(options.api_key, options.api_secret).with_identity("reader")
    await reader.connect(options.url, token.with_grants(grants).to_jwt())
    agent = next(
        one.identity
        for one in reader.remote_participants.values()
        if one.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
    )
    await asyncio.wait_for(running, LONGEST_S)
    await reader.disconnect()
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    theirs = [one for one in said if one[0] != agent]
    [final] = [text for _, _, is_final, text in theirs if is_final == "true"]
    assert final.lower().startswith("wait what are your opening hours")
    assert len(theirs) > 1, "words so far came before"
    assert len({segment for _, segment, _, _ in theirs}) == 1, "and were one segment"
    ours = " ".join(text for sender, _, _, text in said if sender == agent)
    assert "Monday to Friday" in ours
    assert {"thinking", "speaking", "listening"} <= set(states)
