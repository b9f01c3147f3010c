"""Telephone audio: µ-law, WAV, waveforms, and reading who spoke when."""

import struct
import wave
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trunkline.kit import audio
from trunkline.kit.audio import Interval

RATE_HZ = 8000


def tone(ms: int, *, level: float = 0.3, rate_hz: int = RATE_HZ) -> NDArray[np.int16]:
    """A 400 Hz sine of *level* (1 = full scale); speech is about as loud at 0.05 to 0.3."""
    at = np.arange(rate_hz * ms // 1000) / rate_hz
    return (np.sin(2 * np.pi * 400 * at) * level * 32767).astype(np.int16)


def silence(ms: int, *, rate_hz: int = RATE_HZ) -> NDArray[np.int16]:
    return np.zeros(rate_hz * ms // 1000, dtype=np.int16)


def pcm(*samples: int) -> bytes:
    return np.array(samples, dtype="<i2").tobytes()


@pytest.mark.parametrize(
    ("sample", "code"),
    [
        # ITU-T G.711 tables 2a and 2b, scaled from 14 to 16 bits.
        (0, 0xFF),  # positive zero
        (7, 0xFE),  # above the first decision value (1 of 8159)
        (-8, 0x7E),  # the same below zero
        (132, 0xEF),  # the second segment begins
        (-132, 0x6F),
        (1884, 0xC0),  # the last step of the fourth segment
        (32635, 0x80),  # the loudest it can say
        (32767, 0x80),  # clipped
        (-32768, 0x00),  # clipped, and without a positive twin
    ],
)
def test_mulaw_codes(sample: int, code: int) -> None:
    """A sample gets the code of G.711's table."""
    assert audio.mulaw_encode(pcm(sample)) == bytes([code])


@pytest.mark.parametrize(
    ("code", "sample"),
    [(0xFF, 0), (0x7F, 0), (0xFE, 8), (0x7E, -8), (0xEF, 132), (0x80, 32124), (0x00, -32124)],
)
def test_mulaw_values(code: int, sample: int) -> None:
    """A code gets the value of G.711's table: both zeros are 0, the ends are ±8031 × 4."""
    assert audio.mulaw_decode(bytes([code])) == pcm(sample)


def test_mulaw_there_and_back() -> None:
    """Every code decodes to a sample that encodes to it again; only the negative zero becomes positive."""
    codes = bytes(range(256))
    again = audio.mulaw_encode(audio.mulaw_decode(codes))
    assert again == codes.replace(b"\x7f", b"\xff")


@given(st.lists(st.integers(-32768, 32767)))
def test_mulaw_is_near(samples: list[int]) -> None:
    """What comes back is off by at most half a step: 4, or a 32nd of the sample, and never changes sign."""
    back = np.frombuffer(audio.mulaw_decode(audio.mulaw_encode(pcm(*samples))), dtype="<i2")
    assert len(back) == len(samples)
    for before, after in zip(samples, back.tolist(), strict=True):
        clipped = max(-32124, min(32124, before))
        assert abs(clipped - after) <= max(8, (abs(clipped) + 132) / 32)
        assert before * after >= 0


def test_a_wav_is_read_back_as_written() -> None:
    """Samples, channels and rate survive; the standard library agrees about the file."""
    stereo = np.array([[1, -1], [2, -2], [32767, -32768]], dtype=np.int16)
    data = audio.wav_bytes(stereo.tobytes(), RATE_HZ, 2)
    samples, rate = audio.read_wav(data)
    assert (samples.tolist(), rate) == (stereo.tolist(), RATE_HZ)
    with wave.open(BytesIO(data)) as file:
        assert file.getparams()[:4] == (2, 2, RATE_HZ, 3)
    assert len(audio.wav_header(3, RATE_HZ, 2)) == audio.WAV_HEADER_BYTES


def test_an_empty_wav_is_a_wav() -> None:
    """No sound is a file of no frames, in as many channels."""
    samples, rate = audio.read_wav(audio.wav_bytes(b"", RATE_HZ, 2))
    assert (samples.shape, rate) == ((0, 2), RATE_HZ)


def test_pcm_that_ends_inside_a_frame_is_refused() -> None:
    """Half a frame would shift the channels; it is refused."""
    with pytest.raises(ValueError, match="6 bytes are no whole number of 2-channel"):
        audio.wav_bytes(b"\0" * 6, RATE_HZ, 2)


def test_a_wav_beyond_four_gibibytes_is_refused() -> None:
    """The length field has 32 bits."""
    with pytest.raises(ValueError, match="do not fit into one WAV"):
        audio.wav_header(2**30, RATE_HZ, 2)


def _eight_bits() -> bytes:
    out = BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 1, RATE_HZ, 0, "NONE", ""))
        file.writeframes(b"\x80" * 8)
    return out.getvalue()


