"""How fast the list of calls is: ``python -m tests.bench.search [--size 10] [--database sqlite]``.

Fills a fresh database of either kind with calls of ten turns each over a year, then prints p50 and p99 of
first pages in milliseconds, by filter and by search. ``page`` is the calls alone, ``list`` is all that the
page of calls asks for: what stands in their rows, snippets, and the sums of the tiles. Then whole pages as
the server answers them, HTML included. Nothing is asserted.
"""

import argparse
import asyncio
import itertools
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
from tests.conftest import PostgresServer, postgres_binaries

from trunkline.calls import query, search
from trunkline.calls.filters import Filters
from trunkline.calls.review import Review
from trunkline.calls.words import indexed
from trunkline.desk import call_list
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database, DatabaseOptions, open_database, upgrade
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

NOW = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
TURNS = 10
COMMON = (
    *("the", "to", "you", "I", "and", "a", "of", "that", "it", "is", "for", "in", "can", "my"),
    *("have", "we", "on", "be", "so", "do", "okay", "please", "thank", "call", "yes", "no"),
)

Row = tuple[Any, ...]


def vocabulary(rng: random.Random) -> tuple[list[str], list[float]]:
    """20,000 words, their frequency falling with their rank as in speech (Zipf)."""
    letters = "bcdfglmnprstv"
    made = [
        "".join(rng.choice(letters) + rng.choice("aeiou") for _ in range(rng.randint(2, 4)))
        for _ in range(20_000)
    ]
    words = list(dict.fromkeys([*COMMON, *made]))
    return words, list(itertools.accumulate(1 / (rank + 2) for rank in range(len(words))))


def rows(calls: int) -> Iterator[tuple[Row, list[Row], list[Row], list[Row]]]:
    """Each call with its turns, their words and its tags."""
    rng = random.Random(7)
    words, weights = vocabulary(rng)
    pool = [" ".join(rng.choices(words, cum_weights=weights, k=12)) for _ in range(60_000)]
    for n in range(calls):
        at = NOW - timedelta(days=365) + timedelta(days=365) * n / calls
        call_id = f"call_{n:026d}"
        direction = "inbound" if n % 10 else "outbound"
        ms = None if n % 7 == 0 else 10_000 + (n * 7919) % 400_000
        reason = "no_answer" if ms is None else ("fax" if n % 5000 == 1 else "caller_hangup")
        far = f"+1202555{n % 9000:04d}"
        ends = (far, "+12025550100") if direction == "inbound" else ("+12025550100", far)
        call = (
            call_id, f"room-{n}", direction, "sip", "ended", reason, *ends, f"con_{n % 9000:026d}",
            f"ver_{n * 8 // calls}" if n % 3 else "ver_other", at,
            None if ms is None else at, at + timedelta(milliseconds=ms or 0), ms,
            n % 50 == 3, n % 400 == 5, n % 20 == 7, "needed" if n % 300 == 2 else None,
        )  # fmt: skip
        turns, spoken = [], []
        for seq in range(TURNS):
            text = pool[rng.randrange(len(pool))]
            if n % 20_000 == 11 and seq == 3:
                text += " zanzibar"
            role = "agent" if seq % 2 == 0 else "user"
            turn_id = f"turn_{n * TURNS + seq:026d}"
            turns.append(
                (turn_id, call_id, seq + 1, role, text, seq * 6000, seq * 6000 + 5000, False)
            )
            spoken.append((turn_id, call_id, role, indexed(text)))
        tags = [(call_id, "vip", "Maria", at)] if n % 1000 == 9 else []
        tags += [(call_id, "billing", "Maria", at)] if n % 5 == 0 else []
        yield call, turns, spoken, tags


TABLES = {
    "calls": "id room direction channel state end_reason from_number to_number contact_id "
    "profile_version_id started_at answered_at ended_at duration_ms transferred crm_failed test review",
    "turns": "id call_id seq role text started_ms ended_ms interrupted",
    "spoken": "turn_id call_id role words",
    "call_tags": "call_id tag by at",
}
ALSO = {"calls": {"lease_epoch": 0}}


def fill_sqlite(path: Path, calls: int) -> None:
    connection = sqlite3.connect(path)
    sqlite3.register_adapter(datetime, lambda at: at.strftime("%Y-%m-%d %H:%M:%S.%f"))
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute("PRAGMA cache_size=-200000")
    inserts = {
        table: f"INSERT INTO {table} ({', '.join([*names.split(), *ALSO.get(table, {})])}) VALUES "  # noqa: S608
        f"({', '.join(['?'] * len(names.split()) + [str(v) for v in ALSO.get(table, {}).values()])})"
        for table, names in TABLES.items()
    }
    for some in batches(calls):
        connection.executemany(inserts["calls"], [one[0] for one in some])
        for at, table in enumerate(("turns", "spoken", "call_tags"), 1):
            connection.executemany(inserts[table], [row for one in some for row in one[at]])
    connection.commit()
    connection.close()


