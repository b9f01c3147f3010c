"""A bad line spoils exactly as much as it was told to, and the same each time."""

import math
from datetime import timedelta

import numpy as np
import pytest

from trunkline.agent.audio import FRAME, SILENCE
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.kit.audio import Samples, mulaw_decode, mulaw_encode
from trunkline.sandbox.line_faults import BAND_HZ, Echo, Faults, Wire

MS = timedelta(milliseconds=1)
TONE = (8000 * np.sin(2 * np.pi * 1000 * np.arange(FRAME) / LINE_RATE_HZ)).astype("<i2").tobytes()
"""20 ms of 1 kHz: whole periods, so that frames join."""
COUNT = 10_000


def said(faults: Faults, frames: int = COUNT, pcm: bytes = TONE) -> list[bytes]:
    """What comes out of as many frames of *pcm*."""
    wire = Wire(faults)
    return [wire.say(pcm) for _ in range(frames)]


def level_dbfs(pcm: bytes) -> float:
    samples = np.frombuffer(pcm, dtype="<i2").astype(np.float64)
    return 20 * math.log10(math.sqrt(float(np.mean(samples**2))) / 32768)


def lengths(gone: list[bool]) -> list[int]:
    """How many are lost in a row, each time."""
    edges = np.flatnonzero(np.diff(np.array([False, *gone, False]).astype(np.int8)))
    return [int(end - start) for start, end in edges.reshape(-1, 2)]


def test_a_sound_line_is_g711() -> None:
    """Without faults nothing happens but µ-law, both ways and at once."""
    wire = Wire()
    coded = mulaw_decode(mulaw_encode(TONE))
    assert coded != TONE
    assert wire.hear(TONE) == wire.say(TONE) == coded


@pytest.mark.parametrize(("loss", "burst"), [(0.01, 1.0), (0.05, 3.0), (0.2, 5.0)])
def test_loss(loss: float, burst: float) -> None:
    """The share that is lost and how many in a row are as ordered; what is not lost is untouched."""
    frames = said(Faults(loss=loss, burst=burst))
    gone = [frame == SILENCE for frame in frames]
    assert sum(gone) / COUNT == pytest.approx(loss, rel=0.15)
    assert np.mean(lengths(gone)) == pytest.approx(burst, rel=0.15)
    assert {f for f in frames if f != SILENCE} == {mulaw_decode(mulaw_encode(TONE))}


def test_both_ways_lose_frames_of_their_own() -> None:
    """The way in and the way out are spoiled apart; the same seed spoils alike, another one does not."""
    wire = Wire(Faults(loss=0.1, seed=4))
    both = [(wire.hear(TONE) == SILENCE, wire.say(TONE) == SILENCE) for _ in range(COUNT)]
    assert [way_in for way_in, _ in both] != [way_out for _, way_out in both]
    assert sum(way_in and way_out for way_in, way_out in both) / COUNT < 0.02
    assert said(Faults(loss=0.1, seed=4)) == said(Faults(loss=0.1, seed=4))
    assert said(Faults(loss=0.1, seed=4)) != said(Faults(loss=0.1, seed=5))


@pytest.mark.parametrize(("jitter_ms", "buffer_ms"), [(20, 80), (20, 40), (40, 80)])
def test_jitter(jitter_ms: int, buffer_ms: int) -> None:
    """Sound comes later by the receiver's buffer; as many frames miss it as the distribution says."""
    frames = said(Faults(jitter=jitter_ms * MS, buffer=buffer_ms * MS))
    held = buffer_ms // 20
    assert frames[:held] == [SILENCE] * held
    late = sum(frame == SILENCE for frame in frames[held:]) / (COUNT - held)
    due = math.exp(-buffer_ms / jitter_ms)
    assert late == pytest.approx(due, abs=3 * math.sqrt(due * (1 - due) / COUNT))


@pytest.mark.parametrize("dbfs", [-30.0, -50.0])
def test_noise(dbfs: float) -> None:
    """Noise has its level to a tenth of a decibel, within the telephone band."""
    noise = b"".join(said(Faults(noise_dbfs=dbfs), 800, SILENCE))
    assert level_dbfs(noise) == pytest.approx(dbfs, abs=0.1)
    power = np.abs(np.fft.rfft(np.frombuffer(noise, dtype="<i2"))) ** 2
    hz = np.fft.rfftfreq(len(noise) // 2, 1 / LINE_RATE_HZ)
    inside = (hz >= BAND_HZ[0]) & (hz <= BAND_HZ[1])
    assert power[inside].sum() / power.sum() > 0.99


@pytest.mark.parametrize("delay_ms", [0, 7, 60, 250])
def test_echo(delay_ms: int) -> None:
    """What the caller hears comes back after the delay to the sample, quieter by the attenuation."""
    wire = Wire(Faults(echo=Echo(delay_ms * MS, 30)))
    back = b""
    for _ in range(50):
        wire.hear(TONE)
        back += wire.say(SILENCE)
    samples: Samples = np.frombuffer(back, dtype="<i2").astype(np.int16)
    begins = delay_ms * LINE_RATE_HZ // 1000
    assert not samples[:begins].any()
    # The first sample of a sine is 0.
    assert int(np.flatnonzero(samples)[0]) == begins + 1
    echo = level_dbfs(samples[begins:].astype("<i2").tobytes())
    assert echo == pytest.approx(level_dbfs(TONE) - 30, abs=0.2)


def test_an_echo_needs_something_to_come_back() -> None:
    """A telephone that speaks before it hears anything (early media) has no echo and loses none."""
    wire = Wire(Faults(echo=Echo(20 * MS, 0)))
    assert [wire.say(SILENCE) for _ in range(3)] == [SILENCE] * 3
    wire.hear(TONE)
    assert wire.say(SILENCE) == SILENCE
    wire.hear(SILENCE)
    assert wire.say(SILENCE) == mulaw_decode(mulaw_encode(TONE))


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": 1.0},
        {"loss": -0.1},
        {"burst": 0.5},
        {"loss": 0.9, "burst": 2.0},  # would need gaps shorter than a frame
        {"jitter": -1 * MS},
        {"echo": Echo(-1 * MS, 30)},
    ],
)
def test_no_such_line(wrong: dict[str, object]) -> None:
    """Faults that no line can have are refused."""
    with pytest.raises(ValueError, match=r"share|bursts|negative|before"):
        Faults(**wrong)  # type: ignore[arg-type]