def _mulaw() -> bytes:
    plain = bytearray(audio.wav_bytes(b"\0" * 8, RATE_HZ, 1))
    plain[20:22] = struct.pack("<H", 7)  # WAVE_FORMAT_MULAW
    return bytes(plain)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "ends inside its header.*16-bit PCM WAV is wanted"),  # nothing
        (b"ID3\x04 an mp3 renamed to .wav and then some more", "no PCM WAV.*RIFF"),  # not a WAV
        (audio.wav_bytes(b"\0" * 8, RATE_HZ, 1)[:30], "no PCM WAV"),  # cut in the header
        (
            audio.wav_bytes(b"\0" * 80, RATE_HZ, 1)[:64],
            "promises 40 frames and holds 10",
        ),  # cut later
        (_eight_bits(), "8-bit samples; a 16-bit PCM WAV is wanted"),
        (_mulaw(), "unknown format: 7.*16-bit PCM WAV is wanted"),  # compressed
    ],
)
def test_a_wav_of_the_wrong_kind_is_refused(data: bytes, sentence: str) -> None:
    """One sentence says what the file is and what is wanted."""
    with pytest.raises(ValueError, match=sentence):
        audio.read_wav(data)


def test_peaks_are_percent_of_full_scale() -> None:
    """Each bucket has the highest sample of its stretch, of either sign, on each side."""
    left = [0, 100, -32768, 0, 0, 0]
    right = [0, 0, 0, 0, 16384, -3277]
    stereo = np.array([left, right], dtype=np.int16).T
    assert audio.peaks(stereo, 3) == [
        {"left": 1, "right": 0},
        {"left": 100, "right": 0},
        {"left": 0, "right": 50},
    ]
    assert len(audio.peaks(stereo, 300)) == 6
    assert audio.peaks(stereo[:0], 300) == []


@given(
    st.integers(1, 400), st.integers(1, 20), st.lists(st.integers(1, 90), max_size=8), st.randoms()
)
def test_peaks_do_not_depend_on_the_pieces(
    frames: int, buckets: int, cuts: list[int], random: Any
) -> None:
    """A recording given in pieces of any length has the waveform of the whole."""
    flat = [random.randint(-32768, 32767) for _ in range(2 * frames)]
    stereo = np.array(flat, dtype=np.int16).reshape(-1, 2)
    meter = audio.PeakMeter(frames, buckets)
    at = 0
    for cut in [*cuts, frames]:
        meter.add(stereo[at : at + cut])
        at += cut
    assert meter.peaks() == audio.peaks(stereo, buckets)
    assert max(peak["left"] for peak in meter.peaks()) == np.ceil(
        np.abs(stereo[:, 0].astype(int)).max() / 327.68
    )


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
def test_sound_is_told_from_silence(rate_hz: int) -> None:
    """Edges are exact to a frame of 10 ms, at every rate we use."""
    signal = np.concatenate(
        [
            silence(500, rate_hz=rate_hz),
            tone(400, rate_hz=rate_hz),
            silence(600, rate_hz=rate_hz),
            tone(250, rate_hz=rate_hz),
        ]
    )
    assert audio.sounds(signal, rate_hz) == [Interval(500, 900), Interval(1500, 1750)]


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (200, [Interval(0, 600)]),  # the stop of a consonant, a breath
        (290, [Interval(0, 690)]),  # just below
        (300, [Interval(0, 200), Interval(500, 700)]),  # as long as that is a silence
    ],
)
def test_pauses_within_a_phrase_are_bridged(gap: int, expected: list[Interval]) -> None:
    """A gap shorter than gap_ms belongs to the sound around it."""
    signal = np.concatenate([tone(200), silence(gap), tone(200)])
    assert audio.sounds(signal, RATE_HZ) == expected


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (silence(1000), "nothing"),
        (silence(0), "not even silence"),
        (np.tile(np.array([8, -8], dtype=np.int16), 4000), "the idle noise of a µ-law line"),
        (tone(1000, level=0.002), "a whisper of -57 dBFS"),
        (np.concatenate([silence(300), tone(20), silence(300)]), "a click of 20 ms"),
    ],
)
def test_what_is_no_sound(signal: NDArray[np.int16], reason: str) -> None:
    """Noise of the line, clicks and what nobody hears are silence."""
    assert audio.sounds(signal, RATE_HZ) == [], reason


