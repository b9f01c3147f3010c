"""How long it takes to know a caller: ``python -m tests.bench.lookup [--full] [--postgres URL]``.

Fills a database with contacts, prints how they are found (EXPLAIN) and the times of a lookup by
number and of a whole arrival, each in a transaction of its own, in milliseconds. Nothing is asserted.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Integer, String, cast, event, func, insert, literal, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.conftest import OURS, Make, PostgresServer, postgres_binaries

from trunkline.crm import queries
from trunkline.crm.models import Activity, Company, Contact, ContactPhone, Deal
from trunkline.desk.arrival import receive
from trunkline.kit.db import Database, DatabaseOptions, open_database, upgrade

NOW = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
ROUND = 2000
EVERY = 10
"""So many contacts share a company, and one of them has a deal and an activity: the one that calls."""


FIRST_NUMBER = 1_200_000_0000


def scattered(i: Any, contacts: int) -> Any:
    """Contact *i*'s number, without +: not in the order of the contacts, as in life."""
    return i * 7919 % contacts + FIRST_NUMBER


async def fill(session: AsyncSession, contacts: int) -> None:
    """Add contacts with one number each, made by the database itself."""
    n = select(literal(1, Integer).label("i")).cte("n", recursive=True)
    n = n.union_all(select(n.c.i + 1).where(n.c.i < contacts))

    def id_of(prefix: str) -> Any:
        return literal(f"{prefix}_", String) + cast(n.c.i + 10_000_000, String)

    async def add(table: Any, every: int, **values: Any) -> None:
        row = select(*(value.label(name) for name, value in values.items()))
        await session.execute(
            insert(table).from_select(
                list(values), row.where(n.c.i % every == 0), include_defaults=False
            )
        )

    at = literal(NOW, Contact.created_at.type)
    text_of = String()
    employer = (n.c.i + (EVERY - 1)) // EVERY * EVERY
    await add(
        Company,
        EVERY,
        id=id_of("com"),
        name=literal("Company ", text_of) + cast(n.c.i, String),
        created_at=at,
    )
    await add(
        Contact,
        1,
        id=id_of("con"),
        name=literal("Caller ", text_of) + cast(n.c.i, String),
        company_id=literal("com_", text_of) + cast(employer + 10_000_000, String),
        tags=literal([], Contact.tags.type),
        do_not_call=literal(False),
        source=literal("import"),
        created_at=at,
        updated_at=at,
    )
    digits = scattered(cast(n.c.i, BigInteger), contacts)
    e164 = literal("+", text_of) + cast(digits, String)
    await add(
        ContactPhone,
        1,
        id=id_of("pho"),
        contact_id=id_of("con"),
        e164=e164,
        raw=e164,
        created_at=at,
    )
    await add(
        Deal,
        EVERY,
        id=id_of("deal"),
        title=literal("Office Fiber"),
        contact_id=id_of("con"),
        pipeline=literal("Sales"),
        stage=literal("proposal"),
        outcome=literal("open"),
        amount_minor=literal(240_000),
        currency=literal("USD"),
        created_at=at,
        updated_at=at,
    )
    await add(
        Activity,
        EVERY,
        id=id_of("act"),
        kind=literal("note"),
        summary=literal("Asked for a quote."),
        contact_id=id_of("con"),
        created_at=at,
    )


async def plan(db: Database, e164: str) -> list[str]:
    """How the database says it finds a contact by number."""
    seen: list[tuple[str, Any]] = []

    def note(*arguments: Any) -> None:
        seen.append((arguments[2], arguments[3]))

    event.listen(db.engine.sync_engine, "before_cursor_execute", note)
    async with db.look() as session:
        await queries.contact_by_number(session, e164)
    event.remove(db.engine.sync_engine, "before_cursor_execute", note)
    statement, parameters = seen[-1]
    explain = "EXPLAIN QUERY PLAN " if db.dialect == "sqlite" else "EXPLAIN "
    async with db.engine.connect() as connection:
        rows = await connection.exec_driver_sql(explain + statement, parameters)
        return [str(row[-1]) for row in rows]


async def times(numbers: Sequence[str], action: Callable[[str], Awaitable[None]]) -> list[float]:
    """Milliseconds of each run, in rising order; the first twenty warm up and do not count."""
    for number in numbers[:20]:
        await action(number)
    taken = []
    for number in numbers[20:]:
        began = time.perf_counter()
        await action(number)
        taken.append((time.perf_counter() - began) * 1000)
    return sorted(taken)


def told(what: str, taken: Sequence[float]) -> str:
    p50, p99 = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
    return f"  {what:<18} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   n {len(taken)}"


async def measure(url: str, contacts: int) -> None:
    """Fill the database at *url* and print its figures."""
    await upgrade(url)
    db = open_database(DatabaseOptions(url))
    try:
        async with db.look() as session:
            if await session.scalar(select(func.count()).select_from(Contact)):
                raise SystemExit(f"{db.dialect}: there are contacts in it; give an empty database")
        began = time.perf_counter()
        async with db.work() as session:
            await Make().profile(session, number=OURS)
            await fill(session, contacts)
        if db.dialect == "postgresql":  # autovacuum would do it within a minute
            async with db.work() as session:
                await session.execute(text("ANALYZE"))
        print(f"{db.dialect}: {contacts:,} contacts, filled in {time.perf_counter() - began:.0f} s")

        rng = random.Random(7)
        chosen = rng.sample(range(EVERY, contacts + 1, EVERY), k=min(ROUND, contacts // EVERY) // 2)
        numbers = [f"+{scattered(i, contacts)}" for i in chosen]
        for line in await plan(db, numbers[0]):
            print(f"    {line}")

        async def look_up(number: str) -> None:
            async with db.look() as session:
                assert await queries.contact_by_number(session, number) is not None

        async def arrive(number: str) -> None:
            async with db.work() as session:
                reception = await receive(
                    session, room=number, channel="test", from_raw=number, to_raw=OURS, now=NOW
                )
                assert len(reception.open_deals) == len(reception.last_activities) == 1

        print(told("contact_by_number", await times(numbers, look_up)))
        print(told("whole arrival", await times(numbers, arrive)))
    finally:
        await db.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lookup", description=__doc__)
    parser.add_argument("--contacts", type=int, default=100_000, help="how many to fill in")
    parser.add_argument("--full", action="store_true", help="a million contacts")
    parser.add_argument("--postgres", metavar="URL", help="an empty PostgreSQL database to fill")
    arguments = parser.parse_args()
    contacts = 1_000_000 if arguments.full else arguments.contacts
    if not 1000 <= contacts <= 100_000_000:
        parser.error("--contacts must be from 1,000 to 100,000,000")
    contacts -= contacts % EVERY

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(f"sqlite+aiosqlite:///{Path(folder) / 'bench.db'}", contacts))
    if arguments.postgres:
        asyncio.run(measure(arguments.postgres, contacts))
    elif binaries := postgres_binaries():
        server = PostgresServer(binaries)
        try:
            server.start()
            asyncio.run(measure(server.url(server.clone()), contacts))
        finally:
            server.stop()
    else:
        print("postgresql: not measured; install its server, or give --postgres URL")


if __name__ == "__main__":
    main()
