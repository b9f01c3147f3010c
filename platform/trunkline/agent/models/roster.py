"""The choices for one part of one call, in order: who is asked, who has failed, who is tried again."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import structlog
from livekit.agents import llm, stt, tts
from livekit.agents.metrics import LLMMetrics, STTMetrics, TTSMetrics

from trunkline.agent.models import plugins
from trunkline.agent.models.breaker import Breaker
from trunkline.calls.usage import Used
from trunkline.profiles.choices import PartName

log = structlog.get_logger()

P = TypeVar("P", bound="llm.LLM[Any] | stt.STT[Any] | tts.TTS[Any]")

PROBE_EVERY_S = 3.0
"""Between two tries of a choice that is out of order, over all calls of the worker."""
_WELL_S = 2.0
"""How long somebody on the line waits for a try to say whether a provider is well."""
_PROBE_TIMEOUT_S = 6.0


@dataclass(frozen=True, eq=False)
class Candidate(Generic[P]):
    """One choice with its plugin."""

    plugin: P
    label: str
    """Its provider and model."""
    address: str
    key: str
    """The same for the same choice in every call."""
    main: bool
    """Whether it is the profile's first choice."""


class Roster(Generic[P]):
    """The choices for *part*."""

    def __init__(
        self,
        part: PartName,
        candidates: Sequence[Candidate[P]],
        breaker: Breaker,
        probe: Callable[[P], Awaitable[None]],
    ) -> None:
        self.part, self.candidates = part, tuple(candidates)
        self.on_failed: Callable[[], None] = lambda: None
        """Called whenever one of them has failed."""
        self._breaker, self._probe = breaker, probe
        self._probing: dict[str, asyncio.Task[None]] = {}
        self.current = self.candidates[0]
        """Who has answered last."""
        self.on_changed: Callable[[], None] = lambda: None
        """Called when another than before has answered."""
        self._failures: dict[str, tuple[Candidate[P], BaseException]] = {}
        self._used: dict[str, Used] = {}
        self._fresh = False
        for one in self.candidates:
            one.plugin.on("metrics_collected", partial(self._count, one.label))

    def order(self) -> list[Candidate[P]]:
        """Whom to ask, one after another: those out of order last, for when nobody else is left."""
        down = [one for one in self.candidates if self._breaker.is_open(one.key)]
        for one in down:
            self._look_after(one)
        order = [one for one in self.candidates if one not in down] + down
        # With nobody to fall back to, a second try may still meet a provider that is well.
        return order if len(order) > 1 else order * 2

    def is_down(self, candidate: Candidate[P]) -> bool:
        """Whether *candidate* is out of order."""
        return self._breaker.is_open(candidate.key)

    def failed(self, candidate: Candidate[P], error: BaseException) -> None:
        """*candidate* did not do what it was asked; it is left alone until a try succeeds."""
        self._failures[candidate.key] = (candidate, error)
        log.warning(
            "model_failed", part=self.part, model=candidate.label, error=type(error).__name__
        )
        self._breaker.trip(candidate.key)
        self.on_failed()
        if len(self.candidates) > 1:
            self._look_after(candidate)

    async def is_well(self, candidate: Candidate[P]) -> bool:
        """Whether *candidate*, tried now, does what it should; then it is in order again."""
        try:
            async with asyncio.timeout(_WELL_S):
                await self._probe(candidate.plugin)
        except Exception as error:
            log.debug("model_still_down", model=candidate.label, error=type(error).__name__)
            return False
        self._breaker.reset(candidate.key)
        return True

    def served(self, candidate: Candidate[P]) -> None:
        """*candidate* does what it was asked."""
        if candidate is not self.current:
            log.info("model_changed", part=self.part, model=candidate.label)
        changed = candidate is not self.current
        self.current, self._fresh = candidate, True
        if changed:
            self.on_changed()
        if self._breaker.is_open(candidate.key):
            self._breaker.reset(candidate.key)

    def again(self) -> None:
        """What the first choice has done for another call serves this one too."""
        self._fresh = True

    @property
    def failure(self) -> tuple[Candidate[P], BaseException] | None:
        """Who has failed, and how last: the first choice before the others; None for nobody."""
        found = [self._failures.get(one.key) for one in self.candidates]
        return next((failure for failure in found if failure is not None), None)

    def taken(self) -> str | None:
        """Who has done something since this was asked last; None for nobody."""
        fresh, self._fresh = self._fresh, False
        return self.current.label if fresh else None

    @property
    def used(self) -> list[Used]:
        """What each of them did so far, background tries included: they are billed alike."""
        return list(self._used.values())

    def _count(self, label: str, metrics: Any) -> None:
        more: dict[str, int] = {"requests": 1}
        match metrics:
            case LLMMetrics():
                more["input_tokens"] = metrics.prompt_tokens
                more["cached_tokens"] = metrics.prompt_cached_tokens
                more["output_tokens"] = metrics.completion_tokens
            case TTSMetrics():
                more["characters"] = metrics.characters_count
                more["audio_ms"] = round(metrics.audio_duration * 1000)
            case STTMetrics():
                more["audio_ms"] = round(metrics.audio_duration * 1000)
                more["requests"] = int(metrics.audio_duration > 0)
            case _:
                return
        self._used[label] = self._used.get(label, Used(self.part, label)).plus(**more)

    async def settled(self) -> None:
        """Wait until all that were out of order are back."""
        await asyncio.gather(*self._probing.values(), return_exceptions=True)

    async def aclose(self) -> None:
        """Stop trying, and close the plugins."""
        for task in self._probing.values():
            task.cancel()
        await asyncio.gather(*self._probing.values(), return_exceptions=True)
        for one in self.candidates:
            with contextlib.suppress(Exception):
                await plugins.close(one.plugin)

    def _look_after(self, candidate: Candidate[P]) -> None:
        task = self._probing.get(candidate.key)
        if task is None or task.done():
            self._probing[candidate.key] = asyncio.create_task(self._try_again(candidate))

    async def _try_again(self, candidate: Candidate[P]) -> None:
        while self._breaker.is_open(candidate.key):
            await asyncio.sleep(PROBE_EVERY_S / 2)
            if not self._breaker.claim(candidate.key, PROBE_EVERY_S):
                continue
            try:
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    await self._probe(candidate.plugin)
            except Exception as error:
                log.debug("model_still_down", model=candidate.label, error=type(error).__name__)
                continue
            self._breaker.reset(candidate.key)
            log.info("model_is_back", part=self.part, model=candidate.label)
