"""An AgentSession from a profile: which plugins, which options, what was said so far."""

import sys
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Any

from livekit.agents import (
    Agent,
    AgentSession,
    APIConnectOptions,
    ModelSettings,
    StopResponse,
    inference,
    tts,
)
from livekit.agents.llm import ChatContext, ChatMessage, Tool
from livekit.agents.voice.agent_session import SessionConnectOptions

from trunkline.agent.conversation import Conversation
from trunkline.agent.heard import spaced
from trunkline.agent.models import plugins
from trunkline.agent.options import AgentOptions
from trunkline.calls.models import Turn
from trunkline.profiles.body import ProfileBody

HEARING = APIConnectOptions(max_retry=2, retry_interval=0.5, timeout=5.0)
THINKING = APIConnectOptions(max_retry=1, retry_interval=0.3, timeout=6.0)
SPEAKING = APIConnectOptions(max_retry=1, retry_interval=0.3, timeout=5.0)
"""A caller waits through these in silence: one retry, and never the default ten seconds."""


def build(
    body: ProfileBody, options: AgentOptions, conversation: Conversation
) -> AgentSession[Conversation]:
    """The session for one call; nothing is connected before it starts."""
    return AgentSession(
        stt=plugins.recogniser(body.stt, body.language, options),
        llm=plugins.thinker(body.llm, options),
        tts=speech(body, options),
        vad=inference.VAD(model="silero"),
        userdata=conversation,
        # Word timestamps of the voice make "what was heard" exact to the word.
        use_tts_aligned_transcript=True,
        # For three seconds it would stop hearing the caller, to protect loudspeakers; see
        # "Pinned for self-hosting" in the design.
        aec_warmup_duration=None,
        user_away_timeout=None,
        conn_options=SessionConnectOptions(
            stt_conn_options=HEARING,
            llm_conn_options=THINKING,
            tts_conn_options=SPEAKING,
            # The call decides itself, at the first one; closing would cut off its apology.
            max_unrecoverable_errors=sys.maxsize,
        ),
        turn_handling={
            "turn_detection": inference.TurnDetector(version="v1-mini"),
            "endpointing": {
                "min_delay": body.endpointing.min_delay_ms / 1000,
                "max_delay": body.endpointing.max_delay_ms / 1000,
            },
            "interruption": {
                "mode": "vad",
                "min_duration": body.interruption.min_duration_ms / 1000,
                "min_words": body.interruption.min_words,
                # What is said during a text that cannot be interrupted must still be heard.
                "discard_audio_if_uninterruptible": False,
            },
        },
    )


def aside(body: ProfileBody, options: AgentOptions) -> AgentSession[None]:
    """A session that speaks with the profile's voice and hears, and leaves the thinking to code."""
    return AgentSession(
        stt=plugins.recogniser(body.stt, body.language, options),
        tts=speech(body, options),
        vad=inference.VAD(model="silero"),
        aec_warmup_duration=None,
        user_away_timeout=None,
        conn_options=SessionConnectOptions(
            stt_conn_options=HEARING,
            tts_conn_options=SPEAKING,
            max_unrecoverable_errors=sys.maxsize,
        ),
        turn_handling={
            "turn_detection": "vad",
            "interruption": {"mode": "vad", "discard_audio_if_uninterruptible": False},
        },
    )


class FrontDesk(Agent):
    """The agent of a call."""

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


def agent(instructions: str, tools: Sequence[Tool], said: Sequence[Turn]) -> Agent:
    """The agent, knowing what was said so far, so that it can go on where another one died."""
    context = ChatContext.empty()
    for turn in said:
        context.add_message(role="assistant" if turn.role == "agent" else "user", content=turn.text)
    return FrontDesk(instructions=instructions, tools=list(tools), chat_ctx=context)


def speech(body: ProfileBody, options: AgentOptions) -> tts.TTS[Any]:
    """The profile's voice, also used before the session for the greeting."""
    return plugins.speaker(body.tts, body.language, options)