def batches(calls: int) -> Iterator[list[Any]]:
    all_ = rows(calls)
    while some := list(itertools.islice(all_, 2000)):
        yield some


def fill_postgresql(server: PostgresServer, name: str, calls: int) -> None:
    with psycopg.connect(host=str(server.folder), user="postgres", dbname=name) as connection:
        index = connection.execute(
            "SELECT indexdef FROM pg_indexes WHERE indexname = 'spoken_fts'"
        ).fetchone()
        assert index is not None
        connection.execute("DROP INDEX spoken_fts")
        for some in batches(calls):
            for at, (table, names) in enumerate(TABLES.items()):
                also = ALSO.get(table, {})
                columns = ", ".join([*names.split(), *also])
                with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                    for one in some:
                        for row in [one[0]] if at == 0 else one[at]:
                            copy.write_row((*row, *also.values()))
        connection.execute(index[0])
        connection.execute("ALTER INDEX spoken_fts ALTER COLUMN 1 SET STATISTICS 1000")
        connection.commit()
    server_execute = psycopg.connect(
        host=str(server.folder), user="postgres", dbname=name, autocommit=True
    )
    server_execute.execute("VACUUM ANALYZE")
    server_execute.close()


YEAR = timedelta(days=365)
CASES: dict[str, tuple[Filters, str | None]] = {
    "no filter": (Filters(), None),
    "last 7 days": (Filters(since=NOW - timedelta(days=7)), None),
    "a week of last year": (
        Filters(since=NOW - YEAR, until=NOW - YEAR + timedelta(days=7)), None,
    ),
    "a caller's number": (Filters(number="+12025550134"), None),
    "our number": (Filters(number="+12025550100"), None),
    "a profile": (Filters(profile_version_ids=("ver_other",)), None),
    "a retired profile": (Filters(profile_version_ids=("ver_0", "ver_1")), None),
    "direction": (Filters(direction="outbound"), None),
    "end reason": (Filters(end_reason="no_answer"), None),
    "rare end reason": (Filters(end_reason="fax"), None),
    "answered": (Filters(answered=True), None),
    "longer than 1 m": (Filters(min_ms=60_000), None),
    "longer than 6 m 49 s": (Filters(min_ms=409_000), None),
    "contact": (Filters(contact_id=f"con_{77:026d}"), None),
    "rare tag": (Filters(tag="vip"), None),
    "common tag": (Filters(tag="billing"), None),
    "no such tag": (Filters(tag="nothing"), None),
    "transferred": (Filters(transferred=True), None),
    "CRM write failed": (Filters(crm_failed=True), None),
    "needs review": (Filters(review=Review.NEEDED), None),
    "hide tests": (Filters(hide_tests=True), None),
    "six filters": (
        Filters(direction="inbound", crm_failed=True, hide_tests=True, answered=True,
                min_ms=20_000, since=NOW - timedelta(days=90)), None,
    ),
    "filters that exclude each other": (Filters(direction="outbound", end_reason="fax"), None),
    "word in half of all turns": (Filters(), "the"),
    "word in 1 of 10 calls": (Filters(), "{tenth}"),
    "word in 1 of 100 calls": (Filters(), "{hundredth}"),
    "word in 5 calls": (Filters(), "zanzibar"),
    "word nobody said": (Filters(), "xylophone"),
    "two common words": (Filters(), "the you"),
    "common and rare": (Filters(), "the zanzibar"),
    "common phrase": (Filters(), '"the to"'),
    "rare phrase": (Filters(), '"zanzibar the"'),
    "speaker": (Filters(), "caller:please"),
    "without": (Filters(), "call -agent:the"),
    "never together": (Filters(), "call -the -you -to -and -a"),
    "prefix": (Filters(), "zanz*"),
    "common prefix": (Filters(), "tha*"),
    "common word, rare filter": (Filters(tag="vip"), "the"),
    "rare word, common filter": (Filters(direction="inbound"), "zanzibar"),
    "common word, two filters": (Filters(hide_tests=True, min_ms=60_000), "the"),
}  # fmt: skip


def with_words(calls: int, text: str | None) -> str | None:
    """The words of the vocabulary that stand in about a tenth and a hundredth of the calls."""
    if text is None or "{" not in text:
        return text
    words, _ = vocabulary(random.Random(7))
    total = sum(1 / (rank + 2) for rank in range(len(words)))

    def rank(share: float) -> str:
        # Of 120 words of a call; the rank at which that many calls have the word.
        return words[round(120 / (share * total)) - 2]

    return text.format(tenth=rank(0.1), hundredth=rank(0.01))


