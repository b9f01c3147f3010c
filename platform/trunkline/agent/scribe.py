"""Writes the call down as it happens: each turn from its first word, each key, each latency.

AgentSession reports through plain callbacks; the writes they cause go through one queue and
one task, so they land in the order things happened and hold one database connection at a
time. All text passes ``kit.redact`` before it leaves this file.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from livekit.agents import (
    AgentSession,
    ConversationItemAddedEvent,
    UserInputTranscribedEvent,
    UserStateChangedEvent,
    io,
)
from livekit.agents.llm import ChatMessage
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.agent.line import Line
from trunkline.calls import service as calls
from trunkline.calls.models import Turn
from trunkline.errors import StaleLease
from trunkline.kit.clock import Clock
from trunkline.kit.db import Database
from trunkline.kit.redact import redact

log = structlog.get_logger()

_LATENCY_PARTS = {
    "transcription_delay": "stt",
    "end_of_turn_delay": "end_of_turn",
    "llm_node_ttft": "llm_first_token",
    "tts_node_ttfb": "tts_first_byte",
    "e2e_latency": "reply",
}
"""LiveKit's name (seconds) → ours (stored in milliseconds)."""


@dataclass
class OpenTurn:
    """A turn that is being spoken; ``id`` is None until its row is stored."""

    role: str
    started_ms: int
    text: str = ""
    id: str | None = None
    closed: bool = False
    heard_until_ms: int = 0
    """Where the last of its words was heard."""


