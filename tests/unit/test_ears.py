"""What the grammar ears understand, and what they leave alone."""

import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from livekit import rtc

from trunkline.kit.audio import mulaw_decode, mulaw_encode
from trunkline.sandbox import ears
from trunkline.sandbox.brain import Brain
from trunkline.sandbox.ears import (
    BadGrammar,
    EarEvent,
    Final,
    Interim,
    Recogniser,
    Recognition,
    SpeechStarted,
)

LINES = Path(ears.__file__).parent / "lines"
RATE_HZ = 8000
KNOWN = (
    "where does my order stand",
    "yes please go ahead with the bigger plan",
    "no thank you goodbye",
    "i would like to leave a message",
    "my name is peter novak",
    "my internet has been down since monday",
    "yes please call me back tomorrow",
    "no that is all goodbye",
    "what plans do you have",
    "wait what are your opening hours",
    "thank you goodbye",
    "please call me back tomorrow",
    "hello",
)

Samples = npt.NDArray[np.int16]


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser(Brain.load().grammar())


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE_HZ), np.int16)


def line(text: str) -> Samples:
    """A recorded line as the telephone brings it, through µ-law."""
    with wave.open(str(LINES / f"{text.replace(' ', '_')}.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE_HZ)
        pcm = file.readframes(file.getnframes())
    return np.frombuffer(mulaw_decode(mulaw_encode(pcm)), np.int16)


def resampled(*sounds: Samples) -> bytes:
    """The sounds at 16 kHz, as LiveKit's plugin sends them."""
    resampler = rtc.AudioResampler(RATE_HZ, 2 * RATE_HZ)
    pcm = np.concatenate(sounds)
    frames = resampler.push(rtc.AudioFrame(pcm.tobytes(), RATE_HZ, 1, len(pcm)))
    return b"".join(bytes(frame.data) for frame in (*frames, *resampler.flush()))


def hear(recognition: Recognition, *sounds: Samples, piece_ms: int = 20) -> list[EarEvent]:
    pcm = np.concatenate(sounds).tobytes()
    size = piece_ms * RATE_HZ // 1000 * 2
    pieces = (pcm[start : start + size] for start in range(0, len(pcm), size))
    return [event for piece in pieces for event in recognition.hear(piece)]


def understood(events: list[EarEvent]) -> list[str]:
    return [
        " ".join(word.text for word in event.words) for event in events if isinstance(event, Final)
    ]


@pytest.mark.parametrize("text", KNOWN)
def test_every_recorded_line_is_understood(recogniser: Recogniser, text: str) -> None:
    """Each caller line of the demo is recognised word for word, through µ-law at 8 kHz, wherever it
    falls among the endpointer's frames."""
    for offset_s in (0.500, 0.510, 0.520):
        events = hear(Recognition(recogniser, RATE_HZ), silence(offset_s), line(text), silence(0.6))
        assert understood(events) == [text]


def noise() -> Samples:
    return (np.random.default_rng(1).normal(size=RATE_HZ) * 6000).clip(-32768, 32767).astype("i2")


def key_tone() -> Samples:
    time = np.arange(RATE_HZ // 5) / RATE_HZ
    tone = np.sin(2 * np.pi * 697 * time) + np.sin(2 * np.pi * 1336 * time)
    return (tone * 6000).astype(np.int16)


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(line("the quick brown fox jumps over the lazy dog"), id="other-words"),
        pytest.param(noise(), id="noise"),
        pytest.param(key_tone(), id="key-2"),
    ],
)
def test_what_the_grammar_lacks_is_not_understood(recogniser: Recogniser, sound: Samples) -> None:
    """Other words, noise and key tones are heard as speech that says nothing, not as some sentence."""
    events = hear(Recognition(recogniser, RATE_HZ), silence(0.5), sound, silence(0.6))
    assert isinstance(events[0], SpeechStarted)
    assert understood(events) == [""]


def test_silence_is_nothing(recogniser: Recogniser) -> None:
    """Nobody speaks, nothing is reported, also at the end."""
    recognition = Recognition(recogniser, RATE_HZ)
    assert hear(recognition, silence(2)) == []
    assert list(recognition.finish(finalized=False)) == []


def test_times_count_from_the_streams_start(recogniser: Recogniser) -> None:
    """Onset, words and end lie where the line was played, in the second utterance as in the first."""
    said = line("my name is peter novak")
    recognition = Recognition(recogniser, RATE_HZ)
    begins_s = 1.0
    for _ in range(2):
        events = hear(recognition, silence(1), said, silence(1))
        started, final = events[0], events[-1]
        assert isinstance(started, SpeechStarted)
        assert isinstance(final, Final)
        assert started.at_s == pytest.approx(begins_s, abs=0.15)
        assert final.words[0].start_s == pytest.approx(begins_s, abs=0.15)
        assert final.words[-1].end_s == pytest.approx(begins_s + len(said) / RATE_HZ, abs=0.25)
        for before, after in pairwise(final.words):
            assert before.start_s < before.end_s <= after.start_s
        assert all(0 < word.confidence <= 1 for word in final.words)
        begins_s += 2 + len(said) / RATE_HZ


def test_interim_results_grow_to_the_final(recogniser: Recogniser) -> None:
    """While someone speaks there are interim results; the last is the beginning of the final."""
    events = hear(
        Recognition(recogniser, RATE_HZ), silence(0.5), line("my name is peter novak"), silence(0.6)
    )
    interims = [
        [word.text for word in event.words] for event in events if isinstance(event, Interim)
    ]
    assert len(interims) >= 3
    assert interims[-1][:4] == ["my", "name", "is", "peter"]
    assert all(before != after for before, after in pairwise(interims))


def test_the_size_of_the_pieces_changes_nothing(recogniser: Recogniser) -> None:
    """The same audio gives the same events, in pieces of any size."""
    sounds = (silence(0.5), line("no thank you goodbye"), silence(0.6))
    first = hear(Recognition(recogniser, RATE_HZ), *sounds)
    assert hear(Recognition(recogniser, RATE_HZ), *sounds, piece_ms=130) == first


def test_a_noise_spoils_nothing(recogniser: Recogniser) -> None:
    """A line is understood right after a loud noise, and again after that."""
    recognition = Recognition(recogniser, RATE_HZ)
    said = line("no thank you goodbye")
    events = hear(recognition, noise(), silence(0.6), said, silence(0.6), said, silence(0.6))
    assert understood(events) == ["", "no thank you goodbye", "no thank you goodbye"]


def test_finalize_ends_an_utterance_at_once(recogniser: Recogniser) -> None:
    """Asked to, the ears give what they have without waiting for silence; then they hear on."""
    recognition = Recognition(recogniser, RATE_HZ)
    assert understood(hear(recognition, silence(0.5), line("hello"))) == []
    (final,) = recognition.finish(finalized=True)
    assert isinstance(final, Final)
    assert ([word.text for word in final.words], final.finalized) == (["hello"], True)
    (nothing,) = recognition.finish(finalized=True)
    assert isinstance(nothing, Final)
    assert (nothing.words, nothing.finalized) == ((), True)
    events = hear(recognition, silence(0.5), line("thank you goodbye"), silence(0.6))
    assert understood(events) == ["thank you goodbye"]


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ("", "has 0 public rules"),
        ("#JSGF V1.0; grammar g; public <a> = yes; public <b> = no;", "has 2 public rules"),
        ("#JSGF V1.0;\ngrammar g;\npublic <a> = yes | xyzzyx;", "lacks xyzzyx"),
        ("#JSGF V1.0;\ngrammar g;\npublic <a> = yes | (no;", "Failed to parse JSGF"),
    ],
)
def test_a_wrong_grammar_is_told(grammar: str, said: str) -> None:
    """A grammar that cannot be used is refused with the reason."""
    with pytest.raises(BadGrammar, match=said):
        Recogniser(grammar)


def test_a_rate_the_model_lacks_is_refused(recogniser: Recogniser) -> None:
    """Audio at another rate is refused rather than misheard."""
    with pytest.raises(ValueError, match="44100 Hz is not supported"):
        Recognition(recogniser, 44100)
