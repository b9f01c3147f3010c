"""What is lost when couriers are killed. Run: python -m tests.bench.courier_chaos [--full] [--seed N]

Under a steady load of events of twenty calls, which go to an endpoint that asks for order and to one that
does not, one of two couriers is killed with SIGKILL at random moments (30 times, 1,000 with --full) and
started again; PostgreSQL is restarted five times, at random moments too; the receiver goes down and comes
back. Prints how many events were lost, how many came twice beside how many were in flight, whether each
call's events kept their order, how soon deliveries went on, and how soon what a killed courier had in hand
had arrived.

Every wait has a bound; one that is over ends the run and says what was waited for. What took longer than five
seconds is told as it happens, with what stood at the head of the line meanwhile.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from tests.bench.sink import Got, Sink
from tests.bench.webhooks import Fresh, databases, here, subscribe, tell

from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.kit.processes import Child, spawn
from trunkline.outbox.models import EventRow
from trunkline.webhooks import queries
from trunkline.webhooks.models import Attempt, Delivery, Endpoint

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

T = TypeVar("T")

ORDERED, FREE = "ordered", "free"
_PATHS = (ORDERED, FREE)
_PER_SECOND = 40
_IN_FLIGHT = 8
"""What one courier sends to one endpoint at the same time: CourierOptions.max_per_endpoint."""
_SOON_S = 5.0
_STEP_S = 60.0
"""No single step, such as a restart or the next delivery, takes longer."""
_QUIET_S = 30.0
"""At the end, so long without anything new means that nothing more comes."""
_END_S = 300.0
"""At the end, all that was told has arrived by then."""


class Stuck(Exception):
    """A wait went over its bound; the message says what for."""


async def _bounded(work: Awaitable[T], what: str, *, within_s: float = _STEP_S) -> T:
    task = asyncio.ensure_future(work)
    # Not wait_for, which waits for ever for what does not let itself be cancelled.
    done, _ = await asyncio.wait({task}, timeout=within_s)
    if not done:
        task.cancel()
        raise Stuck(f"waited {within_s:g} s for {what}")
    return task.result()


class _Couriers:
    """Processes that deliver, and which of them are at work already."""

    def __init__(self, url: str, count: int) -> None:
        self._url, self._count = url, count
        self._running: list[Child] = []
        self._began: dict[int, float] = {}

    @property
    def at_work(self) -> int:
        """How many have begun: a process takes a second or more to start."""
        return sum(each.pid in self._began for each in self._running)

    def idle_s(self, since: float) -> float:
        """How long from *since* on, by ``time.perf_counter``, none had begun."""
        now = time.perf_counter()
        return max(0.0, min(self._began.get(each.pid, now) for each in self._running) - since)

    async def fill(self) -> None:
        while len(self._running) < self._count:
            child = await spawn(
                "tests.bench.webhooks",
                "--courier",
                self._url,
                on_line=self._hear,
            )
            self._running.append(child)

    def _hear(self, line: str) -> None:
        # Everything else is the log.
        if line.isdecimal():
            self._began[int(line)] = time.perf_counter()

    async def kill(self, dice: random.Random) -> None:
        victim = self._running.pop(dice.randrange(len(self._running)))
        os.kill(victim.pid, signal.SIGKILL)
        await _bounded(victim.wait(), "a killed courier to end")

    async def stop(self) -> None:
        stopped = asyncio.gather(*(each.stop(timedelta(0)) for each in self._running))
        await _bounded(stopped, "the couriers to end")


class _Arrivals:
    """What came, by endpoint; each request is looked at once."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._read = sink, 0
        self.first: dict[str, dict[str, Got]] = {path: {} for path in _PATHS}
        """Path → id → its first arrival, in the order they came in."""
        self.numbers: dict[str, set[int]] = {path: set() for path in _PATHS}

    def look(self) -> None:
        for each in self._sink.got[self._read :]:
            self.first[each.path].setdefault(each.headers["webhook-id"], each)
            self.numbers[each.path].add(_number(each.body))
        self._read = len(self._sink.got)

    def count(self) -> int:
        self.look()
        return sum(map(len, self.first.values()))

    async def on_again(self) -> dict[str, float]:
        """Path → seconds until the next event comes that did not come before, or until _STEP_S."""
        self.look()
        began, known = time.perf_counter(), {path: len(self.first[path]) for path in _PATHS}
        came: dict[str, float] = {}

        def all_came(_: Sequence[Got]) -> bool:
            self.look()
            for path in _PATHS:
                if len(self.first[path]) > known[path]:
                    came.setdefault(path, time.perf_counter() - began)
            return len(came) == len(_PATHS)

        await self._sink.until(all_came, within_s=_STEP_S)
        return came

    async def all(self, told: Sequence[int]) -> bool:
        """Wait for all that was told, as long as anything new still arrives."""
        wanted, end = set(told), time.perf_counter() + _END_S

        def whole(_: Sequence[Got]) -> bool:
            self.look()
            return all(wanted <= self.numbers[path] for path in _PATHS)

        while time.perf_counter() < end:
            before = self.count()
            if await self._sink.until(whole, within_s=_QUIET_S):
                return True
            if self.count() == before:
                print(f"nothing new has come for {_QUIET_S:g} s", file=sys.stderr)
                return False
        print(f"waited {_END_S:g} s for the last of it, which still comes", file=sys.stderr)
        return False


