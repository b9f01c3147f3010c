"""A voice that is several: who gives no sound in time is spoken for by the next."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, APITimeoutError, tokenize, utils
from livekit.agents.tts import (
    TTS,
    AudioEmitter,
    ChunkedStream,
    StreamAdapter,
    SynthesizedAudio,
    SynthesizeStream,
    TTSCapabilities,
)
from livekit.agents.types import (
    DEFAULT_API_CONNECT_OPTIONS,
    USERDATA_TIMED_TRANSCRIPT,
    TimedString,
)

from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.models.roster import Candidate, Roster

_LOOK_S = 0.05
_COMPANY_S = 0.25
"""A caller who has waited for one voice in vain waits so long for the next before they are told."""
_LAST_S = 2.5
"""How long the last one left is waited for at least."""


class Speaking(TTS[Any]):
    """One TTS for the session, made of a roster's; words come with their times from all of them."""

    def __init__(
        self, roster: Roster[TTS[Any]], first_audio_s: float, *, at_once: str = ""
    ) -> None:
        rate_hz = roster.candidates[0].plugin.sample_rate
        super().__init__(
            capabilities=TTSCapabilities(streaming=True, aligned_transcript=True),
            sample_rate=rate_hz,
            num_channels=1,
        )
        self.roster, self.first_audio_s = roster, first_audio_s
        self.at_once = at_once
        """A reply that begins with this sentence has it spoken as soon as it is there: what comes behind it
        may be long in coming, and a voice's tokenizer keeps a sentence until it sees the next one begin."""
        self.sound: Callable[[str], bytes | None] = lambda words: None
        """The sound of a sentence, PCM16 mono at LINE_RATE_HZ, if it is there without asking the voice."""
        for one in roster.candidates:
            one.plugin.on("metrics_collected", self._on_metrics)

    @property
    def model(self) -> str:
        """Of whoever has spoken last."""
        return self.roster.current.plugin.model

    @property
    def provider(self) -> str:
        """Of whoever has spoken last."""
        return self.roster.current.plugin.provider

    def prewarm(self) -> None:
        """Connect to the one asked first."""
        self.roster.order()[0].plugin.prewarm()

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> ChunkedStream:
        """Speak *text*, whole before the first of it is handed out."""
        return _Whole(tts=self, input_text=text, conn_options=conn_options)

    def stream(
        self,
        *,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        company: bool = True,
    ) -> SynthesizeStream:
        """Speak what is pushed; with *company* also a word while one voice after the other is late."""
        return _Reply(self, conn_options, company=company)

    async def aclose(self) -> None:
        """Close all of them."""
        for one in self.roster.candidates:
            one.plugin.off("metrics_collected", self._on_metrics)
        await self.roster.aclose()

    def _on_metrics(self, *args: Any) -> None:
        self.emit("metrics_collected", *args)

    def patience_s(self, *, last: bool) -> float:
        """How long the first sound is waited for."""
        return max(self.first_audio_s, _LAST_S) if last else self.first_audio_s

    def resampler(
        self, plugin: TTS[Any]
    ) -> Callable[[rtc.AudioFrame | None], list[rtc.AudioFrame]]:
        """Frames of *plugin* at our rate; None flushes."""
        if plugin.sample_rate == self.sample_rate:
            return lambda frame: [] if frame is None else [frame]
        at_our_rate = rtc.AudioResampler(plugin.sample_rate, self.sample_rate)
        return lambda frame: at_our_rate.flush() if frame is None else at_our_rate.push(frame)


def _once(options: APIConnectOptions) -> APIConnectOptions:
    return APIConnectOptions(max_retry=0, timeout=options.timeout)