class Scribe:
    """Stores one call's turns. Made once per agent; its lease fences it off when replaced."""

    def __init__(self, db: Database, lease: calls.Lease, line: Line, clock: Clock) -> None:
        self._db, self._lease, self._line, self._clock = db, lease, line, clock
        self._queue: asyncio.Queue[Callable[[AsyncSession, datetime], Awaitable[None]] | None] = (
            asyncio.Queue()
        )
        self._writer = asyncio.create_task(self._write(), name="scribe")
        self._user: OpenTurn | None = None
        self._agent: OpenTurn | None = None
        self._user_started_ms: int | None = None
        self._user_stopped_ms = 0
        self._latency: dict[str, int] = {}
        self.last_user_turn: OpenTurn | None = None
        """The turn in which the caller asked for what is done now; evidence of every change."""
        self.on_stale: Callable[[], None] = lambda: None
        """Called once when another agent has taken the call over."""
        self.models_of: Callable[[str], dict[str, str]] = lambda role: {}
        """Asked at the end of each turn of the role: which models made it."""

    def listen(self, session: AgentSession[Any]) -> None:
        """Follow *session* from now on."""
        session.on("user_state_changed", self._on_user_state)
        session.on("user_input_transcribed", self._on_transcribed)
        session.on("conversation_item_added", self._on_item)

    def heard_text(self) -> io.TextOutput:
        """A sink for the agent's words in step with their sound."""
        return _HeardText(self._agent_says, self._agent_pauses)

    async def settled(self) -> None:
        """Wait until all that was seen so far is stored."""
        await self._queue.join()

    async def aclose(self) -> None:
        """Store what is left and stop."""
        await self.settled()
        self._queue.put_nowait(None)
        await self._writer

    # What the caller says -----------------------------------------------------------------

    def _on_user_state(self, event: UserStateChangedEvent) -> None:
        if event.new_state == "speaking":
            self._user_started_ms = self._line.offset_ms(event.created_at)
        elif event.old_state == "speaking":
            self._user_stopped_ms = self._line.offset_ms(event.created_at)

    def _on_transcribed(self, event: UserInputTranscribedEvent) -> None:
        if not event.is_final or not event.transcript.strip():
            return
        turn = self._user
        if turn is None:
            started = self._user_started_ms
            turn = OpenTurn("user", self._line.position_ms() if started is None else started)
            self._user = self.last_user_turn = turn
        turn.text = f"{turn.text} {event.transcript.strip()}".strip()
        self._save(turn)

    def _on_item(self, event: ConversationItemAddedEvent) -> None:
        if not isinstance(event.item, ChatMessage):
            return
        if event.item.role == "user":
            self._close_user(event.item)
        elif event.item.role == "assistant":
            self._close_agent(event.item)

    def _close_user(self, item: ChatMessage) -> None:
        metrics = item.metrics
        turn = self._user or OpenTurn("user", self._line.position_ms())
        self._user = None
        self.last_user_turn = turn
        turn.text = item.text_content or turn.text
        if started := metrics.get("started_speaking_at"):
            turn.started_ms = self._line.offset_ms(started)
        stopped = metrics.get("stopped_speaking_at")
        ended_ms = self._line.offset_ms(stopped) if stopped else self._line.position_ms()
        if not stopped and self._user_stopped_ms > turn.started_ms:
            # A Realtime model's words come without it, and after the first of the answer.
            ended_ms = self._user_stopped_ms
        self._latency = _latency(metrics)
        self._save(turn, ended_ms=max(ended_ms, turn.started_ms), models=self.models_of(turn.role))

    def end_overheard(self) -> None:
        """What the other side has said so far is a turn of its own that nobody answers."""
        turn, self._user = self._user, None
        if turn is not None:
            self._save(turn, ended_ms=max(self._line.position_ms(), turn.started_ms))

    # What the agent says ------------------------------------------------------------------

    def _agent_says(self, words: str) -> None:
        if self._agent is None or self._agent.closed:
            self._agent = OpenTurn("agent", self._line.position_ms())
        turn = self._agent
        first = not turn.text.strip()
        turn.text += words
        turn.heard_until_ms = self._line.position_ms()
        # The first words and each clause: enough to lose no more than a few words to a kill.
        if turn.text.strip() and (first or words.rstrip().endswith((".", ",", "?", "!", ";", ":"))):
            self._save(turn)

    def _agent_pauses(self) -> None:
        if self._agent and self._agent.text.strip() and not self._agent.closed:
            self._save(self._agent)

    def _close_agent(self, item: ChatMessage) -> None:
        turn = self._agent
        text = item.text_content or ""
        if turn is None or turn.closed:
            if not text.strip():
                return
            started = item.metrics.get("started_speaking_at")
            at = self._line.offset_ms(started) if started else self._line.position_ms()
            turn = OpenTurn("agent", at)
        elif started := item.metrics.get("started_speaking_at"):
            turn.started_ms = self._line.offset_ms(started)
        turn.text, turn.closed, self._agent = text, True, None
        latency = self._latency | _latency(item.metrics)
        self._latency = {}
        stopped = item.metrics.get("stopped_speaking_at")
        ended_ms = self._line.offset_ms(stopped) if stopped else self._line.position_ms()
        if item.interrupted and turn.heard_until_ms:
            # The session calls it stopped only once it is sure that the caller meant it.
            ended_ms = min(ended_ms, turn.heard_until_ms)
        self._save(
            turn,
            ended_ms=max(ended_ms, turn.started_ms),
            interrupted=item.interrupted,
            latency=latency or None,
            models=self.models_of(turn.role),
        )

    # Storing ------------------------------------------------------------------------------

    def _save(
        self,
        turn: OpenTurn,
        *,
        ended_ms: int | None = None,
        interrupted: bool = False,
        latency: dict[str, int] | None = None,
        models: dict[str, str] | None = None,
    ) -> None:
        text = redact(turn.text.strip())

        async def write(session: AsyncSession, now: datetime) -> None:
            row: Turn = await calls.save_turn(
                session,
                self._lease,
                turn_id=turn.id,
                role=turn.role,
                text=text,
                started_ms=turn.started_ms,
                ended_ms=ended_ms,
                interrupted=interrupted,
                latency=latency,
                models=models,
                now=now,
            )
            turn.id = row.id

        self._queue.put_nowait(write)

    def agent_said(
        self, text: str, started_ms: int, ended_ms: int, *, interrupted: bool = False
    ) -> None:
        """Store words of ours that no session said: a recorded sentence."""
        turn = OpenTurn("agent", started_ms, text, closed=True)
        self._save(turn, ended_ms=max(ended_ms, started_ms), interrupted=interrupted)

    def caller_pressed(self, keys: str, at_ms: int) -> None:
        """Store keys that no session takes for a turn, as the turn they are."""
        self.keys_pressed(keys, at_ms)
        self._save_keys(keys, at_ms)

    def secret_pressed(self, masked: str, at_ms: int) -> None:
        """Store that keys were pressed which are told to nobody; *masked* shows none of them."""
        self._save_keys(masked, at_ms)

    def _save_keys(self, keys: str, at_ms: int) -> None:
        turn = OpenTurn("user", at_ms, f"[keys {keys}]", closed=True)
        self._save(turn, ended_ms=at_ms)

    def keys_pressed(self, digits: str, offset_ms: int) -> None:
        """Store that the caller pressed *digits*; the turn the model sees comes by itself."""

        async def write(session: AsyncSession, now: datetime) -> None:
            keys = redact(digits)
            await calls.press_keys(session, self._lease, keys, offset_ms=offset_ms, now=now)

        self._queue.put_nowait(write)

    def held(self) -> None:
        """Store that the caller is on hold."""
        self._queue.put_nowait(self._hold)

    def resumed(self) -> None:
        """Store that the agent is back with a caller who was on hold."""
        self._queue.put_nowait(self._resume)

    async def _hold(self, session: AsyncSession, now: datetime) -> None:
        await calls.hold(session, self._lease)

    async def _resume(self, session: AsyncSession, now: datetime) -> None:
        await calls.resume(session, self._lease)

    def note(self, text: str) -> None:
        """Mark in the transcript what happened now, in brackets, as the agent's."""
        at = self._line.position_ms()
        self._save(OpenTurn("agent", at, f"[{text}]"), ended_ms=at)

    async def _write(self) -> None:
        stale = False
        while write := await self._queue.get():
            try:
                if not stale:
                    async with self._db.work() as session:
                        await write(session, self._clock())
            except StaleLease:
                stale = True
                log.warning("scribe_fenced", call_id=self._lease.call_id)
                self.on_stale()
            except Exception:
                # The call goes on: a caller never pays for a row that could not be written.
                log.exception("turn_not_stored", call_id=self._lease.call_id)
            finally:
                self._queue.task_done()
        self._queue.task_done()


def _latency(metrics: Any) -> dict[str, int]:
    return {
        ours: round(metrics[theirs] * 1000)
        for theirs, ours in _LATENCY_PARTS.items()
        if metrics.get(theirs) is not None
    }


class _HeardText(io.TextOutput):
    """The end of the transcript chain: gets words when their sound is played."""

    def __init__(self, on_words: Callable[[str], None], on_pause: Callable[[], None]) -> None:
        super().__init__(label="Scribe", next_in_chain=None)
        self._on_words, self._on_pause = on_words, on_pause

    async def capture_text(self, text: str) -> None:
        self._on_words(str(text))

    def flush(self) -> None:
        self._on_pause()
