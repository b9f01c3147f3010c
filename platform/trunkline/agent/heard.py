"""What was heard: the agent's words in step with their sound, exact where the voice gives word times.

Takes the place of livekit-agents' TranscriptSynchronizer, which guesses the speaking rate from the
spectrum of all audio (80–130 ms of one core at the head of each reply, in the event loop that
carries the audio) and counts syllables even where the voice says when each word begins.
"""

import asyncio
import math
import time
import unicodedata
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta

from livekit import rtc
from livekit.agents import io
from livekit.agents.types import TimedString
from livekit.agents.utils import is_given

CHARACTERS_PER_SECOND = 15.0
"""Rate of a voice that gives no word times, until its audio is complete and tells its length. English is
read aloud at about 150 words, 900 characters, a minute."""


@dataclass(frozen=True)
class Word:
    """A piece of text and when its sound begins and ends, in seconds of its segment."""

    text: str
    start_s: float | None
    end_s: float | None


@dataclass
class Segment:
    """One stretch of speech: its text as it comes, and how much audio was given for it."""

    words: list[Word] = field(default_factory=list)
    audio_s: float = 0.0
    complete: bool = False
    """Whether all of its audio was given, so that ``audio_s`` is its length."""

    @property
    def text(self) -> str:
        """All of it, heard or not."""
        return "".join(word.text for word in self.words)

    def heard(self, position_s: float) -> str:
        """The text whose sound was played up to *position_s*; of a word that was cut, nothing.

        Text without times is taken to be spread evenly over the audio and is cut at a word.
        """
        if any(word.end_s is not None for word in self.words):
            return "".join(self._until(position_s))
        rate = CHARACTERS_PER_SECOND
        if self.complete and self.audio_s > 0:
            rate = len(self.text) / self.audio_s
        characters = int(position_s * rate)
        if characters >= len(self.text):
            return self.text
        return self.text[: characters + 1].rpartition(" ")[0]

    def _until(self, position_s: float) -> list[str]:
        known: list[str] = []
        waiting: list[str] = []
        for word in self.words:
            # Spaces and punctuation come without times; they go with the word after them.
            waiting.append(word.text)
            if word.end_s is None:
                continue
            if word.end_s > position_s + 0.02:  # one frame of the line
                return known
            known += waiting
            waiting = []
        return known + waiting if self.complete else known


async def spaced(pieces: AsyncIterable[str]) -> AsyncIterator[str]:
    """*pieces* of a reply's text, with the space between two words that lacks it.

    Cartesia's plugin gives words with their times and loses the space after a piece of text when the next
    one has not been sent yet (livekit-plugins-cartesia 1.8.9, ``tts.py``, the branch that merges whitespace).
    """
    last = ""
    async for piece in pieces:
        if isinstance(piece, TimedString) and _ends_word(last) and piece[:1].isalnum():
            piece = TimedString(f" {piece}", start_time=piece.start_time, end_time=piece.end_time)
        last = str(piece) or last
        yield piece


def _ends_word(text: str) -> bool:
    """Whether a space belongs between *text* and a word: not in scripts that are written without."""
    end = text[-1:]
    if end.isalnum():
        return unicodedata.east_asian_width(end) not in ("W", "F")
    return end in (".", "?", "!", ",", ";", ":")


