"""Telephone audio: µ-law, WAV, waveform peaks, and reading who spoke when off a recording.

Samples are 16-bit signed; as bytes they are little-endian and, with two channels, interleaved.
"""

import io
import struct
import wave
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]

SAMPLE_BYTES = 2
WAV_HEADER_BYTES = 44

FRAME_MS = 10
"""Resolution at which sound is told from silence."""

GAP_MS = 300
"""A shorter silence is a pause within a phrase: the stop of a consonant, a breath, a comma."""

FLOOR_DBFS = -50.0
"""Quieter than this is silence: far above µ-law's idle noise (about -70), far below speech (-30 to -15)."""

SHORTEST_MS = 30
"""A shorter sound is a click: no syllable is shorter."""


def _decode_table() -> Samples:
    """ITU-T G.711 table 2b, scaled from 14 to 16 bits: sign, 3 bits of segment, 4 of step."""
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    segment, step = code >> 4 & 7, code & 0x0F
    magnitude = ((step << 3) + 132 << segment) - 132
    table: Samples = np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)
    return table


def _encode_table() -> NDArray[np.uint8]:
    """The code of every sample, indexed by the sample as an unsigned 16-bit number."""
    sample = np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)
    magnitude = np.minimum(np.abs(sample), 32635) + 132
    segment = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    code = np.where(sample < 0, 0x80, 0) | segment << 4 | magnitude >> segment + 3 & 0x0F
    table: NDArray[np.uint8] = (~code & 0xFF).astype(np.uint8)
    return table


_DECODE: Samples = _decode_table()
_ENCODE: NDArray[np.uint8] = _encode_table()


def mulaw_encode(pcm: bytes) -> bytes:
    """G.711 µ-law, one byte per sample, of 16-bit samples."""
    codes: NDArray[np.uint8] = _ENCODE[np.frombuffer(pcm, dtype="<u2")]
    return codes.tobytes()


def mulaw_decode(mulaw: bytes) -> bytes:
    """16-bit samples of G.711 µ-law."""
    return _DECODE[np.frombuffer(mulaw, dtype=np.uint8)].astype("<i2").tobytes()


def wav_header(frames: int, sample_rate_hz: int, channels: int) -> bytes:
    """The head of a WAV of that many 16-bit frames; the samples follow it.

    Raises ValueError when they would not fit into a WAV (4 GiB).
    """
    frame_bytes = channels * SAMPLE_BYTES
    data_bytes = frames * frame_bytes
    if data_bytes + WAV_HEADER_BYTES - 8 > 0xFFFF_FFFF:
        raise ValueError(f"{data_bytes} bytes of audio do not fit into one WAV; split them")
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        data_bytes + WAV_HEADER_BYTES - 8,
        b"WAVE",
        b"fmt ",
        16,
        1,
        channels,
        sample_rate_hz,
        sample_rate_hz * frame_bytes,
        frame_bytes,
        8 * SAMPLE_BYTES,
        b"data",
        data_bytes,
    )


def wav_bytes(pcm: bytes, sample_rate_hz: int, channels: int) -> bytes:
    """A WAV of 16-bit samples. Raises ValueError when *pcm* ends inside a frame."""
    frames, rest = divmod(len(pcm), channels * SAMPLE_BYTES)
    if rest:
        raise ValueError(
            f"{len(pcm)} bytes are no whole number of {channels}-channel 16-bit frames"
        )
    return wav_header(frames, sample_rate_hz, channels) + pcm


def read_wav(data: bytes) -> tuple[Samples, int]:
    """The samples, ``[frames, channels]``, and the rate in Hz of a 16-bit PCM WAV.

    Raises ValueError that says what is wrong with it and what is wanted.
    """
    try:
        with wave.open(io.BytesIO(data)) as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            promised, rate = file.getnframes(), file.getframerate()
            pcm = file.readframes(promised) if width == SAMPLE_BYTES else b""
    except (wave.Error, EOFError, struct.error) as error:
        reason = str(error) or "it ends inside its header"
        raise ValueError(f"this is no PCM WAV ({reason}); a 16-bit PCM WAV is wanted") from error
    if width != SAMPLE_BYTES:
        raise ValueError(f"this WAV has {8 * width}-bit samples; a 16-bit PCM WAV is wanted")
    if len(pcm) != promised * channels * SAMPLE_BYTES:
        raise ValueError(
            f"this WAV is cut off: it promises {promised} frames and holds "
            f"{len(pcm) // (channels * SAMPLE_BYTES)}; a whole file is wanted"
        )
    return np.frombuffer(pcm, dtype="<i2").astype(np.int16).reshape(-1, channels), rate


class PeakMeter:
    """The waveform of a stereo recording whose length is known, from pieces given in order."""

    def __init__(self, frames: int, buckets: int) -> None:
        self._frames, self._seen = frames, 0
        self._highest = np.zeros((min(frames, buckets), 2), dtype=np.int32)

    def add(self, samples: Samples) -> None:
        """The next piece, ``[frames, 2]``; what exceeds the promised length is left out."""
        samples = samples[: self._frames - self._seen]
        if len(samples):
            at = np.arange(self._seen, self._seen + len(samples)) * len(self._highest)
            bucket = at // self._frames
            first, starts = np.unique(bucket, return_index=True)
            highest = np.maximum.reduceat(np.abs(samples.astype(np.int32)), starts, axis=0)
            self._highest[first] = np.maximum(self._highest[first], highest)
            self._seen += len(samples)

    def peaks(self) -> list[dict[str, Any]]:
        """``{"left": 0…100, "right": 0…100}`` per bucket, in percent of full scale."""
        percent = np.ceil(self._highest / 32768 * 100).astype(int)
        return [{"left": int(left), "right": int(right)} for left, right in percent]


