"""The simulated caller acts on what it hears, and on nothing else."""

import wave
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from trunkline.agent.audio import FRAME, SILENCE
from trunkline.errors import Invalid
from trunkline.sandbox.caller import (
    LINES,
    Caller,
    HangUp,
    Listen,
    Overhear,
    Pause,
    Press,
    Say,
    StayOn,
    load_line,
)
from trunkline.sandbox.story import STORIES

LOUD = np.full(FRAME, 3000, dtype="<i2").tobytes()
HISS = np.full(FRAME, 40, dtype="<i2").tobytes()
MS = timedelta(milliseconds=1)


def hear(caller: Caller, frame: bytes, seconds: float) -> list[bytes | None]:
    return [caller.exchange(frame) for _ in range(round(seconds * 50))]


def test_it_waits_until_the_agent_has_spoken_and_stopped() -> None:
    """Silence before the agent's first word is no invitation, and neither is a short pause."""
    caller = Caller([Listen(900 * MS), Press("2"), StayOn()])
    hear(caller, SILENCE, 2)
    hear(caller, LOUD, 1)
    hear(caller, HISS, 0.5)
    hear(caller, LOUD, 1)
    assert caller.notes == []
    hear(caller, HISS, 1)
    assert [what for _, what in caller.notes] == ["presses 2"]
    assert caller.notes[0][0] == pytest.approx(5400, abs=60)


def test_it_breaks_in_while_the_agent_speaks() -> None:
    """Overhear counts from the agent's first sound, pauses included."""
    caller = Caller([Overhear(1000 * MS), HangUp()])
    hear(caller, LOUD, 0.5)
    hear(caller, SILENCE, 0.3)
    assert hear(caller, LOUD, 0.5)[-1] is None
    assert caller.notes[0][1] == "hangs up"


def test_it_does_not_break_into_silence() -> None:
    """Overhear waits for the agent to begin, however short it then is."""
    caller = Caller([Overhear(0 * MS), HangUp()])
    assert None not in hear(caller, SILENCE, 3)
    assert hear(caller, LOUD, 0.1)[-1] is None


def test_a_line_is_played_to_its_end_before_the_next_step() -> None:
    """What is recorded comes out frame by frame, whole."""
    caller = Caller([Say("hello.wav"), Pause(40 * MS), HangUp()])
    frames = load_line("hello.wav")
    assert hear(caller, SILENCE, len(frames) / 50) == frames
    assert hear(caller, SILENCE, 0.2)[-1] is None


def test_keys_are_told_once() -> None:
    """Pressed keys are handed over with the frame in which they are pressed."""
    caller = Caller([Press("12"), StayOn()])
    caller.exchange(SILENCE)
    assert caller.pressed() == "12"
    assert caller.pressed() == ""


def test_it_gives_up_waiting() -> None:
    """A caller whom nobody answers or speaks to hangs up, and says what it waited for."""
    caller = Caller([Listen()])
    assert hear(caller, SILENCE, 26)[-1] is None
    assert caller.gave_up == Listen()
    unanswered = Caller([Listen()])
    assert [unanswered.ringing() for _ in range(26 * 50)][-1] is False


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.key)
def test_every_line_of_the_story_can_be_played(story: object) -> None:
    """Each recorded line is there, in the form the telephone carries."""
    for step in story.steps:  # type: ignore[attr-defined]
        if isinstance(step, Say):
            assert load_line(step.line)


@pytest.mark.parametrize(
    ("channels", "width", "rate", "says"),
    [
        (2, 2, 8000, "2 channel"),
        (1, 1, 8000, "8 bit"),
        (1, 2, 44100, "44100 Hz"),
    ],
)
def test_a_wav_of_the_wrong_kind(
    channels: int, width: int, rate: int, says: str, tmp_path: Path
) -> None:
    """One sentence says what the file is, what it must be, and how to make it so."""
    path = tmp_path / "line.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(b"\0" * 800)
    with pytest.raises(Invalid, match=f"{says}.*must be mono, 16 bit, 8000 Hz: sox"):
        load_line(str(path))


def test_a_file_that_is_no_wav() -> None:
    """Anything else is refused as well."""
    with pytest.raises(Invalid, match="cannot be played"):
        load_line(str(LINES / "make_lines.py"))
