"""Who gets in, through a real LiveKit room and a real worker: after hours, blocked, at a cap."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from trunkline.calls import queries as calls
from trunkline.calls.models import Call, Turn
from trunkline.kit.blobs import BlobOptions
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.kit.processes import Child, spawn
from trunkline.profiles import queries, service
from trunkline.profiles.body import ProfileBody, read
from trunkline.sandbox.caller import Caller, HangUp, Listen, StayOn, Step
from trunkline.sandbox.sip import Dial, Over, SipCall
from trunkline.sandbox.story import OUR_NUMBER, PROFILE, seed
from trunkline.sandbox.worker import WorkerOrders

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

DANA, JAMES = "+12025550134", "+12025550145"
START = timedelta(seconds=90)
CLOSED = "Hello, you have reached Harbor Fiber. Our office is closed today."


@dataclass
class House:
    """A worker behind whose number the office is closed."""

    db: Database
    server: "LiveKitServer"

    async def call(
        self, room: str, caller_number: str, steps: Sequence[Step]
    ) -> tuple[Over, Call, Sequence[Turn]]:
        """Make a call and wait until it is over and stored."""
        dial = Dial(room, from_raw=caller_number, to_raw=OUR_NUMBER, number=OUR_NUMBER)
        over = await asyncio.wait_for(SipCall(self.server.options, dial, Caller(steps)).run(), 120)
        async with asyncio.timeout(120):
            while True:
                async with self.db.look() as session:
                    call = await calls.call_in_room(session, room)
                    if call is not None and call.state == "ended":
                        return over, call, await calls.turns(session, call.id)
                await asyncio.sleep(0.1)  # pace: another process stores it


def _bodies() -> tuple[ProfileBody, ProfileBody]:
    """By day, closed for a holiday whatever the date is where this runs; and what answers then."""
    today = utc_now().date()
    days = [(today + timedelta(days=n)).isoformat() for n in (-1, 0, 1)]
    holidays = [{"date": day, "name": "Moving day"} for day in days]
    day = read({**PROFILE, "holidays": holidays, "after_hours": "Night"})
    night = read(
        {
            **PROFILE,
            "greeting": CLOSED,
            "greeting_unknown": CLOSED,
            "record": False,
            "limits": {"max_calls_per_caller_per_hour": 1},
        }
    )
    return day, night


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    sqlite_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
    livekit_server: "LiveKitServer",
) -> AsyncIterator[House]:
    """A furnished database, the sandbox's providers and a worker."""
    folder = tmp_path_factory.mktemp("door")
    shutil.copyfile(sqlite_template, folder / "trunkline.db")
    url = f"sqlite+aiosqlite:///{folder / 'trunkline.db'}"
    db = open_database(DatabaseOptions(url))
    day, night = _bodies()
    async with db.work() as session:
        now = utc_now()
        await seed(session, now=now)
        await service.create_profile(session, name="Night", body=night, now=now)
        front_desk = await queries.named(session, "Front desk")
        await service.publish(session, front_desk.id, day, now=now)
        await service.block_caller(session, JAMES, reason="asked for it", now=now)

    started: list[Child] = []

    async def child(module: str, *arguments: str) -> str:
        process = await spawn(
            module, *arguments, on_error_line=lambda line: print(line, file=sys.stderr)
        )
        started.append(process)
        return await process.ready(START)

    try:
        port = await child("trunkline.sandbox.server")
        orders = WorkerOrders(
            word_after_ms=None,
            livekit_url=livekit_server.url,
            livekit_key=livekit_server.api_key,
            livekit_secret=livekit_server.api_secret,
            database_url=url,
            blobs_url=BlobOptions(str(folder / "blobs")).url,
            sandbox_port=int(port),
        )
        await child("trunkline.sandbox.worker", orders.dump())
        yield House(db, livekit_server)
    finally:
        for process in reversed(started):
            await process.stop(timedelta(seconds=15))
        await db.close()


async def test_the_door(house: House) -> None:
    """After hours another profile greets; a blocked caller hears the line end; at a cap it is told so."""
    over, call, turns = await house.call("call_closed", DANA, (Listen(), HangUp()))
    assert (over.how, call.end_reason, call.door) == ("caller", "caller_hangup", "after_hours")
    assert call.door_reason == "closed (Moving day), so 'Night' answers"
    assert turns[0].text == CLOSED

    over, call, turns = await house.call("call_blocked", JAMES, (StayOn(),))
    assert (over.how, over.rang_ms) == ("agent", None), "never answered"
    assert (call.end_reason, call.answered_at, list(turns)) == ("blocked", None, [])
    assert call.door_reason == f"the caller is blocked by {JAMES}: asked for it"

    over, call, _ = await house.call("call_again", DANA, (Listen(), StayOn()))
    assert (over.how, call.end_reason, call.door) == ("agent", "capacity", "capacity")
    assert call.answered_at is not None, "they were told"
