"""Ears that know the recorded lines and nothing else, at next to no cost: for load and latency.

Where pocketsphinx costs 4 to 7 per cent of a core and says its final when its own endpointer does, these
tell speech from silence by energy, and which line it was by the shape of its loudness. So the
transcript comes at a time that is known beforehand: what a bench of latency must hold still.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trunkline.sandbox.caller import LINES, load_line
from trunkline.sandbox.ears import EarEvent, Final, Interim, SpeechStarted, Word

FRAME_S = 0.02
LOUD_RMS = 150.0
"""Above this root mean square of a frame somebody speaks (PCM16; about -47 dBFS)."""
_ABOVE_NOISE = 1.5
"""On a line with noise, above this many times its level."""
_FLOOR_FRAMES = 100
"""The noise is the quietest of so many frames (2 s): nobody speaks as long without a pause."""
_ONSET = 3
"""So many loud frames in a row begin an utterance: a click is none."""
_QUIET = 11
"""So many quiet frames end one, 220 ms: longer than any pause within a recorded line (160 ms), and
shorter than what the wire takes to say its final (``Delays.stt_final``)."""
_ALIKE = 0.8
"""Least cosine of two shapes that are of the same line; two different lines have at most 0.7."""
_SHIFTS = range(-4, 5)

Shape = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Line:
    """A recorded line: its words, and how its loudness goes, a value per frame, silence cut off."""

    words: tuple[str, ...]
    shape: Shape


def known(folder: Path = LINES) -> tuple[Line, ...]:
    """The recorded lines and asides; a file's name tells its words. A noise is none of them."""
    lines = []
    for path in sorted(folder.rglob("*.wav")):
        if path.name.startswith("noise_"):
            continue
        loud = shape(b"".join(load_line(str(path.resolve()))), 8000)
        heard = np.flatnonzero(loud >= LOUD_RMS)
        words = tuple(path.stem.split("_"))
        lines.append(Line(words, loud[heard[0] : heard[-1] + 1]))
    return tuple(lines)


def shape(pcm: bytes, rate_hz: int) -> Shape:
    """Root mean square of each frame of PCM16."""
    size = round(rate_hz * FRAME_S)
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return np.asarray(np.sqrt((frames * frames).mean(axis=1)))


def which(heard: Shape, lines: Sequence[Line], *, whole: bool) -> Line | None:
    """The line that *heard* is, or is the beginning of unless *whole*; None when it is none of them."""
    best, found = _ALIKE, None
    for line in lines:
        if whole and abs(len(line.shape) - len(heard)) > 6:
            continue
        likeness = max(_likeness(heard, line.shape, shift) for shift in _SHIFTS)
        if likeness > best:
            best, found = likeness, line
    return found


def _likeness(one: Shape, other: Shape, shift: int) -> float:
    """Cosine of the two shapes, *other* moved by so many frames, over what both have."""
    first, second = (one[shift:], other) if shift >= 0 else (one, other[-shift:])
    size = min(len(first), len(second))
    if size < 5:
        return 0.0
    first, second = first[:size] - first[:size].mean(), second[:size] - second[:size].mean()
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0


class ScriptEars:
    """Ears that know *lines*. Implements ``ears.Listener``."""

    def __init__(
        self,
        lines: Sequence[Line],
        *,
        every: timedelta = timedelta(milliseconds=100),
        behind: timedelta = timedelta(milliseconds=150),
    ) -> None:
        self._lines, self._every, self._behind = lines, every, behind

    async def stream(self, sample_rate_hz: int) -> "ScriptHearing":
        """See :meth:`ears.Listener.stream`."""
        return ScriptHearing(self._lines, sample_rate_hz, self._every, self._behind)


