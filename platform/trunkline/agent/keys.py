"""Keys that a caller presses."""

import asyncio
from datetime import timedelta
from typing import Any


class KeyCollector:
    """Puts keys that are pressed in quick succession together."""

    def __init__(self, gap: timedelta, on_keys: Any) -> None:
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
