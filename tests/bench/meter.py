"""A simulated caller that keeps what it said and heard, and what can be read from that.

Everything is counted in the caller's own 20 ms frames: what the telephone plays and what it picks up, so
no clock of the agent's and no report of a provider's has a part in it.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from trunkline.agent.audio import rms
from trunkline.sandbox.caller import Caller, Say, Step

FRAME_MS = 20
SAID_RMS = 150.0
"""Above this the caller's own line is voice: recorded without noise, its silence is zero."""
HEARD_RMS = 150.0
"""Above this root mean square the agent is heard (about -47 dBFS)."""
GAP_FRAMES = 25
"""Quiet this long (500 ms) parts two stretches of speech: the pause at a comma is shorter."""
LEAVE_FRAMES = 25
"""An agent that speaks on so long (500 ms) after the end of an interruption has not heard it."""


@dataclass(frozen=True)
class Stretch:
    """A stretch of speech, in frames: the first that is voice, and the first after the last."""

    begin: int
    end: int


@dataclass(frozen=True)
class Turn:
    """One thing that the caller said, and what followed; milliseconds, None where it never came."""

    line: str
    cut_in: bool
    """The agent was speaking when the caller began."""
    answer_ms: int | None
    """From the caller's last sound to the agent's first after it."""
    pause_ms: int | None
    """Cut in: from the caller's first sound to the agent's first quiet of 100 ms, be it for good or not."""
    stop_ms: int | None
    """Cut in: from the caller's first sound to the agent's last before it leaves the caller the floor."""
    gap_ms: int | None
    """Cut in: the longest quiet of the agent's within two seconds."""
    heard_frames: int | None
    """Cut in: how many frames of what the agent was saying could be heard until it stopped, quiet ones not
    counted."""


@dataclass
class Meter:
    """Plays *steps* as :class:`Caller` does. Implements ``loopback.Party``."""

    steps: Sequence[Step]
    said: list[float] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.caller = Caller(self.steps)

    def ringing(self) -> bool:
        return self.caller.ringing()

    def exchange(self, heard: bytes) -> bytes | None:
        said = self.caller.exchange(heard)
        self.heard.append(rms(heard))
        self.said.append(rms(said) if said is not None else 0.0)
        return said

    def pressed(self) -> str:
        return self.caller.pressed()

    def turns(self) -> list[Turn]:
        """What the caller said, one after another, with what followed each."""
        lines = [step.line for step in self.steps if isinstance(step, Say)]
        said = list(stretches(self.said, SAID_RMS))
        heard = list(stretches(self.heard, HEARD_RMS))
        before = [Stretch(0, 0), *said]
        return [
            self._turn(line, one, heard, since.end)
            for line, one, since in zip(lines, said, before, strict=False)
        ]

    def greeting_ms(self) -> int | None:
        """From the answer to the agent's first sound."""
        return next((n * FRAME_MS for n, loud in enumerate(self.heard) if loud >= HEARD_RMS), None)

    def _turn(self, line: str, said: Stretch, heard: Sequence[Stretch], since: int) -> Turn:
        over = next((one for one in heard if one.begin < said.begin < one.end), None)
        if over is None:
            answer = self._sound(said.end)
            waited = None if answer is None else (answer - said.end) * FRAME_MS
            return Turn(line, False, waited, None, None, None, None)
        # A pause at a comma may fall in here; whoever is measured has the same commas.
        pause = next(
            n
            for n in range(said.begin, len(self.heard) + 1)
            if max(self.heard[n : n + 5], default=0.0) < HEARD_RMS
        )
        left = over.end <= said.end + LEAVE_FRAMES
        answer = self._sound(max(said.end, over.end))
        return Turn(
            line,
            True,
            None if answer is None else (answer - said.end) * FRAME_MS,
            (pause - said.begin) * FRAME_MS,
            (over.end - said.begin) * FRAME_MS if left else None,
            self._gap_ms(said.begin),
            sum(loud >= HEARD_RMS for loud in self.heard[since : over.end]),
        )

    def _sound(self, begin: int) -> int | None:
        return next((n for n in range(begin, len(self.heard)) if self.heard[n] >= HEARD_RMS), None)

    def _gap_ms(self, begin: int) -> int:
        longest = quiet = 0
        for loud in self.heard[begin : begin + 100]:
            quiet = quiet + 1 if loud < HEARD_RMS else 0
            longest = max(longest, quiet)
        return longest * FRAME_MS


def stretches(loudness: Sequence[float], least: float) -> Iterator[Stretch]:
    """The stretches of speech in a track of loudness, a value per frame."""
    begin = last = None
    for n, loud in enumerate(loudness):
        if loud >= least:
            begin, last = (n if begin is None else begin), n
        elif begin is not None and last is not None and n - last >= GAP_FRAMES:
            yield Stretch(begin, last + 1)
            begin = None
    if begin is not None and last is not None:
        yield Stretch(begin, last + 1)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least *share* of them do not exceed (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
