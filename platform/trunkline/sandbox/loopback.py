"""A line without LiveKit: caller and agent in one process, joined in real time through G.711.

Every 20 ms one frame goes each way. Both pass mu-law at 8 kHz, as on a telephone, and the agent
gets and gives frames as in a room. What RoomIO does for a room is done here: pacing,
resampling, and the chain that makes "what was heard" true.
"""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

import numpy as np
from livekit.agents import AgentSession, io

from trunkline.agent.arrival import Arrival
from trunkline.agent.audio import FRAME_S, SILENCE, EchoGate, Intake, Playout
from trunkline.agent.heard import Heard
from trunkline.agent.line import LINE_RATE_HZ, Consultation, Tap
from trunkline.agent.music import hold_music
from trunkline.calls.lifecycle import EndReason
from trunkline.errors import Unavailable
from trunkline.sandbox.line_faults import SOUND, Faults, Wire


class Party(Protocol):
    """Whoever is at the caller's end: hears and speaks 20 ms of PCM16 at 8 kHz at a time."""

    def ringing(self) -> bool:
        """Called for each frame before the answer; False gives up waiting."""

    def exchange(self, heard: bytes) -> bytes | None:
        """Take what is heard now, return what is said now; None hangs up."""

    def pressed(self) -> str:
        """Keys pressed since the last frame."""


class LoopbackLine:
    """A telephone line, with its *faults*, to a simulated *party*. Implements ``agent.line.Line``."""

    def __init__(self, arrival: Arrival, party: Party, faults: Faults = SOUND) -> None:
        self._arrival, self._party, self._wire = arrival, party, Wire(faults)
        self._input = Intake()
        self._output = Playout()
        self._gate = EchoGate()
        self._music = itertools.cycle(hold_music())
        self._held = False
        self._tones: deque[bytes] = deque()
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

    @property
    def voice(self) -> io.AudioOutput:
        return self._output

    async def attach(self, session: AgentSession[Any], heard: io.TextOutput) -> None:
        chain = Heard(self._output, heard)
        session.input.audio = self._input
        session.output.audio = chain.audio
        session.output.transcription = chain.text

    async def answer(self) -> bool:
        if self._answered is None:
            self._answered = time.time()
        return True

    def go_on(self, answered_at: float) -> None:
        self._answered = answered_at
        self._frames = max(0, round((time.time() - answered_at) / FRAME_S))

    async def hang_up(self) -> None:
        self._end(EndReason.AGENT_HANGUP)
        if self._clock is not None:
            await asyncio.wait([self._clock])

    async def leave(self) -> None:
        await self.hang_up()  # one process has both ends, so nobody else can be there

    def tap(self, tap: Tap | None) -> None:
        self._tap = tap

    def on_digit(self, callback: Callable[[str], None]) -> None:
        self._on_digit = callback

    async def send_digits(self, digits: str) -> None:
        for digit in digits:
            self._tones.extend(dtmf(digit))
            frames = len(self._tones)
            # The line's clock plays them meanwhile.
            await asyncio.sleep(frames * FRAME_S)

    def hold(self) -> None:
        self._held = True

    def resume(self) -> None:
        self._held = False

    async def refer(self, to: str, ringing: timedelta) -> None:
        raise Unavailable("a loopback line has no carrier that could connect the caller elsewhere")

    async def consult(
        self, number: str, caller_id: str | None, ringing: timedelta, longest: timedelta
    ) -> Consultation:
        raise Unavailable("a loopback line has no trunk to call anybody over")

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
        """One frame each way, both over the line."""
        if self._tones:
            voice: bytes | None = self._tones.popleft()
        else:
            voice = next(self._music) if self._held else self._output.next_frame()
        agent = self._wire.hear(voice or SILENCE)
        said = self._party.exchange(agent)
        if said is None:
            self._end(EndReason.CALLER_HANGUP)
            return
        caller = self._wire.say(said)
        if self._tap is not None:
            self._tap(caller, agent)
        self._frames += 1
        self._gate.played(agent)
        self._input.push(SILENCE if self._held else self._gate.heard(caller))
        for digit in self._party.pressed():
            self._on_digit(digit)


_ROWS_HZ, _COLUMNS_HZ = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
_KEYPAD = "123A456B789C*0#D"


def dtmf(key: str) -> list[bytes]:
    """The two tones of *key* (ITU-T Q.23), 100 ms of them and 100 ms of pause, in frames."""
    row, column = divmod(_KEYPAD.index(key), 4)
    at = np.arange(LINE_RATE_HZ // 10) / LINE_RATE_HZ
    tones = np.sin(2 * np.pi * _ROWS_HZ[row] * at) + np.sin(2 * np.pi * _COLUMNS_HZ[column] * at)
    pcm = (tones * 4000).astype("<i2").tobytes()
    size = len(SILENCE)
    return [pcm[i : i + size] for i in range(0, len(pcm), size)] + [SILENCE] * 5
