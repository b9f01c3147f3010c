"""What becomes of one long call: memory, waits and the recording, from its beginning to its end.

``python -m tests.bench.soak [--minutes 60]`` has one caller talk through a real room for so long, and prints
the agent's private memory and CPU every tenth of it; at the end how long answers took in its first and last
tenth, whether every turn was stored, and by how much the recording is longer or shorter than the call.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.beside import Bench, child, ours_in_a_room
from tests.bench.calls import SPOKEN, here, say
from tests.bench.cost import members, private_mb
from tests.bench.meter import FRAME_MS, Meter, percentile

from trunkline.kit import log
from trunkline.kit.audio import read_wav
from trunkline.sandbox.caller import HangUp, Listen, Say, Step
from trunkline.sandbox.stack import livekit

TURN_S = 7.0
"""About what a question, its answer and the quiet after it take."""
PARTS = 10


def steps(minutes: float) -> list[Step]:
    """A caller who goes on asking."""
    asked: list[Step] = [Listen()]
    for n in range(round(minutes * 60 / TURN_S)):
        asked += [Say(SPOKEN[n % len(SPOKEN)]), Listen()]
    return [*asked, HangUp()]


def length_s(folder: Path) -> float:
    """Of the only recording in *folder*."""
    (recording,) = folder.glob("blobs/recordings/*.wav")
    samples, rate_hz = read_wav(recording.read_bytes())
    return len(samples) / rate_hz


async def watch(pids: tuple[int, ...], minutes: float, began: float) -> None:
    """Print what the agent's processes take, a tenth of the call after the other."""
    first = members(pids)
    while True:
        now = members(pids)
        cpu_s = sum(took - first.get(pid, 0.0) for pid, took in now.items())
        at_min = (time.monotonic() - began) / 60
        say(f"{at_min:6.1f} min  {private_mb(now):7.1f} MB  {cpu_s:7.1f} s of CPU")
        await asyncio.sleep(minutes * 60 / PARTS)


async def run(minutes: float) -> int:
    """Measure and print; returns the exit code."""
    say(here())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        limits = {"max_call_s": round(minutes * 120), "warn_before_end_s": 0}
        async with (
            livekit(folder) as options,
            child("trunkline.sandbox.server", "--ears", "script") as (port, _),
        ):
            profile = {"limits": limits, "record": True}
            bench = Bench(options, int(port), folder, profile=profile)
            meter = Meter(steps(minutes))
            async with ours_in_a_room(bench) as system:
                watching = asyncio.create_task(
                    watch(tuple(system.sessions()), minutes, time.monotonic())
                )
                call = await system.place("soak", meter)
                watching.cancel()
        waits = [turn.answer_ms for turn in meter.turns()]
        heard = [wait for wait in waits if wait is not None]
        part = max(1, len(heard) // PARTS)
        recorded_s = await asyncio.to_thread(length_s, folder)
    called_s = len(meter.heard) * FRAME_MS / 1000
    say(
        f"answers p50: {percentile(heard[:part], 0.5):.0f} ms at first, "
        f"{percentile(heard[-part:], 0.5):.0f} ms at last (n {part} each); "
        f"{len(waits) - len(heard)} of {len(waits)} without one"
    )
    say(f"{len(call.agent)} turns of the agent stored, the greeting among them")
    say(f"the call took {called_s:.1f} s, its recording is {recorded_s - called_s:+.2f} s longer")
    return 0


def main() -> int:
    """Entry of the command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    log.configure("console", "error")
    logging.getLogger("livekit").setLevel(logging.CRITICAL)
    return asyncio.run(run(parser.parse_args().minutes))


if __name__ == "__main__":
    sys.exit(main())
