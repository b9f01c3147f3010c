"""What a provider's bad minute costs the caller: the gap at their ear, against a healthy turn's.

Run: python -m tests.bench.faults [--cases stt:stall,llm:429 …] [--calls N] [--into FILE]

Each call asks the same question twice, and one part goes wrong: from the start where the protocol refuses
at the connection, at the second question otherwise; ``refused`` shuts the provider's port while the caller
speaks it. The profile has a second choice for each part and the patience that profiles have by default. The
sandbox's delays are those of all benches. Everything is read from the caller's own frames.

Aims: refused at most 500 ms more than the healthy turn, stalled at most 1500 ms more, and nobody waits
2000 ms for a word.
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
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from livekit.agents.utils import http_context
from tests.bench.meter import FRAME_MS, HEARD_RMS, SAID_RMS, Meter, percentile, stretches

from trunkline.agent.arrival import Arrival
from trunkline.agent.options import AgentOptions, ProviderAccess
from trunkline.agent.services import Services
from trunkline.agent.warm import warm
from trunkline.agent.worker import answer
from trunkline.kit import log
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import DatabaseOptions, open_database, upgrade
from trunkline.kit.processes import spawn
from trunkline.profiles import queries as profile_reads
from trunkline.profiles import service as profiles
from trunkline.profiles.body import read
from trunkline.sandbox.caller import HangUp, Listen, Say, Step
from trunkline.sandbox.callers import sandbox_providers
from trunkline.sandbox.loopback import LoopbackLine
from trunkline.sandbox.story import FIRST, OUR_NUMBER, seed

PLAIN, TOOL = "wait_what_are_your_opening_hours.wav", "where_does_my_order_stand.wav"
_QUIET = timedelta(milliseconds=2600)
"""Longer than any gap that is looked for, so that the caller never speaks into one."""
_START = timedelta(seconds=60)
REFUSED_MS, STALLED_MS, SILENT_MS = 500, 1500, 2000
"""The aims, see above."""

_AT_ONCE = {"stt": ("401", "429", "500", "503")}
"""Kinds that strike where the connection is made, not at a turn."""
_BY_TOOL = ("bad-json", "unknown-tool")
CASES = (
    "none:plain",
    "none:tool",
    *(f"stt:{kind}" for kind in ("refused", "stall", "401", "429", "500", "reset", "no-final")),
    *(
        f"llm:{kind}"
        for kind in ("refused", "stall", "401", "429", "500", "reset", "empty", *_BY_TOOL)
    ),
    *(
        f"tts:{kind}"
        for kind in ("refused", "stall", "401", "429", "500", "reset", "empty", "wrong-rate")
    ),
)


class Door:
    """A port in front of *to* that can be shut: whoever is through is thrown out, nobody comes in."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._inside: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        """Let in."""
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def shut(self) -> None:
        """From now on the connection is refused."""
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._inside):
            writer.transport.abort()

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._to)
        both = {writer, other_writer}
        self._inside |= both
        try:
            ways = (self._carry(reader, other_writer), self._carry(other_reader, writer))
            await asyncio.gather(*ways)
        finally:
            self._inside -= both
            for one in both:
                one.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(65_536):
                writer.write(piece)
                await writer.drain()
            writer.write_eof()


@dataclass(frozen=True)
class Gap:
    """What followed one question; milliseconds, None where nothing came."""

    answer_ms: int | None
    """From the caller's last sound to the agent's first."""
    longest_ms: int | None
    """The longest quiet from the caller's last sound to the end of the answer."""


@dataclass
class Result:
    """What was measured of one case: the gaps of its questions, call by call."""

    case: str
    gaps: list[list[Gap]] = field(default_factory=list)


