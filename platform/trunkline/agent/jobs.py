"""One job of livekit-agents, and the call that it is there for."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from livekit.agents import JobContext

from trunkline.agent.room import NoCaller, RoomLine

log = structlog.get_logger()

_CALL = "call"
"""Where a job keeps its line and the task that talks on it."""


async def send_home(
    context: JobContext, error: NoCaller, delete_room: Callable[[], Awaitable[None]]
) -> None:
    """End a job that finds nobody to talk to, and the room with it."""
    log.warning("no_caller", room=context.room.name, detail=str(error))
    await delete_room()
    context.shutdown("no caller")


def begin(context: JobContext, line: RoomLine, talking: Coroutine[Any, Any, None]) -> None:
    """Let the call go on by itself, and the job end with it."""
    # A context of its own: without the job in it the session records, reports and closes nothing itself.
    call = asyncio.create_task(talking, context=contextvars.Context())
    context.proc.userdata[_CALL] = (line, call)
    call.add_done_callback(lambda _: context.shutdown("the call is over"))


async def on_end(context: JobContext) -> None:
    """The job is to end: the call is over, its room is gone, or the worker may not wait any longer."""
    held: tuple[RoomLine, asyncio.Task[Any]] | None = context.proc.userdata.get(_CALL)
    if held is None:
        return
    line, call = held
    await line.hang_up()
    await asyncio.wait([call])
