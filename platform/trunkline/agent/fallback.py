"""The keypad menu inside a running call: a provider is gone, or the profile offers choices by key."""

import asyncio
import contextlib
from datetime import timedelta

import structlog
from livekit.agents import AgentSession, UserStateChangedEvent

from trunkline.agent.audio import frames_of
from trunkline.agent.clips import Clip
from trunkline.agent.conversation import Conversation, heard
from trunkline.agent.keys import Entry
from trunkline.agent.menu import Caller, Menu, person_of, until_over
from trunkline.agent.recorder import Recorder
from trunkline.agent.rescue import Tape
from trunkline.agent.services import Services
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.profiles.behaviour import KeypadMenu, MenuAction

log = structlog.get_logger()

_CUT_OFF_S = 2.0
"""How long what is being said may take to stop."""


class SessionVoice:
    """Says clips through a session of which a part is gone; it writes them down as well."""

    def __init__(self, session: AgentSession[Conversation]) -> None:
        self._session = session

    async def say(self, clip: Clip, stop: asyncio.Event) -> None:
        """Say it, until *stop* is set."""
        said = self._session.say(
            clip.words,
            audio=frames_of(clip.pcm),
            allow_interruptions=False,
            add_to_chat_ctx=bool(clip.words),
        )
        speaking = asyncio.create_task(heard(said))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([speaking, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not speaking.done():
                said.interrupt(force=True)
                await asyncio.wait([speaking], timeout=_CUT_OFF_S)
        finally:
            stopped.cancel()
            speaking.cancel()


async def fall_back(
    talk: Conversation,
    services: Services,
    session: AgentSession[Conversation],
    recorder: Recorder | None,
) -> EndReason:
    """Apologise, offer the menu, keep what it promises. Returns how the call ends.

    A caller who hangs up without a choice is called back if their number is known.
    """
    talk.away = True
    # Nothing is being said, or it will not stop: the menu begins all the same.
    with contextlib.suppress(RuntimeError, TimeoutError):
        async with asyncio.timeout(_CUT_OFF_S):
            await session.interrupt(force=True)
    # Nothing that is heard from now on may start a reply.
    session.input.set_audio_enabled(False)
    line = talk.line
    tape = Tape(line, services, talk.lease, recorder)
    about = "the call broke off because of a technical problem"
    menu = _menu(talk, services, session, tape, about, EndReason.PROVIDER_DOWN)
    try:
        async with talk.db.work() as work:
            await calls.rescue(work, talk.lease, now=talk.clock())
    except Exception:
        log.exception("rescue_not_stored")
    try:
        reason = await until_over(menu, line, ("trouble",))
        if menu.kept is None and reason is not EndReason.TRANSFERRED:
            await menu.promise_if_known()
    finally:
        await tape.stop()
    return reason if reason is EndReason.TRANSFERRED else EndReason.PROVIDER_DOWN


def _menu(
    talk: Conversation,
    services: Services,
    session: AgentSession[Conversation],
    tape: Tape,
    about: str,
    otherwise: EndReason,
) -> Menu:
    """A menu that has the caller's keys and voice from now on."""
    reception = talk.reception
    menu = Menu(
        db=talk.db,
        blobs=services.blobs,
        clock=talk.clock,
        lease=talk.lease,
        line=talk.line,
        scribe=talk.scribe,
        body=talk.body,
        caller=Caller(
            number=reception.caller,
            contact_id=talk.contact_id,
            region=reception.answering.number.region if reception.answering else None,
            about=about,
        ),
        voice=SessionVoice(session),
        record=tape.start,
        person=person_of(talk.line, talk.body),
        otherwise=otherwise,
    )
    talk.line.on_digit(menu.keypad.press)
    tape.listen(menu.hear)
    return menu


async def offer(
    talk: Conversation,
    services: Services,
    session: AgentSession[Conversation],
    recorder: Recorder | None,
    choices: KeypadMenu,
) -> EndReason | None:
    """Say the profile's *choices* after what is being said, and do what is chosen.

    Returns how the call ends, or None when the caller is to talk to the agent: they chose it, spoke instead
    of pressing, or what they chose came to nothing.
    """
    tape = Tape(talk.line, services, talk.lease, recorder)
    menu = _menu(talk, services, session, tape, "asked for by key", EndReason.SILENCE)
    spoke = asyncio.Event()

    def on_user(event: UserStateChangedEvent) -> None:
        if event.new_state == "speaking":
            spoke.set()

    session.on("user_state_changed", on_user)
    choosing = asyncio.create_task(_chosen(talk, session, menu, choices, spoke))
    over = asyncio.create_task(talk.line.ended())
    try:
        await asyncio.wait([choosing, over], return_when=asyncio.FIRST_COMPLETED)
        if not choosing.done():
            return None
        action = choosing.result()
        if action == "hang_up":
            with contextlib.suppress(RuntimeError):
                await heard(talk.say(talk.body.farewell, allow_interruptions=False))
            return EndReason.AGENT_HANGUP
        if action == "agent":
            return None
        # Whatever is said now is a message, or goes with keys: no reply may come of it.
        session.input.set_audio_enabled(False)
        try:
            return await menu.do(action)
        finally:
            session.input.set_audio_enabled(True)
    finally:
        for task in (choosing, over):
            task.cancel()
        session.off("user_state_changed", on_user)
        await tape.stop()
        if recorder is not None:
            talk.line.tap(recorder.push)


async def _chosen(
    talk: Conversation,
    session: AgentSession[Conversation],
    menu: Menu,
    choices: KeypadMenu,
    spoke: asyncio.Event,
) -> MenuAction:
    wait = Entry(length=1, terminator=None, first=timedelta(seconds=choices.wait_s))
    for _ in range(choices.tries):
        prompt = talk.say(choices.prompt)
        saying = asyncio.create_task(heard(prompt))
        speaking = asyncio.create_task(spoke.wait())
        pressed = asyncio.create_task(menu.keypad.pressed.wait())
        try:
            await asyncio.wait([saying, speaking, pressed], return_when=asyncio.FIRST_COMPLETED)
            if menu.keypad.pressed.is_set():
                with contextlib.suppress(RuntimeError):
                    session.interrupt()
            entering = asyncio.create_task(menu.keypad.collect(wait))
            await asyncio.wait([entering, speaking], return_when=asyncio.FIRST_COMPLETED)
            if not entering.done():
                entering.cancel()
                return "agent"
            keys = entering.result().keys
        finally:
            for task in (saying, speaking, pressed):
                task.cancel()
        if keys:
            menu.note_keys(keys)
        if keys in choices.keys:
            return choices.keys[keys]
    return choices.otherwise
