"""A line without LiveKit: caller and agent in one process, joined in real time through G.711.

Every 20 ms one frame goes each way. Both pass mu-law at 8 kHz, as on a telephone, and the agent
gets and gives frames as in a room. What RoomIO does for a room is done here: pacing,
resampling, and the chain that makes "what was heard" true.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from livekit import rtc
from livekit.agents import AgentSession, io

from trunkline.agent.arrival import Arrival
from trunkline.agent.heard import Heard
from trunkline.agent.line import LINE_RATE_HZ, Tap
from trunkline.calls.lifecycle import EndReason
from trunkline.kit.audio import mulaw_decode, mulaw_encode

FRAME_S = 0.020
FRAME = int(LINE_RATE_HZ * FRAME_S)
SILENCE = bytes(FRAME * 2)


class Party(Protocol):
    """Whoever is at the caller's end: hears and speaks 20 ms of PCM16 at 8 kHz at a time."""

    def ringing(self) -> bool:
        """Called for each frame before the answer; False gives up waiting."""

    def exchange(self, heard: bytes) -> bytes | None:
        """Take what is heard now, return what is said now; None hangs up."""

    def pressed(self) -> str:
        """Keys pressed since the last frame."""


class LoopbackLine:
    """A telephone line to a simulated *party*. Implements ``agent.line.Line``."""

    def __init__(self, arrival: Arrival, party: Party) -> None:
        self._arrival, self._party = arrival, party
        self._input = _Input()
        self._output = _Output()
        self._tap: Tap | None = None
        self._on_digit: Callable[[str], None] = lambda digit: None
        self._answered: float | None = None
        self._frames = 0
        self._ended: asyncio.Future[EndReason] = asyncio.get_running_loop().create_future()
        self._clock: asyncio.Task[None] | None = None
        self.worst_lag_s = 0.0
        """How late the latest frame of the talk was: the longest that anything held up the event loop."""

    @property
    def arrival(self) -> Arrival:
        return self._arrival

    def ring(self) -> None:
        """Start the line's clock; the caller hears ringing until the answer."""
        self._clock = asyncio.create_task(self._run(), name="loopback line")

    async def attach(self, session: AgentSession[Any], heard: io.TextOutput) -> None:
        chain = Heard(self._output, heard)
        session.input.audio = self._input
        session.output.audio = chain.audio
        session.output.transcription = chain.text

    async def answer(self) -> None:
        if self._answered is None:
            self._answered = time.time()

    async def hang_up(self) -> None:
        self._end(EndReason.AGENT_HANGUP)
        if self._clock is not None:
            await asyncio.wait([self._clock])

    def tap(self, tap: Tap | None) -> None:
        self._tap = tap

    def on_digit(self, callback: Callable[[str], None]) -> None:
        self._on_digit = callback

    def position_ms(self) -> int:
        return round(self._frames * FRAME_S * 1000)

    def offset_ms(self, wall_time: float) -> int:
        if self._answered is None:
            return 0
        return max(0, round((wall_time - self._answered) * 1000))

    async def ended(self) -> EndReason:
        return await asyncio.shield(self._ended)

    def _end(self, reason: EndReason) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while not self._ended.done():
                due += FRAME_S
                await asyncio.sleep(max(0.0, due - loop.time()))
                if self._answered is None:
                    if not self._party.ringing():
                        self._end(EndReason.CANCELLED)
                else:
                    if self._frames:
                        self.worst_lag_s = max(self.worst_lag_s, loop.time() - due)
                    self._step()
        finally:
            self._input.close()
            self._output.close()
            self._end(EndReason.LINE_LOST)

    def _step(self) -> None:
        """One frame each way, both through the line's own coding."""
        agent = _over_the_line(self._output.next_frame())
        said = self._party.exchange(agent)
        if said is None:
            self._end(EndReason.CALLER_HANGUP)
            return
        caller = _over_the_line(said)
        if self._tap is not None:
            self._tap(caller, agent)
        self._frames += 1
        self._input.push(caller)
        for digit in self._party.pressed():
            self._on_digit(digit)


def _over_the_line(pcm: bytes) -> bytes:
    return mulaw_decode(mulaw_encode(pcm))


class _Input(io.AudioInput):
    """The caller's voice on its way to the session."""

    def __init__(self) -> None:
        super().__init__(label="loopback")
        self._frames: asyncio.Queue[rtc.AudioFrame | None] = asyncio.Queue()

    def push(self, pcm: bytes) -> None:
        self._frames.put_nowait(rtc.AudioFrame(pcm, LINE_RATE_HZ, 1, len(pcm) // 2))

    def close(self) -> None:
        self._frames.put_nowait(None)

    async def __anext__(self) -> rtc.AudioFrame:
        frame = await self._frames.get()
        if frame is None:
            raise StopAsyncIteration
        return frame


class _Output(io.AudioOutput):
    """The agent's voice on its way to the caller, played in real time by the line's clock.

    One segment is everything from the first frame captured to the flush; each ends in exactly
    one ``playback_finished``, or the session would wait for ever.
    """

    def __init__(self) -> None:
        super().__init__(
            label="loopback", capabilities=io.AudioOutputCapabilities(pause=True), sample_rate=None
        )
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
        self._paused = True

    def resume(self) -> None:
        super().resume()
        self._paused = False

    def next_frame(self) -> bytes:
        """The next 20 ms at 8 kHz; silence when there is nothing to say."""
        if self._paused or not self._queue:
            return SILENCE
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
        played = self._played_s
        self._queue.clear()
        self._rest, self._down = b"", None
        self._open = self._flushed = self._started = False
        self._played_s = 0.0
        self._drained.set()
        with contextlib.suppress(RuntimeError):  # the loop is closing
            self.on_playback_finished(playback_position=played, interrupted=interrupted)
