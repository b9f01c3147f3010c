"""Who has answered: a person, a machine, or a service that asks who is calling. Pure.

Decided by how long is spoken before the first pause, by what is said, and by the beep. A person says
"hello" and waits; a machine talks on. The times are those of livekit-agents 1.8.9's ``voice.amd``
(2.5 s of speech, 0.5 s of silence); its model is not asked, since it holds up the first words.
"""

from enum import StrEnum

import numpy as np

from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.phrases import FALLBACK, plain, understood

FRAME_MS = 20
SHORT_MS = 2_500
"""Speech no longer than this before a pause is a person's."""
PAUSE_MS = 500
"""Silence after which somebody who said little waits for us."""
END_MS = 1_000
"""Silence after which somebody who said more has finished, and the recogniser too."""
NOBODY_SPEAKS_MS = 2_500
"""After so long without a word we speak first: some people wait."""
AFTER_GREETING_MS = 1_500
"""A machine that is silent for so long records, though no beep was heard."""

_LOUD = 300.0
"""Root mean square of PCM16 above which somebody speaks: -41 dBFS, far above a quiet line."""
_BEEP_LOUD = 500.0
_BEEP_MS = 160
_BEEP_HZ = (350.0, 2_200.0)
_PURE = 0.9
"""The part of a frame's energy that a tone has at one frequency; vowels have less for so long."""


class Who(StrEnum):
    """Who it is."""

    PERSON = "person"
    MACHINE = "machine"
    SCREENING = "screening"


class Listener:
    """Listens to the far end from the answer on: 20 ms of sound at a time, and its words when they come."""

    def __init__(self, language: str = FALLBACK) -> None:
        """*language* is one of ``phrases.languages()``: that of the words."""
        self._language = language
        self.position_ms = 0
        self.quiet_ms = 0
        """Since the last sound, or the beginning."""
        self.beeped = False
        """Whether a beep was heard, and is over."""
        self._began: int | None = None
        self._last = 0
        self._tone_ms = 0
        self._tone_hz = 0.0
        self._text = ""

    def hear(self, pcm: bytes) -> None:
        """The next 20 ms, PCM16 at the line's rate."""
        self.position_ms += FRAME_MS
        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
        rms = float(np.sqrt(np.mean(samples * samples))) if len(samples) else 0.0
        self._tone(samples, rms)
        if rms >= _LOUD:
            if self._began is None:
                self._began = self.position_ms - FRAME_MS
            self._last, self.quiet_ms = self.position_ms, 0
        else:
            self.quiet_ms += FRAME_MS

    def read(self, text: str) -> None:
        """All that the recogniser has made of it so far."""
        self._text = plain(text)

    def again(self) -> None:
        """Listen for whoever comes next, as from the answer."""
        self._began, self._text, self.beeped = None, "", False
        self.quiet_ms = 0

    @property
    def silent(self) -> bool:
        """Whether nobody has said anything yet."""
        return self._began is None

    @property
    def machine(self) -> bool:
        """Whether its words or its beep show a machine, whatever was thought of it before."""
        return self.beeped or self._says("machine")

    @property
    def screening(self) -> bool:
        """Whether its words ask who is calling, whatever was thought of it before."""
        return self._says("screening")

    @property
    def recording(self) -> bool:
        """Whether a machine has begun to record."""
        return self.beeped or (self._began is not None and self.quiet_ms >= AFTER_GREETING_MS)

    @property
    def who(self) -> Who | None:
        """Who it is; None while that cannot be said."""
        if self.machine:
            return Who.MACHINE
        if self._began is None:
            return Who.PERSON if self.quiet_ms >= NOBODY_SPEAKS_MS else None
        if self.screening:
            return Who.SCREENING if self.quiet_ms >= PAUSE_MS else None
        if self._last - self._began <= SHORT_MS:
            return Who.PERSON if self.quiet_ms >= PAUSE_MS else None
        # Without a word of it we can wait as long as for a machine that does not beep.
        if self.quiet_ms < (END_MS if self._text else AFTER_GREETING_MS):
            return None
        return Who.PERSON if self._says("person") else Who.MACHINE

    def _says(self, meaning: str) -> bool:
        return understood(self._language, meaning).search(self._text) is not None

    def _tone(self, samples: "np.ndarray[tuple[int], np.dtype[np.float64]]", rms: float) -> None:
        hz = _pure(samples) if rms >= _BEEP_LOUD else 0.0
        if hz and (not self._tone_ms or abs(hz - self._tone_hz) <= LINE_RATE_HZ / len(samples)):
            self._tone_ms, self._tone_hz = self._tone_ms + FRAME_MS, hz
            return
        if self._tone_ms >= _BEEP_MS:
            self.beeped = True
        self._tone_ms = 0


def _pure(samples: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """The frequency of a pure tone in Hz; 0 when there is none in the range of beeps."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    peak = int(np.argmax(power))
    hz = peak * LINE_RATE_HZ / len(samples)
    # A window spreads a tone over the bins beside it.
    part = power[max(0, peak - 2) : peak + 3].sum() / max(power.sum(), 1.0)
    return hz if part >= _PURE and _BEEP_HZ[0] <= hz <= _BEEP_HZ[1] else 0.0
