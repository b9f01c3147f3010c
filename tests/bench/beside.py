"""Who answers the bench's callers: the product, and what people would use instead of it.

Each is a context manager that yields a :class:`Running`. Baseline B has Python packages of its own, in a
folder of the user's cache that is made here from the package registry.
"""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from livekit.agents.utils import http_context
from sqlalchemy import select
from tests.bench.meter import Meter

from trunkline.agent.arrival import Arrival
from trunkline.agent.options import AgentOptions
from trunkline.agent.services import Services
from trunkline.agent.warm import warm
from trunkline.agent.worker import answer
from trunkline.calls import queries
from trunkline.calls.models import Turn
from trunkline.errors import Unavailable
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database, DatabaseOptions, open_database, upgrade
from trunkline.kit.livekit import LiveKitOptions
from trunkline.kit.processes import Child, spawn
from trunkline.profiles import queries as profiles
from trunkline.profiles.body import read
from trunkline.profiles.service import publish
from trunkline.sandbox.callers import sandbox_providers
from trunkline.sandbox.line_faults import SOUND, Faults
from trunkline.sandbox.loopback import LoopbackLine
from trunkline.sandbox.sip import Dial, SipCall
from trunkline.sandbox.story import OUR_NUMBER, PROFILE, seed
from trunkline.sandbox.worker import WorkerOrders

PIPECAT = (
    "pipecat-ai[cartesia,deepgram,livekit,openai,silero]==1.14.0",
    "livekit==1.2.1",
    "deepgram-sdk==7.17.0",
    "openai==3.54.0",
    "onnxruntime==1.31.1",
)
"""Baseline B's packages."""

INSTRUCTIONS = f"You answer the telephone for Harbor Fiber.\n{PROFILE['instructions']}"
"""What the baselines know, which is what our profile says."""

_FROM = "+12025550134"
_START = timedelta(seconds=90)
_INSTALL_S = 240
assert AgentOptions.word_after is not None
_WORD_AFTER_MS = round(AgentOptions.word_after.total_seconds() * 1000)
"""The product's own: the bench's ears are as quick as a provider's."""
_STORED_S = 10.0
"""How long after a call its last words may take to be stored."""


@dataclass(frozen=True)
class Call:
    """A call that is over."""

    greeting_ms: int | None
    """From the answer to the agent's first sound."""
    agent: Sequence[str]
    """What the system remembers that it said, in order."""


Place = Callable[[str, Meter], Awaitable[Call]]
"""``await place(room, meter)``: let *meter* call."""


@dataclass(frozen=True)
class Running:
    """A system that takes calls."""

    place: Place
    sessions: Callable[[], Iterable[int]] = tuple
    """Those of the system's own processes, without providers and callers; none: it is in this process."""


@dataclass(frozen=True)
class Bench:
    """What every system is given."""

    livekit: LiveKitOptions
    sandbox: int
    folder: Path
    faults: Faults = SOUND
    """What is wrong with the callers' lines through a room."""
    warm: int = 2
    """How many calls our own worker is ready for at once, as many as baseline A's; a call beyond them gets
    the keypad menu."""
    profile: Mapping[str, object] = field(default_factory=dict)
    """What our own profile has beside the story's."""


System = Callable[[Bench], contextlib.AbstractAsyncContextManager[Running]]


@contextlib.asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[tuple[str, int]]:
    """A process of its own; yields what it says after ``ready``, and its id."""
    process: Child = await spawn(module, *arguments)
    try:
        yield await process.ready(_START), process.pid
    finally:
        await process.stop(timedelta(seconds=5))


async def _furnished(bench: Bench) -> str:
    url = f"sqlite+aiosqlite:///{bench.folder}/bench-{os.urandom(4).hex()}.db"
    await upgrade(url)
    db = open_database(DatabaseOptions(url))
    async with db.work() as session:
        await seed(session, now=utc_now())
        (profile,) = await profiles.profiles(session)
        body = read({**PROFILE, **bench.profile})
        await publish(session, profile.id, body, now=utc_now())
    await db.close()
    return url


async def _stored(db: Database, room: str) -> list[str]:
    """What the agent of the call in *room* said, as soon as the call is closed."""
    async with asyncio.timeout(_STORED_S):
        while True:
            async with db.look() as session:
                call = await queries.call_in_room(session, room)
                if call is not None and call.ended_at is not None:
                    said = select(Turn.text).where(Turn.call_id == call.id, Turn.role == "agent")
                    return list(await session.scalars(said.order_by(Turn.seq)))
            await asyncio.sleep(0.1)


async def _noted(path: Path) -> list[str]:
    """What a baseline's agent said: its messages, as its framework writes them."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_STORED_S):
            while not (text := await asyncio.to_thread(_text, path)):  # noqa: ASYNC110 - written by others
                await asyncio.sleep(0.1)
        said = []
        for message in json.loads(text):
            if message.get("role") == "assistant":
                content = message["content"]
                said.append(content if isinstance(content, str) else " ".join(content))
        return said
    return []


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


async def _dialled(bench: Bench, room: str, meter: Meter, agent: str | None) -> int | None:
    dial = Dial(
        room, _FROM, OUR_NUMBER, number=OUR_NUMBER, agent=agent, faults=bench.faults, prompt=True
    )
    return (await SipCall(bench.livekit, dial, meter).run()).first_sound_ms


@contextlib.asynccontextmanager
async def ours_in_a_room(bench: Bench) -> AsyncIterator[Running]:
    """The product's worker."""
    url = await _furnished(bench)
    orders = WorkerOrders(
        bench.livekit.url,
        bench.livekit.api_key,
        bench.livekit.api_secret,
        url,
        f"file://{bench.folder}/blobs",
        bench.sandbox,
        capacity=40,
        warm=bench.warm,
        word_after_ms=_WORD_AFTER_MS,
    )
    db = open_database(DatabaseOptions(url))

    async def place(room: str, meter: Meter) -> Call:
        greeting = await _dialled(bench, room, meter, "trunkline")
        return Call(greeting, await _stored(db, room))

    async with child("trunkline.sandbox.worker", orders.dump()) as (_, pid):
        yield Running(place, lambda: (pid,))
    await db.close()


