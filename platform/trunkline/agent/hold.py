"""A caller who waits while the agent sees to something that takes long: a word, then music.

The call is stored as ``held`` meanwhile. Whatever is said or pressed ends the hold at once; nobody waits
behind music for words that are there.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from trunkline.agent.conversation import Conversation
from trunkline.agent.phrases import waiting

_ENDING = ("speech_created", "user_state_changed")
"""What shows that one of the two has something to say."""
_WATCHED = (*_ENDING, "agent_state_changed")


@contextlib.asynccontextmanager
async def on_hold(talk: Conversation) -> AsyncIterator[None]:
    """Music for the caller until the block ends."""
    talk.line.hold()
    talk.scribe.held()
    try:
        yield
    finally:
        talk.line.resume()
        talk.scribe.resumed()


async def keep_company(talk: Conversation, work: "asyncio.Future[Any]") -> None:
    """See to it that *work* does not keep the caller waiting in silence.

    After ``options.filler_after`` they are told that it takes a moment, once, and never twice in the
    same words; whenever they have waited for ``options.hold_after`` there is music. Returns when *work*
    is done; its outcome is its own.
    """
    session = talk.session
    if session is None:
        await asyncio.wait([work])
        return
    stirred, changed = asyncio.Event(), asyncio.Event()
    filler_after = talk.options.filler_after

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
            wait = filler_after or talk.options.hold_after
            if await _first(work, changed, timeout_s=wait.total_seconds()):
                continue
            if talk.away or talk.is_over:
                continue
            if "speaking" in (session.agent_state, session.user_state):
                await _first(work, changed)
            elif filler_after is not None:
                filler_after = None
                _fill(talk)
            else:
                stirred.clear()
                async with on_hold(talk):
                    await _first(work, stirred)
    finally:
        for name in _ENDING:
            session.off(name, on_ending)  # type: ignore[arg-type]
        for name in _WATCHED:
            session.off(name, on_change)  # type: ignore[arg-type]


def _fill(talk: Conversation) -> None:
    """Say a sentence for callers who wait that was not said in this call yet, if there is one left."""
    session = talk.session
    if session is None:
        return
    items = session.history.items
    said = " ".join(
        item.text_content or ""
        for item in items
        if item.type == "message" and item.role == "assistant"
    ).lower()
    new = next((one for one in waiting(talk.body) if one.rstrip(".").lower() not in said), None)
    if new is not None:
        with contextlib.suppress(RuntimeError):  # the session closes already
            talk.fillers.append(talk.say(new))


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
