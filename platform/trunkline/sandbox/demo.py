"""The demo: five calls with real audio on the embedded default, shown live. No keys, no services.

It starts the sandbox's providers, the dashboard and the callers as processes of their own; none
outlives it.
"""

import asyncio
import contextlib
import fcntl
import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from trunkline.errors import Conflict, Unavailable
from trunkline.kit.asgi import stop_signals
from trunkline.kit.blobs import open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, open_database, upgrade
from trunkline.kit.livekit import LiveKitOptions
from trunkline.kit.processes import Child, ChildDied, spawn
from trunkline.outbox.publish import publish
from trunkline.sandbox import past
from trunkline.sandbox.callers import Orders
from trunkline.sandbox.faults import Fault
from trunkline.sandbox.receiver import Receiver
from trunkline.sandbox.stack import check_installed, free_port
from trunkline.sandbox.stack import livekit as livekit_server
from trunkline.sandbox.story import FIRST, STORIES, seed
from trunkline.sandbox.watch import Watch, document, hearing, percentile
from trunkline.sandbox.worker import WorkerOrders
from trunkline.settings import Settings
from trunkline.webhooks import service as webhooks
from trunkline.webhooks.options import EndpointOptions

MARK = "demo.json"
"""A data folder with this file is the demo's own: a new run may set the last one aside."""

_START = timedelta(seconds=60)
_STOP = timedelta(seconds=3)


@dataclass(frozen=True)
class DemoOptions:
    """What the command line asks for."""

    data: Path
    port: int
    once: bool
    as_json: bool
    faults: tuple[str, ...] = ()
    stories: tuple[str, ...] = tuple(story.key for story in STORIES)
    livekit: bool = False
    """Through rooms of a real livekit-server, to a worker, instead of loopback lines."""
    variant: str = "pipeline"
    """Which models talk, of ``story.VARIANTS``."""