class Heard:
    """A pair of outputs that a session writes to; *line* plays the audio, *sink* gets the words.

    ``audio`` and ``text`` go to ``session.output.audio`` and ``.transcription``.
    """

    def __init__(self, line: io.AudioOutput, sink: io.TextOutput) -> None:
        self._sink = sink
        self._segment = Segment()
        self._told = ""
        self._started: float | None = None
        self._paused_at: float | None = None
        self._paused_s = 0.0
        self._teller: asyncio.Task[None] | None = None
        self.audio = HeardAudio(self, line)
        self.text = _Text(self)

    # From the session -----------------------------------------------------------------------

    @property
    def has_begun(self) -> bool:
        """Whether something of the segment was played."""
        return self._started is not None

    def add_text(self, text: str) -> None:
        """The next piece of the reply's text, with its times when the voice gave them."""
        start = end = None
        if isinstance(text, TimedString):
            start = text.start_time if is_given(text.start_time) else None
            end = text.end_time if is_given(text.end_time) else None
        self._segment.words.append(Word(str(text), start, end))

    def add_audio(self, seconds: float) -> None:
        """That much more audio of the reply was given to the line."""
        self._segment.audio_s += seconds

    def end_audio(self) -> None:
        """All audio of the reply was given."""
        self._segment.complete = True

    @property
    def left_s(self) -> float:
        """Seconds of the reply that were not played yet; infinite while more of it may come."""
        if not self._segment.complete:
            return math.inf
        if self._started is None:
            return self._segment.audio_s
        now = time.monotonic() if self._paused_at is None else self._paused_at
        return max(0.0, self._segment.audio_s - (now - self._started - self._paused_s))

    # From the line --------------------------------------------------------------------------

    def playing(self) -> None:
        """The segment's first sound is played now."""
        self._started, self._paused_s, self._paused_at = time.monotonic(), 0.0, None
        self._teller = asyncio.create_task(self._tell(), name="heard")

    def pause(self) -> None:
        """The line stands still."""
        if self._paused_at is None:
            self._paused_at = time.monotonic()

    def resume(self) -> None:
        """The line goes on."""
        if self._paused_at is not None:
            self._paused_s += time.monotonic() - self._paused_at
            self._paused_at = None

    def finished(self, position_s: float, *, interrupted: bool) -> str:
        """The segment is over after *position_s* of its audio. Returns what was heard of it."""
        segment, told = self._segment, self._told
        heard = segment.heard(position_s) if interrupted else segment.text
        if self._teller is not None:
            self._teller.cancel()
        self._segment, self._told = Segment(), ""
        self._started = self._teller = None
        if heard.startswith(told) and len(heard) > len(told):
            self._emit(heard[len(told) :])
        self._sink.flush()
        return heard

    # To the sink ----------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Hand on the words as they are heard."""
        while True:
            if self._started is not None and self._paused_at is None:
                position = time.monotonic() - self._started - self._paused_s
                heard = self._segment.heard(position)
                if len(heard) > len(self._told):
                    new, self._told = heard[len(self._told) :], heard
                    await self._sink.capture_text(new)
            await asyncio.sleep(0.1)

    def _emit(self, text: str) -> None:
        task = asyncio.get_running_loop().create_task(self._sink.capture_text(text))
        self._last = task  # keeps the task alive


class HeardAudio(io.AudioOutput):
    """Passes the audio on to the line and the line's reports back, with what was heard."""

    def __init__(self, heard: Heard, line: io.AudioOutput) -> None:
        super().__init__(
            label="Heard",
            capabilities=io.AudioOutputCapabilities(pause=True),
            next_in_chain=line,
            sample_rate=line.sample_rate,
        )
        self._heard = heard
        self._verdict: asyncio.TimerHandle | None = None
        self._goes_on = False
        """Whether it plays although the session has paused it."""
        self.longest_pause: timedelta | None = None
        """So long after a pause amid its words it goes on by itself, until it has been resumed."""

    @property
    def left_s(self) -> float:
        """See :attr:`Heard.left_s`."""
        return self._heard.left_s

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        await super().capture_frame(frame)
        self._heard.add_audio(frame.duration)
        assert self.next_in_chain is not None
        await self.next_in_chain.capture_frame(frame)

    def flush(self) -> None:
        super().flush()
        self._heard.end_audio()
        assert self.next_in_chain is not None
        self.next_in_chain.flush()

    def clear_buffer(self) -> None:
        assert self.next_in_chain is not None
        self.next_in_chain.clear_buffer()

    def pause(self) -> None:
        if self._goes_on:
            return
        super().pause()
        self._heard.pause()
        # Before its first sound it waits for the caller to end, however long that takes.
        if self._verdict is None and self.longest_pause is not None and self._heard.has_begun:
            loop = asyncio.get_running_loop()
            self._verdict = loop.call_later(self.longest_pause.total_seconds(), self._go_on)

    def resume(self) -> None:
        self._decided()
        super().resume()
        self._heard.resume()

    def _go_on(self) -> None:
        self.resume()
        self._goes_on = True

    def _decided(self) -> None:
        if self._verdict is not None:
            self._verdict.cancel()
        self._verdict, self._goes_on = None, False

    def on_playback_started(self, *, created_at: float) -> None:
        self._heard.playing()
        super().on_playback_started(created_at=created_at)

    def on_playback_finished(
        self,
        *,
        playback_position: float,
        interrupted: bool,
        synchronized_transcript: str | None = None,
    ) -> None:
        self._decided()
        super().on_playback_finished(
            playback_position=playback_position,
            interrupted=interrupted,
            synchronized_transcript=self._heard.finished(
                playback_position, interrupted=interrupted
            ),
        )


class _Text(io.TextOutput):
    """Takes the reply's text; it is handed on when it is heard, not when it comes."""

    def __init__(self, heard: Heard) -> None:
        super().__init__(label="Heard", next_in_chain=None)
        self._heard = heard

    async def capture_text(self, text: str) -> None:
        self._heard.add_text(text)

    def flush(self) -> None:
        """The text is complete; its audio decides when it was heard."""
