"""``trunkline-rescue``: one small process beside the worker, for calls that find no agent.

It loads no models and no provider's plugin, so it is up at once and holds many calls, each in a thread. It
lives and dies with its worker: the worker starts it, starts it again when it dies, and tells it to
drain; when the worker is killed, the pipe between them closes and the process leaves.
"""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import structlog
from livekit import rtc
from livekit.agents import AgentServer, JobContext, JobExecutorType, JobRequest

from trunkline.agent import jobs
from trunkline.agent.consult import Switchboard
from trunkline.agent.options import WorkerOptions
from trunkline.agent.rescue import rescue
from trunkline.agent.room import NoCaller, RoomLine, arrive
from trunkline.agent.services import Services
from trunkline.desk.sip import RESCUE
from trunkline.desk.takeover import RESCUE_PREFIX
from trunkline.kit import log as logs
from trunkline.kit.blobs import open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, open_database
from trunkline.kit.livekit import PROBE, open_livekit

log = structlog.get_logger()

MOST = 60
"""Calls at once; beyond it LiveKit asks another machine's."""
_IDLE = 8
"""Threads that wait for a call: as many as may come before the next ones have been started."""
_WIND_UP = timedelta(seconds=30)
_START_AGAIN = timedelta(seconds=1)

_READY, _DRAIN = "ready", "drain"


class RescueProcess:
    """The process as the worker sees it. ``run`` keeps it alive until cancelled."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._link: Connection | None = None
        self.ready = False
        """Whether LiveKit can send it calls."""

    async def run(self) -> None:
        """Start the process, and start it again whenever it ends. When cancelled it is ended."""
        while True:
            await self._live_once()
            log.error("rescue_died", again_in_s=_START_AGAIN.total_seconds())
            await asyncio.sleep(_START_AGAIN.total_seconds())

    async def drain(self) -> None:
        """Take no more calls; those that are on may end."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.send(_DRAIN)

    async def _live_once(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_main, args=(self._options, theirs), name="trunkline-rescue", daemon=True
        )
        # Forking a copy of this process takes tens of milliseconds, in which no job could be answered.
        await asyncio.to_thread(process.start)
        theirs.close()
        self._link = ours
        try:
            await self._until_it_ends(process, ours)
        finally:
            self.ready, self._link = False, None
            ours.close()
            await asyncio.to_thread(_end, process)

    async def _until_it_ends(self, process: SpawnProcess, link: Connection) -> None:
        loop = asyncio.get_running_loop()
        died = asyncio.Event()

        def on_word() -> None:
            try:
                self.ready = link.recv() == _READY
            except (EOFError, OSError):
                loop.remove_reader(link.fileno())

        loop.add_reader(link.fileno(), on_word)
        loop.add_reader(process.sentinel, died.set)
        try:
            await died.wait()
        finally:
            loop.remove_reader(process.sentinel)
            loop.remove_reader(link.fileno())


def _end(process: SpawnProcess) -> None:
    process.terminate()
    process.join(_WIND_UP.total_seconds() / 10)
    if process.is_alive():
        process.kill()
        process.join()


# In the process -----------------------------------------------------------------------------------


def _main(options: WorkerOptions, link: Connection) -> None:
    # Ctrl-C reaches every process of the terminal; ours ends when its worker says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(options.log, options.log_level)
    asyncio.run(_serve(options, link))


async def _serve(options: WorkerOptions, link: Connection) -> None:
    rtc.AudioResampler(48_000, 8_000)  # loads LiveKit's native library
    # Without a pool: the threads of the calls have loops of their own, between which no connection may go.
    db = open_database(replace(options.database, pool_size=0))
    server = _server(options, db)
    loop, drain = asyncio.get_running_loop(), asyncio.Event()

    def listen() -> None:
        try:
            while link.recv() != _DRAIN:
                pass
            loop.call_soon_threadsafe(drain.set)
            link.recv()
        except (EOFError, OSError):
            os._exit(1)  # the worker is gone

    threading.Thread(target=listen, name="worker's word", daemon=True).start()
    # The modules live as long as the process: walking them stopped the sound of all calls for 140 ms.
    gc.collect()
    gc.freeze()
    server.once("worker_registered", lambda *_: link.send(_READY))
    working = asyncio.create_task(server.run())
    draining = asyncio.create_task(drain.wait())
    await asyncio.wait([working, draining], return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        with contextlib.suppress(TimeoutError):
            await server.drain(int(options.drain.total_seconds()))
        await server.aclose()
    draining.cancel()
    await working


def _server(options: WorkerOptions, db: Database) -> AgentServer:
    server = AgentServer(
        job_executor_type=JobExecutorType.THREAD,
        ws_url=options.livekit.url,
        api_key=options.livekit.api_key,
        api_secret=options.livekit.api_secret,
        num_idle_processes=_IDLE,
        load_fnc=lambda server: min(1.0, len(server.active_jobs) / MOST),
        load_threshold=1.0,
        drain_timeout=int(options.drain.total_seconds()),
        session_end_timeout=_WIND_UP.total_seconds(),
        max_retry=sys.maxsize,
        host="127.0.0.1",
        port=0,
    )
    server.rtc_session(
        partial(_job, options, db),
        agent_name=RESCUE,
        on_request=_on_request,
        on_session_end=jobs.on_end,
    )
    return server


async def _on_request(request: JobRequest) -> None:
    if request.job.metadata == PROBE:
        await request.reject()
        return
    await request.accept(identity=f"{RESCUE_PREFIX}{request.job.id}", name=RESCUE)


async def _job(options: WorkerOptions, db: Database, context: JobContext) -> None:
    """One call. It returns when the call goes on by itself; ``jobs.on_end`` waits for its end."""
    await context.connect()

    async def delete_room() -> None:
        async with open_livekit(options.livekit) as livekit:
            await livekit.delete_room(context.room.name)

    if any(
        one.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
        for one in context.room.remote_participants.values()
    ):
        log.info("somebody_answers", room=context.room.name)
        context.shutdown("an agent is there")
        return
    try:
        line = await arrive(context.room, delete_room, board=Switchboard(options.livekit))
    except NoCaller as error:
        await jobs.send_home(context, error, delete_room)
        return
    jobs.begin(context, line, _talk(line, options, db))


async def _talk(line: RoomLine, options: WorkerOptions, db: Database) -> None:
    services = Services(db, open_blobs(options.blobs), options.agent, utc_now)
    try:
        await rescue(line, services)
    except Exception:
        log.exception("call_not_taken", room=line.arrival.room)
        await line.hang_up()
