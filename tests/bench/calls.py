"""How long a caller waits for an answer, and how soon the agent stops when spoken to, at the caller's ear.

Run: python -m tests.bench.calls [--systems …] [--at-once N] [--p1 | --bargein | --knee | --noise] [--full]
     [--json F]

Every system answers the same callers in the same run, with the same providers: the sandbox's, whose
delays are fixed (final transcript 260 ms after the last word, first token 375 ms, first byte of speech
100 ms); with --p1 they scatter, one answer in a hundred stalls and one in two hundred breaks off.
--bargein speaks 100 times into an answer and makes 100 small sounds; --knee lets more and more call at once
until the 95th percentile is 10 % worse. What is printed is read from the caller's own frames, except CPU
and memory (Linux only), which are those of the system's own processes, and the words stored, which are
compared with those heard.
"""

import argparse
import asyncio
import json
import logging
import os
import platform as machine
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.bench.beside import INSTRUCTIONS, SYSTEMS, Bench, Call, Running, child
from tests.bench.cost import watched
from tests.bench.meter import Meter, Turn, percentile
from tests.bench.words import Reply

from trunkline.errors import Unavailable
from trunkline.kit import log
from trunkline.sandbox.caller import HangUp, Listen, Overhear, Pause, Say, Step
from trunkline.sandbox.line_faults import Faults
from trunkline.sandbox.stack import livekit

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
LATE_MS = 800
"""A gap at an aside that is longer than this is a gap that a caller minds."""
WORSE, KNEE_S, _KNEE_WARM = 1.1, 240.0, 8
"""The knee: how much worse the 95th percentile may become, how long one system is looked at, and how many
calls ours is ready for."""
P1 = (
    "--delay=stt_final=260~0.35,1%:5000",
    "--delay=llm_first_token=375~0.35,1%:5000",
    "--delay=tts_first_byte=100~0.35,1%:5000",
    "--fault=stt:reset%0.5",
    "--fault=llm:reset%0.5",
    "--fault=tts:reset%0.5",
)
"""The sandbox's arguments for an ordinary day: medians as ever, long tails, stalls, broken connections."""
VOICE_DBFS = -19.3
"""Level of the recorded lines' voiced part, RMS."""
NOISES_DB = (20, 10, 5)
"""How far below it the noise is."""
P99_FROM = 300
"""Fewer values than this have no 99th percentile."""


def talk(turns: int) -> list[Step]:
    """A caller who asks *turns* questions, each once the agent has been quiet for a while."""
    steps: list[Step] = [Listen()]
    for n in range(turns):
        steps += [Say(SPOKEN[n % len(SPOKEN)]), Listen()]
    return [*steps, HangUp()]


def cut_in(times: int, dice: random.Random) -> list[Step]:
    """A caller who lets the agent begin a long answer, *times* times, and speaks into it."""
    steps: list[Step] = [Listen()]
    for _ in range(times):
        into = timedelta(milliseconds=dice.randrange(2000, 5000, 20))
        steps += [Say(LONG), Overhear(into), Say(CUT_IN), Listen()]
    return [*steps, HangUp()]


def aside(times: int) -> list[Step]:
    """A caller who lets the agent go through its long answer, and makes *times* small sounds meanwhile."""
    steps: list[Step] = [Listen(), Say(LONG), Overhear(timedelta(seconds=2))]
    for n in range(times):
        steps += [Say(ASIDES[n % len(ASIDES)]), Pause(timedelta(milliseconds=2100))]
    return [*steps, Listen(), HangUp()]


