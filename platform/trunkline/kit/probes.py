"""/health and /ready, the same for every process: does it live, and can it do its work.

Health asks nothing else, so that an orchestrator does not restart a process because its database is away.
Ready asks what the process cannot work without; what is wrong is a sentence without addresses or names of
accounts, since nobody is asked for a key here.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from trunkline.kit.db import Database, DatabaseError, revisions
from trunkline.kit.livekit import LiveKit, LiveKitFailed

log = structlog.get_logger()

PATIENCE = timedelta(seconds=2)
"""Each thing a process needs must answer in this time, or the process is not ready."""


class NotReady(Exception):
    """Something the process needs is not there; the message is the sentence that /ready says."""


Check = Callable[[], Awaitable[None]]
"""Returns when what it looks at is there, else raises NotReady."""


def database(db: Database) -> Check:
    """The database answers and is at this program's revision."""

    async def check() -> None:
        try:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                current, wanted = await revisions(db)
        except TimeoutError:
            raise NotReady(
                f"the database did not answer within {PATIENCE.total_seconds():.0f} s"
            ) from None
        except (DatabaseError, DBAPIError) as error:
            log.warning("database_not_reached", detail=str(error))
            raise NotReady(
                "the database cannot be reached; this process's log says why, and so does "
                "trunkline doctor"
            ) from error
        if current != wanted:
            raise NotReady(
                f"the database is at revision {current or 'none (empty)'}, this program needs "
                f"{wanted}; run: trunkline db upgrade"
            )

    return check


def livekit(opened: LiveKit) -> Check:
    """LiveKit answers and takes our key."""

    async def check() -> None:
        try:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                await opened.rooms("trunkline-ready")
        except TimeoutError:
            raise NotReady(
                f"LiveKit did not answer within {PATIENCE.total_seconds():.0f} s"
            ) from None
        except LiveKitFailed as error:
            log.warning("livekit_not_reached", detail=str(error))
            said = "does not take our requests" if error.reached else "cannot be reached"
            raise NotReady(
                f"LiveKit {said}; this process's log says why, and so does trunkline doctor"
            ) from error

    return check


async def problems(checks: Sequence[Check]) -> list[str]:
    """What stands in the way, a sentence each, in the order of *checks*, which run side by side."""
    found = await asyncio.gather(*(check() for check in checks), return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, NotReady):
            raise one
    return [str(one) for one in found if one is not None]


def app(checks: Sequence[Check], facts: Callable[[], Mapping[str, Any]] = dict) -> Starlette:
    """A server of the two, for a process that has no other. *facts* are told by /ready beside the rest."""

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        wrong = await problems(checks)
        told = {"ready": not wrong, "problems": wrong, **facts()}
        return JSONResponse(told, 503 if wrong else 200)

    return Starlette(routes=[Route("/health", health), Route("/ready", ready)])
