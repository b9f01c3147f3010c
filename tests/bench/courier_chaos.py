"""What is lost when couriers are killed. Run: python -m tests.bench.courier_chaos [--full] [--seed N]

Under a steady load of events of twenty calls one of two couriers is killed with SIGKILL at random moments (30
times, 1,000 with --full) and started again; PostgreSQL is restarted five times, at random moments
too; the receiver goes down and comes back. Prints how many events were lost, how many came twice beside
how many were in flight, whether each call's events kept their order, how soon deliveries went on, and how
soon what a killed courier had in hand had arrived.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from tests.bench.sink import Got, Sink
from tests.bench.webhooks import Fresh, databases, here, subscribe, tell

from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.outbox.models import EventRow
from trunkline.webhooks import queries
from trunkline.webhooks.models import Delivery

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

_PER_SECOND = 40
_IN_FLIGHT = 8
"""What one courier sends to one endpoint at the same time: CourierOptions.max_per_endpoint."""


class _Couriers:
    def __init__(self, url: str, count: int) -> None:
        self._url, self._count = url, count
        self._running: list[asyncio.subprocess.Process] = []

    async def fill(self) -> None:
        while len(self._running) < self._count:
            self._running.append(
                await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "tests.bench.webhooks",
                    "--courier",
                    self._url,
                    # A courier without its database says so at length; that is no news here.
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
            )

    async def kill(self, dice: random.Random) -> None:
        victim = self._running.pop(dice.randrange(len(self._running)))
        victim.kill()
        await victim.wait()

    async def stop(self) -> None:
        for each in self._running:
            each.kill()
        await asyncio.gather(*(each.wait() for each in self._running))


async def _tell_for_ever(db: Database, told: list[int]) -> None:
    """Commit an event every so often, again when the database was away; note those that are committed."""
    number = 0
    while True:
        try:
            await tell(db, number, 1)
        except DBAPIError:
            # The commit may have come through all the same; then the number is one nobody waits for.
            await asyncio.sleep(0.1)
        else:
            told.append(number)
        number += 1
        await asyncio.sleep(1 / _PER_SECOND)


async def _went_on(sink: Sink) -> float:
    """Seconds until the next event comes that did not come before."""
    began, known = time.perf_counter(), {each.headers["webhook-id"] for each in sink.got}
    seen = len(sink.got)
    if not await sink.until(
        lambda got: any(each.headers["webhook-id"] not in known for each in got[seen:]), within_s=60
    ):
        raise RuntimeError("nothing was delivered for a minute")
    return time.perf_counter() - began


async def _due(db: Database) -> set[str]:
    """Ids of the events that may go now and were not tried yet: also what a killed courier had in hand."""
    while True:
        try:
            async with db.look() as session:
                untried = select(Delivery.event_id).where(
                    Delivery.state == queries.PENDING, Delivery.attempts == 0
                )
                return set(await session.scalars(untried))
        except DBAPIError:
            await asyncio.sleep(0.1)


async def _hurry(db: Database) -> None:
    """Make retries due that would come in minutes, so that the end need not be waited for."""
    while True:
        try:
            async with db.work() as session:
                await session.execute(
                    update(Delivery)
                    # No lease is that long.
                    .where(Delivery.state == queries.PENDING, Delivery.attempts > 0)
                    .where(Delivery.next_at > utc_now() + timedelta(seconds=5))
                    .values(next_at=utc_now())
                )
        except DBAPIError as error:
            # SQLite, when others write all the time. Were this to end, what waits for hours would seem lost.
            print(f"the retries are hurried again in a second: {error.orig}", file=sys.stderr)
        await asyncio.sleep(1)


async def _arrived(sink: Sink, told: Sequence[int]) -> bool:
    """Wait for all that was told, as long as anything at all still arrives within half a minute."""
    while not await sink.until(lambda got: set(told) <= _numbers(got), within_s=30):
        known = len(_numbers(sink.got))
        if not await sink.until(lambda got, known=known: len(_numbers(got)) > known, within_s=30):  # type: ignore[misc]
            return False
    return True


async def _missing(db: Database, numbers: Collection[int]) -> Counter[str]:
    """What the database says of events that did not arrive: only what waits (pending, held) is not lost."""
    found: Counter[str] = Counter()
    async with db.look() as session:
        rows = await session.execute(
            select(EventRow.body, EventRow.position, Delivery.state, Delivery.attempts).outerjoin(
                Delivery, Delivery.event_id == EventRow.id
            )
        )
        for body, position, state, attempts in rows:
            if body["data"].get("turns") in numbers:
                was = "not published" if position is None else state or "never made a delivery of"
                found[f"{was}, {attempts or 0} attempts"] += 1
    found["no event at all"] = len(numbers) - found.total()
    return +found


def _late(killed: Sequence[tuple[float, set[str]]], sink: Sink) -> list[float]:
    """For each kill, the seconds until all that was due then had arrived.

    What failed in between, because the receiver was down, follows the schedule of retries and not this.
    """
    first: dict[str, Got] = {}
    for each in sink.got:
        first.setdefault(each.headers["webhook-id"], each)
    return [
        max(
            (
                first[id_].at - at
                for id_ in due & first.keys()
                if first[id_].headers["trunkline-attempt"] == "1"
            ),
            default=0.0,
        )
        for at, due in killed
    ]


def _restart(server: "PostgresServer") -> None:
    data = str(server.folder / "data")
    server._run(
        "pg_ctl", "-D", data, "-m", "fast", "-w", "-l", str(server.folder / "log"), "restart"
    )


async def chaos(kind: str, fresh: Fresh, *, kills: int, dice: random.Random) -> bool:
    """Do it on one database, print what came of it, and say whether nothing was lost."""
    url = await fresh.url()
    db, sink, told = open_database(DatabaseOptions(url)), Sink(), list[int]()
    await sink.open()
    secrets = await subscribe(db, sink, "live0", ordered=True)
    fleet = _Couriers(url, 2)
    await fleet.fill()
    writer = asyncio.create_task(_tell_for_ever(db, told))
    await sink.until(lambda got: len(got) >= 5, within_s=60)
    restarts = set(dice.sample(range(kills), k=min(5, kills))) if fresh.server else set()
    outages = set(dice.sample(range(kills), k=min(5, kills)))
    waits: dict[str, list[float]] = defaultdict(list)
    killed: list[tuple[float, set[str]]] = []
    verified = 0
    for round_ in range(kills):
        # As it comes: what is five minutes old does not verify any more.
        verified += sink.verified(secrets, after=verified)
        await asyncio.sleep(dice.random())
        at = time.perf_counter()
        await fleet.kill(dice)
        await fleet.fill()
        killed.append((at, await _due(db)))
        waits["kill -9"].append(await _went_on(sink))
        if round_ in restarts:
            assert fresh.server
            await asyncio.to_thread(_restart, fresh.server)
            waits["PostgreSQL restarted"].append(await _went_on(sink))
        if round_ in outages:
            await sink.close()
            await asyncio.sleep(dice.random())
            await sink.open()
            waits["receiver down and up"].append(await _went_on(sink))
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    hurry = asyncio.create_task(_hurry(db))
    verified += sink.verified(secrets, after=verified)
    whole = await _arrived(sink, told)
    hurry.cancel()
    await asyncio.gather(hurry, return_exceptions=True)
    await fleet.stop()
    missing = await _missing(db, set(told) - _numbers(sink.got))
    await db.close()

    came = Counter(_number(each.body) for each in sink.got)
    lost = set(told) - came.keys()
    twice = sum(times - 1 for times in came.values())
    # A restart of the database is noticed by both couriers.
    possible = (kills + 2 * len(restarts)) * _IN_FLIGHT
    order = _in_order([(each.body, each.headers["webhook-id"]) for each in sink.got])
    verified += sink.verified(secrets, after=verified)
    assert verified == len(sink.got)
    print(f"{kind}: {len(told)} events told, lost {len(lost)}, all {len(sink.got)} verified")
    for what, count in missing.items():
        print(f"{kind}: of what did not arrive the database says: {what}: {count}")
    print(
        f"{kind}: {twice} came twice; {possible} may have been in flight when something was killed"
    )
    print(f"{kind}: order of each call kept: {'yes' if order else 'NO'}")
    for what, seconds in waits.items():
        print(f"{kind}: after {what} ({len(seconds)}×) on again in at most {max(seconds):.1f} s")
    late = _late(killed, sink)
    print(
        f"{kind}: what was due at a kill -9 had arrived after {median(late):.1f} s (median), at most "
        f"{max(late):.1f} s, which counts what else was killed or restarted meanwhile"
    )
    return whole and not lost and order and twice <= possible


def _numbers(got: Sequence[Got]) -> set[int]:
    return {_number(each.body) for each in got}


def _number(body: bytes) -> int:
    return int(body.split(b'"turns":')[1].split(b",")[0])


def _in_order(got: Sequence[tuple[bytes, str]]) -> bool:
    """Whether the first arrivals of each call's events came by seq."""
    last: dict[bytes, int] = {}
    seen: set[str] = set()
    for body, id_ in got:
        if id_ in seen:
            continue
        seen.add(id_)
        call = body.split(b'"call_id":"')[1].split(b'"')[0]
        seq = int(body.split(b'"seq":')[1].split(b"}")[0])
        if seq != last.get(call, 0) + 1:
            return False
        last[call] = seq
    return True


async def main(arguments: Sequence[str]) -> int:
    """Run the chaos on each database; 1 when anything was lost."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="kill a thousand times")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=6)
    given = parser.parse_args(arguments)
    here()
    print(f"seed {given.seed}, load before: {os.getloadavg()[0]:.1f}")
    fine = True
    with databases() as kinds:
        for kind, fresh in kinds.items():
            kills = 1_000 if given.full else given.kills
            fine &= await chaos(kind, fresh, kills=kills, dice=random.Random(given.seed))
    return 0 if fine else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main(sys.argv[1:])))
