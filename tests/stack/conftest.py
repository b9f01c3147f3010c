"""A real livekit-server with its Redis on loopback, one pair for the whole run."""

import json
import shutil
import socket
import subprocess
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from trunkline.kit.livekit import LiveKit, LiveKitOptions, open_livekit
from trunkline.sandbox.sip_api import SipApi

if TYPE_CHECKING:
    from tests.conftest import Need

KEY, SECRET = "devkey", "a-secret-of-the-tests-not-of-anything-real"
_START_S = 30.0
GO_INSTALL = (
    "go install github.com/livekit/livekit-server/cmd/server@v1.13.5, as livekit-server on PATH"
)


@dataclass(frozen=True)
class LiveKitServer:
    """Where the run's livekit-server is. ``log`` holds its last lines."""

    url: str
    log: "deque[str]"
    api_key: str = KEY
    api_secret: str = SECRET

    @property
    def options(self) -> LiveKitOptions:
        """For kit.livekit."""
        return LiveKitOptions(self.url, self.api_key, self.api_secret)


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], ready: str, log: "deque[str]", env: Mapping[str, str] | None = None
) -> Iterator[None]:
    """Run *command* until the block ends; entered once a line of its output holds *ready*."""
    process = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    is_ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line.rstrip())
            if ready in line:
                is_ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if not is_ready.wait(_START_S):
            pytest.fail(f"{command[0]} did not start:\n" + "\n".join(log), pytrace=False)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(5)


Running = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def program_runs() -> Running:
    """:func:`running`, for a program that a test starts itself."""
    return running


@pytest.fixture
def free_ports() -> list[int]:
    """Five ports that nobody listens on."""
    return [free_port() for _ in range(5)]


@pytest.fixture(scope="session")
def redis_port(need: "Need", tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an empty Redis that keeps nothing."""
    program = shutil.which("redis-server")
    need("redis-server", program is not None, "apt-get install redis-server")
    assert program is not None
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    flags = f"--port {port} --bind 127.0.0.1 --appendonly no --dir {folder}".split()
    with running([program, *flags, "--save", ""], "Ready to accept connections", deque(maxlen=200)):
        yield port


@contextmanager
def serving(
    program: str, redis: dict[str, str] | None, webhook: str | None = None
) -> Iterator[LiveKitServer]:
    """Run a livekit-server until the block ends; entered once it answers. It tells *webhook* its events."""
    port = free_port()
    config = {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "rtc": {
            "tcp_port": free_port(),
            "port_range_start": 50000,
            "port_range_end": 50200,
            "use_external_ip": False,
            "node_ip": "127.0.0.1",
            "interfaces": {"includes": ["lo"]},
            "enable_loopback_candidate": True,
        },
        "keys": {KEY: SECRET},
        **({"redis": redis} if redis else {}),
        **({"webhook": {"api_key": KEY, "urls": [webhook]}} if webhook else {}),
    }
    log: deque[str] = deque(maxlen=400)
    command = [program, "--config-body", json.dumps(config)]
    with running(command, "starting LiveKit server", log):
        # It says so just before it listens.
        with httpx.Client(transport=httpx.HTTPTransport(retries=8), timeout=_START_S) as client:
            client.get(f"http://127.0.0.1:{port}/").read()
        yield LiveKitServer(f"ws://127.0.0.1:{port}", log)


@pytest.fixture(scope="session")
def livekit_program(need: "Need") -> str:
    """The path of livekit-server."""
    program = shutil.which("livekit-server")
    need("livekit-server", program is not None, GO_INSTALL)
    assert program is not None
    return program


@pytest.fixture
def livekit_on(livekit_program: str) -> Callable[..., AbstractContextManager[LiveKitServer]]:
    """Runs a livekit-server on the Redis at a port; it may tell its events to an address."""
    return lambda port, webhook=None: serving(
        livekit_program, {"address": f"127.0.0.1:{port}"}, webhook
    )


@pytest.fixture(scope="session")
def livekit_server(livekit_program: str, redis_port: int) -> Iterator[LiveKitServer]:
    """A livekit-server that answers. What a test stores there the next one still sees; see ``livekit``."""
    with serving(livekit_program, {"address": f"127.0.0.1:{redis_port}"}) as server:
        yield server


@pytest.fixture
def lonely_livekit_server(livekit_program: str) -> Iterator[LiveKitServer]:
    """A livekit-server without Redis: it runs rooms, but no telephony."""
    with serving(livekit_program, None) as server:
        yield server


@pytest.fixture
async def livekit(livekit_server: LiveKitServer) -> AsyncIterator[LiveKit]:
    """A connection to a livekit-server that has no trunk and no rule."""
    async with open_livekit(livekit_server.options) as opened:
        for one in await opened.stored():
            await opened.delete(one.kind, one.id)
        yield opened


@pytest.fixture
def sip_folder(tmp_path: Path) -> Path:
    """A copy of the repository's ``sip/``, to be changed at will."""
    folder = tmp_path / "sip"
    shutil.copytree(Path(__file__).resolve().parents[2] / "sip", folder)
    return folder


@pytest.fixture
async def sip_api(livekit_server: LiveKitServer) -> AsyncIterator[SipApi]:
    """LiveKit's SIP API in front of the server, with an outbound trunk and telephones behind it."""
    async with open_livekit(livekit_server.options) as opened:
        trunk = await opened.create(
            "outbound",
            {"name": "phones", "address": "127.0.0.1:5060", "numbers": ["+12025550100"]},
        )
        async with SipApi(livekit_server.options) as front:
            yield front
        await opened.delete("outbound", trunk)
