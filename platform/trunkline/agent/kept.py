"""The sound of sentences that were said before, on this machine: said again they need no voice to be asked.

Meant for the first words of a call and for those that are the same in all of them. A greeting may name the
caller, so what is kept is bounded in number and age, readable by its worker alone, and deleted when the
worker ends.
"""

import contextlib
import hashlib
import os
import shutil
from datetime import timedelta
from pathlib import Path

from trunkline.kit.clock import Clock
from trunkline.profiles.body import ProfileBody

MOST = 500
"""Sentences. At 16 kB a second a greeting of six seconds is 100 kB, all of them at most 50 MB."""
LIFE = timedelta(hours=24)
"""How long a sentence is kept after it was made."""


def digest(body: ProfileBody, words: str) -> str:
    """The name of the sound of *words*: the same for the same words in the same voice, and for no others."""
    what = f"{body.language}\n{body.tts.model_dump_json()}\n{words}"
    return hashlib.sha256(what.encode()).hexdigest()


class Kept:
    """A folder with one file of sound for each sentence and voice; the processes of a worker share it.

    A folder that cannot be read or written costs the time that it would have saved, and nothing else.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock = folder, clock

    def get(self, body: ProfileBody, words: str) -> bytes | None:
        """*words* in the profile's own voice, PCM16 mono at LINE_RATE_HZ; None when they are not kept."""
        path = self._path(body, words)
        try:
            if self._too_old(path):
                return None
            return path.read_bytes() or None
        except OSError:
            return None

    def has(self, body: ProfileBody, words: str) -> bool:
        """Whether ``get`` would find them; their sound is not read."""
        path = self._path(body, words)
        try:
            return path.stat().st_size > 0 and not self._too_old(path)
        except OSError:
            return False

    def put(self, body: ProfileBody, words: str, pcm: bytes) -> None:
        """Keep *pcm* as the sound of *words*, and let go of what is too old or too much."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._path(body, words)
            half = path.with_suffix(f".{os.getpid()}")
            half.write_bytes(pcm)
            now_s = self._clock().timestamp()
            os.utime(half, (now_s, now_s))
            half.replace(path)  # whoever reads meanwhile gets a whole one
            self._let_go()

    def clear(self) -> None:
        """Forget all of it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, body: ProfileBody, words: str) -> Path:
        return self._folder / f"{digest(body, words)}.pcm"

    def _too_old(self, path: Path) -> bool:
        return self._clock().timestamp() - path.stat().st_mtime > LIFE.total_seconds()

    def _let_go(self) -> None:
        made = sorted(self._folder.glob("*.pcm"), key=lambda path: -path.stat().st_mtime)
        for at, path in enumerate(made):
            if at >= MOST or self._too_old(path):
                path.unlink(missing_ok=True)
