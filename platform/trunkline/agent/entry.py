"""Keys that a caller is asked for, collected without a model: an order number, an access code.

Of a secret entry the keys stay in this file: what is stored, and what the model is told, is how many there
were and whether they were right.
"""

import asyncio
import contextlib
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog
from livekit.agents import AgentSession, RunContext
from livekit.agents import UserInputTranscribedEvent as Transcribed
from livekit.agents.llm import ChatMessage
from livekit.agents.voice import SpeechHandle

from trunkline.agent.conversation import Conversation, heard
from trunkline.agent.keys import Entered, Entry, Keypad, masked
from trunkline.agent.phrases import spoken
from trunkline.calls import service as calls
from trunkline.kit.redact import redact
from trunkline.profiles.behaviour import KeyEntry
from trunkline.profiles.keyed import opens

log = structlog.get_logger()

_SAYING = timedelta(seconds=30)
"""How long the words that come with the tool may take; awaiting a speech may swallow its cancellation."""
_CUT_OFF = timedelta(seconds=2)
"""How long what is being said may take to stop."""
_STRAY = timedelta(seconds=1.5)
"""Keys that follow one another within this time belong to the entry, though it is complete: a hash out of
habit, or the rest of a number that was too long."""


class Outcome(StrEnum):
    """What came of an entry; all but the first two are stored as the tool run's error."""

    ENTERED = "entered"
    RIGHT = "right"
    WRONG = "wrong_keys"
    NOTHING = "nothing_pressed"
    SPOKE = "caller_spoke"
    GONE = "caller_gone"


_TOLD = {
    Outcome.RIGHT: "The caller keyed in a right code.",
    Outcome.WRONG: "The caller keyed in no right code and may not try again in this call.",
    Outcome.NOTHING: "The caller pressed nothing.",
    Outcome.SPOKE: "The caller spoke instead of pressing keys.",
    Outcome.GONE: "The caller has hung up.",
}


async def tool(context: RunContext[Conversation], entry: KeyEntry) -> str:
    """The tool ``collect_digits`` for *entry*. Returns what the model is told."""
    talk = context.userdata
    playing = asyncio.ensure_future(context.wait_for_playout())
    await asyncio.wait([playing], timeout=_SAYING.total_seconds())
    # Outlives the speech that asked for it; the call's end waits for it.
    collecting = _Collecting(talk, context.session, entry)
    told = await asyncio.shield(talk.keep(_record(talk, entry, collecting)))
    # A model that finds its own words last, after the tool's result, would not answer the result.
    for item in collecting.said():
        item.created_at = min(item.created_at, context.function_call.created_at - 0.001)
    return told


async def _record(talk: Conversation, entry: KeyEntry, collecting: "_Collecting") -> str:
    """Run it as a tool run. The same may be asked for again: each time is a run of its own."""
    await talk.scribe.settled()
    asked = talk.scribe.last_user_turn
    talk.asked[entry.name] = nth = talk.asked.get(entry.name, 0) + 1
    async with talk.db.work() as work:
        run = await calls.start_tool(
            work,
            talk.lease,
            name="collect_digits",
            arguments={"entry": entry.name, "nth": nth},
            turn_id=asked.id if asked else None,
            offset_ms=asked.started_ms if asked else None,
            now=talk.clock(),
        )
    outcome, keys = Outcome.GONE, ""
    try:
        outcome, keys = await collecting.run()
    finally:
        told = _TOLD.get(outcome) or f"The caller keyed in {redact(keys)}."
        async with talk.db.work() as work:
            if outcome in (Outcome.ENTERED, Outcome.RIGHT):
                await calls.finish_tool(work, talk.lease, run.id, result=told, now=talk.clock())
            else:
                await calls.fail_tool(
                    work, talk.lease, run.id, error=outcome.value, now=talk.clock()
                )
        log.info("keys_collected", call_id=talk.lease.call_id, entry=entry.name, outcome=outcome)
    return told


