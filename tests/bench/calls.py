"""How long a caller waits for an answer, and how soon the agent stops when spoken to, at the caller's ear.

Run: python -m tests.bench.calls [--systems …] [--turns N] [--json FILE]

Every system answers the same callers, one call at a time, in the same run, with the same
providers: the sandbox's, whose delays are fixed (final transcript 260 ms after the last word, first
token 375 ms, first byte of speech 100 ms). What is printed is read from the caller's own frames.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import platform as machine
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from livekit.agents.utils import http_context
from tests.bench.meter import Meter, Turn, percentile

from trunkline.agent.arrival import Arrival
from trunkline.agent.services import Services
from trunkline.agent.warm import warm
from trunkline.agent.worker import answer
from trunkline.kit import log
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import DatabaseOptions, open_database, upgrade
from trunkline.kit.livekit import LiveKitOptions
from trunkline.kit.processes import Child, spawn
from trunkline.sandbox.caller import HangUp, Listen, Overhear, Pause, Say, Step
from trunkline.sandbox.callers import sandbox_providers
from trunkline.sandbox.loopback import LoopbackLine
from trunkline.sandbox.sip import Dial, SipCall
from trunkline.sandbox.stack import livekit
from trunkline.sandbox.story import OUR_NUMBER, PROFILE, seed
from trunkline.sandbox.worker import WorkerOrders

PROVIDERS_MS = 260 + 375 + 100
"""What the providers take by themselves, from the caller's last word to the first byte of the answer."""

SPOKEN = ("wait_what_are_your_opening_hours.wav", "hello.wav")
ASIDES = (
    "asides/uh_huh.wav",
    "asides/okay.wav",
    "asides/yeah_right.wav",
    "asides/noise_cough.wav",
    "asides/noise_keyboard.wav",
)
LONG, CUT_IN = "what_plans_do_you_have.wav", "wait_what_are_your_opening_hours.wav"
CUT_OFF_MS = 1900
"""So much quiet of the 2 s that are looked at means that the agent did not go on."""
_START = timedelta(seconds=90)


def talk(turns: int) -> list[Step]:
    """A caller who asks *turns* questions, each once the agent has been quiet for a while."""
    steps: list[Step] = [Listen()]
    for n in range(turns):
        steps += [Say(SPOKEN[n % len(SPOKEN)]), Listen()]
    return [*steps, HangUp()]


def cut_in(times: int) -> list[Step]:
    """A caller who lets the agent begin a long answer, *times* times, and speaks into it."""
    steps: list[Step] = [Listen()]
    for n in range(times):
        into = timedelta(milliseconds=2500 + 370 * (n % 3))
        steps += [Say(LONG), Overhear(into), Say(CUT_IN), Listen()]
    return [*steps, HangUp()]


def aside(times: int) -> list[Step]:
    """A caller who lets the agent go through its long answer, and makes *times* small sounds meanwhile."""
    steps: list[Step] = [Listen(), Say(LONG), Overhear(timedelta(seconds=2))]
    for n in range(times):
        steps += [Say(ASIDES[n % len(ASIDES)]), Pause(timedelta(milliseconds=2100))]
    return [*steps, HangUp()]


@dataclass
class Result:
    """What was measured of one system; milliseconds."""

    system: str
    answers: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    greetings: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    """The longest quiet within 2 s after the beginning of an aside, beyond that of the speech itself."""
    cut_off: int = 0
    """Asides after which the agent said no more."""
    lost: int = 0
    """Things said that nothing followed."""

    def take(self, turns: Sequence[Turn], greeting_ms: int | None) -> None:
        """Add one call."""
        if greeting_ms is not None:
            self.greetings.append(greeting_ms)
        for n, turn in enumerate(turns):
            if turn.line in ASIDES:
                assert turn.gap_ms is not None
                self.cut_off += turn.gap_ms >= CUT_OFF_MS
                self.gaps.append(turn.gap_ms)
            elif turn.answer_ms is None or (turn.cut_in and turn.stop_ms is None):
                self.lost += 1
            elif turn.cut_in:
                assert turn.stop_ms is not None
                self.stops.append(turn.stop_ms)
            else:
                (self.firsts if n == 0 else self.answers).append(turn.answer_ms)


Place = Callable[[str, Meter], Awaitable[None]]
"""``await place(room, meter)``: let *meter* call."""


@dataclass(frozen=True)
class Bench:
    """What every system is given."""

    livekit: LiveKitOptions
    sandbox: int
    folder: Path


@contextlib.asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[str]:
    """A process of its own; yields what it says after ``ready``."""
    process: Child = await spawn(module, *arguments)
    try:
        yield await process.ready(_START)
    finally:
        await process.stop(timedelta(seconds=5))


async def furnished(folder: Path) -> str:
    """A database with the demo's profile; returns its address."""
    url = f"sqlite+aiosqlite:///{folder}/bench-{os.urandom(4).hex()}.db"
    await upgrade(url)
    db = open_database(DatabaseOptions(url))
    async with db.work() as session:
        await seed(session, now=utc_now())
    await db.close()
    return url


def through_room(options: LiveKitOptions, agent: str) -> Place:
    """Calls over a room of a real livekit-server."""

    async def place(room: str, meter: Meter) -> None:
        dial = Dial(room, "+12025550134", OUR_NUMBER, number=OUR_NUMBER, agent=agent)
        await SipCall(options, dial, meter).run()

    return place


