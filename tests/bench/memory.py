"""How much memory of its own a call's process has, beside that of a plain livekit-agents job.

``.venv/bin/python tests/bench/memory.py`` runs Redis, livekit-server, the sandbox's providers and, one after
the other, our worker and a plain one with the same plugins; each gets a call. Printed are a process's private
memory, which goes with it, and its share of what it has in common with others (Linux: smaps_rollup).
Needs redis-server and livekit-server on PATH.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import httpx
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, inference
from livekit.plugins import cartesia, deepgram, openai

from trunkline.kit.blobs import BlobOptions
from trunkline.kit.clock import utc_now
from trunkline.kit.db import DatabaseOptions, open_database, upgrade
from trunkline.kit.livekit import LiveKitOptions
from trunkline.kit.processes import die_with_parent, spawn
from trunkline.sandbox.phones import Listener
from trunkline.sandbox.sip import Dial, SipCall
from trunkline.sandbox.stack import livekit
from trunkline.sandbox.story import OUR_NUMBER, seed
from trunkline.sandbox.worker import WorkerOrders

START = timedelta(seconds=90)
TALKED_S = 8
PLAIN = "plain"
ROOT = "TRUNKLINE_BENCH_PROVIDERS"


def say(what: str, pid: int) -> None:
    """Print the memory of a process."""
    kb = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        kb[name.rstrip(":")] = int(size)
    private = kb["Private_Clean"] + kb["Private_Dirty"]
    print(f"{what:32} private {private / 1024:6.1f} MB   with its share {kb['Pss'] / 1024:6.1f} MB")


# The plain agent, in a process of its own ---------------------------------------------------------


async def talk(context: JobContext) -> None:
    """As the documentation of livekit-agents has it."""
    await context.connect()
    root = os.environ[ROOT]
    session: AgentSession[None] = AgentSession(
        stt=deepgram.STT(api_key="sandbox", base_url=f"{root}/deepgram/v1/listen"),
        llm=openai.LLM(model="gpt-4.1-mini", api_key="sandbox", base_url=f"{root}/openai/v1"),
        tts=cartesia.TTS(api_key="sandbox", base_url=f"{root}/cartesia"),
        vad=inference.VAD(model="silero"),
        turn_handling={"turn_detection": inference.TurnDetector(version="v1-mini")},
    )
    await session.start(Agent(instructions="Help the caller."), room=context.room)
    session.say("Hello, how can I help you today?")
    print(f"job {os.getpid()}", flush=True)


def plain(url: str, key: str, secret: str) -> None:
    """Run it."""
    die_with_parent()
    server = AgentServer(ws_url=url, api_key=key, api_secret=secret, num_idle_processes=1, port=0)
    server.rtc_session(talk, agent_name=PLAIN)
    server.on("worker_registered", lambda *_: print("ready", flush=True))
    asyncio.run(server.run())


# ----------------------------------------------------------------------------------------------------


async def call(options: LiveKitOptions, agent: str, room: str) -> "asyncio.Task[object]":
    """A caller who says nothing and stays; back when the agent has talked for a while."""
    dial = Dial(room, "+12025550134", OUR_NUMBER, number=OUR_NUMBER, agent=agent)
    made = SipCall(options, dial, Listener())
    running: asyncio.Task[object] = asyncio.create_task(made.run())
    await asyncio.wait_for(made.wait_answered(), 60)
    await asyncio.sleep(TALKED_S)
    return running


async def end(running: "asyncio.Task[object]") -> None:
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def measure_ours(folder: str, options: LiveKitOptions, sandbox: int) -> None:
    url = f"sqlite+aiosqlite:///{folder}/trunkline.db"
    await upgrade(url)
    db = open_database(DatabaseOptions(url))
    async with db.work() as session:
        await seed(session, now=utc_now())
    await db.close()
    orders = WorkerOrders(
        livekit_url=options.url,
        livekit_key=options.api_key,
        livekit_secret=options.api_secret,
        database_url=url,
        blobs_url=BlobOptions(f"{folder}/blobs").url,
        sandbox_port=sandbox,
        capacity=2,
        warm=2,
    )
    worker = await spawn("trunkline.sandbox.worker", orders.dump())
    try:
        port = await worker.ready(START)
        running = await call(options, "trunkline", "ours")
        async with httpx.AsyncClient() as client:
            told = (await client.get(f"http://127.0.0.1:{port}/ready")).json()
        say("our job with a call", told["calls"][0]["pid"])
        say("our worker", worker.pid)
        await end(running)
    finally:
        await worker.stop(timedelta(seconds=15))


async def measure_plain(options: LiveKitOptions, sandbox: int) -> None:
    pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_line(line: str) -> None:
        if line.startswith("job "):
            pid.set_result(int(line.removeprefix("job ")))

    worker = await spawn(
        "tests.bench.memory", PLAIN, options.url, options.api_key, options.api_secret,
        env={ROOT: f"http://127.0.0.1:{sandbox}"}, on_line=on_line,
    )  # fmt: skip
    try:
        await worker.ready(START)
        running = await call(options, PLAIN, "plain")
        say("a plain job with a call", await asyncio.wait_for(pid, 30))
        say("a plain worker", worker.pid)
        await end(running)
    finally:
        await worker.stop(timedelta(seconds=15))


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with livekit(Path(folder)) as options:
            sandbox = await spawn("trunkline.sandbox.server")
            try:
                port = int(await sandbox.ready(START))
                await measure_ours(folder, options, port)
                await measure_plain(options, port)
            finally:
                await sandbox.stop(timedelta(seconds=15))


def enter(arguments: Sequence[str]) -> None:
    if arguments[:1] == [PLAIN]:
        plain(*arguments[1:])
    else:
        asyncio.run(main())


if __name__ == "__main__":
    enter(sys.argv[1:])
