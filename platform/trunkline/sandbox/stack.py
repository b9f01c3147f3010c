"""A livekit-server of the demo's own, with its Redis, on loopback: nothing stays when it is over."""

import asyncio
import contextlib
import json
import secrets
import shutil
import signal
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

from trunkline.errors import Unavailable
from trunkline.kit.livekit import LiveKitOptions

GET = {
    "redis-server": "apt-get install redis-server (or brew install redis)",
    "livekit-server": "https://github.com/livekit/livekit/releases, or go install "
    "github.com/livekit/livekit-server/cmd/server@v1.13.5 and name the binary livekit-server",
}
"""Program → how to get it."""

_START = timedelta(seconds=30)
_STOP = timedelta(seconds=5)


def check_installed() -> None:
    """Raises Unavailable when a program is not on PATH, with how to get it."""
    absent = [name for name in GET if shutil.which(name) is None]
    if absent:
        raise Unavailable(
            "; ".join(f"{name} is not installed: {GET[name]}" for name in absent)
            + "; or run the demo without --livekit"
        )


@contextlib.asynccontextmanager
async def livekit(folder: Path, webhook: str | None = None) -> AsyncIterator[LiveKitOptions]:
    """Redis and livekit-server while the block runs; *folder* must exist and is Redis's.

    LiveKit tells its events to the address *webhook*. Raises Unavailable when a program is missing, with
    how to get it, or does not start, with its last words.
    """
    check_installed()
    redis_port, port, tcp_port = free_port(), free_port(), free_port()
    key, secret = "sandbox", secrets.token_hex(24)
    config = {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "rtc": {
            "tcp_port": tcp_port,
            "port_range_start": 52000,
            "port_range_end": 52200,
            "use_external_ip": False,
            "node_ip": "127.0.0.1",
            "interfaces": {"includes": ["lo"]},
            "enable_loopback_candidate": True,
        },
        "redis": {"address": f"127.0.0.1:{redis_port}"},
        "keys": {key: secret},
    }
    if webhook is not None:
        config["webhook"] = {"api_key": key, "urls": [webhook]}
    redis = f"redis-server --port {redis_port} --bind 127.0.0.1 --appendonly no".split()
    async with (
        _running([*redis, "--save", "", "--dir", str(folder)], "Ready to accept connections"),
        _running(
            ["livekit-server", "--config-body", json.dumps(config)], "starting LiveKit server"
        ),
    ):
        await _listening(port)
        yield LiveKitOptions(f"ws://127.0.0.1:{port}", key, secret)


@contextlib.asynccontextmanager
async def _running(command: Sequence[str], ready: str) -> AsyncIterator[None]:
    """Run *command*, which no signal of the terminal reaches, until the block ends."""
    # kill -9 of us must not leave it: setpriv asks the kernel to end it with its parent (util-linux).
    guard = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
    process = await asyncio.create_subprocess_exec(
        *guard,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    tail: deque[str] = deque(maxlen=20)
    said = asyncio.Event()

    async def read(stream: asyncio.StreamReader) -> None:
        async for line in stream:
            tail.append(line.decode(errors="replace").rstrip())
            if ready in tail[-1]:
                said.set()
        said.set()

    reading = asyncio.create_task(read(process.stdout))
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(said.wait(), _START.total_seconds())
        if process.returncode is not None or not any(ready in line for line in tail):
            words = "\n".join(tail)
            raise Unavailable(f"{command[0]} did not start; its last words:\n{words}")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP.total_seconds())
        except TimeoutError:
            process.kill()
            await process.wait()
        reading.cancel()


async def _listening(port: int) -> None:
    """livekit-server says that it starts just before it listens."""
    async with asyncio.timeout(_START.total_seconds()):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


def free_port() -> int:
    """A TCP port of loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