@contextlib.asynccontextmanager
async def ours_on_loopback(bench: Bench) -> AsyncIterator[Running]:
    """The product without LiveKit: the same agent, in this process."""
    db = open_database(DatabaseOptions(await _furnished(bench)))
    blobs = open_blobs(BlobOptions(f"file://{bench.folder}/blobs"))
    providers = replace(
        sandbox_providers(bench.sandbox, "sandbox"), word_after=AgentOptions.word_after
    )
    services = Services(db, blobs, providers, utc_now)
    await warm()

    async def place(room: str, meter: Meter) -> Call:
        arrival = Arrival(room=room, channel="loopback", from_raw=_FROM, to_raw=OUR_NUMBER)
        line = LoopbackLine(arrival, meter)
        line.ring()
        async with http_context.open():
            await answer(line, services)
        return Call(meter.greeting_ms(), await _stored(db, room))

    yield Running(place)
    await db.close()


def _orders(bench: Bench, *, best: bool) -> dict[str, object]:
    return {
        "url": bench.livekit.url,
        "api_key": bench.livekit.api_key,
        "api_secret": bench.livekit.api_secret,
        "sandbox": bench.sandbox,
        "best": best,
        "instructions": INSTRUCTIONS,
    }


def plain_livekit(*, best: bool) -> System:
    """Baseline A: one worker, which keeps two processes ready for calls."""

    @contextlib.asynccontextmanager
    async def system(bench: Bench) -> AsyncIterator[Running]:
        orders = {**_orders(bench, best=best), "notes": str(bench.folder)}

        async def place(room: str, meter: Meter) -> Call:
            greeting = await _dialled(bench, room, meter, "plain")
            return Call(greeting, await _noted(bench.folder / f"{room}.json"))

        async with child("tests.bench.plain_livekit", json.dumps(orders)) as (_, pid):
            yield Running(place, lambda: (pid,))

    return system


def plain_pipecat(*, best: bool) -> System:
    """Baseline B: a process for each call, which is in its room when the caller comes. Its start is not
    counted."""

    @contextlib.asynccontextmanager
    async def system(bench: Bench) -> AsyncIterator[Running]:
        python = await asyncio.to_thread(pipecat_python)
        running: set[int] = set()

        async def place(room: str, meter: Meter) -> Call:
            notes = bench.folder / f"{room}.json"
            orders = {**_orders(bench, best=best), "room": room, "notes": str(notes)}
            async with _session(python, json.dumps(orders), bench.folder) as pid:
                running.add(pid)
                greeting = await _dialled(bench, room, meter, None)
                return Call(greeting, await _noted(notes))

        yield Running(place, lambda: tuple(running))

    return system


@contextlib.asynccontextmanager
async def _session(python: Path, orders: str, folder: Path) -> AsyncIterator[int]:
    # No child of ``spawn``'s, because it has nothing of ours in it: the kernel ends it with us.
    guard = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
    process = await asyncio.create_subprocess_exec(
        *guard,
        str(python),
        str(Path(__file__).with_name("plain_pipecat.py")),
        orders,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=folder,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_START.total_seconds()):
            if not (await process.stdout.readline()).startswith(b"ready"):
                raise Unavailable(
                    "baseline B did not start: run tests/bench/plain_pipecat.py by hand"
                )
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


def pipecat_python() -> Path:
    """A Python that has pipecat, made in the user's cache when it is not there yet.

    Raises Unavailable with the reason when it cannot be made.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "trunkline-bench" / PIPECAT[0].rpartition("==")[2]
    python, made = folder / "bin" / "python", folder / "made"
    if made.exists() and made.read_text(encoding="utf-8") == "\n".join(PIPECAT):
        return python
    if uv := shutil.which("uv"):
        make = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
        fill = [uv, "pip", "install", "--quiet", "--python", str(python), *PIPECAT]
    else:
        make = [sys.executable, "-m", "venv", "--clear", str(folder)]
        fill = [str(python), "-m", "pip", "install", "--quiet", *PIPECAT]
    try:
        for command in (make, fill):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise Unavailable(
            f"no baseline B, because pipecat could not be installed into {folder}: "
            f"{said[-1] if said else error}"
        ) from error
    made.write_text("\n".join(PIPECAT), encoding="utf-8")
    return python


SYSTEMS: dict[str, System] = {
    "loopback": ours_on_loopback,
    "room": ours_in_a_room,
    "livekit": plain_livekit(best=False),
    "livekit-best": plain_livekit(best=True),
    "pipecat": plain_pipecat(best=False),
    "pipecat-best": plain_pipecat(best=True),
}
