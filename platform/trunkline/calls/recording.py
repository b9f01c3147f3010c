"""A recording's segments become one WAV.

The order that survives a crash at any point: ``join`` → ``service.close_recording`` committed →
``discard``. Until the last step nothing is lost, and every step may be repeated.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trunkline.calls.models import Recording
from trunkline.kit.audio import (
    SAMPLE_BYTES,
    WAV_HEADER_BYTES,
    PeakMeter,
    Reply,
    SoundMeter,
    replies,
    wav_header,
)
from trunkline.kit.blobs import BlobMissing, Blobs

CHANNELS = 2
"""The caller left, the agent right."""

BUCKETS = 300
"""Bars of the waveform on the page of a call."""

_FRAME_BYTES = CHANNELS * SAMPLE_BYTES
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Joined:
    """A recording in one piece, a WAV under ``blob_key``."""

    blob_key: str
    duration_ms: int
    peaks: list[dict[str, Any]]
    replies: list[Reply] = field(default_factory=list)
    """How long the caller waited for each of the agent's replies, as it is heard."""
    missing: tuple[str, ...] = ()
    """Segments that were not there; the sound after them comes too early by their length."""


async def join(blobs: Blobs, recording: Recording) -> Joined:
    """Write the WAV of all segments and measure it; the segments stay.

    The key depends on the call alone, so a join that was cut off, or two at once, end in
    the same blob. A blob that exists is whole: when segments are gone already, it is taken as it is.
    Audio is streamed; some megabytes are held at a time.
    """
    key = f"recordings/{recording.call_id}.wav"
    sizes, missing = await _sizes(blobs, recording.segments)
    if missing and await blobs.exists(key):
        return await _measured(blobs, key, recording.sample_rate_hz)
    meter = PeakMeter(sum(sizes.values()) // _FRAME_BYTES, BUCKETS)
    ear = SoundMeter(recording.sample_rate_hz, CHANNELS)

    async def wav() -> AsyncIterator[bytes]:
        frames = sum(sizes.values()) // _FRAME_BYTES
        yield wav_header(frames, recording.sample_rate_hz, CHANNELS)
        for segment, size in sizes.items():
            async for chunk in _chunks(blobs, segment, 0, size):
                samples = _samples(chunk)
                meter.add(samples)
                ear.add(samples)
                yield chunk

    try:
        await blobs.put_stream(key, wav())
    except BlobMissing:
        # Another joiner was faster and has begun to clear up behind itself.
        return await _measured(blobs, key, recording.sample_rate_hz)
    frames = sum(sizes.values()) // _FRAME_BYTES
    ms = _ms(frames, recording.sample_rate_hz)
    return Joined(key, ms, meter.peaks(), replies(*ear.sounds()), tuple(missing))


async def discard(blobs: Blobs, segments: Iterable[str]) -> None:
    """Delete the segments, once the joined recording is stored and committed."""
    for segment in segments:
        await blobs.delete(segment)


async def _sizes(blobs: Blobs, segments: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """The bytes of whole frames in each segment that is there, in order, and those that are not."""
    sizes: dict[str, int] = {}
    missing = []
    for segment in segments:
        try:
            size = await blobs.size(segment)
        except BlobMissing:
            missing.append(segment)
        else:
            sizes[segment] = size - size % _FRAME_BYTES
    return sizes, missing


async def _measured(blobs: Blobs, key: str, sample_rate_hz: int) -> Joined:
    """What ``join`` would have said of the WAV it wrote earlier. Raises BlobMissing."""
    end = await blobs.size(key)
    frames = (end - WAV_HEADER_BYTES) // _FRAME_BYTES
    meter, ear = PeakMeter(frames, BUCKETS), SoundMeter(sample_rate_hz, CHANNELS)
    async for chunk in _chunks(blobs, key, WAV_HEADER_BYTES, end):
        samples = _samples(chunk)
        meter.add(samples)
        ear.add(samples)
    return Joined(key, _ms(frames, sample_rate_hz), meter.peaks(), replies(*ear.sounds()))


async def _chunks(blobs: Blobs, key: str, start: int, end: int) -> AsyncIterator[bytes]:
    for at in range(start, end, _CHUNK_BYTES):
        yield await blobs.get_range(key, at, min(at + _CHUNK_BYTES, end))


def _samples(pcm: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    return np.frombuffer(pcm, dtype="<i2").astype(np.int16).reshape(-1, CHANNELS)


def _ms(frames: int, sample_rate_hz: int) -> int:
    return round(frames * 1000 / sample_rate_hz)