@dataclass
class Result:
    """What was measured of one system; milliseconds."""

    system: str
    answers: list[int] = field(default_factory=list)
    """From the caller's last sound to the agent's first: voice to voice."""
    firsts: list[int] = field(default_factory=list)
    """The same, of each call's first turn, which is not among the answers."""
    greetings: list[int] = field(default_factory=list)
    pauses: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)
    after_cut: list[int] = field(default_factory=list)
    """Voice to voice after an interruption."""
    gaps: list[int] = field(default_factory=list)
    """The longest quiet within 2 s after the beginning of an aside, beyond that of the speech itself."""
    spoilt: int = 0
    """Calls with nothing but asides whose long answer was not said whole, once."""
    cut_off: int = 0
    """Asides after which the agent said no more."""
    lost: int = 0
    """Things said that nothing followed, and interruptions that did not stop it."""
    words_off: list[int] = field(default_factory=list)
    """Of each reply that was cut off: words stored less words heard."""
    calls: int = 0
    cpu_s: float | None = None
    """Of its own processes, for each call; of those in the bench's process nobody can tell."""
    call_mb: float | None = None
    """By how much private memory grew, for each call at the same time."""

    def take(self, turns: Sequence[Turn], call: Call, reply: Reply) -> None:
        """Add one call."""
        self.calls += 1
        if call.greeting_ms is not None:
            self.greetings.append(call.greeting_ms)
        stored = [text for text in call.agent if reply.begins(text)]
        if any(turn.line in ASIDES for turn in turns):
            self.spoilt += [" ".join(text.split()) for text in stored] != [reply.text]
        for n, turn in enumerate(turns):
            if turn.line in ASIDES:
                if turn.gap_ms is not None:
                    self.cut_off += turn.gap_ms >= CUT_OFF_MS
                    self.gaps.append(turn.gap_ms)
                continue
            if turn.cut_in and turn.heard_frames is not None and turn.stop_ms is not None:
                text = stored.pop(0) if stored else ""
                self.words_off.append(len(text.split()) - reply.words_in(turn.heard_frames))
            if turn.answer_ms is None or (turn.cut_in and turn.stop_ms is None):
                self.lost += 1
            elif turn.cut_in:
                assert turn.pause_ms is not None
                assert turn.stop_ms is not None
                self.pauses.append(turn.pause_ms)
                self.stops.append(turn.stop_ms)
                self.after_cut.append(turn.answer_ms)
            else:
                (self.firsts if n == 0 else self.answers).append(turn.answer_ms)


@dataclass(frozen=True)
class Plan:
    """Who calls: groups of callers, those of a group at the same time."""

    at_once: int
    turns: int
    cuts: int
    rounds: int
    seed: int
    asides: bool = True

    def groups(self) -> list[list[list[Step]]]:
        """The same for every system."""
        dice = random.Random(self.seed)
        found: list[list[list[Step]]] = []
        for _ in range(self.rounds):
            if self.turns:
                found.append([talk(self.turns) for _ in range(self.at_once)])
            if self.cuts:
                found.append([cut_in(self.cuts, dice) for _ in range(self.at_once)])
            if self.asides:
                others = (
                    talk(3) if self.turns else aside(len(ASIDES)) for _ in range(1, self.at_once)
                )
                found.append([aside(len(ASIDES)), *others])
        return found


async def measure(
    name: str, bench: Bench, plan: Plan, reply: Reply, *, trace: bool, told: str = ""
) -> Result:
    """Let the callers call one system, which the table calls *told*."""
    result = Result(told or name)
    async with SYSTEMS[name](bench) as system, watched(system.sessions) as cost:
        await _placed(system, plan, f"bench-{name}", reply, result, trace=trace)
    if not name.startswith("loopback"):
        result.cpu_s = cost.cpu_s / result.calls
        result.call_mb = (cost.most_mb - cost.before_mb) / plan.at_once
    return result


async def _placed(
    system: Running, plan: Plan, rooms: str, reply: Reply, result: Result, *, trace: bool
) -> None:
    for number, group in enumerate(plan.groups()):
        meters = [Meter(steps) for steps in group]
        calls = await asyncio.gather(
            *(system.place(f"{rooms}-{number}-{n}", meter) for n, meter in enumerate(meters))
        )
        for meter, call in zip(meters, calls, strict=True):
            result.take(turns := meter.turns(), call, reply)
            if trace:
                for turn in turns:
                    say(f"  {turn}")
                say(f"  {call} {meter.caller.gave_up or ''}")


