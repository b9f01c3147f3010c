"""The real programs take the files of infra/."""

import os
import shutil
import subprocess
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from trunkline.kit.livekit import LiveKitOptions, open_livekit

if TYPE_CHECKING:
    from tests.conftest import Need
    from tests.stack.conftest import Running

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a-secret-of-the-tests-not-of-anything-real"


@pytest.fixture
def config(redis_port: int, free_ports: list[int], tmp_path: Path) -> tuple[Path, int]:
    """infra/livekit.yaml with ports of the test's own, and the first of them."""
    read: dict[str, Any] = yaml.safe_load((ROOT / "infra" / "livekit.yaml").read_text("utf-8"))
    assert read["turn"]["enabled"] is True
    read["port"], read["rtc"]["tcp_port"], read["rtc"]["udp_port"], turn = free_ports[:4]
    read["turn"]["udp_port"] = turn
    read["redis"]["address"] = f"127.0.0.1:{redis_port}"
    path = tmp_path / "livekit.yaml"
    path.write_text(yaml.safe_dump(read))
    return path, free_ports[0]


async def test_livekit_server_takes_our_file(
    livekit_program: str, config: tuple[Path, int], program_runs: "Running"
) -> None:
    """With its key from the environment as compose gives it: TURN is on, telephony is there."""
    log: deque[str] = deque(maxlen=200)
    path, port = config
    environment = {**os.environ, "LIVEKIT_KEYS": f"trunkline: {SECRET}"}
    command = [livekit_program, "--config", str(path)]
    with program_runs(command, "starting LiveKit server", log, environment):
        # It says so just before it listens.
        transport = httpx.AsyncHTTPTransport(retries=8)
        async with httpx.AsyncClient(transport=transport, timeout=30) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200
        async with open_livekit(
            LiveKitOptions(f"ws://127.0.0.1:{port}", "trunkline", SECRET)
        ) as livekit:
            await livekit.stored()
        assert any("Starting TURN server" in line for line in log)


def test_the_images_steps_work(need: "Need", tmp_path: Path) -> None:
    """What the Dockerfile does with uv makes a program that runs without the sandbox and without us."""
    uv = shutil.which("uv")
    need("uv", uv is not None, "pip install uv")
    assert uv is not None
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv")}
    done = subprocess.run(
        [uv, "sync", "--quiet", "--locked", "--offline", "--no-dev", "--no-editable",
         "--extra", "postgres"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    there = "network" not in done.stderr and "offline" not in done.stderr
    need("every package in uv's cache", there, "uv sync")
    assert done.returncode == 0, done.stderr
    python = tmp_path / "venv" / "bin" / "python"
    done = subprocess.run(
        [str(python.with_name("trunkline")), "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "courier" in done.stdout
    done = subprocess.run(
        [python, "-c", "import psycopg, trunkline.kit.db as db; print(db.migrations_folder())\n"
         "import pocketsphinx"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(tmp_path), (
        "the migrations come with the program"
    )
    assert "No module named 'pocketsphinx'" in done.stderr
