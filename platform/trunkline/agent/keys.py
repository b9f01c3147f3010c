"""Keys that a caller presses: free presses put together, and entries collected without a model."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


class KeyCollector:
    """Puts keys that are pressed in quick succession together."""

    def __init__(self, gap: timedelta, on_keys: Callable[[str], None]) -> None:
        self._gap, self._on_keys = gap, on_keys
        self._digits = ""
        self._timer: asyncio.TimerHandle | None = None

    def press(self, digit: str) -> None:
        """One key; *on_keys* gets them all once none has come for the gap."""
        self._digits += digit
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._gap.total_seconds(), self._flush)

    def _flush(self) -> None:
        digits, self._digits, self._timer = self._digits, "", None
        self._on_keys(digits)


@dataclass(frozen=True)
class Entry:
    """What is to be keyed in, and how its end is known."""

    length: int | None = None
    """Complete with this many keys; None: only the terminator or a pause ends it."""
    terminator: str | None = "#"
    """The key that ends it and is no part of it; None: every key is part of it."""
    first: timedelta = timedelta(seconds=6)
    """How long the first key is waited for."""
    between: timedelta = timedelta(seconds=3)
    """How long each further key is waited for."""
    longest: int = 40
    """More keys than this end it; somebody leans on the phone."""


@dataclass(frozen=True)
class Entered:
    """What was keyed in. ``ended`` by ``length``, ``terminator``, ``pause`` or ``nothing`` pressed."""

    keys: str
    ended: str


def step(entry: Entry, keys: str, key: str) -> tuple[str, str | None]:
    """The keys after one more *key*, and how the entry ended if it did. Pure."""
    if entry.terminator is not None and key == entry.terminator:
        return keys, "terminator"
    keys += key
    if len(keys) >= (entry.length or entry.longest):
        return keys, "length"
    return keys, None


class Keypad:
    """The keys of one call in order. What is pressed before it is asked for counts: people type ahead."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[str] = asyncio.Queue()
        self.pressed = asyncio.Event()
        """Set while a key waits; whoever speaks stops for it."""

    def press(self, key: str) -> None:
        """One key of the caller (0-9, *, #, A-D)."""
        self._waiting.put_nowait(key)
        self.pressed.set()

    def forget(self) -> None:
        """Drop what was pressed: it answered something else."""
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self.pressed.clear()

    async def collect(self, entry: Entry) -> Entered:
        """Wait for an entry, from now on."""
        keys = ""
        while True:
            patience = entry.between if keys else entry.first
            try:
                key = await asyncio.wait_for(self._waiting.get(), patience.total_seconds())
            except TimeoutError:
                return Entered(keys, "pause" if keys else "nothing")
            finally:
                if self._waiting.empty():
                    self.pressed.clear()
            keys, ended = step(entry, keys, key)
            if ended is not None:
                return Entered(keys, ended)


def masked(keys: str) -> str:
    """Keys of a secret entry as they may be stored: how many, not which."""
    return "•" * len(keys)
