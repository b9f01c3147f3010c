"""Putting a caller through to a person: cold, by the carrier, or warm, after asking them first.

Whatever comes of it is stored and has a sentence; unless they were put through, the agent goes on with
the caller. Whom to call comes from the profile, who is calling from what is stored.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any

import structlog
from livekit.agents import Agent, AgentSession, RunContext, StopResponse
from livekit.agents import UserInputTranscribedEvent as Transcribed

from trunkline.agent import session as sessions
from trunkline.agent.conversation import Conversation
from trunkline.agent.line import Consultation
from trunkline.agent.models.team import assemble
from trunkline.agent.phrases import spoken, understands
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.queries import turns as turns_of
from trunkline.desk.arrival import Reception
from trunkline.errors import Unavailable
from trunkline.kit import phone
from trunkline.kit.livekit import SipFailed
from trunkline.kit.redact import redact
from trunkline.profiles.behaviour import TransferTarget
from trunkline.profiles.body import ProfileBody

log = structlog.get_logger()

_SAYING = timedelta(seconds=20)
"""How long one of our sentences may take; awaiting a speech may swallow its cancellation."""
_BRIEFING = timedelta(seconds=45)
DECIDE = timedelta(seconds=12)
"""How long the person asked may think, from the end of the briefing."""
_LEFT = timedelta(seconds=5)
"""How long the caller's leaving may take after the carrier said that it has connected them."""
_STOP = timedelta(seconds=5)


class Outcome(StrEnum):
    """What came of a transfer; these words are stable."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"
    BUSY = "busy"
    REJECTED = "rejected"
    VOICEMAIL = "voicemail"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"
    FAILED = "failed"


_OUTCOMES: dict[int, Outcome] = {
    408: Outcome.NO_ANSWER,
    480: Outcome.NO_ANSWER,
    487: Outcome.NO_ANSWER,
    486: Outcome.BUSY,
    600: Outcome.BUSY,
    603: Outcome.REJECTED,
    607: Outcome.REJECTED,
    608: Outcome.REJECTED,
    404: Outcome.UNREACHABLE,
    410: Outcome.UNREACHABLE,
    484: Outcome.UNREACHABLE,
    604: Outcome.UNREACHABLE,
}
"""Final SIP status (RFC 3261 §21, RFC 8197, RFC 8688) → outcome. Any other is the provider's refusal."""


def outcome_of(status: int | None) -> Outcome:
    """What the final SIP *status* of the other side says; None: none came."""
    return _OUTCOMES.get(status or 0, Outcome.FAILED)


def sentence(body: ProfileBody, outcome: Outcome, name: str) -> str:
    """What the caller is told when *outcome* leaves them with the agent, and what is offered instead."""
    return f"{spoken(body, outcome, name=name)} {spoken(body, 'offer')}"


def briefing(
    body: ProfileBody, reception: Reception, target: str, reason: str, said: Sequence[str]
) -> str:
    """What the person hears before they decide; *said* are the caller's own turns so far."""
    who = (reception.contact and reception.contact.name) or spoken(body, "unknown")
    if reception.company:
        who = spoken(body, "of_company", who=who, company=reception.company)
    about = reason.strip().rstrip(".") or spoken(body, "a_question")
    words = [spoken(body, "briefing", name=target), spoken(body, "who", who=who, reason=about)]
    told = [text for text in said if not text.startswith("[")]
    if told:
        words.append(spoken(body, "they_said", said=_short(max(told, key=len))))
    words.append(spoken(body, "choice"))
    return " ".join(words)


_LONGEST_QUOTE = 160


def _short(text: str) -> str:
    text = " ".join(text.split()).rstrip(".!?")
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE].rsplit(" ", 1)[0]


def judge(body: ProfileBody, words: str) -> Outcome | None:
    """What *words* of the person asked decide; None: nothing yet. A no in them outweighs a yes."""
    if understands(body, "machine", words):
        return Outcome.VOICEMAIL
    if understands(body, "no", words):
        return Outcome.REJECTED
    return Outcome.ANSWERED if understands(body, "yes", words) else None


_KEY = {"1": Outcome.ANSWERED, "2": Outcome.REJECTED}