class _Collecting:
    """One entry, asked for as often as it may be."""

    def __init__(self, talk: Conversation, session: AgentSession[Any], entry: KeyEntry) -> None:
        self._talk, self._session, self._entry = talk, session, entry
        self._pad = Keypad()
        self._spoke = asyncio.Event()
        self._speeches: list[SpeechHandle] = []

    def said(self) -> list[ChatMessage]:
        """What the agent has said while it collected, as the model sees it."""
        items = [item for speech in self._speeches for item in speech.chat_items]
        return [item for item in items if isinstance(item, ChatMessage)]

    async def run(self) -> tuple[Outcome, str]:
        talk, entry = self._talk, self._entry
        wanted = Entry(
            length=entry.length,
            terminator=entry.terminator,
            first=timedelta(seconds=entry.first_s),
            between=timedelta(seconds=entry.between_s),
        )
        gone = asyncio.ensure_future(talk.line.ended())
        spoke = asyncio.ensure_future(self._spoke.wait())
        talk.line.on_digit(self._press)
        self._session.on("user_input_transcribed", self._on_words)
        if entry.secret:
            # A code that is said aloud would be written down.
            self._session.input.set_audio_enabled(False)
        try:
            outcome, words = Outcome.NOTHING, entry.prompt
            for _ in range(entry.tries):
                if talk.wrong_codes.get(entry.name, 0) >= entry.tries:
                    return Outcome.WRONG, ""
                entering = asyncio.ensure_future(self._ask(words, wanted))
                over: list[asyncio.Future[Any]] = [entering, gone, spoke]
                await asyncio.wait(over, return_when=asyncio.FIRST_COMPLETED)
                if not entering.done():
                    entering.cancel()
                    return (Outcome.GONE if gone.done() else Outcome.SPOKE), ""
                keys = entering.result().keys
                words = entry.prompt
                if not keys:
                    continue
                outcome = self._judge(keys)
                if outcome is not Outcome.WRONG:
                    return outcome, "" if entry.secret else keys
                words = f"{spoken(talk.body, 'wrong_keys')} {entry.prompt}"
            return outcome, ""
        finally:
            gone.cancel()
            spoke.cancel()
            self._session.off("user_input_transcribed", self._on_words)
            if entry.secret:
                self._session.input.set_audio_enabled(True)
            _Straying(talk)

    async def _ask(self, words: str, wanted: Entry) -> Entered:
        """Say *words*, which a key cuts off, and wait for the entry."""
        with contextlib.suppress(RuntimeError):  # the session is closing
            said = self._session.say(words)
            self._speeches.append(said)
            saying = asyncio.ensure_future(heard(said))
            pressed = asyncio.ensure_future(self._pad.pressed.wait())
            try:
                await asyncio.wait([saying, pressed], return_when=asyncio.FIRST_COMPLETED)
                if pressed.done():
                    said.interrupt(force=True)
                    await asyncio.wait([saying], timeout=_CUT_OFF.total_seconds())
            finally:
                saying.cancel()
                pressed.cancel()
        entered = await self._pad.collect(wanted)
        if entered.keys:
            scribe, at_ms = self._talk.scribe, self._talk.line.position_ms()
            if self._entry.secret:
                scribe.secret_pressed(masked(entered.keys), at_ms)
            else:
                scribe.caller_pressed(entered.keys, at_ms)
        return entered

    def _judge(self, keys: str) -> Outcome:
        entry, wrong = self._entry, self._talk.wrong_codes
        if not entry.accepts:
            return Outcome.ENTERED
        if opens(keys, entry.accepts):
            return Outcome.RIGHT
        wrong[entry.name] = wrong.get(entry.name, 0) + 1
        return Outcome.WRONG

    def _press(self, key: str) -> None:
        self._talk.stir()
        self._pad.press(key)

    def _on_words(self, event: Transcribed) -> None:
        if event.is_final and event.transcript.strip():
            self._spoke.set()


class _Straying:
    """Lets keys that still belong to an entry go, and then gives the keypad back to the agent."""

    def __init__(self, talk: Conversation) -> None:
        self._talk = talk
        talk.line.on_digit(self._press)
        self._wait()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(
            _STRAY.total_seconds(), lambda: self._talk.line.on_digit(self._talk.on_key)
        )

    def _press(self, key: str) -> None:
        self._timer.cancel()
        self._wait()
