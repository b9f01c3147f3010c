"""Which choices are out of order, known to all calls of one worker; see decision 0029."""

import contextlib
import os
from pathlib import Path

from trunkline.kit.clock import Clock

STALE_S = 30.0
"""Nobody has looked after it for so long: the call that did is over, and the choice is tried again."""


class Breaker:
    """A folder with one empty file per choice that is out of order; its time is when it was last tried.

    A file, because the calls of a worker are processes of their own, and nothing of it need outlive them.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock = folder, clock

    def is_open(self, key: str) -> bool:
        """Whether the choice *key* is out of order."""
        age = self._age_s(key)
        return age is not None and age < STALE_S

    def trip(self, key: str) -> None:
        """The choice *key* has failed now."""
        # A folder that cannot be written costs what is known across calls, and nothing else.
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._touch(key)

    def reset(self, key: str) -> None:
        """The choice *key* works."""
        with contextlib.suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def claim(self, key: str, every_s: float) -> bool:
        """Whether it is for the caller to try *key* now: nobody has for *every_s*."""
        age = self._age_s(key)
        if age is None or age < every_s:
            return False
        with contextlib.suppress(OSError):
            self._touch(key)
        return True

    def _path(self, key: str) -> Path:
        return self._folder / key

    def _touch(self, key: str) -> None:
        path, now_s = self._path(key), self._clock().timestamp()
        path.touch()
        os.utime(path, (now_s, now_s))

    def _age_s(self, key: str) -> float | None:
        try:
            return self._clock().timestamp() - self._path(key).stat().st_mtime
        except OSError:
            return None