class _Beside:
    """Work done again and again beside the rest until it is stopped, which never cuts it off: a task that is
    cancelled in a transaction leaves the connection in an unknown state."""

    def __init__(self, what: str, work: Callable[[], Awaitable[None]], *, pause_s: float) -> None:
        self._what, self._work, self._pause_s = what, work, pause_s
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self._pause_s)
                return
            await self._work()

    async def stop(self) -> None:
        self._stop.set()
        await _bounded(self._task, f"{self._what} to end")


class _Writer:
    """Commits an event at a time, and notes those that are committed."""

    def __init__(self, db: Database) -> None:
        self._db, self._number, self.told = db, 0, list[int]()

    async def tell(self) -> None:
        number, self._number = self._number, self._number + 1
        try:
            await tell(self._db, number, 1)
        except DBAPIError:
            # The commit may have come through all the same; then the number is one nobody waits for.
            await asyncio.sleep(0.1)
        else:
            self.told.append(number)


async def _due(db: Database) -> set[tuple[str, str]]:
    """Endpoints and events that may go now and were not tried yet: also what a killed courier had in hand."""
    while True:
        try:
            async with db.look() as session:
                untried = select(Endpoint.url, Delivery.event_id).join(
                    Delivery, Delivery.endpoint_id == Endpoint.id
                )
                rows = await session.execute(
                    untried.where(Delivery.state == queries.PENDING, Delivery.attempts == 0)
                )
                return {(url.rsplit("/", 1)[1], event_id) for url, event_id in rows}
        except DBAPIError:
            await asyncio.sleep(0.1)


