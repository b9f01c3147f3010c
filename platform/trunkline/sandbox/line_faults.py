"""What a telephone line does to sound: G.711, and if wanted loss, jitter, noise and an echo.

Pure: 20 ms of PCM16 at LINE_RATE_HZ go in and come out, each tick first ``Wire.hear``, then ``Wire.say``.
The same faults spoil the same sounds in the same way each time.
"""

import random
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from trunkline.agent.audio import FRAME, FRAME_S, SILENCE
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.kit.audio import Samples, mulaw_decode, mulaw_encode

BAND_HZ = (300, 3400)
"""The telephone band, in which the noise is (ITU-T G.712)."""

NOISE_S = 8
"""After so many seconds the noise repeats itself."""

BUFFER = timedelta(milliseconds=80)
"""How long a receiver holds frames so that late ones are in time: four times a jitter of 20 ms."""


@dataclass(frozen=True)
class Echo:
    """What the other side says comes back from the caller's end (a hybrid, a loudspeaker)."""

    delay: timedelta
    attenuation_db: float
    """How much quieter it comes back."""


@dataclass(frozen=True)
class Faults:
    """What is wrong with a line; by itself nothing is. Raises ValueError for what no line can do."""

    loss: float = 0.0
    """Share of the frames that get lost, each way; 0 to below 1."""
    burst: float = 1.0
    """Frames lost in a row on average (Gilbert's model), at least 1."""
    jitter: timedelta = timedelta(0)
    """Interarrival jitter (RFC 3550 §6.4.1), each way: frames come by an exponential delay of this mean
    too late, of which two differ by this mean. One that comes later than *buffer* is lost."""
    buffer: timedelta = BUFFER
    """The receiver's; with jitter everything is heard so much later, in whole frames."""
    noise_dbfs: float | None = None
    """Level of steady noise at the caller's end (RMS; 0 dBFS: a full-scale square wave)."""
    echo: Echo | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.loss < 1:
            raise ValueError(f"a loss of {self.loss} is no share from 0 to below 1")
        # Else the stretches between two bursts would have to be shorter than one frame.
        if self.burst < max(1.0, self.loss / (1 - self.loss)):
            raise ValueError(f"bursts of {self.burst} frames cannot make a loss of {self.loss}")
        if self.jitter < timedelta(0) or self.buffer < timedelta(0):
            raise ValueError("jitter and buffer cannot be negative")
        if self.echo is not None and self.echo.delay < timedelta(0):
            raise ValueError("an echo cannot come before the sound")


SOUND = Faults()
"""A line with nothing wrong."""


class Wire:
    """The caller's line, of which each end is a telephone."""

    def __init__(self, faults: Faults = SOUND) -> None:
        self._inward, self._outward = _Way(faults, "in"), _Way(faults, "out")
        self._noise = _noise(faults) if faults.noise_dbfs is not None else None
        self._at = 0
        self._echo = faults.echo
        delay = faults.echo.delay.total_seconds() if faults.echo else 0.0
        self._delay = round(delay * LINE_RATE_HZ)
        self._heard: Samples = np.zeros(self._delay, dtype=np.int16)
        """What was heard and has not come back yet."""

    def hear(self, pcm: bytes) -> bytes:
        """What the caller hears now, of what the other side says now."""
        heard = self._inward.carry(pcm)
        if self._echo is not None:
            self._heard = np.append(self._heard, np.frombuffer(heard, dtype="<i2"))
        return heard

    def say(self, pcm: bytes) -> bytes:
        """What the other side hears now, of what the caller says now."""
        if self._noise is None and self._echo is None:
            return self._outward.carry(pcm)
        said = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
        if self._noise is not None:
            said += self._noise[self._at : self._at + FRAME]
            self._at = (self._at + FRAME) % len(self._noise)
        if self._echo is not None and len(self._heard) >= self._delay + FRAME:
            said += self._heard[:FRAME] * 10 ** (-self._echo.attenuation_db / 20)
            self._heard = self._heard[FRAME:]
        return self._outward.carry(np.clip(np.rint(said), -32768, 32767).astype("<i2").tobytes())


class _Way:
    """One direction: coded by G.711, carried in packets, held in the receiver's buffer."""

    def __init__(self, faults: Faults, way: str) -> None:
        self._faults = faults
        self._random = random.Random(f"{faults.seed} {way}")
        held = faults.buffer.total_seconds() if faults.jitter else 0.0
        self._held = [SILENCE] * round(held / FRAME_S)
        self._lost = False

    def carry(self, pcm: bytes) -> bytes:
        """The frame to be heard now; a gap is silence, nothing conceals it."""
        self._held.append(SILENCE if self._gone() else mulaw_decode(mulaw_encode(pcm)))
        return self._held.pop(0)

    def _gone(self) -> bool:
        faults = self._faults
        if faults.loss:
            ends = 1 / faults.burst
            begins = ends * faults.loss / (1 - faults.loss)
            self._lost = self._random.random() < (1 - ends if self._lost else begins)
        late = False
        if faults.jitter:
            late = self._random.expovariate(1 / faults.jitter.total_seconds()) > (
                faults.buffer.total_seconds()
            )
        return self._lost or late


def _noise(faults: Faults) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """NOISE_S of white noise in BAND_HZ, of exactly the level."""
    assert faults.noise_dbfs is not None
    count = NOISE_S * LINE_RATE_HZ
    spectrum = np.fft.rfft(np.random.default_rng(faults.seed).standard_normal(count))
    hz = np.fft.rfftfreq(count, 1 / LINE_RATE_HZ)
    spectrum[(hz < BAND_HZ[0]) | (hz > BAND_HZ[1])] = 0
    noise = np.fft.irfft(spectrum, count)
    level = 32768 * 10 ** (faults.noise_dbfs / 20)
    return np.asarray(noise * (level / np.sqrt(np.mean(noise**2))), dtype=np.float64)
