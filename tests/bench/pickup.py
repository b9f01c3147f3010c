"""How long a caller hears ringing, and what each part of picking up takes.

``.venv/bin/python tests/bench/pickup.py [--calls 20]`` runs Redis, livekit-server, the sandbox's providers
and a worker, places the calls one after another and prints p50 and p95 in milliseconds. What lies between the
caller's joining and LiveKit's asking for an agent is LiveKit's; the parts from there on are ours.
Needs redis-server and livekit-server on PATH.
"""

import argparse
import asyncio
import re
import statistics
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from trunkline.kit.blobs import BlobOptions
from trunkline.kit.clock import utc_now
from trunkline.kit.db import DatabaseOptions, open_database, upgrade
from trunkline.kit.livekit import LiveKitOptions
from trunkline.kit.processes import spawn
from trunkline.sandbox.caller import Caller, HangUp, Listen
from trunkline.sandbox.sip import Dial, SipCall
from trunkline.sandbox.stack import livekit
from trunkline.sandbox.story import OUR_NUMBER, seed
from trunkline.sandbox.worker import WorkerOrders


async def place(options: LiveKitOptions, calls: int, kind: str, from_raw: str | None) -> None:
    """Make the calls and print what the caller waited for."""
    rang, first = [], []
    for n in range(calls):
        dial = Dial(f"{kind}_{n:03d}", from_raw, OUR_NUMBER, number=OUR_NUMBER)
        over = await asyncio.wait_for(
            SipCall(options, dial, Caller((Listen(), HangUp()))).run(), 60
        )
        if over.rang_ms is not None:
            rang.append(over.rang_ms)
        if over.first_sound_ms is not None:
            first.append(over.first_sound_ms)
        await asyncio.sleep(1.0)  # pace: the next warm process gets ready
    say(f"{kind}: joined → 200 OK", rang)
    say(f"{kind}: 200 OK → first sound", first)


def say(what: str, values: list[int]) -> None:
    if len(values) < 2:
        print(f"{what:44} {values}")
        return
    p95 = statistics.quantiles(values, n=20, method="inclusive")[-1]
    print(f"{what:44} p50 {statistics.median(values):6.0f}  p95 {p95:6.0f}  ({len(values)})")


def ours(folder: str, options: LiveKitOptions, sandbox: int) -> tuple[WorkerOrders, str]:
    url = f"sqlite+aiosqlite:///{folder}/trunkline.db"
    orders = WorkerOrders(
        livekit_url=options.url,
        livekit_key=options.api_key,
        livekit_secret=options.api_secret,
        database_url=url,
        blobs_url=BlobOptions(f"{folder}/blobs").url,
        sandbox_port=sandbox,
        log_level="info",
    )
    return orders, url


async def main(calls: int) -> None:
    parts: dict[str, list[int]] = {}

    def on_line(line: str) -> None:
        if "picked_up" in line:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
            for name, ms in re.findall(r"(\w+)=(\d+)(?=\s|$)", plain):
                parts.setdefault(name, []).append(int(ms))
        elif "rror" in line:
            print(line, file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        async with livekit(Path(folder)) as options:
            sandbox = await spawn("trunkline.sandbox.server")
            port = int(await sandbox.ready(timedelta(seconds=90)))
            try:
                orders, url = ours(folder, options, port)
                await upgrade(url)
                db = open_database(DatabaseOptions(url))
                async with db.work() as session:
                    await seed(session, now=utc_now())
                await db.close()
                worker = await spawn(
                    "trunkline.sandbox.worker", orders.dump(), on_error_line=on_line
                )
                try:
                    await worker.ready(timedelta(seconds=90))
                    await place(options, calls, "known caller", "+12025550134")
                    await place(options, calls, "unknown caller", None)
                finally:
                    await worker.stop(timedelta(seconds=15))
                for name, values in parts.items():
                    say(f"  LiveKit asks for an agent → {name}", values)
            finally:
                await sandbox.stop(timedelta(seconds=15))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=20)
    asyncio.run(main(parser.parse_args().calls))
