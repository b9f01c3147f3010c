"""A recogniser that is several: what one does not hear while the caller talks, the next one hears again."""

import asyncio
import contextlib
from collections import Counter, deque
from typing import Any

from livekit import rtc
from livekit.agents import APIConnectionError, APIConnectOptions, APIError, APITimeoutError, vad
from livekit.agents.stt import (
    STT,
    RecognizeStream,
    SpeechEvent,
    SpeechEventType,
    StreamAdapter,
    STTCapabilities,
)
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr
from livekit.agents.utils import AudioBuffer
from livekit.plugins.deepgram import STTv2

from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.models.roster import Candidate, Roster

_LOOK_S = 0.05
_KEPT_S = 15.0
"""Audio that is kept until it was heard: longer than anybody speaks without a final transcript."""
_LEAD_S = 0.6
"""Kept from before the caller was noticed to speak."""
_WHOLE_S = 2.0
"""The least that a provider of whole utterances is given for one: it begins when the caller has ended."""
_SHORTEST_S = 0.35
"""Sound shorter than this may be a cough, of which no recogniser makes a word."""


class Hearing(STT[Any]):
    """One STT for the session, made of a roster's. Told by :meth:`speaking` when the caller talks."""

    def __init__(self, roster: Roster[STT[Any]], voice_activity: vad.VAD, hearing_s: float) -> None:
        super().__init__(
            capabilities=STTCapabilities(
                streaming=True,
                interim_results=roster.candidates[0].plugin.capabilities.interim_results,
                aligned_transcript=roster.candidates[0].plugin.capabilities.aligned_transcript,
            )
        )
        self.roster, self.hearing_s = roster, hearing_s
        self._vad = voice_activity
        self.spoke_at_s: float | None = None
        """Since when (of the loop's clock) there is speech of which no final transcript came."""
        self.ended_at_s: float | None = None
        """When that speech ended; None while it goes on."""
        for one in roster.candidates:
            one.plugin.on("metrics_collected", self._on_metrics)

    @property
    def tells_turns(self) -> bool:
        """Whether whoever hears now tells itself when a turn is over."""
        return isinstance(self.roster.current.plugin, STTv2)

    @property
    def model(self) -> str:
        """Of whoever hears now."""
        return self.roster.current.plugin.model

    @property
    def provider(self) -> str:
        """Of whoever hears now."""
        return self.roster.current.plugin.provider

    def speaking(self, *, now: bool) -> None:
        """The caller begins to talk, or ends."""
        at_s = asyncio.get_running_loop().time()
        if now:
            self.ended_at_s = None
            if self.spoke_at_s is None:
                self.spoke_at_s = at_s
        elif self.spoke_at_s is not None:
            self.ended_at_s = at_s
            if at_s - self.spoke_at_s < _SHORTEST_S:
                self.heard()

    def heard(self) -> None:
        """All that was said is written."""
        self.spoke_at_s = self.ended_at_s = None

    def opened(self, one: Candidate[STT[Any]]) -> RecognizeStream:
        """A stream of *one*, cut into utterances here if its provider takes whole ones only."""
        options = APIConnectOptions(max_retry=0, timeout=3.0)
        plugin: STT[Any] = one.plugin
        if not plugin.capabilities.streaming:
            plugin = StreamAdapter(stt=plugin, vad=self._vad)
        return plugin.stream(conn_options=options)

    async def _recognize_impl(
        self,
        buffer: AudioBuffer,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> SpeechEvent:
        raise NotImplementedError("it hears streams only")

    def stream(
        self,
        *,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
    ) -> RecognizeStream:
        """Hear what is pushed."""
        return _Listening(self, conn_options)

    async def aclose(self) -> None:
        """Close all of them."""
        for one in self.roster.candidates:
            one.plugin.off("metrics_collected", self._on_metrics)
        await self.roster.aclose()

    def _on_metrics(self, *args: Any) -> None:
        self.emit("metrics_collected", *args)


class _Deaf(APITimeoutError):
    """Nothing was heard while the caller seemed to talk."""


class _Listening(RecognizeStream):
    def __init__(self, hearing: Hearing, conn_options: APIConnectOptions) -> None:
        once = APIConnectOptions(max_retry=0, timeout=conn_options.timeout)
        super().__init__(stt=hearing, conn_options=once)
        self._hearing = hearing
        self._kept: deque[rtc.AudioFrame] = deque()
        self._kept_s = 0.0
        self._inner: RecognizeStream | None = None

    async def _metrics_monitor_task(self, event_aiter: Any) -> None:
        async for _ in event_aiter:
            pass

    async def _run(self) -> None:
        roster = self._hearing.roster
        taking = asyncio.create_task(self._take())
        tries: Counter[Candidate[STT[Any]]] = Counter()
        all_deaf = True
        try:
            while True:
                one = next(one for one in roster.order() if tries[one] < roster.order().count(one))
                try:
                    if await self._listen(one):
                        return
                    tries.clear()  # the first choice is back
                    all_deaf = True
                except Exception as error:
                    roster.failed(one, error)
                    if self._progressed:
                        tries.clear()
                        all_deaf = True
                    tries[one] += 1
                    all_deaf = all_deaf and isinstance(error, _Deaf)
                    if any(tries[each] < roster.order().count(each) for each in roster.candidates):
                        continue
                    if not (all_deaf and await self._somebody_hears()):
                        raise _told(error) from error
                    self._hearing.heard()
                    tries.clear()
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

    async def _somebody_hears(self) -> bool:
        """Whether a provider hears a sentence of ours, so that what sounded like talk has no words: the
        tones of a machine, music, a television."""
        roster = self._hearing.roster
        well = await asyncio.gather(*(roster.is_well(one) for one in roster.candidates))
        return any(well)

    _progressed = False
    _ended = False

    async def _take(self) -> None:
        async for data in self._input_ch:
            inner = self._inner
            if isinstance(data, rtc.AudioFrame):
                self._keep(data)
                if inner is not None:
                    with contextlib.suppress(RuntimeError):  # it has just failed
                        inner.push_frame(data)
            elif inner is not None:
                with contextlib.suppress(RuntimeError):
                    inner.flush()
        self._ended = True
        if self._inner is not None:
            with contextlib.suppress(RuntimeError):
                self._inner.end_input()

    def _keep(self, frame: rtc.AudioFrame) -> None:
        self._kept.append(frame)
        self._kept_s += frame.duration
        most_s = _KEPT_S if self._hearing.spoke_at_s is not None else _LEAD_S
        while self._kept_s > most_s:
            self._kept_s -= self._kept.popleft().duration

    async def _listen(self, one: Candidate[STT[Any]]) -> bool:
        """Let *one* hear until the end (True) or until the first choice is back (False)."""
        hearing, loop = self._hearing, asyncio.get_running_loop()
        self._progressed = False
        stream = hearing.opened(one)
        for frame in self._kept:
            stream.push_frame(frame)
        self._inner = stream
        if self._ended:
            stream.end_input()
        live = one.plugin.capabilities.interim_results
        event_at_s = opened_s = loop.time()
        told = False
        try:
            async with stream:
                events = aiter(stream)
                event = asyncio.ensure_future(anext(events))
                try:
                    while True:
                        done, _ = await asyncio.wait([event], timeout=_LOOK_S)
                        now_s = loop.time()
                        if done:
                            try:
                                found = event.result()
                            except StopAsyncIteration:
                                if self._ended:
                                    return True
                                raise APIConnectionError("it stopped hearing") from None
                            event_at_s = now_s
                            event = asyncio.ensure_future(anext(events))
                            if found.alternatives and found.alternatives[0].text:
                                self._progressed = True
                                if not told:
                                    told = True
                                    hearing.roster.served(one)
                                if found.type == SpeechEventType.FINAL_TRANSCRIPT:
                                    hearing.heard()
                            self._event_ch.send_nowait(found)
                            continue
                        if self._is_deaf(live, max(event_at_s, opened_s), now_s):
                            raise _Deaf("nothing was heard while the caller talked")
                        if self._is_quiet() and self._first_is_back(one):
                            return False
                finally:
                    event.cancel()
        finally:
            self._inner = None

    def _is_deaf(self, live: bool, event_at_s: float, now_s: float) -> bool:
        """Whether the caller talks or has talked, and nothing came of it for too long."""
        hearing = self._hearing
        if hearing.spoke_at_s is None:
            return False
        if hearing.ended_at_s is None:
            # Whoever takes whole utterances has not got this one yet.
            return live and now_s - max(hearing.spoke_at_s, event_at_s) > hearing.hearing_s
        # Who heard along the way has only the last words to finish; the others begin now.
        patience_s = hearing.hearing_s / 2 if live else max(hearing.hearing_s, _WHOLE_S)
        return now_s - max(hearing.ended_at_s, event_at_s) > patience_s

    def _is_quiet(self) -> bool:
        return self._hearing.spoke_at_s is None

    def _first_is_back(self, one: Candidate[STT[Any]]) -> bool:
        first = self._hearing.roster.candidates[0]
        return one is not first and not self._hearing.roster.is_down(first)


def _told(error: BaseException) -> APIError:
    """As an error that the session takes for final; any other would leave it deaf without a word."""
    if isinstance(error, APIError):
        error.retryable = False
        return error
    return APIConnectionError(f"the recogniser's plugin failed: {type(error).__name__}")


async def probe(plugin: STT[Any], voice_activity: vad.VAD, spoken: bytes) -> None:
    """Raises if *plugin* makes no word of a sentence of ours (PCM16 mono at LINE_RATE_HZ)."""
    options = APIConnectOptions(max_retry=0, timeout=3.0)
    whole = StreamAdapter(stt=plugin, vad=voice_activity)
    adapter: STT[Any] = plugin if plugin.capabilities.streaming else whole
    async with adapter.stream(conn_options=options) as stream:
        step = LINE_RATE_HZ // 20
        for at in range(0, len(spoken), 2 * step):
            piece = spoken[at : at + 2 * step].ljust(2 * step, b"\0")
            stream.push_frame(rtc.AudioFrame(piece, LINE_RATE_HZ, 1, step))
        for _ in range(20):  # a second of silence, so that the sentence is over
            stream.push_frame(rtc.AudioFrame(bytes(2 * step), LINE_RATE_HZ, 1, step))
        stream.end_input()
        async for event in stream:
            if event.alternatives and event.alternatives[0].text:
                return
    raise APIConnectionError("nothing was heard")
