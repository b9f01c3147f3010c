"""Sound on its way into and out of a Realtime session: formats, rates, and who is speaking. No I/O.

OpenAI Realtime takes ``audio/pcm`` (16 bit, 24 kHz), ``audio/pcmu`` and ``audio/pcma`` (G.711, 8 kHz).
Its server VAD is a model that nobody outside has; here sound is told from silence by its level, which on
a telephone line says nearly the same.
"""

import math
from dataclasses import dataclass
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from trunkline.kit.audio import SAMPLE_BYTES, mulaw_decode, mulaw_encode

Format = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
RATES_HZ: dict[str, int] = {"audio/pcm": 24_000, "audio/pcmu": 8000, "audio/pcma": 8000}
"""Each format's samples a second."""

EARS_HZ = 16_000
FRAME_MS = 20
FRAME_BYTES = EARS_HZ * FRAME_MS // 1000 * SAMPLE_BYTES
_ONSET_FRAMES = 3
"""A sound must last this long to be speech: shorter is a click."""


def _alaw_table() -> NDArray[np.int16]:
    """ITU-T G.711 table 1b, scaled from 13 to 16 bits."""
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment, step = code >> 4 & 7, code & 0x0F
    magnitude = np.where(
        segment == 0, (step << 4) + 8, ((step << 4) + 0x108) << np.maximum(segment - 1, 0)
    )
    table: NDArray[np.int16] = np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
    return table


_ALAW = _alaw_table()
_ALAW_CODES = np.argsort(_ALAW).astype(np.uint8)
_ALAW_LEVELS = _ALAW[_ALAW_CODES].astype(np.int32)
_ALAW_EDGES = (_ALAW_LEVELS[1:] + _ALAW_LEVELS[:-1]) // 2


def alaw_decode(alaw: bytes) -> bytes:
    """16-bit samples of G.711 A-law."""
    return _ALAW[np.frombuffer(alaw, dtype=np.uint8)].astype("<i2").tobytes()


def alaw_encode(pcm: bytes) -> bytes:
    """G.711 A-law, one byte per sample, of 16-bit samples: the nearest level to each."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.int32)
    return _ALAW_CODES[np.searchsorted(_ALAW_EDGES, samples)].tobytes()


def decode(data: bytes, kind: str) -> bytes:
    """16-bit samples of *data*. Raises ValueError when it ends inside a sample."""
    if kind == "audio/pcm":
        if len(data) % SAMPLE_BYTES:
            raise ValueError("the audio ends inside a sample")
        return data
    return mulaw_decode(data) if kind == "audio/pcmu" else alaw_decode(data)


def encode(pcm: bytes, kind: str) -> bytes:
    """*pcm* in the format *kind*."""
    if kind == "audio/pcm":
        return pcm
    return mulaw_encode(pcm) if kind == "audio/pcmu" else alaw_encode(pcm)


class ToEars:
    """Brings a client's audio to the ears' rate."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._rate_hz = RATES_HZ[kind]
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=EARS_HZ)

    def push(self, data: bytes) -> bytes:
        """16-bit samples at ``EARS_HZ``. Raises ValueError when *data* ends inside a sample."""
        samples = np.frombuffer(decode(data, self._kind), dtype="<i2")
        if not len(samples):
            return b""
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "s16", "mono")
        frame.sample_rate = self._rate_hz
        return b"".join(part.to_ndarray().tobytes() for part in self._resampler.resample(frame))


@dataclass(frozen=True)
class Started:
    """Somebody began to speak *at_ms* after the first audio."""

    at_ms: int


@dataclass(frozen=True)
class Quiet:
    """Whoever spoke has been silent for *for_ms* now; comes again with every further 20 ms."""

    at_ms: int
    for_ms: int


class Vad:
    """Tells speech from silence in 16-bit audio at ``EARS_HZ``.

    *threshold* is OpenAI's: 0 to 1, higher needs louder sound. Here 0.5 stands for -44 dBFS, and each
    tenth for 2.4 dB.
    """

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold
        self._rest = b""
        self._frames = 0
        self._loud = 0
        self._silent_ms = 0
        self.speaking = False

    @property
    def position_ms(self) -> int:
        """How much audio was heard."""
        return self._frames * FRAME_MS

    def push(self, pcm: bytes) -> list[Started | Quiet]:
        """What more audio tells."""
        data = self._rest + pcm
        whole = len(data) - len(data) % FRAME_BYTES
        self._rest = data[whole:]
        found: list[Started | Quiet] = []
        for at in range(0, whole, FRAME_BYTES):
            self._frames += 1
            if self._is_loud(data[at : at + FRAME_BYTES]):
                self._loud += 1
                self._silent_ms = 0
                if not self.speaking and self._loud >= _ONSET_FRAMES:
                    self.speaking = True
                    found.append(Started(self.position_ms - _ONSET_FRAMES * FRAME_MS))
            else:
                self._loud = 0
                self._silent_ms += FRAME_MS
                if self.speaking:
                    found.append(Quiet(self.position_ms, self._silent_ms))
        return found

    def stop(self) -> None:
        """The turn was taken as over."""
        self.speaking = False
        self._loud = 0

    def _is_loud(self, frame: bytes) -> bool:
        samples = np.frombuffer(frame, dtype="<i2").astype(np.float64)
        level = math.sqrt(float(np.mean(samples * samples))) / 32768
        return level > 0 and 20 * math.log10(level) > 24 * self.threshold - 56
