"""Learn at once that something was committed, by whichever process."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from trunkline.kit.db import Database
from trunkline.outbox.record import CHANNEL

_POLL_S = 0.02


async def commits(db: Database) -> AsyncGenerator[None]:
    """Yield once at the start and again whenever events may have been committed.

    It holds one connection. On PostgreSQL that one listens to what :func:`record` notifies of. On SQLite it
    asks every 20 ms for ``PRAGMA data_version``, a number in shared memory that changes with every commit of
    another connection (https://www.sqlite.org/pragma.html#pragma_data_version).

    Raises the driver's error when the connection is lost. Use it under ``contextlib.aclosing``.
    """
    async with db.engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        try:
            if db.dialect == "sqlite":
                seen = None
                while True:
                    async with raw.execute("PRAGMA data_version") as cursor:
                        version = await cursor.fetchone()
                    if version != seen:
                        seen = version
                        yield
                    await asyncio.sleep(_POLL_S)
            await raw.set_autocommit(True)
            await raw.execute(f"LISTEN {CHANNEL}")
            yield
            async for _ in raw.notifies():
                yield
        finally:
            # It still listens, so nobody else may get it from the pool.
            await connection.invalidate()
