"""How many words of a reply a caller has heard, from how long its sound could be heard."""

import re
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.bench.meter import HEARD_RMS

from trunkline.sandbox.brain import Brain
from trunkline.sandbox.deepgram import punctuated
from trunkline.sandbox.script import shape
from trunkline.sandbox.voice import Voice, Word

_RATE_HZ = 8000


@dataclass(frozen=True)
class Reply:
    """What the sandbox's model says to a line, and how its voice says it."""

    text: str
    middles: tuple[int, ...]
    """Of each word: the frames that can be heard until its middle."""

    @classmethod
    async def spoken(cls, instructions: str, line: str) -> "Reply":
        """Ask the sandbox's rules, and let its voice say the answer."""
        question = " ".join(punctuated(Path(line).stem.split("_")))
        messages = [
            {"role": "system", "content": instructions},
            {"role": "user", "content": question},
        ]
        text = Brain.load().reply({"model": "gpt-4.1-mini", "messages": messages}).text
        voice = await Voice.start()
        try:
            # A sentence at a time, as it reaches the voice.
            middles: list[int] = []
            frames = 0
            for sentence in re.findall(r"\S.*?[.!?](?=\s|$)", text):
                pcm, words = b"", list[Word]()
                async for chunk in voice.synthesize(sentence, "en", _RATE_HZ):
                    pcm += chunk.pcm
                    words += chunk.words
                loud = np.cumsum(shape(pcm, _RATE_HZ) >= HEARD_RMS)
                for word in words:
                    middle = round((word.start_s + word.end_s) / 2 / 0.02)
                    middles.append(frames + int(loud[min(middle, len(loud) - 1)]))
                frames += int(loud[-1])
        finally:
            await voice.close()
        return cls(text, tuple(middles))

    def begins(self, text: str) -> bool:
        """Whether *text* is this reply or its beginning."""
        return text.split()[:2] == self.text.split()[:2]

    def words_in(self, frames: int) -> int:
        """How many words had been heard, to their middle at least, after so many *frames* with sound."""
        return bisect_right(self.middles, frames)
