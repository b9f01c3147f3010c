"""The worker: a livekit-agents server for the agent ``trunkline``, one process for each call.

What runs in that process is ``call_process``. The server says which calls it takes, sends for the rescue when
it can take none, and for another agent when one dies.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from livekit.agents import AgentServer, JobRequest
from livekit.agents.ipc.job_executor import JobExecutor
from starlette.applications import Starlette

from trunkline.agent import call_process, jobs
from trunkline.agent.clips import keep_rendered
from trunkline.agent.options import WorkerOptions
from trunkline.agent.rescue_server import RescueProcess
from trunkline.desk import takeover
from trunkline.desk.sip import AGENT, RESCUE
from trunkline.kit import asgi, probes
from trunkline.kit.blobs import open_blobs
from trunkline.kit.db import Database, open_database
from trunkline.kit.livekit import PROBE, LiveKit, LiveKitFailed, open_livekit

log = structlog.get_logger()

WIND_UP = timedelta(seconds=120)
"""How long a call that is over may take to be stored: tools that still run, joining its recording."""

_OTHERS = timedelta(milliseconds=300)
"""How long another worker's agent has to appear in a room before the rescue is sent for."""


async def run(options: WorkerOptions, on_ready: Callable[[int], None]) -> None:
    """Take calls until SIGTERM or SIGINT; calls that are on may then go on for ``options.drain``.

    A second signal ends them. *on_ready* gets the port of /health and /ready once LiveKit knows the
    worker; until then, and while LiveKit or the database is out of reach, /ready is 503. Raises PortTaken.
    """
    listener = asgi.listen(options.host, options.port)
    port: int = listener.getsockname()[1]
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: now
        stop.set()

    async with contextlib.AsyncExitStack() as stack:
        livekit = await stack.enter_async_context(open_livekit(options.livekit))
        server = make_server(options, livekit)
        stack.enter_context(asgi.stop_signals(on_signal))
        working = asyncio.create_task(server.run())
        db, kept = open_database(options.database), call_process.kept_sounds(options)
        beside = [
            asyncio.create_task(server.rescue.run(), name="rescue"),
            asyncio.create_task(
                keep_rendered(db, open_blobs(options.blobs), options.agent, kept), name="clips"
            ),
            asyncio.create_task(_tell_when_up(server, lambda: on_ready(port))),
        ]
        probing = asyncio.create_task(asgi.serve(_probes(server, db), listener, lambda: None))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await server.rescue.drain()
                with contextlib.suppress(TimeoutError):
                    await server.drain(int(options.drain.total_seconds()))
                await server.aclose()
            await working
        finally:
            for task in (stopping, probing, *beside):
                task.cancel()
            await asyncio.gather(probing, stopping, *beside, return_exceptions=True)
            listener.close()
            await asyncio.to_thread(kept.clear)
            await db.close()


async def _tell_when_up(server: "Server", on_up: Callable[[], None]) -> None:
    """Call *on_up* once a call would be answered: LiveKit knows us, a process is warm, rescue stands by."""
    while not (server.ready and server.rescue.ready and server.note_warm()):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.1)
    on_up()