async def _line(db: Database) -> str:
    """What stands at the head of each endpoint's line: held by a lease, put off after a failure, or due."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    async with db.look() as session:
        endpoints = (await session.scalars(select(Endpoint))).all()
        rows = await session.execute(
            select(Delivery.endpoint_id, Delivery.next_at, Attempt.number)
            .outerjoin(
                Attempt,
                (Attempt.delivery_id == Delivery.id) & (Attempt.next_at == Delivery.next_at),
            )
            .where(Delivery.state == queries.PENDING)
        )
        unpublished = len(
            (await session.scalars(select(EventRow.id).where(EventRow.position.is_(None)))).all()
        )
        now = utc_now()
        for endpoint_id, next_at, tried in rows:
            if next_at <= now:
                found[endpoint_id]["due"] += 1
            elif tried:
                found[endpoint_id][f"put off after failed attempt {tried}"] += 1
            else:
                found[endpoint_id]["leased"] += 1
    told = [
        f"{each.url.rsplit('/', 1)[1]} (failures {each.failures}): "
        + (", ".join(f"{n} {what}" for what, n in sorted(found[each.id].items())) or "nothing")
        for each in endpoints
    ]
    return "; ".join([*told, f"not published yet: {unpublished}"])


async def _explained(
    what: str, db: Database, couriers: _Couriers, arrivals: _Arrivals
) -> dict[str, float]:
    """Seconds until each endpoint goes on; tells what more than _SOON_S were waited for. Raises Stuck."""
    began, notes = time.perf_counter(), list[str]()

    async def note() -> None:
        at = f"{time.perf_counter() - began:.0f} s, {couriers.at_work} at work: "
        try:
            notes.append(at + await _line(db))
        except DBAPIError:
            notes.append(at + "the database is away")

    noting = _Beside("a look at the line", note, pause_s=1)
    try:
        came = await arrivals.on_again()
    finally:
        await noting.stop()
    left = [path for path in _PATHS if path not in came]
    if left or max(came.values()) > _SOON_S:
        found = ", ".join(f"{path} {wait:.1f} s" for path, wait in came.items())
        print(f"  after {what}: {found or 'nothing came'}", file=sys.stderr)
        for each in notes[:10]:
            print(f"    {each}", file=sys.stderr)
    if left:
        raise Stuck(f"waited {_STEP_S:g} s after {what} for a delivery to {', '.join(left)}")
    return came


async def _hurry(db: Database) -> None:
    """Make retries due that would come in minutes, so that the end need not be waited for."""
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


async def _missing(db: Database, path: str, numbers: Collection[int]) -> Counter[str]:
    """What the database says of events that did not arrive: only what waits (pending, held) is not lost."""
    found: Counter[str] = Counter()
    async with db.look() as session:
        endpoints = (await session.scalars(select(Endpoint))).all()
        [endpoint_id] = [each.id for each in endpoints if each.url.endswith(f"/{path}")]
        rows = await session.execute(
            select(EventRow.body, EventRow.position, Delivery.state, Delivery.attempts).outerjoin(
                Delivery,
                (Delivery.event_id == EventRow.id) & (Delivery.endpoint_id == endpoint_id),
            )
        )
        for body, position, state, attempts in rows:
            if body["data"].get("turns") in numbers:
                was = "not published" if position is None else state or "never made a delivery of"
                found[f"{was}, {attempts or 0} attempts"] += 1
    found["no event at all"] = len(numbers) - found.total()
    return +found


def _late(killed: Sequence[tuple[float, set[tuple[str, str]]]], arrivals: _Arrivals) -> list[float]:
    """For each kill, the seconds until all that was due then had arrived.

    What failed in between, because the receiver was down, follows the schedule of retries and not this.
    """
    late = []
    for at, due in killed:
        came = [arrivals.first[path][id_] for path, id_ in due if id_ in arrivals.first[path]]
        waits = [each.at - at for each in came if each.headers["trunkline-attempt"] == "1"]
        late.append(max(waits, default=0.0))
    return late


def _restart(server: "PostgresServer") -> None:
    data = str(server.folder / "data")
    server._run(
        "pg_ctl", "-D", data, "-m", "fast", "-w", "-l", str(server.folder / "log"), "restart"
    )


async def chaos(kind: str, fresh: Fresh, *, kills: int, dice: random.Random) -> bool:
    """Do it on one database, print what came of it, and say whether nothing was lost. Raises Stuck."""
    url = await fresh.url()
    db, sink = open_database(DatabaseOptions(url)), Sink()
    fleet = _Couriers(url, 2)
    try:
        return await _chaos(kind, fresh, db, sink, fleet, kills=kills, dice=dice)
    finally:
        await fleet.stop()
        await sink.close()
        await _bounded(db.close(), "the database to be closed")


async def _chaos(
    kind: str,
    fresh: Fresh,
    db: Database,
    sink: Sink,
    fleet: _Couriers,
    *,
    kills: int,
    dice: random.Random,
) -> bool:
    await sink.open()
    secrets = await subscribe(db, sink, ORDERED, ordered=True) | await subscribe(db, sink, FREE)
    await fleet.fill()
    arrivals, writer = _Arrivals(sink), _Writer(db)
    telling = _Beside("the writer", writer.tell, pause_s=1 / _PER_SECOND)
    await _explained("the start", db, fleet, arrivals)
    restarts = set(dice.sample(range(kills), k=min(5, kills))) if fresh.server else set()
    outages = set(dice.sample(range(kills), k=min(5, kills)))
    waits: dict[str, list[dict[str, float]]] = defaultdict(list)
    at_work: list[dict[str, float]] = []
    killed: list[tuple[float, set[tuple[str, str]]]] = []
    verified = 0
    for round_ in range(kills):
        # As it comes: what is five minutes old does not verify any more.
        verified += sink.verified(secrets, after=verified)
        await asyncio.sleep(dice.random())
        at = time.perf_counter()
        await fleet.kill(dice)
        left = "while the other works" if fleet.at_work else "while the other still starts"
        await fleet.fill()
        killed.append((at, await _bounded(_due(db), "the database to say what is due")))
        what = f"kill {round_ + 1} {left}"
        came = await _explained(what, db, fleet, arrivals)
        waits[f"kill -9 {left}"].append(came)
        idle_s = fleet.idle_s(at)
        at_work.append({path: max(0.0, wait - idle_s) for path, wait in came.items()})
        if round_ in restarts:
            assert fresh.server
            restarted = asyncio.to_thread(_restart, fresh.server)
            await _bounded(restarted, "PostgreSQL to restart", within_s=2 * _STEP_S)
            what = "PostgreSQL restarted"
            waits[what].append(await _explained(what, db, fleet, arrivals))
        if round_ in outages:
            await sink.close()
            await asyncio.sleep(dice.random())
            await sink.open()
            what = "receiver down and up"
            waits[what].append(await _explained(what, db, fleet, arrivals))
    await telling.stop()
    told = writer.told
    verified += sink.verified(secrets, after=verified)
    hurrying = _Beside("the hurrying of retries", lambda: _hurry(db), pause_s=1)
    whole = await arrivals.all(told)
    await hurrying.stop()
    await fleet.stop()
    verified += sink.verified(secrets, after=verified)
    assert verified == len(sink.got)

    arrivals.look()
    # A restart of the database is noticed by both couriers.
    possible = (kills + 2 * len(restarts)) * _IN_FLIGHT
    fine = whole
    print(f"{kind}: {len(told)} events told to two endpoints, all {len(sink.got)} verified")
    for path in _PATHS:
        lost = set(told) - arrivals.numbers[path]
        twice = sum(each.path == path for each in sink.got) - len(arrivals.first[path])
        order = _in_order(list(arrivals.first[path].values()))
        print(
            f"{kind}: {path}: lost {len(lost)}; {twice} came twice, {possible} may have been in flight "
            f"when something was killed; order of each call kept: {'yes' if order else 'no'}"
            + ("" if path == ORDERED else ", nor asked for")
        )
        for what, count in (await _missing(db, path, lost)).items():
            print(f"{kind}: {path}: of what did not arrive the database says: {what}: {count}")
        fine &= not lost and twice <= possible and (order or path == FREE)
    for what, each in sorted(waits.items()):
        print(f"{kind}: after {what} ({len(each)}×) on again in at most: {_at_most(each)}")
    print(f"{kind}: after kill -9, counted from when a courier was at work: {_at_most(at_work)}")
    late = _late(killed, arrivals)
    print(
        f"{kind}: what was due at a kill -9 had arrived after {median(late):.1f} s (median), at most "
        f"{max(late):.1f} s, which counts what else was killed or restarted meanwhile"
    )
    return fine


def _at_most(waits: Sequence[dict[str, float]]) -> str:
    return ", ".join(f"{path} {max(came[path] for came in waits):.1f} s" for path in _PATHS)


def _number(body: bytes) -> int:
    return int(body.split(b'"turns":')[1].split(b",")[0])


def _in_order(got: Sequence[Got]) -> bool:
    """Whether the first arrivals of each call's events came by seq."""
    last: dict[bytes, int] = {}
    for each in got:
        call = each.body.split(b'"call_id":"')[1].split(b'"')[0]
        seq = int(each.body.split(b'"seq":')[1].split(b"}")[0])
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
            began = time.perf_counter()
            try:
                fine &= await chaos(kind, fresh, kills=kills, dice=random.Random(given.seed))
            except Stuck as error:
                fine = False
                print(f"{kind}: stopped: {error}")
            print(f"{kind}: took {time.perf_counter() - began:.0f} s", flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main(sys.argv[1:])))
