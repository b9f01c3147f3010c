"""The API against its own description: schemathesis asks a running server thousands of things."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trunkline.access import service as access
from trunkline.kit.asgi import listen, serve
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database
from trunkline.sandbox import past, story
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions
from trunkline.webhooks.options import EndpointOptions

if TYPE_CHECKING:
    from tests.conftest import Make

ROOT = Path(__file__).parents[2]
ENDPOINTS = EndpointOptions(("WkWhWz3kX0gGgCkM4wDRoJrEkXIcrQPpP5cWbqkqW5M=",))
LONGEST_S = 540.0


@pytest.fixture
async def token(sqlite_db: Database, make: "Make", now: datetime) -> str:
    """A key of all scopes on a server with two weeks of calls, contacts, deals and deliveries."""
    async with sqlite_db.work() as session:
        await story.seed(session, now=now)
        _, token = await access.add_key(
            session, name="tests", scopes=list(access.KEY_SCOPES), now=now
        )
    await past.fill(sqlite_db, now=now, endpoints=ENDPOINTS)
    return token


@pytest.fixture
async def address(sqlite_db: Database, tmp_path: Path, now: datetime) -> AsyncIterator[str]:
    """Where the server listens."""
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    app = create_app(sqlite_db, blobs, WebOptions(endpoints=ENDPOINTS), clock=lambda: now)
    listener = listen("127.0.0.1", 0)
    ready = asyncio.Event()
    running = asyncio.create_task(serve(app, listener, ready.set))
    await ready.wait()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_server_does_what_its_description_says(
    address: str, token: str, tmp_path: Path
) -> None:
    """No 5xx, no status, header, type or form of an answer that is not described, nothing wrong let in."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(ROOT / "infra" / "schemathesis.toml")),
        *("run", f"{address}/openapi.json", "-H", f"Authorization: Bearer {token}"),
    ]
    running = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(running.communicate(), LONGEST_S)
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    assert running.returncode == 0, said.decode(errors="replace")[-20_000:]
