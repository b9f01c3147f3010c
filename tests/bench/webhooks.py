"""How fast, how soon, how fairly webhooks are delivered. Run: python -m tests.bench.webhooks [--only PART…]

With the baseline: uv run --with procrastinate python -m tests.bench.webhooks

Couriers are processes of their own; the receiver, which is as cheap as can be, is this one, on the same
cores. It measures SQLite in a temporary folder and, where its programs are installed, a PostgreSQL of its
own (fsync off, as in the tests: what a power cut would lose is a bench's).
"""

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import String, case, cast, func, insert, literal, make_url, select
from tests.bench import procrastinate_sender
from tests.bench.sink import Got, Sink

from trunkline.courier import Courier
from trunkline.events import TranscriptReady
from trunkline.kit.clock import utc_now
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database, DatabaseOptions, open_database, upgrade
from trunkline.kit.http import Client, HttpFailed
from trunkline.kit.processes import die_with_parent, spawn
from trunkline.outbox.models import EventRow
from trunkline.outbox.publish import publish
from trunkline.outbox.record import record
from trunkline.webhooks import checks, claims, service
from trunkline.webhooks.models import Delivery, Endpoint
from trunkline.webhooks.options import CourierOptions, EndpointOptions

if TYPE_CHECKING:
    from sqlalchemy import Insert
    from tests.conftest import PostgresServer

_KEY = "TRUNKLINE_BENCH_KEY"
_RATE_PER_S = 50
_CLAIMS = 100
_PARTS = ("memory", "rates", "latency", "dead", "claims")


class Late(Exception):
    """A wait went over its bound; the message says what for."""


def here() -> EndpointOptions:
    """Receivers on this machine; the key is handed to the couriers by the environment."""
    return EndpointOptions(keys=(os.environ.setdefault(_KEY, new_key()),), allow=("127.0.0.1",))


async def deliver(url: str) -> None:
    """Be a courier until killed; say the process id when at work."""
    die_with_parent()
    db = open_database(DatabaseOptions(url))
    print(os.getpid(), flush=True)
    await Courier(db, CourierOptions(here())).run()


@contextlib.asynccontextmanager
async def couriers(url: str, count: int) -> AsyncIterator[None]:
    """*count* couriers, processes of their own."""
    running = [await spawn("tests.bench.webhooks", "--courier", url) for _ in range(count)]
    try:
        yield
    finally:
        await asyncio.gather(*(each.stop(timedelta(seconds=10)) for each in running))


async def subscribe(db: Database, sink: Sink, *paths: str, ordered: bool = False) -> dict[str, str]:
    """An endpoint for each of *paths*; path → secret."""
    secrets = {}
    async with db.work() as session:
        for path in paths:
            _, secrets[path] = await service.add_endpoint(
                session,
                options=here(),
                url=sink.url(path),
                events=["*"],
                ordered=ordered,
                now=utc_now(),
            )
    return secrets


async def tell(db: Database, first: int, count: int) -> None:
    """Commit *count* events, numbered from *first*, of twenty calls."""
    async with db.work() as session:
        for number in range(first, first + count):
            await record(session, TranscriptReady(f"call_{number % 20}", number), now=utc_now())


