"""Both directions of a line, frame by frame, without a line."""

import asyncio

import numpy as np
import pytest
from livekit import rtc
from livekit.agents.voice import io

from trunkline.agent.audio import FRAME, SILENCE, InStep, Intake, Playout, Quieted, rms
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.room import end_reason
from trunkline.calls.lifecycle import EndReason
from trunkline.sandbox.caller import load_line
from trunkline.sandbox.line_faults import Faults, Wire


def frame(value: int) -> bytes:
    return np.full(FRAME, value, "<i2").tobytes()


def value(pcm: bytes) -> int:
    return int(np.frombuffer(pcm, "<i2")[0])


def taken(step: InStep, *arrivals: int) -> list[int]:
    """What each tick takes when that many frames came before it; frames are numbered from 1."""
    count, found = 0, []
    for arrived in arrivals:
        for _ in range(arrived):
            count += 1
            step.push(frame(count))
        found.append(value(step.take()))
    return found


@pytest.mark.parametrize(
    ("arrivals", "expected"),
    [
        ((1, 1, 1, 1), [1, 2, 3, 4]),
        ((1, 0, 2, 1), [1, 0, 2, 3]),  # one comes late: silence, and one waits from then on
        ((2, 0, 2, 0), [1, 2, 3, 4]),  # in pairs
        ((0, 0, 1, 1), [0, 0, 1, 2]),  # the track begins later than the clock
        (
            (5, 1, 1, 1, 1),
            [1, 2, 3, 7, 8],
        ),  # left over for four ticks on end: dropped in the fourth
    ],
)
def test_frames_fall_in_step(arrivals: tuple[int, ...], expected: list[int]) -> None:
    """Each tick takes one frame in order, silence when there is none, and lag does not stay."""
    assert taken(InStep(window=4), *arrivals) == expected


async def said(playout: Playout, *values: int) -> None:
    for one in values:
        await playout.capture_frame(rtc.AudioFrame(frame(one), LINE_RATE_HZ, 1, FRAME))


async def test_a_voice_is_played_frame_by_frame() -> None:
    """What the session gave comes out in order; then there is nothing, and the session hears of the end."""
    playout = Playout()
    finished: list[tuple[float, bool]] = []
    playout.on("playback_finished", lambda e: finished.append((e.playback_position, e.interrupted)))
    await said(playout, *[1000] * 10)
    playout.flush()
    frames = []
    while (one := playout.next_frame()) is not None:
        frames.append(one)
    assert 9 <= len(frames) <= 11
    assert [(round(at, 2), cut) for at, cut in finished] == [(round(len(frames) * 0.02, 2), False)]


async def test_a_voice_that_is_cut() -> None:
    """What the line holds but did not play is taken back and not counted as heard."""
    playout = Playout(take_back=lambda: (frame(1000), frame(1000)))
    finished: list[tuple[float, bool]] = []
    playout.on("playback_finished", lambda e: finished.append((e.playback_position, e.interrupted)))
    await said(playout, *[1000] * 50)
    for _ in range(5):
        assert playout.next_frame() is not None
    playout.clear_buffer()
    assert [(round(at, 2), cut) for at, cut in finished] == [(0.06, True)]
    assert playout.next_frame() is None


async def test_a_pause() -> None:
    """A paused voice gives nothing and goes on where it stopped."""
    playout = Playout()
    await said(playout, *[1000] * 50)
    assert playout.next_frame() is not None
    playout.pause()
    assert playout.next_frame() is None
    playout.resume()
    assert playout.next_frame() is not None


async def test_a_pause_takes_back_what_was_not_played() -> None:
    """What the line was given before it was due is silent at once, and played in its place afterwards."""
    ahead: list[bytes] = []

    def take_back() -> list[bytes]:
        back = ahead.copy()
        ahead.clear()
        return back

    playout = Playout(take_back)
    finished: list[float] = []
    playout.on("playback_finished", lambda e: finished.append(e.playback_position))
    await said(playout, *[1000] * 20)
    played = 0
    while played < 4:
        while len(ahead) < 3:
            ahead.append(playout.next_frame() or b"")
        ahead.pop(0)
        played += 1
    assert ahead
    playout.pause()
    playout.pause()
    assert ahead == []
    playout.resume()
    playout.flush()
    while playout.next_frame() is not None:
        played += 1
    assert finished == [pytest.approx(played * 0.02)], "each frame once"
    playout.pause()
    assert playout.next_frame() is None, "nothing is said: there is nothing to take back"