async def in_noise(
    name: str, bench: Bench, plan: Plan, reply: Reply, *, trace: bool
) -> list[Result]:
    """The same callers on lines with more and more noise, with and without its suppression."""
    found = []
    for below_db in NOISES_DB:
        for suppressed in (False, True):
            noisy = replace(
                bench,
                faults=Faults(noise_dbfs=VOICE_DBFS - below_db),
                profile={"noise_suppression": suppressed},
            )
            told = f"{name}, {below_db} dB, {'suppressed' if suppressed else 'as it is'}"
            found.append(await measure(name, noisy, plan, reply, trace=trace, told=told))
            say(row(found[-1]))
    return found


async def knee(name: str, bench: Bench, reply: Reply, seed: int) -> list[dict[str, float]]:
    """How long callers wait when more and more call at once, until it is too long or takes too long."""
    found: list[dict[str, float]] = []
    began = time.monotonic()
    async with SYSTEMS[name](bench) as system:
        for at_once in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24):
            plan = Plan(at_once, 6, 0, 2 if at_once == 1 else 1, seed, asides=False)
            result = Result(name)
            async with watched(system.sessions) as cost:
                await _placed(system, plan, f"knee-{name}-{at_once}", reply, result, trace=False)
            waits = [*result.answers, *result.firsts]
            most = percentile(waits, 0.95)
            found.append(
                {
                    "at_once": at_once,
                    "n": len(waits),
                    "p50_ms": percentile(waits, 0.5),
                    "p95_ms": most,
                    "lost": result.lost,
                    "cpu_s": cost.cpu_s / result.calls,
                    "call_mb": (cost.most_mb - cost.before_mb) / at_once,
                }
            )
            say(f"  {json.dumps(found[-1])}")
            worse = not most <= WORSE * found[0]["p95_ms"] or result.lost
            if worse or time.monotonic() - began > KNEE_S:
                break
    return found


COLUMNS = (
    "",
    "voice to voice p50 / p95 (n)",
    "over the providers' 735",
    "longest wait",
    "first turn p50 (n)",
    "answer → greeting p50",
    "spoken into: pauses p50 / p95, stops p50 / p95 (n)",
    "nod or noise: gap p50 / longest (n; above 800, cut off, answers spoilt)",
    "words stored = heard ± 1",
    "lost",
    "CPU s a call",
    "MB a call",
)


