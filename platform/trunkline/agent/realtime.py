"""Speech-to-speech in a call: LiveKit's Realtime model, told when it is lost, and renewed when nobody speaks.

LiveKit's session ends a call at the first error of a Realtime model that will not come back
(livekit-agents 1.8.9, ``agent_session.py``, ``_on_error``). Here it never does: the call is told instead, and
goes on with the pipeline.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import structlog
from livekit.agents import (
    AgentSession,
    APIConnectionError,
    APIConnectOptions,
    APIError,
    APIStatusError,
    APITimeoutError,
    UserStateChangedEvent,
    inference,
)
from livekit.agents.llm import ChatContext, RealtimeError, Tool
from livekit.agents.metrics import RealtimeModelMetrics
from livekit.plugins.openai.realtime import RealtimeModel
from livekit.plugins.openai.realtime.realtime_model import RealtimeSession
from openai.types.realtime import (
    AudioTranscription,
    RealtimeAudioInputTurnDetection,
    RealtimeSessionCreateRequest,
    ResponseCreateEvent,
    SessionUpdateEvent,
)
from openai.types.realtime.realtime_audio_input_turn_detection import SemanticVad, ServerVad

from trunkline.agent.conversation import Conversation
from trunkline.agent.models import plugins
from trunkline.agent.options import AgentOptions
from trunkline.agent.session import FrontDesk, known
from trunkline.calls.models import Turn
from trunkline.calls.usage import RateLimit, Used
from trunkline.kit.clock import utc_now
from trunkline.profiles.realtime import AzureRealtime, RealtimeChoice

log = structlog.get_logger()

_CONNECT = APIConnectOptions(max_retry=1, retry_interval=0.2, timeout=2.0)
"""A caller waits for it in silence."""
_LONGEST = timedelta(minutes=55)
"""Of a session whose provider does not say when it ends; OpenAI's limit is an hour."""
_MARGIN = 0.2
"""The part of a session's life in which it may be renewed, but at most five minutes of it."""
_LONGEST_MARGIN = timedelta(minutes=5)
_LOOK_S = 0.1
_SCARCE = 0.1
"""The part of a rate limit below which an operator should know."""


class Realtime(RealtimeModel):
    """The model of one call; as its module says."""

    def __init__(self, choice: RealtimeChoice, language: str, options: AgentOptions) -> None:
        given: dict[str, Any] = {
            "voice": choice.voice,
            "speed": choice.speed,
            "modalities": ["text", "audio"] if choice.modality == "audio" else ["text"],
            "turn_detection": _detection(choice),
            "tool_choice": choice.tool_choice,
            "input_audio_transcription": _transcription(choice, language),
            "input_audio_noise_reduction": choice.noise_reduction,
            "conn_options": _CONNECT,
            # It would renew while the caller speaks and lose the words; see _Session._renew.
            "max_session_duration": None,
        }
        self.address = plugins.realtime_address(choice, options)
        if isinstance(choice, AzureRealtime):
            self.label_shown = f"azure {choice.deployment}"
            given |= {
                "azure_deployment": choice.deployment,
                "base_url": f"{self.address}/openai",
                "api_key": plugins.key(choice.endpoint, options),
            }
        else:
            self.label_shown = f"openai {choice.model}"
            given |= {
                "model": choice.model,
                "base_url": self.address,
                "api_key": plugins.key(self.address, options),
            }
        super().__init__(**given)
        if choice.max_tokens is not None:
            self.update_options(max_response_output_tokens=choice.max_tokens)
        self.choice = choice
        self.quiet: Callable[[], bool] = lambda: True
        """Whether neither side speaks or is about to."""
        self.on_lost: Callable[[BaseException, bool], None] = lambda error, owed: None
        """Called once, when it will not answer any more: why, and whether the caller waits for an answer."""
        self.ask_again: Callable[[], object] = lambda: None
        """Called when an answer went with its connection, and there is a new one."""
        self.lost = False
        self.used = Used("realtime", self.label_shown)
        """What it did so far."""
        self.fresh = False
        """Whether there is an answer that nobody was told of by ``taken``."""
        self.limits: tuple[RateLimit, ...] = ()
        """What the provider said last of its limits."""

    def taken(self) -> bool:
        """Whether it has begun an answer since this was asked last."""
        fresh, self.fresh = self.fresh, False
        return fresh

    def count(self, metrics: Any) -> None:
        """One answer more. What it hears is part of the input tokens."""
        if isinstance(metrics, RealtimeModelMetrics):
            self.used = self.used.plus(
                requests=1,
                input_tokens=metrics.input_tokens,
                cached_tokens=metrics.input_token_details.cached_tokens,
                output_tokens=metrics.output_tokens,
            )

    def session(self, *, turn_detection_disabled: bool = False) -> RealtimeSession:
        """One conversation with it."""
        made = _Session(self, turn_detection_disabled=turn_detection_disabled)
        self._sessions.add(made)
        return made

    def give_up(self, error: BaseException) -> None:
        """It will not answer any more."""
        if self.lost:
            return
        self.lost = True
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, aiohttp.WSServerHandshakeError):
                error = APIStatusError(cause.message, status_code=cause.status)
            cause = cause.__cause__
        owed = self.owes
        for one in list(self._sessions):
            if isinstance(one, _Session):
                one.abandon()
        self.on_lost(error, owed)

    @property
    def owes(self) -> bool:
        """Whether the caller waits for an answer."""
        return any(isinstance(one, _Session) and one.owes for one in self._sessions)

    def watch(self, session: AgentSession[Conversation]) -> None:
        """Look at its work in *session*: a turn that it does not notice, a time to renew in."""

        def on_user(event: UserStateChangedEvent) -> None:
            for one in list(self._sessions):
                if isinstance(one, _Session):
                    one.caller(speaks=event.new_state == "speaking")

        session.on("user_state_changed", on_user)
        # The provider has cut its answer short already: there is nothing to go on with after a sound.
        session.options.interruption["resume_false_interruption"] = False
        self.ask_again = session.generate_reply
        self.quiet = lambda: session.agent_state == "listening" and session.user_state != "speaking"


