"""How long a caller hears ringing, and what each part of picking up takes.

``.venv/bin/python -m tests.bench.pickup [--calls 20] [--burst]`` runs Redis, livekit-server, the sandbox's
providers and a worker, and prints p50 and p95 in milliseconds. Without ``--burst`` the calls come one after
another to a warm worker. livekit-server 1.13 waits 200 ms for the bids of its nodes before it asks a worker
(psrpc 0.7.2, ``DefaultAffinityShortCircuit``; no setting changes it), so that long a caller rings in any
case; the parts from there on are ours. With it twenty come 0.3 s apart to a worker for six, from callers in
four processes of their own, while a guardian looks. Needs redis-server and livekit-server on PATH.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from trunkline.calls import queries as calls
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database, upgrade
from trunkline.kit.livekit import LiveKitOptions, open_livekit
from trunkline.kit.processes import die_with_parent, spawn
from trunkline.sandbox.phones import Listener
from trunkline.sandbox.sip import Dial, Over, SipCall
from trunkline.sandbox.stack import livekit
from trunkline.sandbox.story import OUR_NUMBER, seed
from trunkline.sandbox.worker import WorkerOrders

START = timedelta(seconds=90)
KNOWN, UNKNOWN = "+12025550134", "+12025550177"
BURST, APART_S, CAPACITY, PROCESSES = 20, 0.3, 6, 4


class Brief(Listener):
    """Rings as long as it takes, hears for so many frames, hangs up."""

    def __init__(self, frames: int) -> None:
        self._left = frames

    def exchange(self, heard: bytes) -> bytes | None:
        self._left -= 1
        return super().exchange(heard) if self._left else None


async def call(options: LiveKitOptions, room: str, from_raw: str, frames: int, piece: int) -> Over:
    dial = Dial(room, from_raw, OUR_NUMBER, number=OUR_NUMBER, frames=piece)
    return await asyncio.wait_for(SipCall(options, dial, Brief(frames)).run(), 60)


def say(what: str, values: list[int]) -> None:
    if len(values) < 2:
        print(f"{what:46} {values}")
        return
    p95 = statistics.quantiles(values, n=20, method="inclusive")[-1]
    print(
        f"{what:46} p50 {statistics.median(values):5.0f}  p95 {p95:5.0f}  longest {max(values):5}"
        f"  (n {len(values)})"
    )


@dataclass
class Works:
    """What runs: LiveKit and a worker beside its database."""

    options: LiveKitOptions
    db: Database
    blobs: BlobOptions


@asynccontextmanager
async def works(capacity: int, level: str, on_line: Callable[[str], None]) -> AsyncIterator[Works]:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/trunkline.db"
        blobs = BlobOptions(f"{folder}/blobs")
        await upgrade(url)
        db = open_database(DatabaseOptions(url))
        async with db.work() as session:
            await seed(session, now=utc_now())
        async with livekit(Path(folder)) as options:
            sandbox = await spawn("trunkline.sandbox.server")
            port = int(await sandbox.ready(START))
            orders = WorkerOrders(
                livekit_url=options.url,
                livekit_key=options.api_key,
                livekit_secret=options.api_secret,
                database_url=url,
                blobs_url=blobs.url,
                sandbox_port=port,
                capacity=capacity,
                warm=capacity,
                log_level=level,
            )
            worker = await spawn("trunkline.sandbox.worker", orders.dump(), on_error_line=on_line)
            try:
                await worker.ready(START)
                await asyncio.sleep(3.0 * capacity)  # pace: all its processes get warm
                yield Works(options, db, blobs)
            finally:
                await worker.stop(timedelta(seconds=15))
                await sandbox.stop(timedelta(seconds=15))
                await db.close()


# One after another --------------------------------------------------------------------------------


async def in_turn(count: int) -> None:
    parts: dict[str, list[int]] = {}

    def on_line(line: str) -> None:
        if "picked_up" in line:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
            for name, ms in re.findall(r"(\w+)=(\d+)(?=\s|$)", plain):
                parts.setdefault(name, []).append(int(ms))
        elif "rror" in line:
            print(line, file=sys.stderr)

    async with works(2, "info", on_line) as found:
        for kind, number in (("known caller", KNOWN), ("unknown caller", UNKNOWN)):
            overs = []
            for n in range(count):
                overs.append(await call(found.options, f"{kind[:3]}_{n:03d}", number, 60, 1))
                await asyncio.sleep(1.5)  # pace: the next warm process gets ready
            say(f"{kind}: joined → 200 OK", [over.rang_ms or 0 for over in overs])
            say(f"{kind}: 200 OK → first sound", [over.first_sound_ms or 0 for over in overs])
    for name, values in sorted(parts.items(), key=lambda part: statistics.median(part[1])):
        say(f"  LiveKit asks for an agent → {name}", values)


# A burst ------------------------------------------------------------------------------------------


async def callers(told: str) -> None:
    """In a process of its own: some of the burst's calls, each at its time."""
    die_with_parent()
    orders = json.loads(told)
    options = LiveKitOptions(*orders["livekit"])
    begin_s = orders["begin_s"]

    async def one(n: int) -> None:
        await asyncio.sleep(max(0.0, begin_s + n * APART_S - time.time()))
        over = await call(options, f"call_{n:02}", f"+1202555{1000 + n}", 40, 5)
        print(json.dumps([n, over.how, over.rang_ms, over.first_sound_ms]), flush=True)

    await asyncio.gather(*(one(n) for n in orders["calls"]))


async def burst() -> None:
    rows: list[tuple[int, str, int | None, int | None]] = []

    def on_line(line: str) -> None:
        rows.append(tuple(json.loads(line)))

    def on_error_line(line: str) -> None:
        print(line, file=sys.stderr)

    async with (
        works(CAPACITY, "warning", on_error_line) as found,
        open_livekit(found.options) as lk,
    ):
        guardian = Guardian(found.db, open_blobs(found.blobs), GuardianOptions(), livekit=lk)
        begin_s = time.time() + 8.0
        children = []
        for part in range(PROCESSES):
            orders = {
                "livekit": [found.options.url, found.options.api_key, found.options.api_secret],
                "begin_s": begin_s,
                "calls": list(range(part, BURST, PROCESSES)),
            }
            children.append(
                await spawn("tests.bench.pickup", "--callers", json.dumps(orders), on_line=on_line)
            )
        everyone = asyncio.gather(*(child.wait() for child in children))
        while not everyone.done():
            await guardian.send_again()
            await asyncio.sleep(GuardianOptions().every.total_seconds())
        by_menu = 0
        async with found.db.look() as session:
            for n in range(BURST):
                row = await calls.call_in_room(session, f"call_{n:02}")
                said = await calls.turns(session, row.id) if row else []
                by_menu += bool(said) and said[0].text.startswith("Thank you for calling")
    rang = [rang_ms for _, _, rang_ms, _ in rows if rang_ms is not None]
    say(f"burst of {BURST}: joined → 200 OK", rang)
    say("200 OK → first sound", [first for *_, first in rows if first is not None])
    print(
        f"answered {len(rang)} of {BURST}: {len(rang) - by_menu} by the agent, {by_menu} by the menu; "
        f"within 5 s {sum(ms <= 5000 for ms in rang)}"
    )
    print("in their order:", [rang_ms for _, _, rang_ms, _ in sorted(rows)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--burst", action="store_true")
    parser.add_argument("--callers")
    given = parser.parse_args()
    if given.callers:
        asyncio.run(callers(given.callers))
    else:
        asyncio.run(burst() if given.burst else in_turn(given.calls))
