"""Barge-in in two steps: the voice pauses at any sound, and words decide whether it stops or goes on.

After 200 ms an "uh-huh" and a "no, wait" sound alike, so the session pauses its voice as soon as somebody
speaks (``interruption.min_duration``), and resumes it when they fall silent without a word that is
meant. livekit-agents takes any final transcript for an interruption; here the words are looked at.
"""

import re
import tomllib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path

from livekit.agents import stt
from livekit.agents.voice import SpeechHandle

RESUME_AFTER = timedelta(milliseconds=100)
"""From the end of a sound until the voice goes on, unless words have come. The final transcript of what was
said comes about as long after its last word as the voice-activity detector needs to call it
silence, so this only has to cover the difference."""

VERDICT = timedelta(milliseconds=600)
"""From the pause until the voice goes on although the sound does, unless words have come that are meant: a
television or a passing lorry must not silence the agent. Whoever speaks has been understood by then:
interim words come 150 to 400 ms behind."""

NEARLY_DONE = timedelta(seconds=1)
"""With less than this left to say, what the caller says is an answer: a "yes" to the question just heard."""

_LONGEST = 4
"""Words; what is longer is meant, whatever it is made of."""

_WORD = re.compile(r"[\w'’]+")


@cache
def _listening() -> Mapping[str, frozenset[str]]:
    text = (Path(__file__).parent / "bargein.toml").read_text(encoding="utf-8")
    return {code: frozenset(words) for code, words in tomllib.loads(text).items()}


def is_backchannel(text: str, language: str) -> bool:
    """Whether *text* only shows that its speaker listens; no text at all does not even that, and counts.

    *language* is a BCP 47 tag; of a language that is not known every word is meant.
    """
    words = [word.lower().replace("’", "'") for word in _WORD.findall(text)]
    known = _listening().get(language.split("-")[0].lower(), frozenset())
    if len(words) > _LONGEST:
        return False
    at = 0
    while at < len(words):
        size = next((n for n in (2, 1) if " ".join(words[at : at + n]) in known), 0)
        if not size:
            return False
        at += size
    return True


class Floor:
    """Whose turn it is to speak, decided by the words of what is heard over the agent's voice.

    *speech* gives what the agent says now, None when it is silent; *left_s* how many seconds of it
    are still to be played.
    """

    def __init__(
        self,
        language: str,
        speech: Callable[[], SpeechHandle | None],
        left_s: Callable[[], float],
    ) -> None:
        self._language, self._speech, self._left_s = language, speech, left_s
        self._over: SpeechHandle | None = None
        """What the agent was saying when the utterance began that is being heard."""
        self._begun = False

    async def filter(
        self, events: AsyncIterable[stt.SpeechEvent]
    ) -> AsyncIterator[stt.SpeechEvent]:
        """*events* of a recogniser without those that only show that the caller listens."""
        async for event in events:
            if self._passes(event):
                yield event

    def _passes(self, event: stt.SpeechEvent) -> bool:
        kind = stt.SpeechEventType
        if event.type not in (
            kind.INTERIM_TRANSCRIPT,
            kind.PREFLIGHT_TRANSCRIPT,
            kind.FINAL_TRANSCRIPT,
        ):
            return True
        text = event.alternatives[0].text if event.alternatives else ""
        if not self._begun:
            self._begun, self._over = True, self._overlapped()
        speech = self._over
        if event.type is kind.FINAL_TRANSCRIPT:
            self._begun, self._over = False, None
        if speech is None or speech.done() or speech.interrupted:
            return True
        if is_backchannel(text, self._language):
            return False
        # Not left to the final transcript: until then no answer to it would be prepared.
        speech.interrupt()
        return True

    def _overlapped(self) -> SpeechHandle | None:
        speech = self._speech()
        if speech is None or not speech.allow_interruptions:
            return None
        return speech if self._left_s() > NEARLY_DONE.total_seconds() else None