class _Session(RealtimeSession):
    """A connection after another, and what the caller is owed on it."""

    def __init__(self, model: Realtime, *, turn_detection_disabled: bool) -> None:
        self._model = model
        self._answer_s = model.choice.answer_ms / 1000
        self._renewing = False
        self._asked_again = False
        self._life = _LONGEST
        self._due: asyncio.TimerHandle | None = None
        self._probe: asyncio.TimerHandle | None = None
        self._told_at = 0.0
        self._caller_at: float | None = None
        self.owes = False
        super().__init__(model, turn_detection_disabled=turn_detection_disabled)
        self.on("openai_server_event_received", self._seen)
        self.on("openai_client_event_queued", self._sent)
        self.on("session_reconnected", self._reconnected)
        self.on("metrics_collected", model.count)

    def send_event(self, event: Any) -> None:
        """Send *event*; answers that we ask for get the profile's wishes for them."""
        choice = self._model.choice
        if isinstance(event, ResponseCreateEvent) and event.response is not None:
            if choice.reply_instructions:
                before = event.response.instructions or self._instructions or ""
                event.response.instructions = f"{before}\n{choice.reply_instructions}".strip()
            if choice.reply_max_tokens is not None:
                event.response.max_output_tokens = choice.reply_max_tokens
        super().send_event(event)

    # Whether it is at work --------------------------------------------------------------------

    def caller(self, *, speaks: bool) -> None:
        """The caller has begun, or ceased, to speak, as we hear it."""
        now = asyncio.get_running_loop().time()
        if speaks:
            self._caller_at = now
        elif self._caller_at is not None and self._told_at < self._caller_at:
            # It may have found the sound to be no speech, or be gone; only an answer can tell.
            asked = RealtimeSessionCreateRequest(type="realtime")
            self.send_event(SessionUpdateEvent(type="session.update", session=asked))
            self._cancel("_probe")
            loop = asyncio.get_running_loop()
            self._probe = loop.call_later(self._answer_s, self._too_late)

    def _seen(self, event: dict[str, Any]) -> None:
        self._told_at = asyncio.get_running_loop().time()
        self._cancel("_probe")
        match event["type"]:
            case "session.created":
                self._life = _life(event.get("session") or {}, utc_now())
            case "input_audio_buffer.speech_started":
                self._settle()
            case "input_audio_buffer.speech_stopped" | "response.created" as kind:
                self._model.fresh |= kind == "response.created"
                self._owe()
            case "response.done":
                if event["response"].get("status") != "failed":
                    self._asked_again = False
                    self._settle()
                else:
                    details = event["response"].get("status_details") or {}
                    code = (details.get("error") or {}).get("code")
                    self._model.give_up(APIError(f"the answer failed: {code}", body=details))
            case "rate_limits.updated":
                self._limits(event.get("rate_limits") or [])
            case kind if kind.startswith("response."):
                self._cancel("_due")  # it is at work, but still owes the rest
            case _:
                pass

    def _sent(self, event: dict[str, Any]) -> None:
        if event.get("type") == "response.create":
            self._owe()

    def _owe(self) -> None:
        self.owes = True
        if self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(self._answer_s, self._too_late)

    def _settle(self) -> None:
        self.owes = False
        self._cancel("_due")

    def _cancel(self, timer: str) -> None:
        handle: asyncio.TimerHandle | None = getattr(self, timer)
        if handle is not None:
            handle.cancel()
        setattr(self, timer, None)

    def _too_late(self) -> None:
        if not self._closing:
            self.owes = True
            self._model.give_up(APITimeoutError())

    def _emit_error(self, error: Exception, recoverable: bool) -> None:
        super()._emit_error(error, recoverable=True)
        if not recoverable:
            self._model.give_up(error)

    def _limits(self, limits: Sequence[dict[str, Any]]) -> None:
        found = self._model.limits = tuple(
            RateLimit(
                name=str(one.get("name")),
                limit=int(one.get("limit") or 0),
                remaining=int(one.get("remaining") or 0),
                reset_s=float(one.get("reset_seconds") or 0),
            )
            for one in limits
        )
        left = {one.name: one.remaining for one in found}
        scarce = [one.name for one in found if one.remaining < _SCARCE * one.limit]
        tell = log.warning if scarce else log.debug
        tell("realtime_rate_limits", model=self._model.label_shown, remaining=left, scarce=scarce)

    def abandon(self) -> None:
        """Nothing more comes: whoever waits for something of it is told at once."""
        self._closing = True
        self._settle()
        self._cancel("_probe")
        self._close_current_generation("the model is lost")
        waiting = (*self._response_created_futures.values(), *self._chat_ctx_event_futures.values())
        for future in waiting:
            if not future.done():
                future.set_exception(RealtimeError("the model is lost"))

    async def update_chat_ctx(self, chat_ctx: ChatContext) -> None:
        """Let the model know *chat_ctx*; one that is lost needs to know nothing."""
        if not self._model.lost:
            await super().update_chat_ctx(chat_ctx)

    # Connections ------------------------------------------------------------------------------

    async def _run_ws(self, ws_conn: Any) -> None:
        renewing = asyncio.create_task(self._renew(ws_conn))
        try:
            await super()._run_ws(ws_conn)
        except APIConnectionError:
            if not self._renewing:
                raise
        finally:
            renewing.cancel()
            self._renewing = False

    async def _renew(self, ws_conn: Any) -> None:
        """End the connection before the provider does, while nobody speaks; the next one follows at once."""
        await asyncio.sleep(_LOOK_S)  # until it has said how long the session may last
        margin = min(self._life * _MARGIN, _LONGEST_MARGIN)
        await asyncio.sleep((self._life - margin).total_seconds())
        while not self._idle():  # noqa: ASYNC110 - of three parties, none of which tells
            await asyncio.sleep(_LOOK_S)
        self._renewing = True
        log.info("realtime_renewed", model=self._model.label_shown)
        await ws_conn.close()

    def _idle(self) -> bool:
        return not self.owes and self._current_generation is None and self._model.quiet()

    def _reconnected(self, event: Any) -> None:
        if not self.owes or self._closing:
            return
        if self._asked_again:
            self._model.give_up(APIConnectionError("it breaks off whenever it is to answer"))
            return
        # What was asked went with the connection; the conversation has come over.
        self._asked_again = True
        self._cancel("_due")
        with contextlib.suppress(RuntimeError):  # the session closes already
            self._model.ask_again()

    async def aclose(self) -> None:
        """Close it; that its connection has failed is no news any more."""
        for timer in ("_due", "_probe"):
            self._cancel(timer)
        with contextlib.suppress(APIError, OSError):
            await super().aclose()