class _Whole(ChunkedStream):
    _tts_attempt_span_name = None

    def __init__(self, *, tts: Speaking, input_text: str, conn_options: APIConnectOptions) -> None:
        super().__init__(tts=tts, input_text=input_text, conn_options=_once(conn_options))
        self._speaking = tts

    async def _metrics_monitor_task(self, event_aiter: Any) -> None:
        async for _ in event_aiter:
            pass

    async def _run(self, output_emitter: AudioEmitter) -> None:
        speaking = self._speaking
        order = speaking.roster.order()
        error: BaseException = APIConnectionError("no voice")
        for at, one in enumerate(order):
            try:
                patience_s = speaking.patience_s(last=at == len(order) - 1)
                frames = await self._frames(one, patience_s)
            except Exception as failed:
                speaking.roster.failed(one, failed)
                error = failed
                continue
            speaking.roster.served(one)
            output_emitter.initialize(
                request_id=utils.shortuuid(),
                sample_rate=speaking.sample_rate,
                num_channels=1,
                mime_type="audio/pcm",
            )
            for frame in frames:
                output_emitter.push_frame(frame)
            return
        raise error

    async def _frames(self, one: Candidate[TTS[Any]], patience_s: float) -> list[rtc.AudioFrame]:
        resample = self._speaking.resampler(one.plugin)
        found: list[rtc.AudioFrame] = []
        async with one.plugin.synthesize(self._input_text, conn_options=self._conn_options) as said:
            pieces = aiter(said)
            async with asyncio.timeout(patience_s):
                found += resample((await anext(pieces)).frame)
            async for piece in pieces:
                found += resample(piece.frame)
        return found + resample(None)


