"""Both directions of a line: between the frames of an AgentSession and 20 ms of PCM16 at LINE_RATE_HZ.

A line owns one ``Intake`` and one ``Playout`` and moves them by its own clock.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import numpy as np
from livekit import rtc
from livekit.agents import io

from trunkline.agent.line import LINE_RATE_HZ

FRAME_S = 0.020
FRAME = int(LINE_RATE_HZ * FRAME_S)
SILENCE = bytes(FRAME * 2)


class EchoGate:
    """Takes out of the caller's side what is only the agent's own voice coming back, and the noise under it.

    A network's echo canceller leaves a residue, which it silences while nobody else speaks (the non-linear
    processor of ITU-T G.168); some lines have none. While the agent sounds, and as long after as an
    echo may take, frames that are ``DOWN`` below its voice become silence: otherwise each would
    make the agent pause, as if somebody had spoken into its words.
    """

    DOWN = 10 ** (-28 / 20)
    """28 dB. A caller who speaks is louder than this beside any voice; what a canceller leaves is quieter."""
    FRAMES = 30
    """600 ms: both ways through a room with its jitter buffers, and a mobile network."""

    def __init__(self) -> None:
        self._loud: deque[float] = deque([0.0] * self.FRAMES, self.FRAMES)

    def played(self, pcm: bytes) -> None:
        """The agent's frame that is heard now."""
        self._loud.append(rms(pcm))

    def heard(self, pcm: bytes) -> bytes:
        """The caller's frame without what is only echo."""
        return pcm if rms(pcm) >= max(self._loud) * self.DOWN else bytes(len(pcm))


def rms(pcm: bytes) -> float:
    """Root mean square of PCM16 samples; 0 of none."""
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    return float(np.sqrt(np.mean(samples * samples))) if len(samples) else 0.0


def at_line_rate(frames: Sequence[rtc.AudioFrame]) -> bytes:
    """The sound of *frames*, all of one rate, as PCM16 mono at LINE_RATE_HZ. ValueError for none."""
    if not frames:
        raise ValueError("the voice gave no sound")
    down = rtc.AudioResampler(
        frames[0].sample_rate,
        LINE_RATE_HZ,
        num_channels=1,
        quality=rtc.AudioResamplerQuality.HIGH,
    )
    pieces = [piece for frame in frames for piece in down.push(frame)] + down.flush()
    return b"".join(bytes(piece.data) for piece in pieces)


_AUDIBLE = 10 ** (-50 / 20) * 32768
"""50 dB below full scale, far below a voice and above the noise under it."""
_LEAD_S = 0.01


def without_lead(pcm: bytes) -> bytes:
    """*pcm* at LINE_RATE_HZ without the silence before its first sound, which a caller would wait for."""
    loud = np.flatnonzero(np.abs(np.frombuffer(pcm, dtype="<i2").astype(np.int32)) > _AUDIBLE)
    if not len(loud):
        return pcm
    return pcm[2 * max(0, int(loud[0]) - int(_LEAD_S * LINE_RATE_HZ)) :]


async def frames_of(pcm: bytes) -> AsyncIterator[rtc.AudioFrame]:
    """PCM16 at LINE_RATE_HZ as the frames of a line; the last is filled up with silence."""
    for at in range(0, len(pcm), 2 * FRAME):
        piece = pcm[at : at + 2 * FRAME].ljust(2 * FRAME, b"\0")
        yield rtc.AudioFrame(piece, LINE_RATE_HZ, 1, FRAME)