async def measure(db: Database, calls: int, rounds: int) -> None:
    print(f"\n{db.dialect}, {calls:,} calls, {calls * TURNS:,} turns; ms")
    print(f"{'':34}{'page p50':>10}{'p99':>8}{'list p50':>10}{'p99':>8}  found")
    worst = 0.0
    for name, (filters, text) in CASES.items():
        wanted = query.parse(with_words(calls, text) or "") if text else None

        async def page() -> Any:
            async with db.look() as session:
                return await search.page(session, filters, wanted, limit=51)  # noqa: B023

        async def listed() -> Any:
            async with db.look() as session:
                found = await call_list.page(session, filters, wanted, limit=50)  # noqa: B023
                await call_list.tiles(session, filters, wanted)  # noqa: B023
            return found

        await page()
        alone, _ = await timed(page, rounds)
        await listed()
        whole, shown = await timed(listed, rounds)
        worst = max(worst, whole[-1])
        more = "+" if shown.next else ""
        back = f" (back to {shown.searched_back_to:%d %b})" if shown.searched_back_to else ""
        print(
            f"{name:34}{p(alone, 0.5):10.1f}{p(alone, 0.99):8.1f}{p(whole, 0.5):10.1f}"
            f"{p(whole, 0.99):8.1f}  {len(shown.calls)}{more}{back}",
            flush=True,
        )
    print(f"slowest of all: {worst:.0f} ms")


PAGES = (
    "/",
    "/calls",
    "/calls?number=%2B12025550100",
    "/calls?q=the",
    "/calls?q=zanzibar",
    "/calls/{call}",
    "/calls/{call}?q=the&direction=inbound",
    "/calls/{call}?tag=vip",
    "/calls/{call}/events",
)


async def measure_pages(db: Database, folder: Path, calls: int, rounds: int) -> None:
    app = create_app(
        db, open_blobs(BlobOptions(str(folder))), WebOptions(login=False), clock=lambda: NOW
    )
    print(f"{'pages':44}{'p50':>8}{'p99':>8}{'kB':>8}")
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40_000))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path in PAGES:
            address = path.format(call=f"call_{calls // 2 + 1:026d}")

            async def get() -> httpx.Response:
                return (await client.get(address)).raise_for_status()  # noqa: B023

            await get()
            took, answer = await timed(get, rounds)
            kilobytes = len(answer.content) / 1000
            print(f"{path:44}{p(took, 0.5):8.1f}{p(took, 0.99):8.1f}{kilobytes:8.1f}", flush=True)


def p(sorted_ms: list[float], share: float) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, round(share * len(sorted_ms)))]


async def timed(work: Callable[[], Any], rounds: int) -> tuple[list[float], Any]:
    took, found = [], None
    for _ in range(rounds):
        begun = time.perf_counter()
        found = await work()
        took.append((time.perf_counter() - begun) * 1000)
    return sorted(took), found


async def on_sqlite(calls: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.db"
        url = f"sqlite+aiosqlite:///{path}"
        await upgrade(url)
        begun = time.perf_counter()
        fill_sqlite(path, calls)
        size = path.stat().st_size / 1e6
        print(f"sqlite filled in {time.perf_counter() - begun:.0f} s, {size:.0f} MB", flush=True)
        db = open_database(DatabaseOptions(url))
        await measure(db, calls, rounds)
        await measure_pages(db, Path(folder), calls, rounds)
        await db.close()


async def on_postgresql(calls: int, rounds: int) -> None:
    binaries = postgres_binaries()
    if binaries is None:
        sys.exit("the PostgreSQL server is not here: apt-get install postgresql")
    server = PostgresServer(binaries)
    try:
        await asyncio.to_thread(server.start)
        name = server.clone()
        begun = time.perf_counter()
        fill_postgresql(server, name, calls)
        print(f"postgresql filled in {time.perf_counter() - begun:.0f} s", flush=True)
        db = open_database(DatabaseOptions(server.url(name)))
        await measure(db, calls, rounds)
        with tempfile.TemporaryDirectory() as folder:
            await measure_pages(db, Path(folder), calls, rounds)
        await db.close()
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=1, help="this many times --calls")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    given = parser.parse_args()
    for name, run in (("sqlite", on_sqlite), ("postgresql", on_postgresql)):
        if given.database in (name, "both"):
            asyncio.run(run(given.calls * given.size, given.rounds))


if __name__ == "__main__":
    main()