class _Reply(SynthesizeStream):
    _tts_attempt_span_name = None

    def __init__(
        self, speaking: Speaking, conn_options: APIConnectOptions, *, company: bool
    ) -> None:
        super().__init__(tts=speaking, conn_options=_once(conn_options))
        self._speaking, self._company = speaking, company
        self._texts: list[str] = []
        self._ended = False
        self._more = asyncio.Event()
        self._pushed_s = 0.0
        self._cut = False
        """Whether only the sentence that is spoken at once was given to the voice."""

    async def _metrics_monitor_task(self, event_aiter: Any) -> None:
        async for _ in event_aiter:
            pass

    async def _run(self, output_emitter: AudioEmitter) -> None:
        speaking = self._speaking
        output_emitter.initialize(
            request_id=utils.shortuuid(),
            sample_rate=speaking.sample_rate,
            num_channels=1,
            mime_type="audio/pcm",
            stream=True,
        )
        output_emitter.start_segment(segment_id=utils.shortuuid())
        taking = asyncio.create_task(self._take())
        left = deque(speaking.roster.order())
        choices, skip = len(left), ""
        try:
            while left:
                said: list[str] = []
                try:
                    self._cut = False
                    if skip or not await self._said_before(output_emitter):
                        last, again = len(left) == 1, len(left) < choices
                        await self._say(left[0], output_emitter, skip, said, last=last, again=again)
                except Exception as error:
                    speaking.roster.failed(left.popleft(), error)
                    if not left:
                        raise
                    skip += "".join(said)  # the next one goes on behind the words that were spoken
                    continue
                if not self._cut or not await self._goes_on():
                    return
                skip = speaking.at_once
        finally:
            await utils.aio.cancel_and_wait(taking)

    async def _said_before(self, emitter: AudioEmitter) -> bool:
        """Give out the sound of the sentence that is spoken at once, if that is how the reply begins and its
        sound is there; whether it did."""
        words = self._speaking.at_once
        if not words or (pcm := self._speaking.sound(words)) is None:
            return False
        given = ""
        async for text in self._rest(""):
            given += text
            if not words.startswith(given.strip()):
                return False
        if not self._cut:
            return False
        self._give(emitter, words, pcm)
        return True

    def _give(self, emitter: AudioEmitter, words: str, pcm: bytes) -> None:
        at_our_rate = rtc.AudioResampler(LINE_RATE_HZ, self._speaking.sample_rate)
        sound = rtc.AudioFrame(pcm, LINE_RATE_HZ, 1, len(pcm) // 2)
        emitter.push_timed_transcript(TimedString(words, start_time=0.0, end_time=sound.duration))
        self._push(emitter, at_our_rate.push(sound) + at_our_rate.flush())

    def _keep_company(self, emitter: AudioEmitter) -> None:
        """Nothing of the reply is heard yet, and the next voice takes long as well: a word meanwhile."""
        words = self._speaking.at_once
        if not self._pushed_s and words and (pcm := self._speaking.sound(words)):
            self._give(emitter, f"{words} ", pcm)

    async def _take(self) -> None:
        async for data in self._input_ch:
            if isinstance(data, str):
                self._texts.append(data)
                self._more.set()
        self._ended = True
        self._more.set()

    async def _goes_on(self) -> bool:
        """Wait for text behind the sentence that was spoken at once; False when there is none."""
        async for text in self._rest(self._speaking.at_once):
            if text.strip():
                return True
        return False

    async def _rest(self, skip: str) -> AsyncIterator[str]:
        """The reply's text as it comes, without what was spoken: *skip*, counted in visible characters.

        Not more than what is spoken at once, when it begins with that.
        """
        hidden = len("".join(skip.split()))
        at_once = "" if skip else self._speaking.at_once
        given, at = "", 0
        while True:
            while at < len(self._texts):
                text, at = self._texts[at], at + 1
                while hidden and text:
                    hidden -= not text[0].isspace()
                    text = text[1:]
                if text:
                    yield text
                    given += text
                if at_once and given.strip() == at_once:
                    self._cut = True
                    return
            if self._ended:
                return
            self._more.clear()
            await self._more.wait()

    async def _say(
        self,
        one: Candidate[TTS[Any]],
        emitter: AudioEmitter,
        skip: str,
        said: list[str],
        *,
        last: bool,
        again: bool,
    ) -> None:
        plugin, resample = one.plugin, self._speaking.resampler(one.plugin)
        adapter: StreamAdapter | None = None
        if not (plugin.capabilities.streaming and plugin.capabilities.aligned_transcript):
            # Sentence by sentence, so that it is known which of them was heard.
            adapter = StreamAdapter(
                tts=plugin,
                sentence_tokenizer=tokenize.blingfire.SentenceTokenizer(retain_format=True),
            )
        before_s = 0.0
        stream = (adapter or plugin).stream(conn_options=self._conn_options)
        feeding = asyncio.create_task(self._feed(stream, skip))
        heard = False
        loop = asyncio.get_running_loop()
        begun_s: float | None = None
        try:
            async with stream:
                pieces = aiter(stream)
                while True:
                    piece: asyncio.Task[SynthesizedAudio] = asyncio.ensure_future(anext(pieces))
                    while not (await asyncio.wait([piece], timeout=None if heard else _LOOK_S))[0]:
                        # It is timed from the first sentence it got, not from the model's first word.
                        if stream._started_time and begun_s is None:
                            begun_s = self._started_time = stream._started_time
                            begun_s = loop.time()
                        waited_s = loop.time() - begun_s if begun_s else 0.0
                        if again and self._company and waited_s > _COMPANY_S:
                            self._keep_company(emitter)
                        if waited_s > self._speaking.patience_s(last=last):
                            piece.cancel()
                            raise APITimeoutError("no sound came in time")
                    try:
                        audio = piece.result()
                    except StopAsyncIteration:
                        break
                    if not heard:
                        heard, before_s = True, self._pushed_s
                        self._started_time = self._started_time or stream._started_time
                        self._speaking.roster.served(one)
                    if words := audio.frame.userdata.get(USERDATA_TIMED_TRANSCRIPT):
                        for word in words:
                            said.append(str(word))
                            for name in ("start_time", "end_time"):
                                if isinstance(value := getattr(word, name), float | int):
                                    setattr(word, name, value + before_s)
                        emitter.push_timed_transcript(words)
                    self._push(emitter, resample(audio.frame))
                self._push(emitter, resample(None))
        finally:
            await utils.aio.cancel_and_wait(feeding)
            if adapter is not None:
                await adapter.aclose()

    def _push(self, emitter: AudioEmitter, frames: list[rtc.AudioFrame]) -> None:
        for frame in frames:
            emitter.push_frame(frame)
            self._pushed_s += frame.duration

    async def _feed(self, stream: SynthesizeStream, skip: str) -> None:
        try:
            async for text in self._rest(skip):
                stream.push_text(text)
        finally:
            stream.end_input()


async def probe(plugin: TTS[Any]) -> None:
    """Raises if *plugin* gives no sound."""
    async with plugin.synthesize("Yes.", conn_options=APIConnectOptions(0, timeout=5.0)) as said:
        async for _ in said:
            return
    raise APIConnectionError("no sound came")