def gaps(meter: Meter) -> list[Gap]:
    """What followed each question."""
    said = list(stretches(meter.said, SAID_RMS))
    found = []
    for n, one in enumerate(said):
        until = said[n + 1].begin if n + 1 < len(said) else len(meter.heard)
        loud = [at for at in range(one.end, until) if meter.heard[at] >= HEARD_RMS]
        if not loud:
            found.append(Gap(None, None))
            continue
        steps = zip([one.end, *loud], loud, strict=False)
        longest = max(after - before for before, after in steps)
        found.append(Gap((loud[0] - one.end) * FRAME_MS, longest * FRAME_MS))
    return found


def _steps(line: str) -> list[Step]:
    ask = (Say(line), Listen(_QUIET))
    return [Listen(_QUIET), *ask, *ask, HangUp()]


def _faults(part: str, kind: str) -> list[str]:
    if part == "none" or kind == "refused":
        return []
    turn = "" if kind in _AT_ONCE.get(part, ()) else "@2"
    return ["--fault", f"{part}/{FIRST[part]}:{kind}{turn}"]


def _through(options: AgentOptions, part: str, door: Door) -> AgentOptions:
    """*options* whose first choice of *part* is reached through *door*."""
    root = f"http://127.0.0.1:{door.port}"
    match part:
        case "stt":
            return replace(
                options, deepgram=ProviderAccess("sandbox", f"{root}/deepgram/v1/listen")
            )
        case "llm":
            return replace(options, openai=ProviderAccess("sandbox", f"{root}/openai/v1"))
        case _:
            return replace(options, cartesia=ProviderAccess("sandbox", f"{root}/cartesia"))


async def _shut_in_time(meter: Meter, door: Door) -> None:
    while sum(what.startswith("says") for _, what in meter.caller.notes) < 2:  # noqa: ASYNC110
        await asyncio.sleep(FRAME_MS / 1000)
    door.shut()


@contextlib.asynccontextmanager
async def _furnished(folder: Path, port: int, name: str) -> AsyncIterator[Services]:
    """The demo's profile with second choices that no door is in front of."""
    url = f"sqlite+aiosqlite:///{folder}/{name}.db"
    await upgrade(url)
    db = open_database(DatabaseOptions(url))
    direct = f"http://127.0.0.1:{port}"
    async with db.work() as session:
        body = await seed(session, now=utc_now())
        (owner,) = await profile_reads.profiles(session)
        spares = {
            "stt": [{"provider": "openai", "base_url": f"{direct}/openai/v1"}],
            "llm": [{"model": "gpt-4o-mini", "base_url": f"{direct}/openai/v1"}],
            "tts": [
                {"provider": "openai", "voice": "nova", "base_url": f"{direct}/openai/v1"},
            ],
        }
        changed = read({**body.model_dump(mode="json"), "fallback": spares})
        await profiles.publish(session, owner.id, changed, now=utc_now())
    options = replace(
        sandbox_providers(port, "sandbox"),
        word_after=AgentOptions.word_after,
        model_keys={f"127.0.0.1:{port}": "sandbox"},
        breaker_folder=str(folder / f"{name}.breaker"),
    )
    blobs = open_blobs(BlobOptions(f"file://{folder}/blobs"))
    yield Services(db, blobs, options, utc_now)
    await db.close()


async def _call(case: str, n: int, folder: Path, *, trace: bool) -> list[Gap]:
    part, _, kind = case.partition(":")
    sandbox = await spawn("trunkline.sandbox.server", "--ears", "script", *_faults(part, kind))
    try:
        port = int(await sandbox.ready(_START))
        name = f"{case.replace(':', '-')}-{n}"
        async with _furnished(folder, port, name) as services:
            meter = Meter(_steps(TOOL if kind in (*_BY_TOOL, "tool") else PLAIN))
            arrival = Arrival(
                room=f"bench-{name}",
                channel="loopback",
                from_raw="+12025550134",
                to_raw=OUR_NUMBER,
            )
            line = LoopbackLine(arrival, meter)
            shutting = None
            if kind == "refused":
                door = Door(port)
                await door.open()
                services = replace(services, options=_through(services.options, part, door))
                shutting = asyncio.create_task(_shut_in_time(meter, door))
            line.ring()
            async with http_context.open():
                await answer(line, services)
            if shutting is not None:
                shutting.cancel()
        found = gaps(meter)
        if trace:
            _say(f"  {case}: {found} gave up {meter.caller.gave_up}")
        return found
    finally:
        await sandbox.stop(timedelta(seconds=5))


