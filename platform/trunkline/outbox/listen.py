"""Learn at once that something was committed, by whichever process."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from trunkline.kit.db import Database
from trunkline.outbox import bell
from trunkline.outbox.record import CHANNEL

_POLL_S = 0.02
_BUSY_POLL_S = 0.005
_BUSY_S = 1.0
"""For this long after a commit the next one is expected soon, and looked for more often."""


async def commits(db: Database) -> AsyncGenerator[None]:
    """Yield once at the start and again whenever events may have been committed.

    It holds one connection. On PostgreSQL that one listens to what :func:`record` notifies of. On SQLite
    a commit through the same *db* is told at once (:mod:`trunkline.outbox.bell`). For those of other
    processes it asks for ``PRAGMA data_version``, a number in shared memory that changes with every commit
    of another connection (https://www.sqlite.org/pragma.html#pragma_data_version): every 20 ms, and every
    5 ms within a second of the last commit.

    Raises the driver's error when the connection is lost. Use it under ``contextlib.aclosing``.
    """
    async with db.engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).driver_connection
        try:
            if db.dialect == "sqlite":
                seen, loop = None, asyncio.get_running_loop()
                busy_until = loop.time()
                with bell.heard(db.engine.sync_engine) as rung:
                    while True:
                        async with raw.execute("PRAGMA data_version") as cursor:
                            version = await cursor.fetchone()
                        if version != seen or rung.is_set():
                            seen, busy_until = version, loop.time() + _BUSY_S
                            rung.clear()
                            yield
                        with contextlib.suppress(TimeoutError):
                            busy = loop.time() < busy_until
                            await asyncio.wait_for(rung.wait(), _BUSY_POLL_S if busy else _POLL_S)
            await raw.set_autocommit(True)
            await raw.execute(f"LISTEN {CHANNEL}")
            yield
            async for _ in raw.notifies():
                yield
        finally:
            # It still listens, so nobody else may get it from the pool.
            await connection.invalidate()