async def sustained(
    url: str, *, events: int, couriers_count: int, beside: str = "", published: bool = False
) -> float:
    """Deliveries in a second from the first to the last of a backlog, four endpoints, all verified.

    *beside* them a fifth endpoint has the same backlog: one that never answers (``silent``) or one that is
    not there (``refusing``). With *published* the deliveries are made beforehand, and only the sending is
    measured.
    """
    db, sink = open_database(DatabaseOptions(url)), Sink()
    await sink.open()
    secrets = await subscribe(db, sink, *(f"live{n}" for n in range(4)))
    if beside:
        # Nothing listens at port 1.
        await subscribe(db, sink if beside == "silent" else Sink(port=1), "dead0")
    for first in range(0, events, 250):
        await tell(db, first, 250)
    while published:
        async with db.work() as session:
            batch = await publish(session)
            await service.fan_out(session, batch, now=utc_now())
            published = bool(batch)
    total = events * 4
    async with couriers(url, couriers_count):
        if not await sink.until(lambda got: len(got) >= total, within_s=180):
            raise Late(f"only {len(sink.got)} of {total} arrived in 180 s")
    assert sink.verified(secrets) == len(sink.got)
    await sink.close()
    await db.close()
    # The first quarter shows processes starting and finding out who is dead; the last few, the end.
    middle = sorted(each.at for each in sink.got)[total // 4 : -20]
    return len(middle) / (middle[-1] - middle[0])


async def latency(url: str, *, seconds: int) -> tuple[float, float]:
    """Milliseconds from commit to receipt at 50 events in a second: half of them, and 99 of 100."""
    db, sink = open_database(DatabaseOptions(url)), Sink()
    await sink.open()
    await subscribe(db, sink, "live0")
    committed: list[float] = []
    async with couriers(url, 1):
        await tell(db, 0, 1)
        if not await sink.until(lambda got: len(got) == 1, within_s=60):
            raise Late("the first event did not arrive in 60 s")
        began = time.perf_counter()
        for number in range(1, seconds * _RATE_PER_S + 1):
            await tell(db, number, 1)
            committed.append(time.perf_counter())
            await asyncio.sleep(max(0.0, began + number / _RATE_PER_S - time.perf_counter()))
        wanted = len(committed) + 1
        if not await sink.until(lambda got: len(got) >= wanted, within_s=60):
            raise Late(f"only {len(sink.got)} of {wanted} arrived within 60 s of the last")
    await sink.close()
    await db.close()

    def number_of(got: Got) -> int:
        return int(got.body.split(b'"turns":')[1].split(b",")[0])

    waits = sorted(
        1000 * (each.at - committed[number_of(each) - 1]) for each in sink.got if number_of(each)
    )
    return waits[len(waits) // 2], waits[int(len(waits) * 0.99)]


async def claim_time(url: str, *, sizes: Sequence[int]) -> list[tuple[int, float, float]]:
    """For each backlog of *sizes*, milliseconds of a claim of 64: half of them, and 99 of 100."""
    db, sink, found = open_database(DatabaseOptions(url)), Sink(port=1), []
    await subscribe(db, sink, *(f"live{n}" for n in range(4)))
    await tell(db, 0, 1)
    async with db.look() as session:
        endpoint_ids = (await session.scalars(select(Endpoint.id))).all()
        event_id = (await session.scalars(select(EventRow.id))).one()
    have = 0
    for target in sizes:
        async with db.work() as session:
            await session.execute(_backlog(endpoint_ids, event_id, have, target))
        have = target
        times = []
        for _ in range(_CLAIMS):
            began = time.perf_counter()
            with contextlib.suppress(_Undo):
                async with db.work() as session:
                    for id_ in endpoint_ids:
                        taken = claims._take(id_, limit=16, until=utc_now(), now=utc_now())
                        await session.execute(taken)
                    times.append(1000 * (time.perf_counter() - began))
                    raise _Undo
        times.sort()
        found.append((target, times[_CLAIMS // 2], times[int(_CLAIMS * 0.99)]))
    async with db.look() as session:
        assert await session.scalar(select(func.count()).select_from(Delivery)) == sizes[-1]
    await db.close()
    return found


def _backlog(endpoint_ids: Sequence[str], event_id: str, first: int, end: int) -> "Insert":
    """Deliveries numbered from *first* to before *end*, made by the database itself: a million in seconds."""
    numbers = select(literal(first).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(select(numbers.c.n + 1).where(numbers.c.n < end - 1))
    n, now = numbers.c.n, utc_now()
    endpoint = case(dict(enumerate(endpoint_ids)), value=n % len(endpoint_ids))
    told = cast(n, String)
    columns = {
        # Of equal length, so that they sort by number.
        "id": literal("dlv_") + cast(n + 100_000_000, String),
        "endpoint_id": endpoint,
        # Only what is claimed is looked up, and that is long before any of these.
        "event_id": case((n < len(endpoint_ids), event_id), else_=literal("evt_") + told),
        "event_type": literal("transcript.ready"),
        "subject": literal("call_") + cast(n % 20, String),
        "position": n,
        "state": literal("pending"),
        "attempts": literal(0),
        "resent_after": literal(0),
        "next_at": literal(now, Delivery.next_at.type),
        "created_at": literal(now, Delivery.created_at.type),
    }
    return insert(Delivery).from_select(list(columns), select(*columns.values()))


class _Undo(Exception):
    """Ends a transaction without a commit."""


@contextlib.contextmanager
def databases() -> Iterator[dict[str, "Fresh"]]:
    """Each kind of database there is."""
    # Here, because a courier starts in half the time without it.
    from tests.conftest import PostgresServer, postgres_binaries

    with contextlib.ExitStack() as stack:
        kinds: dict[str, Fresh] = {}
        binaries = postgres_binaries()
        if binaries is not None:
            server = PostgresServer(binaries)
            stack.callback(server.stop)
            server.start()
            kinds["postgresql"] = Fresh(server=server)
        else:
            print("PostgreSQL is not installed: not measured")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        kinds["sqlite"] = Fresh(folder=folder)
        yield kinds


class Fresh:
    """Makes migrated, empty databases of one kind."""

    def __init__(
        self, *, server: "PostgresServer | None" = None, folder: Path | None = None
    ) -> None:
        self.server, self._folder, self._made = server, folder, 0

    async def url(self) -> str:
        if self.server:
            return self.server.url(await asyncio.to_thread(self.server.clone))
        assert self._folder
        self._made += 1
        template, path = self._folder / "empty.db", self._folder / f"{self._made}.db"
        if not template.exists():
            await upgrade(f"sqlite+aiosqlite:///{template}")
        shutil.copyfile(template, path)
        return f"sqlite+aiosqlite:///{path}"


async def _beside_procrastinate(fresh: Fresh, *, ours: float, deliveries: int) -> None:
    assert fresh.server
    # Its tables lie in the same kind of database as ours do, beside them.
    url = make_url(await fresh.url()).set(drivername="postgresql")
    conninfo = url.render_as_string(hide_password=False)
    try:
        theirs = await procrastinate_sender.sustained(conninfo, deliveries=deliveries, workers=2)
    except (procrastinate_sender.NotInstalled, procrastinate_sender.Late) as error:
        print(f"postgresql: {error}")
        return
    print(
        f"postgresql: procrastinate + httpx {theirs:.0f}/s, 2 workers, {deliveries} in all; "
        f"ours {ours / theirs:.1f}× that"
    )


async def _beside_a_dead_one(kind: str, fresh: Fresh, *, events: int, pairs: int) -> None:
    count = _count(kind)
    for what in ("silent", "refusing"):
        ratios, alone = [], []
        for number in range(pairs):
            # In turn, and each first as often as the other: the machine is shared, and its load changes.
            rates = {}
            for beside in ("", what) if number % 2 else (what, ""):
                rates[beside] = await sustained(
                    await fresh.url(),
                    events=events,
                    couriers_count=count,
                    beside=beside,
                    published=True,
                )
            ratios.append(rates[what] / rates[""])
            alone.append(rates[""])
        print(
            f"{kind}: to four endpoints {median(alone):.0f}/s; beside a fifth that is {what} "
            f"{100 * (median(ratios) - 1):+.0f} % (of {pairs} pairs of runs: "
            f"{', '.join(f'{100 * (each - 1):+.0f}' for each in sorted(ratios))})",
            flush=True,
        )


async def measure(kind: str, fresh: Fresh, *, parts: Collection[str], quick: bool) -> None:
    """Print the figures of one database; a part that does not end in time is told, and the others go on."""
    all_parts = {"rates": _rates, "latency": _latency, "dead": _dead, "claims": _claims}
    for name, part in all_parts.items():
        if name in parts:
            began = time.perf_counter()
            try:
                await part(kind, fresh, quick)
            except Late as error:
                print(f"{kind}: {name}: stopped: {error}", flush=True)
            print(f"{kind}: {name} took {time.perf_counter() - began:.0f} s", flush=True)


async def _rates(kind: str, fresh: Fresh, quick: bool) -> None:
    events, count = (500 if quick else 1_500), _count(kind)
    rate = await sustained(await fresh.url(), events=events, couriers_count=count)
    print(
        f"{kind}: {rate:.0f} signed deliveries/s sustained, {count} courier(s), {events * 4} in all",
        flush=True,
    )
    if fresh.server:
        await _beside_procrastinate(fresh, ours=rate, deliveries=events * 4)
    if count > 1 and not quick:
        one = await sustained(await fresh.url(), events=events, couriers_count=1)
        print(f"{kind}: {one:.0f} signed deliveries/s sustained, 1 courier", flush=True)


async def _latency(kind: str, fresh: Fresh, quick: bool) -> None:
    half, most = await latency(await fresh.url(), seconds=5 if quick else 20)
    print(
        f"{kind}: committed → received at {_RATE_PER_S}/s: p50 {half:.1f} ms, p99 {most:.1f} ms",
        flush=True,
    )


async def _dead(kind: str, fresh: Fresh, quick: bool) -> None:
    await _beside_a_dead_one(kind, fresh, events=600, pairs=1 if quick else 3)


async def _claims(kind: str, fresh: Fresh, quick: bool) -> None:
    sizes = (1_000, 20_000) if quick else (1_000, 100_000, 1_000_000)
    for size, half, most in await claim_time(await fresh.url(), sizes=sizes):
        print(
            f"{kind}: claim of 64 with a backlog of {size:,}: p50 {half:.1f} ms, p99 {most:.1f} ms",
            flush=True,
        )


def _count(kind: str) -> int:
    """How many couriers work: a second one does not help SQLite, which has one writer."""
    return 2 if kind == "postgresql" else 1


async def flood() -> None:
    """Print by how much memory grows while a receiver answers with 1 GB, and while one drips."""
    size, sent = 1_000_000_000, 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            drips = (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST /drip")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            while True:
                chunk = b"." if drips else b"spam" * 16_384
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
                if drips:
                    await asyncio.sleep(0.01)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    options, unanswered = CourierOptions(here()), 0
    limits = {"connect": options.connect, "max_connections": options.max_per_endpoint}
    async with server, Client(**limits, allowed=checks.allowed(options.endpoints.allow)) as client:  # type: ignore[arg-type]
        before = _resident_kb()
        for path in ["flood"] * 200 + ["drip"] * 4:
            try:
                reply = await client.exchange(
                    "POST",
                    f"http://127.0.0.1:{port}/{path}",
                    headers={},
                    content=b"{}",
                    # The drip is over when the time is; the flood, long before.
                    total=timedelta(seconds=2) if path == "drip" else options.total,
                    max_body_bytes=options.max_body_bytes,
                )
            except HttpFailed:
                unanswered += 1
            else:
                assert len(reply.body) <= options.max_body_bytes
        grown = _resident_kb() - before
    print(
        f"200 answers of 1 GB and 4 that drip: {sent / 200e6:.1f} MB of each went out before the "
        f"connection was closed; memory grew by {grown / 1024:.1f} MB, the sender's included"
        + (f"; {unanswered} had no answer in time" if unanswered else ""),
        flush=True,
    )


def _resident_kb() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0])


async def main(arguments: Sequence[str]) -> None:
    """Measure, or be a courier."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--courier", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer events, a smaller backlog")
    parser.add_argument(
        "--only", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure; all if left out"
    )
    given = parser.parse_args(arguments)
    if given.courier:
        await deliver(given.courier)
        return
    here()
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    began = time.perf_counter()
    if "memory" in given.only:
        await flood()
    with databases() as kinds:
        for kind, fresh in kinds.items():
            await measure(kind, fresh, parts=given.only, quick=given.quick)
    print(f"took {time.perf_counter() - began:.0f} s, load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1:]))