class ScriptHearing:
    """One stream. Implements ``ears.Hearing``: interims every *every*, of what was said *behind* ago."""

    def __init__(
        self, lines: Sequence[Line], rate_hz: int, every: timedelta, behind: timedelta
    ) -> None:
        self._lines, self._rate_hz = lines, rate_hz
        self._every, self._behind = round(every.total_seconds() / FRAME_S), behind.total_seconds()
        self._events: asyncio.Queue[EarEvent | None] = asyncio.Queue()
        self._rest = b""
        self._frames = 0
        self._loud: list[float] = []
        """The utterance so far; before it begins, the loud frames in a row."""
        self._quiet = 0
        self._begun: int | None = None
        self._told: tuple[Word, ...] = ()
        self._lately: deque[float] = deque([0.0], _FLOOR_FRAMES)

    async def send(self, pcm: bytes) -> None:
        """See :meth:`ears.Hearing.send`."""
        pcm = self._rest + pcm
        size = round(self._rate_hz * FRAME_S) * 2
        cut = len(pcm) // size * size
        self._rest = pcm[cut:]
        for loudness in shape(pcm[:cut], self._rate_hz):
            for event in self._frame(float(loudness)):
                self._events.put_nowait(event)

    async def finalize(self) -> None:
        """See :meth:`ears.Hearing.finalize`."""
        at = round(self._frames * FRAME_S, 2)
        self._events.put_nowait(
            self._end(finalized=True) if self._begun is not None else Final((), at, at, True)
        )

    async def end(self) -> None:
        """See :meth:`ears.Hearing.end`."""
        if self._begun is not None:
            self._events.put_nowait(self._end())
        self._events.put_nowait(None)

    async def close(self) -> None:
        """See :meth:`ears.Hearing.close`."""
        self._events.put_nowait(None)

    async def __aiter__(self) -> AsyncIterator[EarEvent]:
        """See :meth:`ears.Hearing.__aiter__`."""
        while (event := await self._events.get()) is not None:
            yield event

    def _frame(self, loudness: float) -> Iterator[EarEvent]:
        self._frames += 1
        self._lately.append(loudness)
        loud = loudness >= max(LOUD_RMS, _ABOVE_NOISE * min(self._lately))
        if self._begun is None:
            self._loud = [*self._loud, loudness] if loud else []
            if len(self._loud) >= _ONSET:
                self._begun, self._quiet, self._told = self._frames - len(self._loud), 0, ()
                yield SpeechStarted(round(self._begun * FRAME_S, 2))
            return
        self._loud.append(loudness)
        self._quiet = 0 if loud else self._quiet + 1
        if self._quiet >= _QUIET:
            yield self._end()
        elif len(self._loud) % self._every == 0:
            words = self._words(whole=False)
            if words and words != self._told:
                self._told = words
                yield Interim(words)

    def _end(self, finalized: bool = False) -> Final:
        words = self._words(whole=True)
        assert self._begun is not None
        start, end = self._begun, self._frames - self._quiet
        self._begun, self._loud, self._quiet = None, [], 0
        return Final(words, round(start * FRAME_S, 2), round(end * FRAME_S, 2), finalized)

    def _words(self, *, whole: bool) -> tuple[Word, ...]:
        """What is known of the utterance: all of it, or what was said a while ago."""
        heard = np.array(self._loud[: len(self._loud) - self._quiet])
        line = which(heard, self._lines, whole=whole)
        if line is None:
            return ()
        assert self._begun is not None
        start_s, length_s = self._begun * FRAME_S, len(line.shape) * FRAME_S
        if whole:
            length_s = len(heard) * FRAME_S
        # The quiet after it counts: by then the last word is behind as well.
        until_s = start_s + len(self._loud) * FRAME_S - (0.0 if whole else self._behind)
        letters, said = sum(map(len, line.words)), 0
        words = []
        for text in line.words:
            begin, said = start_s + length_s * said / letters, said + len(text)
            end = start_s + length_s * said / letters
            if whole or end <= until_s:
                words.append(Word(text, round(begin, 2), round(end, 2), 0.9))
        return tuple(words)