async def run(options: DemoOptions) -> int:
    """Run the demo. Returns the exit code: 1 when a call did not go as it should.

    Raises Conflict when the data folder is somebody's own, ChildDied or Unavailable when a
    part does not start.
    """
    console = Console(stderr=True)
    stopped = asyncio.Event()
    with stop_signals(stopped.set):
        work = asyncio.create_task(_run(options, console, stopped))
        waiting = asyncio.create_task(stopped.wait())
        await asyncio.wait([work, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not work.done():
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            console.print("stopped")
            return 0
        return await work


async def _run(options: DemoOptions, console: Console, stopped: asyncio.Event) -> int:
    if options.livekit:
        check_installed()
    now = utc_now()
    lock = prepare(options.data, now=now)
    settings = Settings.load(
        env_file=None,
        trunkline_data=options.data,
        # Whatever the environment says: the demo never touches data that is not its own.
        trunkline_database_url=f"sqlite+aiosqlite:///{options.data / 'trunkline.db'}",
        trunkline_blobs_url=str(options.data / "blobs"),
        # The demo's receiver, and any other that is tried out with it, listens on this machine.
        trunkline_webhook_allow="127.0.0.1,localhost",
    )
    endpoints = settings.endpoints()
    await upgrade(settings.database_url)
    db = open_database(settings.database)
    blobs = open_blobs(settings.blobs)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lock.close)
        stack.push_async_callback(db.close)
        receiver = await stack.enter_async_context(Receiver())
        await _furnish(db, receiver, options=endpoints, now=now, variant=options.variant)
        console.print("Starting the sandbox's providers, the dashboard and the callers …")
        sandbox = await stack.enter_async_context(
            _child(
                "trunkline.sandbox.server",
                *(f"--fault={Fault.parse(one).of_first(FIRST).text()}" for one in options.faults),
            )
        )
        port = options.port or (free_port() if options.livekit else 0)
        livekit = None
        if options.livekit:
            webhook = f"http://127.0.0.1:{port}/livekit/webhook"
            livekit = await stack.enter_async_context(livekit_server(options.data, webhook=webhook))
        web = await stack.enter_async_context(
            _child(
                "trunkline",
                *("serve", "--data", str(options.data), "--port", str(port)),
                env={
                    # It is on this machine alone, and nobody has an account in it.
                    "TRUNKLINE_LOGIN": "off",
                    "TRUNKLINE_DATABASE_URL": settings.database_url,
                    "TRUNKLINE_BLOBS_URL": settings.blobs.url,
                    "TRUNKLINE_WEBHOOK_ALLOW": ",".join(endpoints.allow),
                    "TRUNKLINE_SECRET_KEYS": ",".join(endpoints.keys),
                    **_settings_of(livekit),
                },
            )
        )
        sandbox_port = int(await sandbox.ready(_START))
        if livekit is not None:
            worker = await stack.enter_async_context(
                _child(
                    "trunkline.sandbox.worker",
                    _worker_orders(livekit, settings, sandbox_port, options.stories).dump(),
                )
            )
            await worker.ready(_START)
        lines: asyncio.Queue[str] = asyncio.Queue()
        orders = Orders(
            livekit=_of(livekit),
            database_url=settings.database_url,
            blobs_url=settings.blobs.url,
            sandbox_port=sandbox_port,
            sandbox_key="sandbox",
            stories=options.stories,
            run=f"{now:%Y%m%dT%H%M%S}",
        )
        callers = await stack.enter_async_context(
            _child("trunkline.sandbox.callers", orders.dump(), lines=lines)
        )
        address = f"http://127.0.0.1:{await web.ready(_START)}"
        await callers.ready(_START)
        console.print(f"Dashboard: {address}/calls\n")
        results = []
        for _ in options.stories:
            results.append(
                await _one_call(
                    lines, callers, Watch(db, receiver, console), console, blobs, receiver, settings
                )
            )
        good = all(result.good for result in results)
        console.print(f"\nAll calls are over. Dashboard: {address}/calls")
        if options.as_json:
            print(  # noqa: T201 - data goes to standard output
                json.dumps(
                    {"calls": [result.document for result in results]}, indent=2, ensure_ascii=False
                ),
                flush=True,
            )
        if not options.once:
            console.print("It goes on serving; stop it with Ctrl-C.")
            await stopped.wait()
        return 0 if good else 1


def _settings_of(livekit: LiveKitOptions | None) -> dict[str, str]:
    """For a process that reads settings; nothing of the user's own LiveKit may reach it."""
    return {f"LIVEKIT_{name.upper()}": value for name, value in (_of(livekit) or {}).items()} or {
        "LIVEKIT_URL": "",
        "LIVEKIT_API_KEY": "",
        "LIVEKIT_API_SECRET": "",
    }


def _of(livekit: LiveKitOptions | None) -> dict[str, str] | None:
    if livekit is None:
        return None
    return {name: getattr(livekit, name) for name in ("url", "api_key", "api_secret")}


def _worker_orders(
    livekit: LiveKitOptions, settings: Settings, sandbox_port: int, keys: Sequence[str]
) -> WorkerOrders:
    # A worker has one set of delays for all calls; on loopback lines each story brings its own.
    delays = {
        name: round(delay.total_seconds() * 1000)
        for story in STORIES
        if story.key in keys
        for name, delay in story.tool_delays.items()
    }
    return WorkerOrders(
        livekit_url=livekit.url,
        livekit_key=livekit.api_key,
        livekit_secret=livekit.api_secret,
        database_url=settings.database_url,
        blobs_url=settings.blobs.url,
        sandbox_port=sandbox_port,
        tool_delays_ms=delays,
    )


@dataclass(frozen=True)
class _Result:
    document: dict[str, Any]
    good: bool


async def _one_call(
    lines: asyncio.Queue[str],
    callers: Child,
    watch: Watch,
    console: Console,
    blobs: Any,
    receiver: Receiver,
    settings: Settings,
) -> _Result:
    ringing = (await _next(lines, callers))["ringing"]
    story = next(story for story in STORIES if story.key == ringing["story"])
    console.print(f"[bold]({story.key}) {story.title}[/bold]")
    over = asyncio.Event()
    following = asyncio.create_task(watch.follow(ringing["room"], over))
    result = (await _next(lines, callers))["over"]
    over.set()
    page = await following
    heard = await hearing(page, blobs)
    replies = heard.replies_ms
    told = document(page, receiver.received, replies, Path(settings.blobs.url))
    console.print(
        f"  over       {page.call.end_reason}, {_seconds(page.call.duration_ms)}", highlight=False
    )
    if told["recording"]:
        console.print(f"  recording  {told['recording']}", highlight=False, soft_wrap=True)
    if heard.greeting_ms is not None:
        console.print(
            f"  heard      greeting {heard.greeting_ms} ms after the answer", highlight=False
        )
    if replies:
        console.print(
            f"  heard      reply after p50 {percentile(replies, 50)} ms, p95 {percentile(replies, 95)} ms "
            f"(n = {len(replies)}, from the recording)",
            highlight=False,
        )
    for stop in heard.stops_ms:
        console.print(f"  heard      silent {stop} ms after the caller broke in", highlight=False)
    if result.get("rang_ms") is not None:
        console.print(
            f"  heard      {result['rang_ms']} ms of ringing, from the caller's joining to 200 OK",
            highlight=False,
        )
    console.print(
        f"  event loop held up for at most {result['worst_lag_ms']} ms\n",
        style="dim",
        highlight=False,
    )
    if result["failure"]:
        console.print(f"  failed: {result['failure']}", style="red", highlight=False)
    if result["gave_up"]:
        console.print(
            f"  the caller waited in vain: {result['gave_up']}", style="red", highlight=False
        )
    good = not result["failure"] and not result["gave_up"] and not page.call.live
    return _Result(told, good)


async def _next(lines: asyncio.Queue[str], callers: Child) -> dict[str, Any]:
    """The callers' next word. Raises ChildDied when they are gone."""
    reading = asyncio.create_task(lines.get())
    gone = asyncio.create_task(callers.wait())
    await asyncio.wait([reading, gone], return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if reading.done():
        found: dict[str, Any] = json.loads(reading.result())
        return found
    reading.cancel()
    raise ChildDied("the callers' process", f"ended with code {callers.returncode}", "")


@contextlib.asynccontextmanager
async def _child(
    module: str,
    *arguments: str,
    lines: asyncio.Queue[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Child]:
    child = await spawn(
        module,
        *arguments,
        env={"TRUNKLINE_LOG_LEVEL": "warning", **(env or {})},
        on_line=lines.put_nowait if lines else None,
        on_error_line=lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
    )
    try:
        yield child
    finally:
        await child.stop(_STOP)


async def _furnish(
    db: Database, receiver: Receiver, *, options: EndpointOptions, now: datetime, variant: str
) -> None:
    async with db.work() as session:
        await seed(session, now=now, variant=variant)
    await past.fill(db, now=now, endpoints=options)
    async with db.work() as session:
        # What was there before the demo began is no news for its endpoint.
        while await publish(session):
            pass
        _, receiver.secret = await webhooks.add_endpoint(
            session,
            options=options,
            url=receiver.url,
            events=["*"],
            description="The demo's own receiver",
            now=now,
        )


def prepare(data: Path, *, now: datetime) -> IO[str]:
    """Make *data* an empty folder of the demo's; an earlier run is moved to ``earlier/`` in it.

    Returns the open mark, locked: while it is open no other demo takes the folder. Raises Conflict when
    another demo runs there or it holds a database that is not the demo's, Unavailable when it
    cannot be written.
    """
    try:
        data.mkdir(parents=True, exist_ok=True)
        known = (data / MARK).exists()
        if (data / "trunkline.db").exists() and not known:
            raise Conflict(
                f"{data} holds a database that is not a demo's; choose another folder with --data"
            )
        mark = (data / MARK).open("a+", encoding="utf-8")
        try:
            # The kernel lets go of it with the process, however that ends.
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mark.close()
            raise Conflict(
                f"another demo runs in {data}; stop it, or choose another folder with --data"
            ) from None
        if (data / "trunkline.db").exists():
            aside = data / "earlier" / f"{now:%Y%m%dT%H%M%S.%f}"
            aside.mkdir(parents=True)
            for name in ("trunkline.db", "trunkline.db-wal", "trunkline.db-shm", "blobs"):
                if (data / name).exists():
                    shutil.move(data / name, aside / name)
        (data / "blobs").mkdir(exist_ok=True)
        mark.write(json.dumps({"started_at": now.isoformat()}) + "\n")
        mark.flush()
        return mark
    except OSError as error:
        raise Unavailable(
            f"the data folder {data} cannot be written ({error.strerror}); choose another with --data"
        ) from error


def _seconds(duration_ms: int | None) -> str:
    return "not answered" if duration_ms is None else f"{duration_ms / 1000:.1f} s"


def story_keys(text: str) -> Sequence[str]:
    """``ad`` → the stories a and d. Raises ValueError naming those there are."""
    known = [story.key for story in STORIES]
    if not text or any(key not in known for key in text):
        raise ValueError(f"{text!r} names no calls; write some of {''.join(known)}")
    return tuple(text)
