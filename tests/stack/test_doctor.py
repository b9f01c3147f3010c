"""``trunkline doctor`` on a whole set-up of real processes, and on LiveKit broken in each way."""

import asyncio
import os
import shutil
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trunkline.doctor.examine import examine
from trunkline.doctor.livekit import RESCUE
from trunkline.doctor.report import Report
from trunkline.kit.clock import utc_now
from trunkline.kit.db import DatabaseOptions, open_database
from trunkline.kit.processes import spawn
from trunkline.sandbox.story import OUR_NUMBER, seed
from trunkline.settings import Settings
from trunkline.trunks import commands

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer, Running

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
            assert await asyncio.wait_for(process.wait(), 60) == 0
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


def house(
    folder: Path, sqlite_template: Path, ports: list[int], server: "LiveKitServer", **given: Any
) -> House:
    """A deployment in *folder*, its database furnished with nothing."""
    (folder / "sitecustomize.py").write_text(NO_SANDBOX)
    data = folder / "data"
    data.mkdir()
    shutil.copyfile(sqlite_template, data / "trunkline.db")
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


def redis_on(port: int, folder: Path, program_runs: "Running") -> AbstractContextManager[None]:
    """A Redis of the test's own: what LiveKit servers say to each other is not parted by its databases."""
    command = f"redis-server --port {port} --bind 127.0.0.1 --dir {folder} --save".split()
    return program_runs([*command, ""], "Ready to accept", deque(maxlen=50))


def marks(report: Report) -> dict[str, bool | None]:
    return {one.what: one.ok for one in report.findings}


def told(report: Report, what: str) -> str:
    (found,) = [one for one in report.findings if one.what == what]
    return f"{found.says} → {found.fix}"


async def test_a_whole_set_up(
    livekit_on: "Callable[..., AbstractContextManager[LiveKitServer]]",
    program_runs: "Running",
    free_ports: list[int],
    sip_folder: Path,
    sqlite_template: Path,
    tmp_path: Path,
) -> None:
    """serve and worker, neither with the sandbox installed, a LiveKit that tells them, trunks applied:
    nothing is wrong but the SIP host, which is this machine. Before `sip apply` the lines are."""
    async with AsyncExitStack() as stack:
        stack.enter_context(redis_on(free_ports[4], tmp_path, program_runs))
        server = stack.enter_context(
            livekit_on(free_ports[4], f"http://127.0.0.1:{free_ports[0]}/livekit/webhook")
        )
        sandbox = await spawn("trunkline.sandbox.server")
        stack.push_async_callback(sandbox.stop, timedelta(seconds=5))
        root = f"http://127.0.0.1:{await sandbox.ready(timedelta(seconds=START_S))}"
        whole = house(
            tmp_path, sqlite_template, free_ports, server,
            trunkline_worker_warm=1,
            deepgram_base_url=f"{root}/deepgram/v1/listen", deepgram_api_key="sandbox",
            openai_base_url=f"{root}/openai/v1", openai_api_key="sandbox",
            cartesia_base_url=f"{root}/cartesia", cartesia_api_key="sandbox",
            trunkline_sip_host="127.0.0.1:1",
        )  # fmt: skip
        db = open_database(DatabaseOptions(whole.settings.database_url))
        stack.push_async_callback(db.close)
        async with db.work() as session:
            await seed(session, now=utc_now())
        await stack.enter_async_context(whole.runs("serve"))
        await stack.enter_async_context(whole.runs("worker"))

        before = await examine(whole.settings)
        assert "in 2 steps" in told(before, "trunks and rules")
        assert f"no trunk lists {OUR_NUMBER}" in told(before, OUR_NUMBER)
        assert (await commands.sip_apply(whole.settings.trunks(), db)).ok

        found = await examine(whole.settings)
        assert [what for what, ok in marks(found).items() if ok is None] == [
            "clock of the database",  # SQLite has none
            "courier",  # both are in serve
            "guardian",
            "ports to open",
        ]
        wrong = {what for what, ok in marks(found).items() if ok is False}
        assert wrong - {f"worker {RESCUE}"} == {"TRUNKLINE_SIP_HOST", "livekit-sip"}
        assert "1 number has a trunk, a rule and an agent" in told(found, "numbers")
        late = await examine(whole.settings, lambda: utc_now() - timedelta(minutes=1))
        assert "behind" in told(late, "clock of LiveKit")


async def test_a_livekit_that_tells_web_nothing(
    livekit_server: "LiveKitServer", free_ports: list[int], sqlite_template: Path, tmp_path: Path
) -> None:
    """No webhook in livekit.yaml, and no worker: each is said with what to write or start."""
    broken = house(tmp_path, sqlite_template, free_ports, livekit_server)
    async with broken.runs("web"):
        report = await examine(broken.settings)
    found = marks(report)
    assert (found["web"], found["webhooks to web"]) == (True, False)
    assert f"urls: [http://127.0.0.1:{free_ports[0]}/livekit/webhook]" in told(
        report, "webhooks to web"
    )
    assert "trunkline worker" in told(report, "worker trunkline")


async def test_a_key_that_livekit_does_not_know(
    livekit_server: "LiveKitServer", free_ports: list[int], sqlite_template: Path, tmp_path: Path
) -> None:
    """The key is named, never the secret, and nothing else is asked of LiveKit."""
    broken = house(
        tmp_path, sqlite_template, free_ports, livekit_server, livekit_api_secret="w" * 32
    )
    report = await examine(broken.settings)
    assert marks(report)["reachable"] is False
    assert "does not accept the key 'devkey'" in told(report, "reachable")
    assert "w" * 32 not in str(report.data)
    assert "worker trunkline" not in marks(report)


async def test_a_livekit_without_redis(
    lonely_livekit_server: "LiveKitServer",
    free_ports: list[int],
    sqlite_template: Path,
    tmp_path: Path,
) -> None:
    """It answers, but keeps no trunks: redis.address is the fix."""
    broken = house(tmp_path, sqlite_template, free_ports, lonely_livekit_server)
    report = await examine(broken.settings)
    assert (marks(report)["reachable"], marks(report)["Redis behind it"]) == (True, False)
    assert "set redis.address in its livekit.yaml" in told(report, "Redis behind it")


async def test_redis_that_went_away(
    livekit_on: "Callable[..., AbstractContextManager[LiveKitServer]]",
    program_runs: "Running",
    free_ports: list[int],
    sqlite_template: Path,
    tmp_path: Path,
) -> None:
    """livekit-server goes on without its Redis and refuses everything: Redis is what is asked about."""
    with ExitStack() as redis:
        redis.enter_context(redis_on(free_ports[4], tmp_path, program_runs))
        with livekit_on(free_ports[4]) as server:
            redis.close()
            broken = house(tmp_path, sqlite_template, free_ports, server)
            report = await examine(broken.settings)
    assert marks(report)["reachable"] is False
    assert "is the Redis behind it running?" in told(report, "reachable")
