"""What a worker does when what it stands on is started anew."""

import asyncio
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from trunkline.desk.sip import AGENT, RESCUE
from trunkline.kit.livekit import LiveKit, LiveKitFailed, open_livekit
from trunkline.kit.processes import spawn
from trunkline.sandbox.worker import WorkerOrders

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

START = timedelta(seconds=90)
PATIENCE_S = 60


async def is_ready(port: str) -> bool:
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/ready")
    ready: bool = answer.json()["ready"]
    return ready


async def until_ready(port: str, *, ready: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await is_ready(port) is not ready:  # noqa: ASYNC110 - asked of another process
            await asyncio.sleep(0.1)  # pace: it is told by nobody


async def until_answered(livekit: LiveKit) -> None:
    """Wait until a call would find both agents."""
    async with asyncio.timeout(PATIENCE_S):
        for agent in (AGENT, RESCUE):
            while True:
                try:
                    if await livekit.answers(agent):
                        break
                except LiveKitFailed:
                    await asyncio.sleep(0.2)  # pace: LiveKit is not itself yet


async def test_redis_and_livekit_are_started_anew(
    livekit_on: "Callable[..., AbstractContextManager[LiveKitServer]]",
    redis_on_port: Callable[[int], AbstractContextManager[None]],
    free_ports: list[int],
    sqlite_template: Path,
    tmp_path: Path,
) -> None:
    """The worker stays up, says that it is not ready while LiveKit is away, and takes calls again."""
    shutil.copyfile(sqlite_template, tmp_path / "trunkline.db")
    at_redis, at_livekit = free_ports[0], free_ports[1]
    redis, livekit = redis_on_port(at_redis), livekit_on(at_redis, own=at_livekit)
    redis.__enter__()
    server = livekit.__enter__()
    orders = WorkerOrders(
        word_after_ms=None,
        livekit_url=server.url,
        livekit_key=server.api_key,
        livekit_secret=server.api_secret,
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'trunkline.db'}",
        blobs_url=str(tmp_path / "blobs"),
        sandbox_port=9,
        capacity=1,
        warm=1,
        log_level="error",
    )
    worker = await spawn(
        "trunkline.sandbox.worker",
        orders.dump(),
        on_error_line=lambda line: print(line, file=sys.stderr),
    )
    try:
        port = await worker.ready(START)
        async with open_livekit(server.options) as asking:
            await until_answered(asking)
            redis.__exit__(None, None, None)
            redis = redis_on_port(at_redis)
            redis.__enter__()
            await until_answered(asking)
            await until_ready(port, ready=True)
            livekit.__exit__(None, None, None)
            await until_ready(port, ready=False)
            livekit = livekit_on(at_redis, own=at_livekit)
            livekit.__enter__()
            await until_ready(port, ready=True)
            await until_answered(asking)
        assert worker.returncode is None
    finally:
        await worker.stop(timedelta(seconds=15))
        livekit.__exit__(None, None, None)
        redis.__exit__(None, None, None)
