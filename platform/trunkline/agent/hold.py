"""A caller on hold: music while the agent sees to something that takes long.

The call is stored as ``held`` meanwhile. Whatever is said or pressed ends the hold at once; nobody waits
behind music for words that are there.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from trunkline.agent.conversation import Conversation

_ENDING = ("speech_created", "user_state_changed")
"""What shows that one of the two has something to say."""
_WATCHED = (*_ENDING, "agent_state_changed")


@asynccontextmanager
async def on_hold(talk: Conversation) -> AsyncIterator[None]:
    """Music for the caller until the block ends."""
    talk.line.hold()
    talk.scribe.held()
    try:
        yield
    finally:
        talk.line.resume()
        talk.scribe.resumed()


async def music_while(talk: Conversation, work: "asyncio.Future[Any]") -> None:
    """Put the caller on hold whenever *work* has kept them waiting for ``options.hold_after``.

    Returns when *work* is done; its outcome is its own.
    """
    session = talk.session
    if session is None:
        await asyncio.wait([work])
        return
    stirred, changed = asyncio.Event(), asyncio.Event()

    def on_ending(event: Any) -> None:
        stirred.set()

    def on_change(event: Any) -> None:
        changed.set()

    for name in _ENDING:
        session.on(name, on_ending)  # type: ignore[arg-type]
    for name in _WATCHED:
        session.on(name, on_change)  # type: ignore[arg-type]
    try:
        while not work.done():
            # The wait begins anew with every word: they were not left in silence.
            changed.clear()
            if await _within(talk, work, changed) or talk.away or talk.is_over:
                continue
            if "speaking" in (session.agent_state, session.user_state):
                await _first(work, changed)
                continue
            stirred.clear()
            async with on_hold(talk):
                await _first(work, stirred)
    finally:
        for name in _ENDING:
            session.off(name, on_ending)  # type: ignore[arg-type]
        for name in _WATCHED:
            session.off(name, on_change)  # type: ignore[arg-type]


async def _within(talk: Conversation, work: "asyncio.Future[Any]", changed: asyncio.Event) -> bool:
    """Whether something happened before the caller had waited too long."""
    return await _first(work, changed, timeout_s=talk.options.hold_after.total_seconds())


async def _first(
    work: "asyncio.Future[Any]", happened: asyncio.Event, timeout_s: float | None = None
) -> bool:
    """Wait for either; whether one of them came."""
    coming = asyncio.ensure_future(happened.wait())
    try:
        done, _ = await asyncio.wait(
            [work, coming], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        return bool(done)
    finally:
        coming.cancel()
