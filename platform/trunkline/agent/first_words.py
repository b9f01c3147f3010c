"""The first words of a call: their sound is made while the line rings, or was kept from another call."""

import asyncio
from collections.abc import AsyncIterator

from livekit import rtc

from trunkline.agent.audio import at_line_rate, without_lead
from trunkline.agent.kept import Kept
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.models.speaking import Speaking
from trunkline.agent.session import PATIENCE
from trunkline.profiles.body import ProfileBody

_PIECE = LINE_RATE_HZ // 10


class FirstWords:
    """*words* on their way to sound, from the moment this is made; to be closed with the call.

    What *voice*'s first choice says of them is kept in *kept* for the next call.
    """

    def __init__(self, words: str, body: ProfileBody, voice: Speaking, kept: Kept | None) -> None:
        self.words = words
        self.error: BaseException | None = None
        """Why there is no sound, or no more of it."""
        self._body, self._voice, self._kept = body, voice, kept
        self._frames: list[rtc.AudioFrame] = []
        self._more = asyncio.Event()
        self._making = asyncio.create_task(self._make(), name="first words")

    async def begun(self) -> None:
        """Wait until the first of the sound is there. Raises what the voice raised instead."""
        while not self._frames and not self._making.done():
            await self._news()
        if not self._frames:
            raise self.error or RuntimeError("the voice gave no sound")

    async def whole(self) -> list[rtc.AudioFrame]:
        """All of the sound. Raises as ``begun``; what was cut short is given as far as it goes."""
        await asyncio.wait([self._making])
        await self.begun()
        return list(self._frames)

    async def stream(self) -> AsyncIterator[rtc.AudioFrame]:
        """The sound as it comes; it ends early on an error, which is then in ``error``."""
        at = 0
        while at < len(self._frames) or not self._making.done():
            if at == len(self._frames):
                await self._news()
                continue
            yield self._frames[at]
            at += 1

    async def aclose(self) -> None:
        """Make no more of it."""
        self._making.cancel()
        await asyncio.wait([self._making])

    async def _news(self) -> None:
        self._more.clear()
        more = asyncio.ensure_future(self._more.wait())
        await asyncio.wait([more, self._making], return_when=asyncio.FIRST_COMPLETED)
        more.cancel()

    async def _make(self) -> None:
        try:
            if self._kept is not None and (pcm := self._kept.get(self._body, self.words)):
                self._voice.roster.again()
                self._frames += _cut(pcm)
                return
            async with self._voice.stream(conn_options=PATIENCE, company=False) as stream:
                stream.push_text(self.words)
                stream.end_input()
                async for audio in stream:
                    self._frames.append(audio.frame)
                    self._more.set()
        except Exception as error:
            self.error = error
            return
        if self._kept is not None and self._frames and self._voice.roster.current.main:
            await asyncio.to_thread(self._keep, self._kept, list(self._frames))

    def _keep(self, kept: Kept, frames: list[rtc.AudioFrame]) -> None:
        kept.put(self._body, self.words, without_lead(at_line_rate(frames)))


def _cut(pcm: bytes) -> list[rtc.AudioFrame]:
    size = _PIECE * 2
    pieces = (pcm[at : at + size] for at in range(0, len(pcm), size))
    return [rtc.AudioFrame(piece, LINE_RATE_HZ, 1, len(piece) // 2) for piece in pieces]
