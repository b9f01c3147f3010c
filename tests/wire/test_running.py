"""Each process of the product as a machine runs it: started, asked whether it can work, told to stop."""

import asyncio
import os
import shutil
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from trunkline.events import TranscriptReady
from trunkline.kit.clock import utc_now
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database, DatabaseOptions, open_database
from trunkline.outbox.record import record
from trunkline.sandbox.receiver import Receiver
from trunkline.webhooks import queries, service
from trunkline.webhooks.options import EndpointOptions

BARE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("TRUNKLINE_", "LIVEKIT_", "DEEPGRAM_", "OPENAI_", "CARTESIA_"))
}
NO_SANDBOX = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pocketsphinx", "espeakng_loader") or name == "trunkline.sandbox":
            raise ModuleNotFoundError(f"{name} is not installed in production", name=name)
sys.meta_path.insert(0, Blocked())
"""
"""A sitecustomize: it holds in every process that the tested one starts, too."""

PROVIDERS = {"DEEPGRAM_API_KEY": "x", "OPENAI_API_KEY": "x", "CARTESIA_API_KEY": "x"}
SOON_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path, sqlite_template: Path) -> Path:
    """A data folder with a migrated database, and a place that hides the sandbox."""
    (tmp_path / "sitecustomize.py").write_text(NO_SANDBOX)
    (tmp_path / "data").mkdir()
    shutil.copyfile(sqlite_template, tmp_path / "data" / "trunkline.db")
    return tmp_path


@asynccontextmanager
async def process(
    command: str, folder: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """``trunkline COMMAND`` without the sandbox's packages; ended when the block is left."""
    path = os.pathsep.join([str(folder), *filter(None, [BARE.get("PYTHONPATH")])])
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "trunkline", command, "--data", str(folder / "data"),
        cwd=folder,
        env={**BARE, "PYTHONPATH": path, **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def port_of(running: asyncio.subprocess.Process) -> int:
    """The port it says it is ready on."""
    assert running.stdout is not None
    line = await asyncio.wait_for(running.stdout.readline(), SOON_S)
    assert line.startswith(b"ready "), "its log says why it ended"
    return int(line.split()[1])


async def asked(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def ended(running: asyncio.subprocess.Process) -> int:
    running.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(running.wait(), SOON_S)


def ports(**given: int) -> dict[str, str]:
    """The settings of each process's port; 0 unless given."""
    names = {"web": "TRUNKLINE_PORT", **{p: f"TRUNKLINE_{p.upper()}_PORT" for p in
             ("courier", "guardian", "worker")}}  # fmt: skip
    return {name: str(given.get(part, 0)) for part, name in names.items()}


@pytest.mark.parametrize("command", ["web", "courier", "guardian", "serve"])
async def test_each_process_runs_without_the_sandbox_and_stops_when_told(
    command: str, folder: Path
) -> None:
    """It answers /health and /ready on its port, and ends with code 0 at SIGTERM."""
    async with process(command, folder, ports()) as running:
        port = await port_of(running)
        for path in ("/health", "/ready"):
            answer = await asked(port, path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert await ended(running) == 0


@pytest.mark.parametrize("command", ["web", "courier", "guardian"])
async def test_a_database_of_another_revision_is_not_ready(command: str, folder: Path) -> None:
    """When the database was upgraded under it, /ready says the revisions and the command; /health lives."""
    async with process(command, folder, ports()) as running:
        port = await port_of(running)
        with sqlite3.connect(folder / "data" / "trunkline.db") as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.close()
        answer = await asked(port, "/ready")
        assert answer.status_code == 503
        assert "is at revision 9999" in answer.text
        assert "trunkline db upgrade" in answer.text
        assert (await asked(port, "/health")).status_code == 200


@pytest.mark.parametrize("command", ["guardian", "serve"])
async def test_without_livekit_the_guardian_is_not_ready(command: str, folder: Path) -> None:
    """LiveKit that cannot be reached is told by /ready; the process stays up and looks again."""
    nobody = f"ws://127.0.0.1:{free_port()}"
    livekit = {"LIVEKIT_URL": nobody, "LIVEKIT_API_KEY": "k", "LIVEKIT_API_SECRET": "s" * 32}
    async with process(command, folder, {**ports(), **livekit}) as running:
        port = await port_of(running)
        answer = await asked(port, "/ready")
        assert (answer.status_code, "LiveKit cannot be reached" in answer.text) == (503, True)
        assert nobody not in answer.text, "who asks without a key is told no addresses"
        assert (await asked(port, "/health")).status_code == 200
        assert await ended(running) == 0


async def test_a_worker_without_livekit_stays_up_and_says_so(folder: Path) -> None:
    """The worker needs no sandbox either; until LiveKit knows it, /ready is 503 with the reason."""
    port = free_port()
    env = {
        **ports(worker=port),
        **PROVIDERS,
        "LIVEKIT_URL": f"ws://127.0.0.1:{free_port()}",
        "LIVEKIT_API_KEY": "k",
        "LIVEKIT_API_SECRET": "s" * 32,
    }
    async with process("worker", folder, env) as running:
        transport = httpx.AsyncHTTPTransport(retries=12)  # waits longer from try to try
        async with httpx.AsyncClient(transport=transport, timeout=SOON_S) as client:
            health = await client.get(f"http://127.0.0.1:{port}/health")
        assert health.status_code == 200
        answer = await asked(port, "/ready")
        assert answer.status_code == 503
        assert "LiveKit does not know this worker" in answer.json()["problems"][0]
        assert await ended(running) == 0


async def test_a_courier_told_to_stop_ends_the_delivery_it_began(folder: Path) -> None:
    """SIGTERM while a receiver still thinks: its answer is waited for and stored."""
    key = new_key()
    options = EndpointOptions(keys=(key,), allow=("127.0.0.1",))
    db = open_database(DatabaseOptions(f"sqlite+aiosqlite:///{folder / 'data' / 'trunkline.db'}"))
    env = {**ports(), "TRUNKLINE_SECRET_KEYS": key, "TRUNKLINE_WEBHOOK_ALLOW": "127.0.0.1"}
    try:
        async with Receiver() as receiver, process("courier", folder, env) as running:
            await port_of(running)
            receiver.hold()
            await _an_event(db, options, receiver.url)
            await receiver.until(lambda received: len(received) == 1)
            running.send_signal(signal.SIGTERM)
            receiver.release()
            assert await asyncio.wait_for(running.wait(), SOON_S) == 0
        async with db.look() as session:
            [entry] = await queries.deliveries_of_subject(session, "call_1")
        assert (entry.delivery.state, len(entry.attempts)) == ("delivered", 1)
    finally:
        await db.close()


async def _an_event(db: Database, options: EndpointOptions, url: str) -> None:
    async with db.work() as session:
        await service.add_endpoint(session, options=options, url=url, events=["*"], now=utc_now())
        await record(session, TranscriptReady("call_1", turns=1), now=utc_now())
