"""A real livekit-server with its Redis on loopback, one pair for the whole run."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from trunkline.kit.livekit import LiveKit, LiveKitOptions, open_livekit
from trunkline.kit.processes import spawn
from trunkline.sandbox.sip_api import SipApi
from trunkline.settings import Settings

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
    program: str, redis: dict[str, str] | None, webhook: str | None = None, port: int = 0
) -> Iterator[LiveKitServer]:
    """Run a livekit-server until the block ends; entered once it answers. It tells *webhook* its events."""
    port = port or free_port()
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
    """Runs a livekit-server on the Redis at a port, itself on any or on a certain one; it may tell its events
    to an address."""
    return lambda port, webhook=None, own=0: serving(
        livekit_program, {"address": f"127.0.0.1:{port}"}, webhook, own
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


# --- a whole deployment ---------------------------------------------------------------------------

START_S = 90.0
NO_SANDBOX = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pocketsphinx", "espeakng_loader") or name == "trunkline.sandbox":
            raise ModuleNotFoundError(f"{name} is not installed in production", name=name)
sys.meta_path.insert(0, Blocked())
"""
"""A sitecustomize: it holds in every process that a process starts, too."""


@dataclass
class House:
    """Settings of one deployment, and the environment that says the same to its processes."""

    settings: Settings
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        given = {
            name.upper(): getattr(value, "get_secret_value", lambda value=value: str(value))()
            for name, value in self.settings
            if name in self.settings.model_fields_set
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TRUNKLINE_", "LIVEKIT_"))
        }
        return {**inherited, **given, "PYTHONPATH": str(self.folder)}

    @asynccontextmanager
    async def runs(self, command: str) -> AsyncIterator[None]:
        """``trunkline COMMAND`` as in production, without the sandbox; entered when it is ready."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "trunkline", command,
            cwd=self.folder, env=self.environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_S)
            assert line.startswith(b"ready "), "its log says why it ended"
            yield
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 120) == 0
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


def house_in(
    folder: Path, template: Path, ports: Sequence[int], server: LiveKitServer, **given: Any
) -> House:
    """A deployment in *folder*, its database furnished with nothing."""
    (folder / "sitecustomize.py").write_text(NO_SANDBOX)
    data = folder / "data"
    data.mkdir()
    shutil.copyfile(template, data / "trunkline.db")
    names = ("port", "worker_port", "courier_port", "guardian_port")
    wanted = {
        "trunkline_data": data,
        "trunkline_sip": folder / "sip",
        **{f"trunkline_{name}": port for name, port in zip(names, ports, strict=False)},
        "livekit_url": server.url,
        "livekit_api_key": server.api_key,
        "livekit_api_secret": server.api_secret,
        **given,
    }
    return House(Settings.load(env_file=None, **wanted), folder)


MakeHouse = Callable[..., House]


@pytest.fixture
def make_house(sqlite_template: Path, free_ports: list[int], tmp_path: Path) -> MakeHouse:
    """Settings and an empty database on a LiveKit, with ports of their own; nothing runs yet."""

    def make(server: LiveKitServer, **given: Any) -> House:
        return house_in(tmp_path, sqlite_template, free_ports, server, **given)

    return make


@contextmanager
def redis_on(port: int, folder: Path) -> Iterator[None]:
    """A Redis of the test's own: what LiveKit servers say to each other is not parted by its databases."""
    command = f"redis-server --port {port} --bind 127.0.0.1 --dir {folder} --save".split()
    with running([*command, ""], "Ready to accept", deque(maxlen=50)):
        yield


@pytest.fixture
def redis_on_port(redis_port: int, tmp_path: Path) -> Callable[[int], AbstractContextManager[None]]:
    """Runs a Redis on a port; *redis_port* says that the program is there."""
    assert redis_port
    return lambda port: redis_on(port, tmp_path)


@pytest.fixture
def own_redis(
    free_ports: list[int], tmp_path: Path, redis_port: int
) -> AbstractContextManager[None]:
    """A Redis on the last of ``free_ports``; *redis_port* says that the program is there."""
    assert redis_port
    return redis_on(free_ports[4], tmp_path)


@pytest.fixture
async def whole_house(
    own_redis: AbstractContextManager[None],
    livekit_on: Callable[..., AbstractContextManager[LiveKitServer]],
    make_house: MakeHouse,
    free_ports: list[int],
    sip_folder: Path,
) -> AsyncIterator[House]:
    """``serve`` and ``worker`` run, neither with the sandbox installed, on a LiveKit that tells web its
    events; the providers are the sandbox's, in a process beside them. No profile, no number, no trunk."""
    async with AsyncExitStack() as stack:
        stack.enter_context(own_redis)
        webhook = f"http://127.0.0.1:{free_ports[0]}/livekit/webhook"
        server = stack.enter_context(livekit_on(free_ports[4], webhook))
        sandbox = await spawn("trunkline.sandbox.server")
        stack.push_async_callback(sandbox.stop, timedelta(seconds=5))
        root = f"http://127.0.0.1:{await sandbox.ready(timedelta(seconds=START_S))}"
        house = make_house(
            server,
            trunkline_sip=sip_folder,
            trunkline_worker_warm=1,
            deepgram_base_url=f"{root}/deepgram/v1/listen", deepgram_api_key="sandbox",
            openai_base_url=f"{root}/openai/v1", openai_api_key="sandbox",
            cartesia_base_url=f"{root}/cartesia", cartesia_api_key="sandbox",
            trunkline_sip_host="127.0.0.1:1",
        )  # fmt: skip
        await stack.enter_async_context(house.runs("serve"))
        await stack.enter_async_context(house.runs("worker"))
        yield house