class Server(AgentServer):
    """livekit-agents' server, told plainly how full it is."""

    def __init__(self, options: WorkerOptions, livekit: LiveKit) -> None:
        super().__init__(
            ws_url=options.livekit.url,
            api_key=options.livekit.api_key,
            api_secret=options.livekit.api_secret,
            num_idle_processes=options.idle,
            # Imported once and inherited by every process: alone it would take each of them 4 s of CPU.
            preload_modules=["trunkline.agent.preload"],
            load_threshold=1.0,
            drain_timeout=int(options.drain.total_seconds()),
            session_end_timeout=WIND_UP.total_seconds(),
            # Gives up never: calls that are on need no LiveKit API, and /ready says what is wrong.
            max_retry=sys.maxsize,
            initialize_process_timeout=60.0,
            host="127.0.0.1",
            port=0,
            setup_fnc=partial(call_process.prepare, options),
        )
        self._capacity, self._most = options.capacity, options.capacity + options.overflow
        self.load_fnc = self._load
        self.rescue = RescueProcess(options)
        self.warm = False
        """Whether a process has been ready for a call since the start."""
        self._livekit = livekit
        self._sending: set[asyncio.Task[None]] = set()
        self.on("worker_started", self._bind_pool)

    def _bind_pool(self) -> None:
        pool: Any = self._proc_pool
        pool.set_target_idle_processes = self._keep_idle
        pool.on("process_closed", self._on_process_closed)

    def _on_process_closed(self, process: JobExecutor) -> None:
        job, code = process.running_job, getattr(process, "exitcode", 0)
        if job is None or code == 0:
            return
        room = job.job.room.name
        log.error("job_process_died", room=room, exitcode=code)
        self._keep(_replace(room, self._livekit))

    def _keep(self, sending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _load(self) -> float:
        # Also when it is full the worker must be asked, to send the rescue; LiveKit's node passes one over
        # that is at 0.7 (observed of 1.13).
        return min(1.0, len(self.active_jobs) / self._most)

    def _keep_idle(self, wanted: int) -> None:
        # The pool would make a new process for each call that comes, in the very second in which all
        # CPU is needed to answer; with those that are idle and those that talk there are enough.
        fit = min(wanted, self._capacity - len(self.active_jobs))
        self._proc_pool._target_idle_processes = max(1, fit)

    def _get_effective_load(self) -> float:
        # The original (1.8.9) counts a job that was accepted and not launched yet as a whole idle
        # process's share: two at once make a worker with two of them refuse a third, and the
        # caller of the third hears ringing for ever.
        return (len(self.active_jobs) + self._reserved_slots) / self._most

    @property
    def full(self) -> bool:
        """Whether the call that is being asked about, which is counted already, is one too many."""
        return len(self.active_jobs) + self._reserved_slots > self._capacity

    @property
    def cold(self) -> bool:
        """Whether that call would have to wait until a process is ready: seconds when many come at once."""
        # A call that was accepted and not launched yet has its process in the queue still.
        return self._proc_pool._warmed_proc_queue.qsize() < self._reserved_slots

    def send_rescue(self, room: str) -> None:
        """See to it that ``trunkline-rescue`` answers *room*, unless another worker's agent comes."""
        self._keep(_send_rescue(room, self._livekit))

    @property
    def ready(self) -> bool:
        """Whether LiveKit can send a call: registered, connected, and not on the way out."""
        return (
            self.id != "unregistered"
            and not self._closed
            and not self._connecting
            and not self._connection_failed
            and not self.draining
        )

    def note_warm(self) -> bool:
        """Whether a process has become ready for a call, now or before."""
        pool = getattr(self, "_proc_pool", None)
        self.warm = self.warm or (pool is not None and not pool._warmed_proc_queue.empty())
        return self.warm

    def jobs(self) -> list[dict[str, Any]]:
        """The calls that are on: room and process."""
        pool = getattr(self, "_proc_pool", None)
        return [
            {"room": process.running_job.job.room.name, "pid": process.pid}
            for process in (pool.processes if pool else ())
            if process.running_job is not None
        ]


def make_server(options: WorkerOptions, livekit: LiveKit) -> Server:
    """The server, not yet running."""
    server = Server(options, livekit)

    async def on_request(request: JobRequest) -> None:
        if request.job.metadata == PROBE:
            await request.reject()
        elif server.full or server.cold:
            # LiveKit asks the other workers now; the caller must not hear ringing if none is free.
            log.warning("no_agent_free", room=request.room.name, full=server.full)
            await request.reject()
            server.send_rescue(request.room.name)
        else:
            await request.accept(identity=f"{takeover.AGENT_PREFIX}{request.job.id}", name=AGENT)

    server.rtc_session(
        partial(call_process.run, options),
        agent_name=AGENT,
        on_request=on_request,
        on_session_end=jobs.on_end,
    )
    return server


async def _replace(room: str, livekit: LiveKit) -> None:
    """Send another agent to *room*, whose agent died, if somebody is on the line there."""
    try:
        if not await takeover.has_caller(livekit, room):
            return
        agent = takeover.next_agent(await livekit.dispatches(room))
        if agent is not None:
            log.warning("agent_replaced", room=room, agent=agent)
            await takeover.send(livekit, room, agent)
    except LiveKitFailed as error:
        # The guardian sees a call without a sign of life.
        log.error("agent_not_replaced", room=room, detail=str(error))


async def _send_rescue(room: str, livekit: LiveKit) -> None:
    await asyncio.sleep(_OTHERS.total_seconds())
    try:
        who = await livekit.participants(room)
        rings = any(one.kind == one.Kind.SIP for one in who)
        if not rings or any(one.kind == one.Kind.AGENT for one in who):
            return
        # Every full worker was asked; one rescue is enough.
        if not any(one.agent_name == RESCUE for one in await livekit.dispatches(room)):
            await livekit.dispatch(room, RESCUE)
    except LiveKitFailed as error:
        # The guardian sees the room ring as well.
        log.warning("rescue_not_sent", room=room, detail=str(error))


def _probes(server: Server, db: Database) -> Starlette:
    async def connected() -> None:
        if server.draining:
            raise probes.NotReady("the worker is told to stop, and waits for its calls to end")
        if not server.ready:
            raise probes.NotReady(
                "LiveKit does not know this worker: it cannot be reached, or does not take our key; "
                "this process's log says which, and so does trunkline doctor"
            )
        if not server.warm:
            raise probes.NotReady("no process is ready for a call yet; it takes some seconds")
        if not server.rescue.ready:
            raise probes.NotReady("the process of trunkline-rescue is not up; this log says why")

    return probes.app([connected, probes.database(db)], lambda: {"calls": server.jobs()})