async def test_the_first_frame_of_a_reply_is_announced() -> None:
    """The line hears of it at once, unless the voice is paused; later frames wait for its clock."""
    begun: list[bytes | None] = []

    async def begin() -> None:
        begun.append(playout.next_frame())

    playout = Playout(begin=begin)
    await said(playout, *[1000] * 10)
    assert [one is None for one in begun] == [False]
    playout.clear_buffer()
    playout.pause()
    await said(playout, *[1000] * 10)
    assert len(begun) == 1, "not while it is paused"


async def test_a_line_that_is_gone() -> None:
    """What is said into a closed line is over at once, so that nobody waits for its end."""
    playout = Playout()
    finished: list[bool] = []
    playout.on("playback_finished", lambda e: finished.append(e.interrupted))
    playout.close()
    await said(playout, *[1000] * 20)
    playout.flush()
    assert finished == [True]


async def test_the_callers_voice_ends() -> None:
    """The session gets each frame, and the end."""
    intake = Intake()
    intake.push(SILENCE)
    intake.close()
    got = [one.samples_per_channel async for one in intake]
    assert got == [FRAME]
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("reason", "answered", "expected"),
    [
        (rtc.DisconnectReason.CLIENT_INITIATED, True, EndReason.CALLER_HANGUP),
        (rtc.DisconnectReason.CLIENT_INITIATED, False, EndReason.CANCELLED),  # gave up ringing
        (rtc.DisconnectReason.USER_UNAVAILABLE, False, EndReason.NO_ANSWER),  # we called
        (rtc.DisconnectReason.USER_REJECTED, False, EndReason.REJECTED),
        (rtc.DisconnectReason.SIP_TRUNK_FAILURE, False, EndReason.TRUNK_ERROR),
        (rtc.DisconnectReason.CONNECTION_TIMEOUT, True, EndReason.LINE_LOST),  # a SIP node died
        (rtc.DisconnectReason.PARTICIPANT_REMOVED, True, EndReason.LINE_LOST),
        (rtc.DisconnectReason.ROOM_DELETED, True, EndReason.LINE_LOST),
        (None, True, EndReason.LINE_LOST),  # LiveKit knows none
        (4711, True, EndReason.LINE_LOST),  # one that is not known yet
    ],
)
def test_why_a_caller_left(reason: int | None, answered: bool, expected: EndReason) -> None:
    """Each of LiveKit's reasons says something of the call."""
    assert end_reason(reason, answered=answered) is expected


class _Playing(io.AudioInput):
    """Gives *frames*, one after the other."""

    def __init__(self, frames: list[bytes]) -> None:
        super().__init__(label="playing")
        self._frames = iter(frames)

    async def __anext__(self) -> rtc.AudioFrame:
        pcm = next(self._frames)
        return rtc.AudioFrame(pcm, LINE_RATE_HZ, 1, len(pcm) // 2)


async def test_steady_noise_is_suppressed_and_a_voice_is_not() -> None:
    """Noise 10 dB below a voice is heard at least 10 dB quieter, the voice at most 2 dB."""
    wire = Wire(Faults(noise_dbfs=-29.3))
    voice = load_line("wait_what_are_your_opening_hours.wav")
    frames = [wire.say(frame) for frame in ([SILENCE] * 150 + list(voice))]
    quieted = Quieted(_Playing(frames))
    out = [bytes((await anext(quieted)).data) for _ in frames]
    assert [len(frame) for frame in out] == [len(frame) for frame in frames]
    noise = rms(b"".join(out[100:150])) / rms(b"".join(frames[100:150]))
    loud = rms(b"".join(out[150:])) / rms(b"".join(frames[150:]))
    assert noise < 10 ** (-10 / 20)
    assert loud > 10 ** (-2 / 20)
