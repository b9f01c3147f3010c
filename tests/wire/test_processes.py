"""Child processes that never outlive their parent."""

import asyncio
import os
import signal
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from trunkline.kit.processes import Child, ChildDied, spawn

SOON = timedelta(seconds=20)

LEAF = """
    import socket, sys, time
    from trunkline.kit.processes import die_with_parent
    die_with_parent()
    line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    print("ready leaf", flush=True)
    time.sleep(600)
"""
MIDDLE = """
    import asyncio, sys
    from datetime import timedelta
    from trunkline.kit.processes import die_with_parent, spawn
    die_with_parent()
    async def main():
        children = [await spawn("leaf", sys.argv[1]) for _ in range(2)]
        for child in children:
            await child.ready(timedelta(seconds=20))
        print("ready", *(child.pid for child in children), flush=True)
        await asyncio.sleep(600)
    asyncio.run(main())
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Write a module that a child can run by name."""
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *([path] if path else [])]))

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return write


@asynccontextmanager
async def running(name: str, *arguments: str) -> AsyncIterator[Child]:
    child = await spawn(name, *arguments)
    try:
        yield child
    finally:
        await child.stop(timedelta(0))


@asynccontextmanager
async def lifelines() -> AsyncIterator[tuple[int, "asyncio.Queue[asyncio.StreamReader]"]]:
    """A port that processes connect to; the kernel ends a connection when its process is gone."""
    lines: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()
    ends: list[asyncio.StreamWriter] = []

    def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        lines.put_nowait(reader)

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], lines
    finally:
        for end in ends:
            end.close()
        server.close()


async def gone(line: asyncio.StreamReader) -> None:
    """Return when the process at the other end no longer exists."""
    async with asyncio.timeout(SOON.total_seconds()):
        assert await line.read() == b""


async def test_killing_the_middle_leaves_no_grandchild(module: Callable[[str, str], str]) -> None:
    """After kill -9 of a process, the children it had spawned are gone too, though it stopped none.

    There are two of them: a pipe that leaked from one into the other would keep both alive.
    """
    module("leaf", LEAF)
    name = module("middle", MIDDLE)
    async with lifelines() as (port, lines), running(name, str(port)) as middle:
        await middle.ready(SOON)
        leaves = [await lines.get(), await lines.get()]
        os.kill(middle.pid, signal.SIGKILL)
        for leaf in leaves:
            await gone(leaf)
        assert await middle.wait() == -signal.SIGKILL


async def test_ready_hands_over_what_the_child_said(module: Callable[[str, str], str]) -> None:
    """The words after ``ready`` come back; lines before and after go to the listener, in order."""
    name = module(
        "talker",
        """
        import sys
        print("warming up"); print("ready 4711 now"); print("ready again"); print("x" * 3_000_000)
        print("last"); print("beside", file=sys.stderr)
        """,
    )
    said: list[str] = []
    complained: list[str] = []
    child = await spawn(name, on_line=said.append, on_error_line=complained.append)
    assert await child.ready(SOON) == "4711 now"
    assert await child.wait() == 0
    # The line of three megabytes is dropped, and stopped neither the child nor the reader.
    assert (said[:2], said[-1]) == (["warming up", "ready again"], "last")
    assert complained == ["beside"]
    await child.stop(timedelta(0))


async def test_a_child_that_dies_first_tells_its_last_words(
    module: Callable[[str, str], str],
) -> None:
    """If the child ends before it is ready, the error carries its exit code and standard error."""
    name = module("broken", "import sys; print('no such grammar', file=sys.stderr); sys.exit(3)")
    child = await spawn(name)
    with pytest.raises(ChildDied, match=r"broken ended with code 3(?s:.)*no such grammar"):
        await child.ready(SOON)
    await child.stop(timedelta(0))


async def test_a_child_that_is_never_ready_is_killed(module: Callable[[str, str], str]) -> None:
    """When the time to get ready is over, the child is killed; the error says how long it had."""
    child = await spawn(module("slow", "import time; time.sleep(600)"))
    with pytest.raises(ChildDied, match=r"was not ready within 0\.01 s"):
        await child.ready(timedelta(milliseconds=10))
    assert child.returncode in (-signal.SIGTERM, -signal.SIGKILL)


DEAF = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("source", "grace", "code"),
    [
        ("import time; print('ready', flush=True); time.sleep(600)", SOON, -signal.SIGTERM),
        (DEAF, timedelta(milliseconds=10), -signal.SIGKILL),  # it ignores the request
    ],
)
async def test_stop_asks_first_and_kills_then(
    module: Callable[[str, str], str], source: str, grace: timedelta, code: int
) -> None:
    """A child is asked to end, killed if it doesn't, and may be stopped twice."""
    child = await spawn(module("sleeper", source))
    assert await child.ready(SOON) == ""
    await child.stop(grace)
    await child.stop(grace)
    assert child.returncode == code
