"""The keypad menu inside a running call: a provider is gone, and the caller is still there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog
from livekit import rtc
from livekit.agents import AgentSession

from trunkline.agent.clips import Clip
from trunkline.agent.conversation import Conversation, heard
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.menu import Caller, Menu, until_over
from trunkline.agent.recorder import Recorder
from trunkline.agent.rescue import Tape
from trunkline.agent.services import Services
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason

log = structlog.get_logger()

_FRAME = LINE_RATE_HZ // 50
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
            audio=_frames(clip.pcm),
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
    with contextlib.suppress(
        RuntimeError, TimeoutError
    ):  # nothing is being said, or it will not stop
        async with asyncio.timeout(_CUT_OFF_S):
            await session.interrupt(force=True)
    # Nothing that is heard from now on may start a reply.
    session.input.set_audio_enabled(False)
    line, reception = talk.line, talk.reception
    tape = Tape(line, services, talk.lease, recorder)
    menu = Menu(
        db=talk.db,
        blobs=services.blobs,
        clock=talk.clock,
        lease=talk.lease,
        line=line,
        scribe=talk.scribe,
        body=talk.body,
        caller=Caller(
            number=reception.caller,
            contact_id=talk.contact_id,
            region=reception.answering.number.region if reception.answering else None,
            about="the call broke off because of a technical problem",
        ),
        voice=SessionVoice(session),
        record=tape.start,
        otherwise=EndReason.PROVIDER_DOWN,
    )
    line.on_digit(menu.keypad.press)
    tape.listen(menu.hear)
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


async def _frames(pcm: bytes) -> AsyncIterator[rtc.AudioFrame]:
    for at in range(0, len(pcm), 2 * _FRAME):
        piece = pcm[at : at + 2 * _FRAME].ljust(2 * _FRAME, b"\0")
        yield rtc.AudioFrame(piece, LINE_RATE_HZ, 1, _FRAME)