def row(one: Result) -> str:
    """One system's, as Markdown; milliseconds."""
    half, most = percentile(one.answers, 0.5), percentile(one.answers, 0.95)
    tail = f" / {percentile(one.answers, 0.99):.0f}" if len(one.answers) >= P99_FROM else ""
    right = sum(abs(off) <= 1 for off in one.words_off)
    cells = (
        one.system,
        f"{half:.0f} / {most:.0f}{tail} ({len(one.answers)})",
        f"{half - PROVIDERS_MS:+.0f} / {most - PROVIDERS_MS:+.0f}",
        f"{max([*one.answers, *one.firsts, *one.after_cut], default=0)}",
        f"{percentile(one.firsts, 0.5):.0f} ({len(one.firsts)})",
        f"{percentile(one.greetings, 0.5):.0f}",
        f"{percentile(one.pauses, 0.5):.0f} / {percentile(one.pauses, 0.95):.0f}, "
        f"{percentile(one.stops, 0.5):.0f} / {percentile(one.stops, 0.95):.0f} ({len(one.stops)})",
        f"{percentile(one.gaps, 0.5):.0f} / {max(one.gaps, default=0)} "
        f"({len(one.gaps)}; {sum(gap > LATE_MS for gap in one.gaps)}, {one.cut_off}, {one.spoilt})",
        f"{right} of {len(one.words_off)}",
        f"{one.lost}",
        "" if one.cpu_s is None else f"{one.cpu_s:.1f}",
        "" if one.call_mb is None else f"{one.call_mb:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def table(results: Sequence[Result]) -> str:
    """As Markdown, for people and the README alike."""
    head = f"| {' | '.join(COLUMNS)} |"
    return "\n".join([head, "| --- " * len(COLUMNS) + "|", *map(row, results)])


def here() -> str:
    """The machine, and how loaded it is."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")
    return (
        f"{os.cpu_count()} cores {model or machine.machine()}, {machine.system()}, "
        f"Python {machine.python_version()}, load {os.getloadavg()[0]:.1f} before"
    )


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _plan(given: argparse.Namespace) -> Plan:
    if given.bargein:
        return Plan(4, 0, 5, 5, given.seed)
    if given.p1:
        return Plan(2, 20, 0, 3, given.seed, asides=False)
    if given.noise:
        return Plan(2, 4, 0, 1, given.seed)
    if given.full:
        return Plan(given.at_once, 26, 9, 5, given.seed)
    return Plan(given.at_once, given.turns, given.cuts, given.rounds, given.seed)


async def run(given: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code."""
    plan, results, knees = _plan(given), list[Result](), dict[str, list[dict[str, float]]]()
    say(machine_said := here())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        day = (*P1, f"--seed={given.seed}") if given.p1 else ()
        async with (
            livekit(folder) as options,
            child("trunkline.sandbox.server", "--ears", "script", *day) as (port, _),
        ):
            bench = Bench(
                options, int(port), folder, warm=_KNEE_WARM if given.knee else max(2, plan.at_once)
            )
            reply = await Reply.spoken(INSTRUCTIONS, LONG)
            for system in _systems(given):
                say(f"{system} …")
                if given.noise:
                    results += await in_noise(system, bench, plan, reply, trace=given.trace)
                    continue
                try:
                    if given.knee:
                        knees[system] = await knee(system, bench, reply, given.seed)
                        continue
                    results.append(await measure(system, bench, plan, reply, trace=given.trace))
                    say(row(results[-1]))
                except Unavailable as error:
                    say(str(error))
    for system, found in knees.items():
        say(f"{system}: {_knee_at(found)} calls at once before the 95th percentile is 10 % worse")
    if results:
        say(f"\n{table(results)}\n\nMilliseconds. {machine_said}; seed {given.seed}.")
    if given.json:
        document: dict[str, Any] = {
            "machine": machine_said,
            "day": "P1" if given.p1 else "P0",
            "providers_ms": PROVIDERS_MS,
            "plan": asdict(plan),
            "results": [asdict(r) for r in results],
            "knees": knees,
        }
        await asyncio.to_thread(Path(given.json).write_text, json.dumps(document, indent=1))
    return 0 if results or knees else 1


def _systems(given: argparse.Namespace) -> list[str]:
    if given.systems:
        return str(given.systems).split(",")
    if given.knee:
        return ["room", "livekit"]
    if given.p1:
        return ["room", "livekit-best"]
    return ["room"] if given.bargein or given.noise else list(SYSTEMS)


def _knee_at(found: Sequence[dict[str, float]]) -> int:
    well = [one for one in found if one["p95_ms"] <= WORSE * found[0]["p95_ms"] and not one["lost"]]
    return int(max((one["at_once"] for one in well), default=0))


def main() -> int:
    """Entry of the command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--systems", help=f"which, with commas between: {','.join(SYSTEMS)}")
    parser.add_argument("--at-once", type=int, default=2, help="callers at the same time")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--cuts", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=8)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--p1", action="store_true", help="delays scatter, some stall, some break")
    kind.add_argument("--bargein", action="store_true", help="100 interruptions, 100 small sounds")
    kind.add_argument("--knee", action="store_true", help="how many calls at once")
    kind.add_argument("--noise", action="store_true", help="lines with noise at 20, 10 and 5 dB")
    parser.add_argument("--full", action="store_true", help="until there is a 99th percentile")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--trace", action="store_true", help="print every turn")
    log.configure("console", "error")
    logging.getLogger("livekit").setLevel(logging.CRITICAL)
    for name in ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        os.environ.pop(name, None)
    return asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
