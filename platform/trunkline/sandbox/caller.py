"""A simulated caller: plays recorded lines when the agent stops talking, presses keys, interrupts,
hangs up. It knows nothing but what it hears.
"""

import wave
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from trunkline.agent.audio import FRAME, FRAME_S, SILENCE, rms
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.errors import Invalid

LINES = Path(__file__).parent / "lines"

AUDIBLE_RMS = 150
"""Above this root mean square of a 20 ms frame (PCM16; about -47 dBFS) the agent is heard."""

PATIENCE = timedelta(seconds=25)
"""A caller who waits longer than this for anything hangs up."""


@dataclass(frozen=True)
class Listen:
    """Wait until the agent has said something and then been quiet for *quiet*."""

    quiet: timedelta = timedelta(milliseconds=900)


@dataclass(frozen=True)
class Overhear:
    """Wait until the agent has been speaking for *long*, pauses included, and is still at it."""

    long: timedelta


@dataclass(frozen=True)
class Pause:
    """Do nothing for *long*."""

    long: timedelta


@dataclass(frozen=True)
class Say:
    """Speak a recorded line: a file name in ``lines/``, or a path."""

    line: str


@dataclass(frozen=True)
class Press:
    """Press keys, 0.1 s apart."""

    keys: str


@dataclass(frozen=True)
class HangUp:
    """Put the receiver down."""


@dataclass(frozen=True)
class StayOn:
    """Wait for the agent to hang up."""


Step = Listen | Overhear | Pause | Say | Press | HangUp | StayOn


class Caller:
    """Plays *steps* one after another; implements ``loopback.Party``.

    ``notes`` tells afterwards when it did what, in milliseconds from the answer; ``gave_up`` which
    step it waited for in vain. Raises Invalid when a line cannot be played.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        self._sounds = {s.line: load_line(s.line) for s in steps if isinstance(s, Say)}
        self._frame = 0
        self._since = 0
        """Frame in which the present step began."""
        self._onset: int | None = None
        """Frame in which the agent began to speak since the last step."""
        self._last_sound = 0
        self._speaking: list[bytes] = []
        self._keys = ""
        self.notes: list[tuple[int, str]] = []
        self.gave_up: Step | None = None

    def ringing(self) -> bool:
        self._since += 1
        if self._since * FRAME_S > PATIENCE.total_seconds():
            self.gave_up = self._steps[0] if self._steps else StayOn()
            return False
        return True

    def exchange(self, heard: bytes) -> bytes | None:
        if self._frame == 0:
            self._since = 0
        self._frame += 1
        if rms(heard) >= AUDIBLE_RMS:
            self._last_sound = self._frame
            if self._onset is None:
                self._onset = self._frame
        if self._speaking:
            if len(self._speaking) == 1:
                self._next()
            return self._speaking.pop(0)
        return self._act()

    def pressed(self) -> str:
        keys, self._keys = self._keys, ""
        return keys

    def _act(self) -> bytes | None:
        step = self._steps[0] if self._steps else StayOn()
        waited = (self._frame - self._since) * FRAME_S
        match step:
            case Listen(quiet):
                quiet_for = (self._frame - self._last_sound) * FRAME_S
                if self._onset is not None and quiet_for >= quiet.total_seconds():
                    self._next()
                elif waited > PATIENCE.total_seconds():
                    self._give_up(step)
                    return None
            case Overhear(long):
                onset = self._onset
                if onset and (self._frame - onset) * FRAME_S >= long.total_seconds():
                    self._next()
                elif waited > PATIENCE.total_seconds():
                    self._give_up(step)
                    return None
            case Pause(long):
                if waited >= long.total_seconds():
                    self._next()
            case Say(line):
                self._note(f"says {line}")
                self._speaking = list(self._sounds[line])
                return self._speaking.pop(0)
            case Press(keys):
                self._note(f"presses {keys}")
                self._keys += keys
                self._next()
            case HangUp():
                self._note("hangs up")
                return None
            case StayOn():
                if waited > PATIENCE.total_seconds():
                    self._give_up(step)
                    return None
        return SILENCE

    def _next(self) -> None:
        self._steps.pop(0)
        self._since, self._onset = self._frame, None

    def _give_up(self, step: Step) -> None:
        self.gave_up = step
        self._note("gives up waiting")

    def _note(self, what: str) -> None:
        self.notes.append((round((self._frame - 1) * FRAME_S * 1000), what))


def load_line(name: str) -> list[bytes]:
    """The frames of a recorded line. Raises Invalid unless it is 16-bit mono at 8 kHz."""
    path = LINES / name if not Path(name).is_absolute() else Path(name)
    try:
        with wave.open(str(path)) as file:
            form = (file.getnchannels(), file.getsampwidth() * 8, file.getframerate())
            pcm = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise Invalid(f"the caller's line {path.name} cannot be played: {error}") from error
    if form != (1, 16, LINE_RATE_HZ):
        raise Invalid(
            f"the caller's line {path.name} has {form[0]} channel(s), {form[1]} bit, {form[2]} Hz; "
            f"it must be mono, 16 bit, {LINE_RATE_HZ} Hz: "
            f"sox {path.name} -c 1 -b 16 -r {LINE_RATE_HZ} out.wav"
        )
    size = FRAME * 2
    return [pcm[i : i + size].ljust(size, b"\0") for i in range(0, len(pcm), size)] or [SILENCE]