@contextlib.asynccontextmanager
async def ours_in_a_room(bench: Bench) -> AsyncIterator[Place]:
    """The product's worker."""
    orders = WorkerOrders(
        bench.livekit.url,
        bench.livekit.api_key,
        bench.livekit.api_secret,
        await furnished(bench.folder),
        f"file://{bench.folder}/blobs",
        bench.sandbox,
    )
    async with child("trunkline.sandbox.worker", orders.dump()):
        yield through_room(bench.livekit, "trunkline")


@contextlib.asynccontextmanager
async def ours_on_loopback(bench: Bench) -> AsyncIterator[Place]:
    """The product without LiveKit: the same agent, in this process."""
    db = open_database(DatabaseOptions(await furnished(bench.folder)))
    blobs = open_blobs(BlobOptions(f"file://{bench.folder}/blobs"))
    services = Services(db, blobs, sandbox_providers(bench.sandbox, "sandbox"), utc_now)
    await warm()

    async def place(room: str, meter: Meter) -> None:
        arrival = Arrival(room=room, channel="loopback", from_raw="+12025550134", to_raw=OUR_NUMBER)
        line = LoopbackLine(arrival, meter)
        line.ring()
        async with http_context.open():
            await answer(line, services)

    yield place
    await db.close()


def plain(best: bool) -> "System":
    """Baseline A."""

    @contextlib.asynccontextmanager
    async def system(bench: Bench) -> AsyncIterator[Place]:
        orders = {
            "url": bench.livekit.url,
            "api_key": bench.livekit.api_key,
            "api_secret": bench.livekit.api_secret,
            "sandbox": bench.sandbox,
            "best": best,
            "instructions": f"You answer the telephone for Harbor Fiber.\n{PROFILE['instructions']}",
        }
        async with child("tests.bench.plain_livekit", json.dumps(orders)):
            yield through_room(bench.livekit, "plain")

    return system


System = Callable[[Bench], contextlib.AbstractAsyncContextManager[Place]]
SYSTEMS: dict[str, System] = {
    "loopback": ours_on_loopback,
    "room": ours_in_a_room,
    "livekit": plain(best=False),
    "livekit-best": plain(best=True),
}


async def measure(
    name: str, bench: Bench, *, calls: int, turns: int, cuts: int, trace: bool
) -> Result:
    """Let the callers call one system, one after another."""
    result = Result(name)
    async with SYSTEMS[name](bench) as place:
        for n in range(calls):
            kinds = (("talk", talk(turns)), ("cut", cut_in(cuts)), ("aside", aside(len(ASIDES))))
            for kind, steps in kinds:
                meter = Meter(steps)
                await place(f"bench-{name}-{kind}-{n}", meter)
                got = meter.turns()
                result.take(got, meter.greeting_ms())
                if trace:
                    for turn in got:
                        say(f"  {turn}")
                    if meter.caller.gave_up:
                        say(f"  gave up: {meter.caller.gave_up}")
    return result


def table(results: Sequence[Result]) -> str:
    """As Markdown."""
    rows = [
        "| system | answer p50 / p95, ms (n) | over the providers' 735 ms | first answer p50, ms | "
        "stops after p50 / p95, ms (n) | gap at an aside p50 / longest, ms (n, cut off) "
        "| greeting p50, ms | lost |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        half = percentile(one.answers, 0.5)
        rows.append(
            f"| {one.system} | {half:.0f} / {percentile(one.answers, 0.95):.0f} ({len(one.answers)}) "
            f"| {half - PROVIDERS_MS:+.0f} | {percentile(one.firsts, 0.5):.0f} "
            f"| {percentile(one.stops, 0.5):.0f} / {percentile(one.stops, 0.95):.0f} "
            f"({len(one.stops)}) | {percentile(one.gaps, 0.5):.0f} / {max(one.gaps, default=0)} "
            f"({len(one.gaps)}, {one.cut_off}) | {percentile(one.greetings, 0.5):.0f} | {one.lost} |"
        )
    return "\n".join(rows)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def run(given: argparse.Namespace) -> None:
    """Measure, print, write."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            livekit(folder) as options,
            child("trunkline.sandbox.server", "--ears", "script") as port,
        ):
            bench = Bench(options, int(port), folder)
            for system in given.systems.split(","):
                say(f"{system} …")
                results.append(
                    await measure(
                        system,
                        bench,
                        calls=given.calls,
                        turns=given.turns,
                        cuts=given.cuts,
                        trace=given.trace,
                    )
                )
                say(table(results[-1:]))
    say(table(results))
    if given.json:
        cores = f"{os.cpu_count()} cores, {machine.machine()}, Python {machine.python_version()}"
        document: dict[str, Any] = {"machine": cores, "results": [asdict(r) for r in results]}
        await asyncio.to_thread(Path(given.json).write_text, json.dumps(document, indent=1))


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--cuts", type=int, default=4)
    parser.add_argument("--json")
    parser.add_argument("--trace", action="store_true", help="print every turn")
    log.configure("console", "error")
    logging.getLogger("livekit").setLevel(logging.CRITICAL)
    for name in ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        os.environ.pop(name, None)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