def _judged(kind: str, more_ms: float, longest_ms: float) -> str:
    wrong = []
    most = {"refused": REFUSED_MS}.get(kind, STALLED_MS)
    if more_ms > most:
        wrong.append(f"over {most} more")
    if longest_ms > SILENT_MS:
        wrong.append(f"over {SILENT_MS} silent")
    return ", ".join(wrong) or "holds"


def table(results: Sequence[Result]) -> str:
    """As Markdown: of each case the worse of its two questions against the same one in good health."""
    health = {one.case.partition(":")[2]: one for one in results if one.case.startswith("none:")}
    rows = [
        "| part | fault | healthy, ms | with it p50 / worst, ms (n) | more p50 / worst, ms "
        "| longest silence, ms | aim |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        part, _, kind = one.case.partition(":")
        well = health.get("tool" if kind in _BY_TOOL else "plain", one)
        if part == "none":
            well = one
        usual = [
            percentile([call[n].answer_ms or 0 for call in well.gaps if len(call) > n], 0.5)
            for n in range(2)
        ]
        told: list[tuple[float, float, float]] = []
        for call in one.gaps:
            each = [
                (gap.answer_ms - usual[n], gap.answer_ms, usual[n])
                for n, gap in enumerate(call[:2])
                if gap.answer_ms is not None
            ]
            if len(each) == 2:
                told.append(max(each))
        silent = max((gap.longest_ms or 0 for call in one.gaps for gap in call), default=0)
        lost = len(one.gaps) - len(told)
        if not told:
            rows.append(f"| {part} | {kind} | | unanswered ({lost}) | | {silent} | no answer |")
            continue
        more, took = [each[0] for each in told], [each[1] for each in told]
        aim = _judged(kind, max(more), silent)
        if lost:
            aim = f"{lost} unanswered"
        rows.append(
            f"| {part} | {kind} | {max(told)[2]:.0f} "
            f"| {percentile(took, 0.5):.0f} / {max(took):.0f} ({len(took)}) "
            f"| {percentile(more, 0.5):+.0f} / {max(more):+.0f} | {silent} | {aim} |"
        )
    return "\n".join(rows)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def run(given: argparse.Namespace) -> None:
    """Measure, print, write."""
    results: list[Result] = []
    await warm()
    with tempfile.TemporaryDirectory() as name:
        for case in given.cases.split(","):
            result = Result(case)
            for n in range(given.calls):
                result.gaps.append(await _call(case, n, Path(name), trace=given.trace))
            results.append(result)
    if given.into and (before := Path(given.into)).exists():
        known = json.loads(await asyncio.to_thread(before.read_text))["results"]
        old = [
            Result(one["case"], [[Gap(**gap) for gap in call] for call in one["gaps"]])
            for one in known
            if one["case"] not in given.cases.split(",")
        ]
        results = sorted([*old, *results], key=lambda one: CASES.index(one.case))
    _say(table(results))
    if given.into:
        cores = f"{os.cpu_count()} cores, {machine.machine()}, Python {machine.python_version()}"
        document = {"machine": cores, "results": [asdict(one) for one in results]}
        await asyncio.to_thread(Path(given.into).write_text, json.dumps(document, indent=1))


def main() -> None:
    """Entry of the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--calls", type=int, default=2, help="per case")
    parser.add_argument("--into", metavar="FILE", help="JSON; cases that it has already are kept")
    parser.add_argument("--trace", action="store_true", help="print every call")
    log.configure("console", "error")
    logging.getLogger("livekit").setLevel(logging.CRITICAL)
    for name in ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        os.environ.pop(name, None)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
