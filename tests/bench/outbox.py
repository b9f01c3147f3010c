"""How fast events are written, published and delivered. Run: python -m tests.bench.outbox [database url]…

Without an address it measures SQLite in a temporary folder; an address given must be a migrated, empty
database. Writers, courier and receiver share this one process, so the figures are a lower bound.
"""

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta

import structlog

from trunkline.courier import Courier
from trunkline.events import TranscriptReady
from trunkline.kit.clock import utc_now
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database, DatabaseOptions, open_database, upgrade
from trunkline.outbox.record import record
from trunkline.sandbox.receiver import Received, Receiver
from trunkline.webhooks import service
from trunkline.webhooks.options import CourierOptions, EndpointOptions

HERE = EndpointOptions(keys=(new_key(),), allow=("127.0.0.1",))
STEADY, PER_SECOND, BURST = 250, 50, 1_000


async def _tell(db: Database, first: int, count: int) -> None:
    async with db.work() as session:
        for number in range(first, first + count):
            await record(session, TranscriptReady(f"call_{number % 20}", number), now=utc_now())


async def measure(url: str) -> None:
    """Print latency at a steady rate, and the rate of a burst."""
    db = open_database(DatabaseOptions(url))
    committed: dict[int, float] = {}
    arrived: dict[int, float] = {}

    def note(received: list[Received]) -> bool:
        number = received[-1].body["data"]["turns"] if received else None
        if number is not None:
            arrived.setdefault(number, time.perf_counter())
        return len(received) >= wanted

    async with Receiver() as receiver:
        async with db.work() as session:
            _, receiver.secret = await service.add_endpoint(
                session, options=HERE, url=receiver.url, events=["*"], now=utc_now()
            )
        courier = asyncio.create_task(Courier(db, CourierOptions(HERE)).run())

        wanted = STEADY
        waiting = asyncio.create_task(receiver.until(note, within=timedelta(minutes=2)))
        began = time.perf_counter()
        for number in range(STEADY):
            await _tell(db, number, 1)
            committed[number] = time.perf_counter()
            await asyncio.sleep(max(0.0, began + (number + 1) / PER_SECOND - time.perf_counter()))
        await waiting
        waits = sorted(1000 * max(0.0, arrived[n] - committed[n]) for n in arrived)
        print(
            f"{db.dialect}: {PER_SECOND}/s, committed → received: "
            f"p50 {_part(waits, 0.5):.1f} ms, p99 {_part(waits, 0.99):.1f} ms ({len(waits)} seen)"
        )

        wanted = STEADY + BURST
        began = time.perf_counter()
        for first in range(0, BURST, 50):
            await _tell(db, STEADY + first, 50)
        recorded = time.perf_counter() - began
        await receiver.until(lambda received: len(received) >= wanted, within=timedelta(minutes=2))
        took = time.perf_counter() - began
        verified = sum(each.verified for each in receiver.received)
        print(
            f"{db.dialect}: burst of {BURST}: recorded {BURST / recorded:.0f}/s, "
            f"delivered {BURST / took:.0f}/s; {verified} of {len(receiver.received)} verified"
        )
        courier.cancel()
        await asyncio.gather(courier, return_exceptions=True)
    await db.close()


def _part(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


async def main(urls: Sequence[str]) -> None:
    """Measure each database of *urls*, or SQLite."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if urls:
        for url in urls:
            await measure(url)
        return
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{folder}/bench.db"
        await upgrade(url)
        await measure(url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
