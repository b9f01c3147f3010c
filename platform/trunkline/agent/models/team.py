"""The models of one call: a profile's choices for hearing, thinking and speaking, and who takes over."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from livekit.agents import (
    AgentSession,
    AgentStateChangedEvent,
    UserStateChangedEvent,
    inference,
    llm,
    stt,
    tts,
)

from trunkline.agent.clips import packaged
from trunkline.agent.errors import provider_failed
from trunkline.agent.kept import Kept
from trunkline.agent.models import hearing, plugins, speaking, thinking
from trunkline.agent.models.breaker import Breaker
from trunkline.agent.models.bridge import Bridge
from trunkline.agent.models.hearing import Hearing
from trunkline.agent.models.roster import Candidate, Roster
from trunkline.agent.models.speaking import Speaking
from trunkline.agent.models.thinking import Thinking
from trunkline.agent.options import AgentOptions
from trunkline.agent.phrases import spoken
from trunkline.calls.usage import Used
from trunkline.errors import ProviderFailed
from trunkline.kit.clock import Clock
from trunkline.profiles.body import ProfileBody
from trunkline.profiles.choices import LlmChoice, PartName, SttChoice, TtsChoice

P = TypeVar("P", bound="llm.LLM[Any] | stt.STT[Any] | tts.TTS[Any]")
_Choice = TypeVar("_Choice", SttChoice, LlmChoice, TtsChoice)

_SENTENCE = "goodbye"
"""The packaged clip that a recogniser is tried with."""
_BRIDGE = "moment"
"""What a caller is told who waits for an answer."""


@dataclass(frozen=True)
class Team:
    """The models of a call, as the session takes them; to be closed with the call."""

    hearing: Hearing
    thinking: Thinking
    speaking: Speaking

    def watch(self, session: AgentSession[Any]) -> None:
        """Let the models know when the caller talks, and when they wait."""

        bridge = self.thinking.bridge

        def on_user(event: UserStateChangedEvent) -> None:
            speaks = event.new_state == "speaking"
            self.hearing.speaking(now=speaks)
            if speaks or event.old_state == "speaking":
                bridge.caller(asyncio.get_running_loop().time(), speaks=speaks)

        def on_agent(event: AgentStateChangedEvent) -> None:
            if event.new_state == "speaking":
                bridge.agent()

        session.on("user_state_changed", on_user)
        session.on("agent_state_changed", on_agent)
        for part in (self.hearing, self.thinking, self.speaking):
            part.roster.on_failed = bridge.trouble

    def models_of(self, role: str) -> dict[str, str]:
        """Part → provider and model of those who made the turn of *role* (user or agent) that ends now."""
        if role == "user":
            return {"stt": self.hearing.roster.current.label}
        done = {"llm": self.thinking.roster.taken(), "tts": self.speaking.roster.taken()}
        return {part: label for part, label in done.items() if label is not None}

    @property
    def used(self) -> list[Used]:
        """What each model did so far."""
        each = (self.hearing.roster, self.thinking.roster, self.speaking.roster)
        return [used for roster in each for used in roster.used]

    def served(self) -> dict[str, str]:
        """Part → provider and model of whoever has done it last."""
        rosters: tuple[Roster[Any], ...] = (
            self.hearing.roster,
            self.thinking.roster,
            self.speaking.roster,
        )
        return {roster.part: roster.current.label for roster in rosters}

    def failure(self, part: PartName, error: BaseException) -> ProviderFailed:
        """For the operator: who failed last of *part*, and what to do."""
        parts: dict[PartName, Roster[Any]] = {
            "stt": self.hearing.roster,
            "llm": self.thinking.roster,
            "tts": self.speaking.roster,
        }
        roster = parts[part]
        who, why = roster.failure or (roster.current, error)
        return provider_failed(part, why, who.address, who.label)

    async def aclose(self) -> None:
        """Close all connections."""
        for each in (self.hearing, self.thinking, self.speaking):
            await each.aclose()


def assemble(
    body: ProfileBody, options: AgentOptions, clock: Clock, kept: Kept | None = None
) -> Team:
    """The models that *body* chooses; nothing is connected. *kept* may have the sound of what they say."""
    speaks = voice(body, options, clock, at_once=spoken(body, _BRIDGE))
    if kept is not None:
        # Once another voice than the profile's own has spoken, it goes on.
        speaks.sound = lambda words: kept.get(body, words) if speaks.roster.current.main else None
    return Team(
        hearing=_hearing(body, options, clock),
        thinking=_thinking(body, options, clock),
        speaking=speaks,
    )


def voice(body: ProfileBody, options: AgentOptions, clock: Clock, *, at_once: str = "") -> Speaking:
    """The voices of *body* alone; *at_once* as :class:`Speaking` takes it."""

    def make(choice: TtsChoice) -> tts.TTS[Any]:
        return plugins.speaker(choice, body.language, options)

    choices = (body.tts, *body.fallback.tts)
    roster = _roster("tts", choices, make, options, clock, speaking.probe)
    return Speaking(roster, body.fallback.first_audio_ms / 1000, at_once=at_once)


def _thinking(body: ProfileBody, options: AgentOptions, clock: Clock) -> Thinking:
    def make(choice: LlmChoice) -> llm.LLM[Any]:
        return plugins.thinker(choice, options)

    choices = (body.llm, *body.fallback.llm)
    roster = _roster("llm", choices, make, options, clock, thinking.probe)
    latest = options.word_after
    bridge = Bridge(spoken(body, _BRIDGE), None if latest is None else latest.total_seconds())
    return Thinking(roster, body.fallback.first_token_ms / 1000, bridge)


def _hearing(body: ProfileBody, options: AgentOptions, clock: Clock) -> Hearing:
    activity = inference.VAD(model="silero")

    def make(choice: SttChoice) -> stt.STT[Any]:
        return plugins.recogniser(choice, body.language, options)

    probe = partial(_probe_ears, activity)
    roster = _roster("stt", (body.stt, *body.fallback.stt), make, options, clock, probe)
    return Hearing(roster, activity, body.fallback.hearing_ms / 1000)


async def _probe_ears(activity: inference.VAD, plugin: stt.STT[Any]) -> None:
    await hearing.probe(plugin, activity, packaged(_SENTENCE).pcm)


def _roster(
    part: PartName,
    choices: Sequence[_Choice],
    make: Callable[[_Choice], P],
    options: AgentOptions,
    clock: Clock,
    probe: Callable[[P], Awaitable[None]],
) -> Roster[P]:
    candidates = []
    for at, choice in enumerate(choices):
        address = plugins.address(choice, options)
        what = f"{part}\n{address}\n{choice.model_dump_json()}"
        key = hashlib.sha256(what.encode()).hexdigest()[:32]
        label = plugins.label(choice)
        candidates.append(Candidate(make(choice), label, address, key, main=at == 0))
    return Roster(part, candidates, Breaker(Path(options.breaker_folder), clock), probe)
