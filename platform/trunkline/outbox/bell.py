"""Tell those who wait in the same process that events were committed, without a look at the database."""

import asyncio
import contextlib
from collections.abc import Iterator
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

_Ear = tuple[asyncio.AbstractEventLoop, asyncio.Event]
_ears: WeakKeyDictionary[Engine, set[_Ear]] = WeakKeyDictionary()
_RINGS = "trunkline_rings"


@contextlib.contextmanager
def heard(engine: Engine) -> Iterator[asyncio.Event]:
    """An event that is set after each commit with events through *engine*, from whichever thread."""
    ear = (asyncio.get_running_loop(), asyncio.Event())
    _ears.setdefault(engine, set()).add(ear)
    try:
        yield ear[1]
    finally:
        _ears[engine].discard(ear)


def ring_at_commit(session: AsyncSession) -> None:
    """Ring once the session's transaction has been committed; not when it is undone."""
    sync = session.sync_session
    if sync.info.get(_RINGS):
        return
    sync.info[_RINGS] = True
    event.listen(sync, "after_commit", _ring)


def _ring(session: Session) -> None:
    bind = session.get_bind()
    for loop, rung in tuple(_ears.get(bind.engine, ())):
        loop.call_soon_threadsafe(rung.set)
