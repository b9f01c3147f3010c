"""Speaking and listening on a bare line, where no session does: clips, a tone, and the end of a message."""

import asyncio
import math
from array import array
from datetime import timedelta
from typing import Protocol

import numpy as np
from livekit import rtc
from livekit.agents import io

from trunkline.agent.clips import Clip
from trunkline.agent.line import LINE_RATE_HZ, Line
from trunkline.agent.scribe import Scribe

_FRAME = LINE_RATE_HZ // 50
LONGEST_MESSAGE = timedelta(minutes=2)
PAUSE_ENDS = timedelta(seconds=3)
"""Silence after which a message is over."""
NEVER_BEGUN = timedelta(seconds=6)
"""Silence after the tone after which nobody leaves a message."""
_VOICED_RMS = 10 ** (-42 / 20) * 32768
"""Above it a frame is taken for speech: far above an idle line (µ-law's noise is near -70 dBFS), below a
quiet talker (about -35 dBFS)."""
_LEAST_VOICED = timedelta(milliseconds=400)
"""Less sound than this is no message."""


class Voice(Protocol):
    """How a clip is said on the line."""

    async def say(self, clip: Clip, stop: asyncio.Event) -> None:
        """Say it, until *stop* is set."""


class ClipVoice:
    """Says clips on a bare line, and has the scribe write them down."""

    def __init__(self, line: Line, scribe: Scribe) -> None:
        self._line, self._scribe = line, scribe

    async def say(self, clip: Clip, stop: asyncio.Event) -> None:
        """Say it, until *stop* is set."""
        out = self._line.voice
        started_ms, whole = self._line.position_ms(), False
        try:
            whole = await play(out, clip.pcm, stop)
        finally:
            # Also of a caller who hangs up in the middle of it.
            if clip.words:
                self._scribe.agent_said(
                    clip.words, started_ms, self._line.position_ms(), interrupted=not whole
                )


async def play(out: io.AudioOutput, pcm: bytes, stop: asyncio.Event) -> bool:
    """Play *pcm*; False when *stop* cut it off."""
    for at in range(0, len(pcm), 2 * _FRAME):
        piece = pcm[at : at + 2 * _FRAME].ljust(2 * _FRAME, b"\0")
        await out.capture_frame(rtc.AudioFrame(piece, LINE_RATE_HZ, 1, _FRAME))
    out.flush()
    played = asyncio.ensure_future(out.wait_for_playout())
    stopped = asyncio.ensure_future(stop.wait())
    limit = len(pcm) / 2 / LINE_RATE_HZ + 5
    await asyncio.wait([played, stopped], timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if played.done():
        return not played.result().interrupted
    out.clear_buffer()
    await asyncio.wait([played], timeout=1)
    return False


def _tone(hz: int, length: timedelta) -> bytes:
    """A tone at -12 dBFS that begins and ends softly, PCM16 at LINE_RATE_HZ."""
    count = int(length.total_seconds() * LINE_RATE_HZ)
    edge = LINE_RATE_HZ // 100
    samples = array("h")
    for n in range(count):
        loud = 8192 * min(1.0, n / edge, (count - n) / edge)
        samples.append(round(loud * math.sin(2 * math.pi * hz * n / LINE_RATE_HZ)))
    return samples.tobytes()


BEEP = _tone(1000, timedelta(milliseconds=300))
"""After it a message is recorded."""


class Ear:
    """Tells speech from silence by its loudness alone, and so when a message is over."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Listen for a message from now on."""
        self.voiced = timedelta()
        self._silent = timedelta()

    def hear(self, pcm: bytes) -> None:
        """The next stretch of the caller's side."""
        if not pcm:
            return
        samples = np.frombuffer(pcm, dtype="<i2").astype(np.float32)
        length = timedelta(seconds=len(samples) / LINE_RATE_HZ)
        if float(np.sqrt(np.mean(samples * samples))) > _VOICED_RMS:
            self.voiced += length
            self._silent = timedelta()
        else:
            self._silent += length

    @property
    def heard_a_message(self) -> bool:
        """Whether there was more than a cough."""
        return self.voiced >= _LEAST_VOICED

    def is_over(self, since_ms: int) -> bool:
        """Whether the message that began *since_ms* ago is over."""
        if since_ms >= LONGEST_MESSAGE / timedelta(milliseconds=1):
            return True
        return self._silent >= (PAUSE_ENDS if self.heard_a_message else NEVER_BEGUN)
