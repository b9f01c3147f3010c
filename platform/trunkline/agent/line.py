"""The line between a caller and the agent, whatever carries it.

A LiveKit room and the loopback line of the sandbox both implement ``Line``; the agent cannot
tell them apart.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

from livekit.agents import AgentSession, io

from trunkline.agent.arrival import Arrival
from trunkline.calls.lifecycle import EndReason

KEYS = frozenset("0123456789*#ABCD")
"""What a telephone's keypad can send (RFC 4733, table 4)."""

LINE_RATE_HZ = 8000
"""Sample rate of the telephone band (G.711), at which calls are recorded."""

Tap = Callable[[bytes, bytes], None]
"""Gets each 20 ms of both sides, caller then agent, as PCM16 mono at LINE_RATE_HZ."""


class Line(Protocol):
    """One call's way to the caller."""

    @property
    def arrival(self) -> Arrival:
        """What was known when it came in."""

    async def attach(self, session: AgentSession[Any], heard: io.TextOutput) -> None:
        """Join the session's audio to the line, before the session starts.

        *heard* gets the agent's words in step with their sound.
        """

    @property
    def voice(self) -> io.AudioOutput:
        """The bare way to the caller's ear, for recorded sentences; not while a session uses it."""

    async def answer(self) -> bool:
        """Pick up: until now the caller hears ringing. A line to somebody we call dials them instead.

        False when nobody is there to talk to, and ``ended`` says why.
        """

    def go_on(self, answered_at: float) -> None:
        """Before ``answer``: another agent answered at that time (seconds since the epoch) and is gone.

        Positions then go on counting from there.
        """

    async def hang_up(self) -> None:
        """End the call from our side. Safe to repeat, and before it was answered."""

    async def leave(self) -> None:
        """Step out and leave the caller to the agent who took the call over. Safe to repeat."""

    def tap(self, tap: Tap | None) -> None:
        """Copy both sides' audio, from the answer on, to *tap* (None: no longer)."""

    def on_digit(self, callback: Callable[[str], None]) -> None:
        """Call *callback* with each key the caller presses (0-9, *, #, A-D)."""

    async def send_digits(self, digits: str) -> None:
        """Press keys (KEYS) towards the caller's side, one after the other; back when all are sent."""

    def hold(self) -> None:
        """Music for the caller from now on; the session hears nothing. Safe to repeat."""

    def resume(self) -> None:
        """The session and the caller hear each other again. Safe to repeat."""

    async def refer(self, to: str, ringing: timedelta) -> None:
        """Have the carrier connect the caller with *to*, a ``tel:`` or ``sip:`` URI; back when it has.

        Raises kit.livekit.SipFailed when they were not reached, Unavailable when this line can't.
        """

    async def consult(
        self, number: str, caller_id: str | None, ringing: timedelta, longest: timedelta
    ) -> "Consultation":
        """Call *number* (E.164) on a line of its own; back when somebody has picked up.

        They see *caller_id* where a trunk may show it. The line ends after *longest* at the latest.

        The caller and they don't hear each other. Raises SipFailed and Unavailable as ``refer`` does.
        """

    def position_ms(self) -> int:
        """Milliseconds since the answer, which is where the recording stands; 0 before it."""

    def offset_ms(self, wall_time: float) -> int:
        """The position at *wall_time* (seconds since the epoch), never below 0."""

    async def ended(self) -> EndReason:
        """Wait until the other side hangs up or the line is lost, and say which."""


class Consultation(Protocol):
    """The line to somebody whom the agent calls on behalf of a caller."""

    async def attach(self, session: AgentSession[Any]) -> None:
        """Join a session's audio to it, before that session starts."""

    def on_digit(self, callback: Callable[[str], None]) -> None:
        """Call *callback* with each key they press."""

    def hold(self) -> None:
        """Music for them until they are joined or the line ends."""

    def join(self) -> None:
        """From now on they and the caller hear each other, and the sessions hear neither."""

    async def ended(self) -> EndReason:
        """Wait until they hang up or the line is lost."""

    async def hang_up(self) -> None:
        """End their line, and what was joined. Safe to repeat."""