def peaks(samples: Samples, buckets: int) -> list[dict[str, Any]]:
    """The waveform of stereo *samples*, ``[frames, 2]``, in *buckets* of equal length (fewer if it is
    shorter than that): ``{"left": 0…100, "right": 0…100}``, the highest sample in percent of full scale."""
    meter = PeakMeter(len(samples), buckets)
    meter.add(samples)
    return meter.peaks()


class Interval(NamedTuple):
    """A stretch of sound, in milliseconds from the beginning; the end is not part of it."""

    start_ms: int
    end_ms: int


class SoundMeter:
    """When there is sound on each channel of a recording, from pieces given in order.

    A frame of FRAME_MS has sound when its RMS level is at least *floor_dbfs* (0 dBFS: a full-scale
    square wave). Gaps shorter than *gap_ms* are bridged, then sounds shorter than *shortest_ms*
    dropped. Edges are exact to one frame; this is energy, so noise and keys count as well as speech.
    """

    def __init__(
        self,
        sample_rate_hz: int,
        channels: int,
        *,
        gap_ms: int = GAP_MS,
        floor_dbfs: float = FLOOR_DBFS,
        shortest_ms: int = SHORTEST_MS,
    ) -> None:
        self._length = sample_rate_hz * FRAME_MS // 1000
        self._least = (32768 * 10 ** (floor_dbfs / 20)) ** 2
        self._gap_ms, self._shortest_ms = gap_ms, shortest_ms
        self._rest: Samples = np.zeros((0, channels), dtype=np.int16)
        self._loud: list[NDArray[np.bool_]] = []

    def add(self, samples: Samples) -> None:
        """The next piece, ``[frames, channels]``."""
        joined = np.concatenate([self._rest, samples])
        whole = len(joined) - len(joined) % self._length
        self._loud.append(self._heard(joined[:whole]))
        self._rest = joined[whole:]

    def sounds(self) -> list[list["Interval"]]:
        """The sounds of each channel so far; a frame that is not full yet counts as if silence followed."""
        last = np.zeros((self._length if len(self._rest) else 0, self._rest.shape[1]), np.int16)
        last[: len(self._rest)] = self._rest
        loud = np.concatenate([*self._loud, self._heard(last)])
        return [self._intervals(loud[:, channel]) for channel in range(loud.shape[1])]

    def _heard(self, samples: Samples) -> NDArray[np.bool_]:
        power = samples.reshape(-1, self._length, samples.shape[1]).astype(np.float64) ** 2
        heard: NDArray[np.bool_] = power.mean(axis=1) >= self._least
        return heard

    def _intervals(self, loud: NDArray[np.bool_]) -> list["Interval"]:
        edges = np.flatnonzero(np.diff(loud.astype(np.int8), prepend=0, append=0))
        found: list[Interval] = []
        for start, end in edges.reshape(-1, 2) * FRAME_MS:
            if found and start - found[-1].end_ms < self._gap_ms:
                found[-1] = Interval(found[-1].start_ms, int(end))
            else:
                found.append(Interval(int(start), int(end)))
        return [sound for sound in found if sound.end_ms - sound.start_ms >= self._shortest_ms]


def sounds(
    samples: Samples,
    sample_rate_hz: int,
    *,
    gap_ms: int = GAP_MS,
    floor_dbfs: float = FLOOR_DBFS,
    shortest_ms: int = SHORTEST_MS,
) -> list[Interval]:
    """When there is sound on one channel, measured as a ``SoundMeter`` does."""
    meter = SoundMeter(
        sample_rate_hz, 1, gap_ms=gap_ms, floor_dbfs=floor_dbfs, shortest_ms=shortest_ms
    )
    meter.add(samples.reshape(-1, 1))
    return meter.sounds()[0]


class Reply(NamedTuple):
    """The agent's first sound after the caller's last."""

    at_ms: int
    """Where the agent begins, from the beginning of the recording."""
    after_ms: int
    """How long the caller has waited for it: what they felt, rather than what was measured inside."""


def replies(left: Sequence[Interval], right: Sequence[Interval]) -> list[Reply]:
    """From the caller's last sound to the agent's first, once per change of side.

    *left* is the caller, *right* the agent, both as ``sounds`` gives them. An agent's sound is a
    reply when the sound that ended last before it was the caller's. A second phrase of the
    same reply is none, and neither is an agent that begins while the caller still speaks.
    """
    found = []
    agent_ended = -1
    for sound in right:
        ended = max((said.end_ms for said in left if said.start_ms < sound.start_ms), default=-1)
        if agent_ended < ended <= sound.start_ms:
            found.append(Reply(sound.start_ms, sound.start_ms - ended))
        agent_ended = sound.end_ms
    return found


def reply_latencies(left: Sequence[Interval], right: Sequence[Interval]) -> list[int]:
    """The milliseconds of ``replies`` alone."""
    return [reply.after_ms for reply in replies(left, right)]


def silence_after_barge_in(left: Sequence[Interval], right: Sequence[Interval]) -> list[int]:
    """For each caller's sound that begins while the agent sounds: milliseconds until the agent is silent.

    The agent is silent where its interval ends, so a pause shorter than the ``gap_ms`` of
    ``sounds`` does not count as having stopped.
    """
    return [
        sound.end_ms - said.start_ms
        for said in left
        for sound in right
        if sound.start_ms < said.start_ms < sound.end_ms
    ]
