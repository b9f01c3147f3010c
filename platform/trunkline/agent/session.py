"""An AgentSession from a profile: which plugins, which options, what was said so far."""

import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any, Literal

from livekit import rtc
from livekit.agents import (
    Agent,
    AgentSession,
    APIConnectOptions,
    ModelSettings,
    StopResponse,
    inference,
    stt,
)
from livekit.agents.llm import ChatContext, ChatMessage, Tool
from livekit.agents.voice.agent_session import SessionConnectOptions

from trunkline.agent.bargein import RESUME_AFTER, VERDICT, Floor
from trunkline.agent.conversation import Conversation
from trunkline.agent.drafts import MOST, Drafts
from trunkline.agent.heard import HeardAudio, spaced
from trunkline.agent.models.hearing import Hearing
from trunkline.agent.models.team import Team
from trunkline.calls.models import Turn
from trunkline.profiles.body import ProfileBody

PATIENCE = APIConnectOptions(max_retry=0, timeout=6.0)
"""The most that anything may take; the models' own patience is shorter, and they fall back by themselves."""


def build(body: ProfileBody, team: Team, conversation: Conversation) -> AgentSession[Conversation]:
    """The session for one call, with *team*'s models; nothing is connected before it starts.

    A recogniser that tells turns itself (Flux) is believed, also when it takes a likely end back for which an
    answer is being prepared; while another hears in its place, our own model of turns decides.
    """
    hearing, detector = team.hearing, inference.TurnDetector(version="v1-mini")

    def turns() -> Literal["stt"] | inference.TurnDetector:
        return "stt" if hearing.tells_turns else detector

    session: AgentSession[Conversation] = AgentSession(
        stt=team.hearing,
        llm=team.thinking,
        tts=team.speaking,
        vad=inference.VAD(model="silero"),
        userdata=conversation,
        # Word timestamps of the voice make "what was heard" exact to the word.
        use_tts_aligned_transcript=True,
        # For three seconds it would stop hearing the caller, to protect loudspeakers; see
        # "Pinned for self-hosting" in the design.
        aec_warmup_duration=None,
        user_away_timeout=None,
        conn_options=SessionConnectOptions(
            stt_conn_options=PATIENCE,
            llm_conn_options=PATIENCE,
            tts_conn_options=PATIENCE,
            # The call decides itself, at the first one; closing would cut off its apology.
            max_unrecoverable_errors=sys.maxsize,
        ),
        turn_handling={
            "turn_detection": turns(),
            "endpointing": {
                "mode": "dynamic" if body.endpointing.adaptive else "fixed",
                "min_delay": body.endpointing.min_delay_ms / 1000,
                "max_delay": body.endpointing.max_delay_ms / 1000,
            },
            "preemptive_generation": {
                "enabled": body.endpointing.speculation,
                "max_retries": MOST,
            },
            "interruption": {
                "mode": "vad",
                "min_duration": body.interruption.min_duration_ms / 1000,
                "min_words": body.interruption.min_words,
                "false_interruption_timeout": RESUME_AFTER.total_seconds(),
                # What is said during a text that cannot be interrupted must still be heard.
                "discard_audio_if_uninterruptible": False,
            },
        },
    )
    hearing.roster.on_changed = lambda: session.update_options(turn_detection=turns())
    return session


def aside(team: Team) -> AgentSession[None]:
    """A session that speaks with the profile's voice and hears, and leaves the thinking to code."""
    return AgentSession(
        stt=team.hearing,
        tts=team.speaking,
        vad=inference.VAD(model="silero"),
        aec_warmup_duration=None,
        user_away_timeout=None,
        conn_options=SessionConnectOptions(
            stt_conn_options=PATIENCE,
            tts_conn_options=PATIENCE,
            max_unrecoverable_errors=sys.maxsize,
        ),
        turn_handling={
            "turn_detection": "vad",
            "interruption": {"mode": "vad", "discard_audio_if_uninterruptible": False},
        },
    )


class FrontDesk(Agent):
    """The agent of a call."""

    def __init__(self, *, first: Callable[[], object] = lambda: None, **given: Any) -> None:
        super().__init__(**given)
        self._first = first

    async def on_enter(self) -> None:
        self._first()

    async def stt_node(
        self, audio: AsyncIterable[rtc.AudioFrame], model_settings: ModelSettings
    ) -> AsyncIterator[stt.SpeechEvent]:
        talk: Conversation = self.session.userdata
        floor = Floor(talk.body.language, lambda: self.session.current_speech, self._left_s)
        hearing = self.session.stt
        output = self.session.output.audio
        # Of whole utterances there are no words before the caller has ended.
        if isinstance(output, HeardAudio) and hearing and hearing.capabilities.interim_results:
            output.longest_pause = VERDICT
        # Whoever tells turns says for itself when an answer may be begun.
        tells = isinstance(hearing, Hearing) and hearing.tells_turns
        drafts = Drafts() if talk.body.endpointing.speculation and not tells else None
        if drafts is not None:
            audio = drafts.listen(audio)
        heard = floor.filter(Agent.default.stt_node(self, audio, model_settings))
        async for event in heard if drafts is None else drafts.begin(heard):
            yield event

    def _left_s(self) -> float:
        output = self.session.output.audio
        return output.left_s if isinstance(output, HeardAudio) else 0.0

    async def llm_node(
        self, chat_ctx: ChatContext, tools: list[Tool], model_settings: ModelSettings
    ) -> AsyncIterator[Any]:
        # Between a tool's call and its result they would be the last word, and the result unanswered.
        talk: Conversation = self.session.userdata
        fillers = {item.id for said in talk.fillers for item in said.chat_items}
        asked = ChatContext([item for item in chat_ctx.items if item.id not in fillers])
        async for piece in Agent.default.llm_node(self, asked, tools, model_settings):
            yield piece

    async def on_user_turn_completed(self, turn_ctx: ChatContext, new_message: ChatMessage) -> None:
        talk: Conversation = self.session.userdata
        if talk.holding:
            talk.scribe.end_overheard()
            raise StopResponse

    async def transcription_node(
        self, text: AsyncIterable[str], model_settings: ModelSettings
    ) -> AsyncIterator[str]:
        async for piece in spaced(text):
            yield piece


def known(said: Sequence[Turn]) -> ChatContext:
    """What was said so far, as a model reads it."""
    context = ChatContext.empty()
    for turn in said:
        context.add_message(role="assistant" if turn.role == "agent" else "user", content=turn.text)
    return context


def agent(
    instructions: str,
    tools: Sequence[Tool],
    said: Sequence[Turn],
    first: Callable[[], object] = lambda: None,
) -> Agent:
    """The agent, knowing what was said so far, so that it can go on where another one died.

    *first* is called when it has the call: to say what the caller is owed.
    """
    return FrontDesk(
        instructions=instructions, tools=list(tools), chat_ctx=known(said), first=first
    )