def test_speech_through_mulaw_has_the_same_edges() -> None:
    """The telephone's coding moves no edge."""
    signal = np.concatenate([silence(200), tone(300, level=0.05), silence(500)])
    line = np.frombuffer(audio.mulaw_decode(audio.mulaw_encode(signal.tobytes())), dtype="<i2")
    assert audio.sounds(line, RATE_HZ) == audio.sounds(signal, RATE_HZ) == [Interval(200, 500)]


I = Interval  # noqa: E741 - the tables below are read as pictures


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        # caller, agent → one reply
        ([I(1000, 2000)], [I(2700, 4000)], [700]),
        # the greeting answers nobody; then one reply
        ([I(1500, 2000)], [I(0, 1000), I(2600, 3000)], [600]),
        # two phrases of the caller: from the last one; two of the agent: to the first one
        ([I(0, 500), I(1000, 1500)], [I(2000, 2500), I(3000, 3500)], [500]),
        # two changes of side
        ([I(0, 500), I(2000, 2500)], [I(1000, 1500), I(3100, 3500)], [500, 600]),
        # barge-in: the agent stops while the caller speaks, and its next sound is the reply
        ([I(1000, 3000)], [I(0, 1400), I(3800, 5000)], [800]),
        # a "mhm" while the agent speaks on asks for no reply
        ([I(1000, 1200)], [I(0, 3000), I(4000, 5000)], []),
        # the agent begins while the caller still speaks: that is no reply
        ([I(0, 2000)], [I(1500, 2500)], []),
        # the caller says nothing and is asked again
        ([I(0, 500)], [I(1000, 2000), I(10_000, 11_000)], [500]),
        # at the very moment
        ([I(0, 500)], [I(500, 900)], [0]),
        ([], [I(0, 500)], []),
        ([I(0, 500)], [], []),
    ],
)
def test_reply_latencies(left: list[Interval], right: list[Interval], expected: list[int]) -> None:
    """From the caller's last sound to the agent's first, once per change of side."""
    assert audio.reply_latencies(left, right) == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([I(1000, 3000)], [I(0, 1400), I(3800, 5000)], [400]),  # stops 400 ms after the onset
        ([I(2000, 3000)], [I(0, 1400)], []),  # the agent was silent already
        ([I(0, 3000)], [I(500, 1400)], []),  # the agent spoke into the caller, not the reverse
        ([I(100, 300), I(800, 900)], [I(0, 1000)], [900, 200]),  # two onsets into one sound
        ([I(500, 900)], [I(0, 500)], []),  # on the very edge
    ],
)
def test_silence_after_barge_in(
    left: list[Interval], right: list[Interval], expected: list[int]
) -> None:
    """For each caller's onset into the agent's sound, how long the agent went on."""
    assert audio.silence_after_barge_in(left, right) == expected


@given(st.lists(st.integers(0, 4000), max_size=20))
def test_sounds_are_the_same_however_the_recording_comes(cuts: list[int]) -> None:
    """A recording read in pieces of any size has the same sounds on each side as in one."""
    caller = np.concatenate([tone(200), silence(400), tone(105)])
    agent = np.concatenate([silence(200), tone(100), silence(405)])
    whole = np.stack([caller, agent], axis=1)
    meter = audio.SoundMeter(RATE_HZ, 2)
    at = 0
    for cut in cuts:
        meter.add(whole[at : at + cut])
        at += cut
    meter.add(whole[at:])
    assert meter.sounds() == [audio.sounds(caller, RATE_HZ), audio.sounds(agent, RATE_HZ)]


def test_a_reply_has_its_place_and_its_wait() -> None:
    """A reply is where the agent begins, and how long after the caller's last sound that is."""
    caller, agent = [Interval(0, 1000), Interval(4000, 5000)], [Interval(1800, 3000)]
    assert audio.replies(caller, agent) == [audio.Reply(at_ms=1800, after_ms=800)]