class Intake(io.AudioInput):
    """The caller's voice on its way to the session."""

    def __init__(self) -> None:
        super().__init__(label="line")
        self._frames: asyncio.Queue[rtc.AudioFrame | None] = asyncio.Queue()

    def push(self, pcm: bytes) -> None:
        """The caller's next 20 ms."""
        self._frames.put_nowait(rtc.AudioFrame(pcm, LINE_RATE_HZ, 1, len(pcm) // 2))

    def close(self) -> None:
        """Nothing more comes."""
        self._frames.put_nowait(None)

    async def __anext__(self) -> rtc.AudioFrame:
        frame = await self._frames.get()
        if frame is None:
            raise StopAsyncIteration
        return frame


class Quieted(io.AudioInput):
    """*source* without steady noise, by WebRTC's noise suppression: some 12 dB less of it, 9 ms later."""

    def __init__(self, source: io.AudioInput) -> None:
        super().__init__(label="quieted", source=source)
        self._suppressor = rtc.AudioProcessingModule(noise_suppression=True)

    async def __anext__(self) -> rtc.AudioFrame:
        frame = await super().__anext__()
        rate, pcm = frame.sample_rate, bytes(frame.data)
        size = rate // 100  # it takes 10 ms at a time
        parts = [
            rtc.AudioFrame(bytearray(pcm[at : at + 2 * size]), rate, 1, size)
            for at in range(0, len(pcm), 2 * size)
        ]
        for part in parts:
            self._suppressor.process_stream(part)
        quiet = b"".join(bytes(part.data) for part in parts)
        return rtc.AudioFrame(quiet, rate, 1, frame.samples_per_channel)


class Playout(io.AudioOutput):
    """The agent's voice on its way to the caller, played in real time by the line's clock.

    One segment is everything from the first frame captured to the flush; each ends in exactly
    one ``playback_finished``, or the session would wait for ever. *take_back* is asked when the
    voice is cut or pauses: it takes back the frames that the line has but did not play yet. *begin* is
    told when the first frame of a segment is there, so that it need not wait for the line's next tick.
    """

    def __init__(
        self,
        take_back: Callable[[], Sequence[bytes]] = tuple,
        begin: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(
            label="line", capabilities=io.AudioOutputCapabilities(pause=True), sample_rate=None
        )
        self._take_back, self._begin = take_back, begin
        self._queue: deque[bytes] = deque()
        self._rest = b""
        self._down: rtc.AudioResampler | None = None
        self._open = False
        self._flushed = False
        self._started = False
        self._paused = False
        self._closed = False
        self._played_s = 0.0
        self._drained = asyncio.Event()
        self._drained.set()
        """Clear from a flush until what was flushed has been played."""

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        # A sentence that comes before the last one has been played waits its turn.
        await self._drained.wait()
        self._open = True
        if self._down is None:
            self._down = rtc.AudioResampler(
                frame.sample_rate,
                LINE_RATE_HZ,
                num_channels=1,
                quality=rtc.AudioResamplerQuality.HIGH,
            )
        for piece in self._down.push(frame):
            self._append(bytes(piece.data))
        if self._begin is not None and self._queue and not self._started and not self._paused:
            await self._begin()

    def flush(self) -> None:
        super().flush()
        if not self._open:
            return
        if self._down is not None:
            for piece in self._down.flush():
                self._append(bytes(piece.data))
            self._down = None
        if self._rest:
            self._queue.append(self._rest.ljust(FRAME * 2, b"\0"))
            self._rest = b""
        self._flushed = True
        self._drained.clear()
        if self._closed or not self._queue:
            self._finish(interrupted=self._closed)

    def clear_buffer(self) -> None:
        if self._open:
            self._finish(interrupted=True)

    def close(self) -> None:
        """The line is gone: whatever is still said is over as soon as it is complete."""
        self._closed = True
        self.clear_buffer()

    def pause(self) -> None:
        super().pause()
        if self._started and not self._paused:
            back = self._take_back()
            self._queue.extendleft(reversed(back))
            self._played_s = max(0.0, self._played_s - len(back) * FRAME_S)
        self._paused = True

    def resume(self) -> None:
        super().resume()
        self._paused = False

    def next_frame(self) -> bytes | None:
        """The next 20 ms to be played; None when there is nothing to say."""
        if self._paused or not self._queue:
            return None
        if not self._started:
            self._started = True
            self.on_playback_started(created_at=time.time())
        frame = self._queue.popleft()
        self._played_s += FRAME_S
        if self._flushed and not self._queue:
            self._finish(interrupted=False)
        return frame

    def _append(self, pcm: bytes) -> None:
        data = self._rest + pcm
        whole = len(data) - len(data) % (FRAME * 2)
        self._queue.extend(data[i : i + FRAME * 2] for i in range(0, whole, FRAME * 2))
        self._rest = data[whole:]

    def _finish(self, *, interrupted: bool) -> None:
        played = self._played_s - (len(self._take_back()) * FRAME_S if interrupted else 0.0)
        self._queue.clear()
        self._rest, self._down = b"", None
        self._open = self._flushed = self._started = False
        self._played_s = 0.0
        self._drained.set()
        with contextlib.suppress(RuntimeError):  # the loop is closing
            self.on_playback_finished(playback_position=max(0.0, played), interrupted=interrupted)


class InStep:
    """Puts frames that come in a rhythm of their own onto the line's clock, one for each tick.

    A frame that comes late is silence now and one too many later; frames that stay left over for
    *window* ticks on end are dropped, but for a *reserve*, so that the two sides of a recording do not
    drift apart.
    """

    def __init__(self, window: int = 50, *, reserve: int = 1) -> None:
        self._window, self._reserve = window, reserve
        self._frames: deque[bytes] = deque()
        self._spare = self._ticks = 0

    def push(self, frame: bytes) -> None:
        """One frame has come."""
        self._frames.append(frame)

    def take(self) -> bytes:
        """The frame of this tick; silence when none has come."""
        # One frame may wait: both rhythms are the same, but never in phase.
        left_over = max(0, len(self._frames) - 1 - self._reserve)
        self._spare = min(self._spare, left_over) if self._ticks else left_over
        self._ticks += 1
        if self._ticks >= self._window:
            for _ in range(self._spare):
                self._frames.popleft()
            self._ticks = 0
        return self._frames.popleft() if self._frames else SILENCE
