"""Answers begun before the turn is certain: when the caller pauses, on the words that are there by then.

A recogniser calls its words final 250 to 500 ms after the last of them, and its interim ones have mostly been
the same for half of that time. With the caller quiet, interim words become a "preflight transcript",
for which livekit-agents asks the model without saying anything: no tool runs and no words are stored
before the final ones are equal to it; if they are not, the draft is thrown away.
"""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace

from livekit import rtc
from livekit.agents import stt

from trunkline.agent.audio import rms

QUIET_MS = 160
"""Quiet for so long, an interim transcript has caught up with the last word; a stop within a word ("bet-ter")
takes less than 100 ms."""

_DOWN = 10 ** (-20 / 20)
"""20 dB below the caller's own voice is quiet, whatever the line's noise is."""
_FLOOR = 30.0
"""Root mean square of PCM16 (-61 dBFS): below it nobody's voice is."""
_FADE = 0.995
"""By frame of 20 ms: half after 2.8 s, so that a caller who lowers their voice is still heard."""

MOST = 6
"""Drafts in one turn; a caller who halts at every word has no more of them made."""


class Drafts:
    """Tells from the caller's sound when they pause, and which transcripts are worth a draft."""

    def __init__(self) -> None:
        self._voice = 0.0
        self._quiet_ms = 0.0
        self._drafted = ""

    async def listen(self, audio: AsyncIterable[rtc.AudioFrame]) -> AsyncIterator[rtc.AudioFrame]:
        """*audio* as it comes, listened to."""
        async for frame in audio:
            self.hear(bytes(frame.data), frame.duration * 1000)
            yield frame

    def hear(self, pcm: bytes, ms: float) -> None:
        """The caller's next *ms* of PCM16."""
        loud = rms(pcm)
        self._voice = max(loud, self._voice * _FADE)
        quiet = loud < max(_FLOOR, self._voice * _DOWN)
        self._quiet_ms = self._quiet_ms + ms if quiet else 0.0

    async def begin(self, events: AsyncIterable[stt.SpeechEvent]) -> AsyncIterator[stt.SpeechEvent]:
        """*events* of a recogniser, those interim ones that the caller pauses after marked for a draft."""
        async for event in events:
            yield self._marked(event)

    def _marked(self, event: stt.SpeechEvent) -> stt.SpeechEvent:
        kind = stt.SpeechEventType
        if event.type is kind.FINAL_TRANSCRIPT:
            self._drafted = ""
        if event.type is not kind.INTERIM_TRANSCRIPT or self._quiet_ms < QUIET_MS:
            return event
        text = event.alternatives[0].text if event.alternatives else ""
        if not text or text == self._drafted:
            return event
        self._drafted = text
        return replace(event, type=kind.PREFLIGHT_TRANSCRIPT)