def unwatch(session: AgentSession[Conversation]) -> None:
    """The pipeline has the call now: it may go on after a sound that was no interruption."""
    session.options.interruption["resume_false_interruption"] = True


def _life(session: dict[str, Any], now: datetime) -> timedelta:
    """How long the session that was just made may last."""
    expires = session.get("expires_at")
    if not isinstance(expires, int | float):
        return _LONGEST
    return max(timedelta(seconds=1), timedelta(seconds=expires - now.timestamp()))


def _detection(choice: RealtimeChoice) -> RealtimeAudioInputTurnDetection | None:
    turns = choice.turns
    match turns.by:
        case "server_vad":
            return ServerVad(
                type="server_vad",
                threshold=turns.threshold,
                prefix_padding_ms=turns.prefix_padding_ms,
                silence_duration_ms=turns.silence_ms,
                create_response=True,
                interrupt_response=True,
            )
        case "semantic_vad":
            return SemanticVad(
                type="semantic_vad",
                eagerness=turns.eagerness,
                create_response=True,
                interrupt_response=True,
            )
        case _:
            return None


def _transcription(choice: RealtimeChoice, language: str) -> AudioTranscription:
    wish = choice.transcription
    given = AudioTranscription(model=wish.model, language=wish.language or language.split("-")[0])
    if wish.prompt:
        given.prompt = wish.prompt
    return given


def agent(
    model: Realtime, instructions: str, tools: Sequence[Tool], said: Sequence[Turn]
) -> FrontDesk:
    """The agent that talks by *model*; the session's own models stand by."""
    # The session's own may be a recogniser's, which hears nothing of this agent.
    local = model.choice.turns.by == "local"
    turns = inference.TurnDetector(version="v1-mini") if local else "realtime_llm"
    return FrontDesk(
        instructions=instructions,
        tools=list(tools),
        chat_ctx=known(said),
        llm=model,
        stt=None,
        turn_handling={"turn_detection": turns},
    )
