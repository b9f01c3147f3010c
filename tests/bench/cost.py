"""What processes take of a Linux machine: CPU seconds, and memory that is theirs alone."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY_S = 1.0


def members(sessions: Iterable[int]) -> dict[int, float]:
    """The processes of these sessions (setsid(2)), each with the CPU seconds it has taken so far."""
    wanted, found = set(sessions), {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                # proc_pid_stat(5): after the name in brackets; session, utime and stime are 6, 14 and 15.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) in wanted:
                    found[int(entry.name)] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def private_mb(pids: Iterable[int]) -> float:
    """Memory that only these hold, each by itself: what a further one like it costs."""
    kilobytes = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Clean:", "Private_Dirty:")):
                    kilobytes += int(line.split()[1])
    return kilobytes / 1024


@dataclass
class Cost:
    """What was taken while it was watched."""

    cpu_s: float = 0.0
    before_mb: float = 0.0
    most_mb: float = 0.0
    _first: dict[int, float] = field(default_factory=dict, repr=False)
    _last: dict[int, float] = field(default_factory=dict, repr=False)

    def look(self, sessions: Iterable[int], *, memory: bool) -> None:
        """Note what is taken now. A process that ends between two looks loses the last of its CPU."""
        self._last.update(now := members(sessions))
        self.cpu_s = sum(took - self._first.get(pid, 0.0) for pid, took in self._last.items())
        if memory:
            self.most_mb = max(self.most_mb, private_mb(now))

    def begin(self, sessions: Iterable[int]) -> None:
        """What was taken until now does not count."""
        self._first = members(sessions)
        self.before_mb = private_mb(self._first)


@contextlib.asynccontextmanager
async def watched(sessions: Callable[[], Iterable[int]]) -> AsyncIterator[Cost]:
    """Watch the processes of *sessions*, which may become more, while the block runs."""
    cost = Cost()
    await asyncio.to_thread(cost.begin, tuple(sessions()))

    async def watch() -> None:
        looks = 0
        while True:
            await asyncio.sleep(_EVERY_S)
            looks += 1
            await asyncio.to_thread(cost.look, tuple(sessions()), memory=looks % 3 == 0)

    watching = asyncio.create_task(watch())
    try:
        yield cost
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await asyncio.to_thread(cost.look, tuple(sessions()), memory=True)
