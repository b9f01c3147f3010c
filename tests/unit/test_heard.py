"""What was heard of an interrupted reply is true to the word."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from livekit import rtc
from livekit.agents import io
from livekit.agents.types import TimedString

from trunkline.agent.heard import Heard, Segment, Word, spaced


def timed(*words: tuple[str, float, float]) -> list[Word]:
    return [Word(*word) for word in words]


TIMED = timed(("We ", 0.0, 0.2), ("have ", 0.2, 0.5), ("three ", 0.5, 0.9), ("plans.", 0.9, 1.4))


@pytest.mark.parametrize(
    ("position_s", "heard"),
    [
        (0.0, ""),  # nothing was played
        (0.19, "We "),  # within one frame of the word's end
        (0.3, "We "),  # a word that was cut was not heard
        (0.9, "We have three "),  # the very end of a word
        (9.0, "We have three plans."),  # longer than the reply
    ],
)
def test_word_times_decide(position_s: float, heard: str) -> None:
    """With the voice's own times a word counts once its sound is over."""
    assert Segment(words=TIMED, audio_s=1.4, complete=True).heard(position_s) == heard


def test_punctuation_without_times_goes_with_the_next_word() -> None:
    """Pieces without times are heard with the timed word that follows them, or at the end."""
    words = [Word("Yes", 0.0, 0.3), Word(", ", None, None), Word("gladly", 0.4, 0.9)]
    segment = Segment(words=[*words, Word(".", None, None)], audio_s=1.0, complete=True)
    assert segment.heard(0.35) == "Yes"
    assert segment.heard(1.0) == "Yes, gladly."


@pytest.mark.parametrize(
    ("position_s", "heard"),
    [
        (0.0, ""),
        (1.0, "Hello"),  # 11 characters in 2 s: five are played
        (2.0, "Hello there"),
    ],
)
def test_text_without_times_is_spread_over_its_audio(position_s: float, heard: str) -> None:
    """A voice without word times is cut at a word, in proportion to its length."""
    segment = Segment([Word("Hello there", None, None)], audio_s=2.0, complete=True)
    assert segment.heard(position_s) == heard


class Player(io.AudioOutput):
    """A line's audio output that plays what the test tells it to."""

    def __init__(self) -> None:
        super().__init__(label="test", capabilities=io.AudioOutputCapabilities(pause=True))
        self.going = asyncio.Event()
        self.going.set()

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)

    def flush(self) -> None:
        super().flush()

    def clear_buffer(self) -> None: ...

    def pause(self) -> None:
        self.going.clear()

    def resume(self) -> None:
        self.going.set()


class Sink(io.TextOutput):
    """Collects the words that were heard."""

    def __init__(self) -> None:
        super().__init__(label="test", next_in_chain=None)
        self.text = ""
        self.flushed = 0
        self.got = asyncio.Event()

    async def capture_text(self, text: str) -> None:
        self.text += text
        self.got.set()

    def flush(self) -> None:
        self.flushed += 1


async def test_an_interrupted_reply_reports_the_half_that_was_heard() -> None:
    """The session is told what was heard, and the next reply starts anew."""
    player, sink = Player(), Sink()
    heard = Heard(player, sink)
    finished: list[io.PlaybackFinishedEvent] = []
    heard.audio.on("playback_finished", finished.append)

    for word in TIMED:
        assert word.start_s is not None
        assert word.end_s is not None
        await heard.text.capture_text(
            TimedString(word.text, start_time=word.start_s, end_time=word.end_s)
        )
    await heard.audio.capture_frame(rtc.AudioFrame.create(8000, 1, 11_200))
    heard.audio.flush()
    player.on_playback_started(created_at=0.0)
    player.on_playback_finished(playback_position=0.6, interrupted=True)
    assert finished[0].synchronized_transcript == "We have "
    assert finished[0].interrupted
    await sink.got.wait()
    assert sink.text == "We have "
    assert sink.flushed == 1

    await heard.text.capture_text("Sorry.")
    await heard.audio.capture_frame(rtc.AudioFrame.create(8000, 1, 4_000))
    heard.audio.flush()
    player.on_playback_started(created_at=0.0)
    player.on_playback_finished(playback_position=0.5, interrupted=False)
    assert finished[1].synchronized_transcript == "Sorry."


async def test_a_pause_without_a_verdict_ends() -> None:
    """Paused amid its words it goes on by itself, until it is resumed; before its first sound it waits."""
    player = Player()
    audio = Heard(player, Sink()).audio
    audio.longest_pause = timedelta(0)
    await audio.capture_frame(rtc.AudioFrame.create(8000, 1, 8_000))
    audio.pause()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not player.going.is_set(), "nothing was said yet: the caller speaks first"
    audio.resume()

    player.on_playback_started(created_at=0.0)
    audio.pause()
    assert not player.going.is_set()
    await player.going.wait()
    audio.pause()
    assert player.going.is_set(), "the same sound does not pause it again"
    audio.resume()
    audio.pause()
    assert not player.going.is_set(), "the next sound does"
    player.on_playback_finished(playback_position=0.5, interrupted=True)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["The", " stage.", "Would", " you?"], "The stage. Would you?"),  # lost by the plugin
        (
            ["open", " Monday", "to", " Friday"],
            "open Monday to Friday",
        ),  # between two pieces of text
        (["Hello.", " How?"], "Hello. How?"),  # there already
        (["nine", "-", "to", "-", "five"], "nine-to-five"),  # a mark is no word
        (["你好", "吗"], "你好吗"),  # written without spaces
        (["two point", " 5"], "two point 5"),  # no sentence ended
    ],
)
async def test_sentences_keep_the_space_between_them(pieces: list[str], text: str) -> None:
    """A space that the voice's plugin lost is put back, with the word's times."""

    async def given() -> AsyncIterator[str]:
        for piece in pieces:
            yield TimedString(piece, start_time=1.0, end_time=2.0)

    got = [piece async for piece in spaced(given())]
    assert "".join(got) == text
    assert all(isinstance(piece, TimedString) and piece.end_time == 2.0 for piece in got)