async def tool(context: RunContext[Conversation], target: TransferTarget, reason: str) -> str:
    """The tool ``transfer_to_person``. What came of it is said by us, not left to the model: it is a fact.

    Raises StopResponse: the call is over, or it is the caller's turn.
    """
    talk = context.userdata
    context.disallow_interruptions()
    await _bounded(context.wait_for_playout(), _SAYING)
    if not any(item.type == "message" for item in context.speech_handle.chat_items):
        await _say(context.session, spoken(talk.body, "trying", name=target.name))
    # Outlives the speech that asked for it; the call's end waits for it.
    task = talk.keep(_record(talk, context.session, target, redact(reason)))
    outcome = await asyncio.shield(task)
    if outcome not in (Outcome.ANSWERED, Outcome.CANCELLED):
        await _say(context.session, sentence(talk.body, outcome, target.name))
    raise StopResponse


async def _record(
    talk: Conversation, session: AgentSession[Any], target: TransferTarget, reason: str
) -> Outcome:
    """Run the transfer as a tool run. One that came to nothing has failed, so it may be tried again."""
    await talk.scribe.settled()
    asked = talk.scribe.last_user_turn
    begun = time.monotonic()
    async with talk.db.work() as work:
        run = await calls.start_tool(
            work,
            talk.lease,
            name="transfer_to_person",
            arguments={"target": target.name, "reason": reason},
            turn_id=asked.id if asked else None,
            offset_ms=asked.started_ms if asked else None,
            now=talk.clock(),
        )
    outcome = Outcome.FAILED
    try:
        outcome = await _Transfer(talk, session, target, reason).run(run.id)
    finally:
        if outcome is not Outcome.ANSWERED:
            async with talk.db.work() as work:
                await calls.fail_tool(
                    work, talk.lease, run.id, error=f"transfer_{outcome}", now=talk.clock()
                )
        ms = round((time.monotonic() - begun) * 1000)
        log.info("transfer", call_id=talk.lease.call_id, kind=target.mode, outcome=outcome, ms=ms)
    return outcome


