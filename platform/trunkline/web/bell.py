"""Wakes those who wait for events, by one connection however many wait, and by none while nobody does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from trunkline.kit.db import Database
from trunkline.outbox.listen import commits

log = structlog.get_logger(__name__)

_AGAIN_AFTER_S = 1.0


class Bell:
    """Rings whenever something may have been committed.

    Take ``rung`` before you look, and wait for it when there was nothing: so nothing is missed between.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.waiting = 0
        """How many wait."""
        self._watcher: asyncio.Task[None] | None = None
        self.rung = asyncio.Event()
        """Set at the next ring, and then replaced by another."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """While the block runs the bell rings."""
        self.waiting += 1
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            self.waiting -= 1
            if not self.waiting:
                watcher, self._watcher = self._watcher, None
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(commits(self._db)) as news:
                    async for _ in news:
                        self._ring()
            except Exception:
                log.warning("bell_watch_failed", exc_info=True)
            await asyncio.sleep(_AGAIN_AFTER_S)
            self._ring()

    def _ring(self) -> None:
        rung, self.rung = self.rung, asyncio.Event()
        rung.set()
