"""``trunkline demo --livekit``: the demo's calls through a real room."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.stack.conftest import LiveKitServer

DEMO = (sys.executable, "-m", "trunkline", "demo", "--livekit", "--once", "--json", "--port", "0")


async def _run(data: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *DEMO, "--data", str(data), *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 240)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_call_through_a_room(livekit_server: "LiveKitServer", tmp_path: Path) -> None:
    """The caller who breaks in: the same document as over the loopback line, every delivery verified.

    *livekit_server* is named for its check that the programs are there; the demo starts its own.
    """
    code, out, talk = await _run(tmp_path, "--calls", "d")
    assert code == 0, talk
    (call,) = json.loads(out)["calls"]
    assert (call["state"], call["end_reason"]) == ("ended", "agent_hangup")
    assert call["contact"] == "James Carter"
    (cut,) = [turn for turn in call["turns"] if turn["interrupted"]]
    assert cut["role"] == "agent"
    assert "bigger plan" not in cut["text"]
    assert all(one["verified"] and one["status"] == 200 for one in call["deliveries"])
    events = {one["event"] for one in call["deliveries"]}
    assert {"call.started", "call.answered", "call.ended", "recording.ready"} <= events
    assert "ms of ringing" in talk


async def test_without_the_programs(tmp_path: Path) -> None:
    """Where LiveKit is not installed the demo says at once how to get it."""
    code, out, talk = await _run(tmp_path, PATH=str(tmp_path))
    assert (code, out) == (1, "")
    assert "livekit-server is not installed" in talk
    assert "apt-get install redis-server" in talk
    assert not (tmp_path / "trunkline.db").exists()