class _Transfer:
    """One attempt to put the caller through."""

    def __init__(
        self, talk: Conversation, session: AgentSession[Any], target: TransferTarget, reason: str
    ) -> None:
        self._talk, self._session, self._target, self._reason = talk, session, target, reason
        self._leg = ""

    async def run(self, run_id: str) -> Outcome:
        talk, target = self._talk, self._target
        ringing = timedelta(seconds=target.ring_s)
        async with talk.db.work() as work:
            leg = await calls.begin_transfer(
                work, talk.lease, kind=target.mode, number=target.number, now=talk.clock()
            )
            self._leg = leg.id
        talk.away = True
        talk.line.hold()
        outcome, told = Outcome.FAILED, False
        try:
            if target.mode == "cold":
                outcome = await self._refer(ringing)
            else:
                outcome = await self._ask(ringing, run_id)
                told = outcome is Outcome.ANSWERED
        except SipFailed as error:
            log.info("not_reached", call_id=talk.lease.call_id, status=error.status)
            outcome = outcome_of(error.status)
        except Unavailable as error:
            log.warning("transfer_impossible", call_id=talk.lease.call_id, detail=str(error))
        finally:
            if not told:
                await self._finish(outcome, run_id)
            if outcome is not Outcome.ANSWERED:
                talk.line.resume()
                talk.away = False
        if outcome is Outcome.ANSWERED:
            talk.end(EndReason.TRANSFERRED)
        return outcome

    # Cold -----------------------------------------------------------------------------------

    async def _refer(self, ringing: timedelta) -> Outcome:
        talk = self._talk
        talk.handing_over = handed = asyncio.get_running_loop().create_future()
        try:
            await talk.line.refer(self._target.uri, ringing)
        except BaseException:
            handed.set_result(False)
            talk.handing_over = None
            raise
        handed.set_result(True)
        # The carrier takes the caller away itself; hanging up first would cut them off.
        await _bounded(talk.line.ended(), _LEFT)
        return Outcome.ANSWERED

    # Warm -----------------------------------------------------------------------------------

    async def _ask(self, ringing: timedelta, run_id: str) -> Outcome:
        talk = self._talk
        gone = asyncio.ensure_future(talk.line.ended())
        longest = timedelta(seconds=talk.body.limits.max_call_s)
        reaching = asyncio.ensure_future(
            talk.line.consult(self._target.number, self._caller_id(), ringing, longest)
        )
        person: Consultation | None = None
        try:
            await asyncio.wait([gone, reaching], return_when=asyncio.FIRST_COMPLETED)
            if not reaching.done():
                return Outcome.CANCELLED
            person = reaching.result()
            async with talk.db.work() as work:
                await calls.answer_leg(work, talk.lease, self._leg, now=talk.clock())
            outcome = await self._brief(person, gone)
            if outcome is Outcome.ANSWERED and not await self._join(person, gone, run_id):
                return Outcome.CANCELLED
            return outcome
        finally:
            gone.cancel()
            if not reaching.done():
                reaching.cancel()
                await asyncio.wait([reaching], timeout=_STOP.total_seconds())
            if person is not None:
                await _bounded(person.hang_up(), _STOP)

    def _caller_id(self) -> str | None:
        """Our number, at which the person may call back; a stranger's we may not show."""
        arrival = self._talk.line.arrival
        ours = arrival.to_raw if arrival.direction == "inbound" else arrival.from_raw
        try:
            return phone.parse(ours or "", region=self._talk.body.region).e164
        except ValueError:
            return None

    async def _brief(self, person: Consultation, gone: asyncio.Future[EndReason]) -> Outcome:
        talk = self._talk
        async with talk.db.look() as look:
            said = [t.text for t in await turns_of(look, talk.lease.call_id) if t.role == "user"]
        decided: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def decide(outcome: Outcome | None) -> None:
            if outcome is not None and not decided.done():
                decided.set_result(outcome)

        def on_words(event: Transcribed) -> None:
            if event.is_final:
                decide(judge(talk.body, event.transcript))

        team = assemble(talk.body, talk.options, talk.clock)
        session = sessions.aside(team)
        team.watch(session)
        session.on("user_input_transcribed", on_words)
        person.on_digit(lambda digit: decide(_KEY.get(digit)))
        left = asyncio.ensure_future(person.ended())
        try:
            await person.attach(session)
            await session.start(Agent(instructions=""), record=False)
            words = briefing(talk.body, talk.reception, self._target.name, self._reason, said)
            speech = session.say(words, allow_interruptions=False)
            briefed = asyncio.ensure_future(speech.wait_for_playout())
            first = asyncio.FIRST_COMPLETED
            over: list[asyncio.Future[Any]] = [decided, left, gone]
            limit = _BRIEFING.total_seconds()
            await asyncio.wait([*over, briefed], timeout=limit, return_when=first)
            await asyncio.wait(over, timeout=DECIDE.total_seconds(), return_when=first)
            briefed.cancel()
            if gone.done():
                return Outcome.CANCELLED
            if left.done():
                return Outcome.REJECTED
            return decided.result() if decided.done() else Outcome.NO_ANSWER
        finally:
            left.cancel()
            await _bounded(session.aclose(), _STOP)
            await _bounded(team.aclose(), _STOP)

    async def _join(
        self, person: Consultation, gone: asyncio.Future[EndReason], run_id: str
    ) -> bool:
        """Let them talk until one hangs up. False when the caller did so before."""
        talk = self._talk
        person.hold()
        talk.line.resume()
        await _say(self._session, spoken(talk.body, "joined", name=self._target.name))
        if gone.done():
            return False
        talk.handing_over = handed = asyncio.get_running_loop().create_future()
        handed.set_result(True)
        person.join()
        talk.scribe.note(f"put through to {self._target.name}")
        await self._finish(Outcome.ANSWERED, run_id)
        left = asyncio.ensure_future(person.ended())
        try:
            await asyncio.wait([left, gone], return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                talk.line.resume()
                await _say(self._session, talk.body.farewell)
                await asyncio.sleep(talk.options.hangup_grace.total_seconds())
        finally:
            left.cancel()
        return True

    async def _finish(self, outcome: Outcome, run_id: str) -> None:
        talk = self._talk
        async with talk.db.work() as work:
            await calls.finish_transfer(
                work,
                talk.lease,
                self._leg,
                kind=self._target.mode,
                name=self._target.name,
                outcome=outcome.value,
                reason=self._reason or None,
                now=talk.clock(),
            )
            if outcome is Outcome.ANSWERED:
                result = f"Put through to {self._target.name}."
                await calls.finish_tool(work, talk.lease, run_id, result=result, now=talk.clock())


async def _say(session: AgentSession[Any], words: str) -> None:
    try:
        speech = session.say(words, allow_interruptions=False)
    except RuntimeError:  # the session is closing
        return
    await _bounded(speech.wait_for_playout(), _SAYING)


async def _bounded(work: Coroutine[Any, Any, Any], limit: timedelta) -> None:
    """Wait for *work*, not longer than *limit*; its failure is its own."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=limit.total_seconds())
    if not task.done():
        task.cancel()
    elif not task.cancelled() and (error := task.exception()) is not None:
        log.warning("step_failed", error=type(error).__name__)
