"""What the model may do: each tool a few lines over a verb of the domain.

The model proposes; who the caller is, which deal is theirs and what it is worth come from the
call. Each run is three transactions at most: ``started``; the change with its ledger row, its
event and ``ok``; or ``error`` with ``tool.failed``.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import structlog
from livekit.agents import RunContext, StopResponse, ToolError, function_tool
from livekit.agents.llm import Tool
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.agent import entry as keyed_in
from trunkline.agent import transfer
from trunkline.agent.conversation import Conversation
from trunkline.agent.errors import code_of, say
from trunkline.agent.hold import keep_company
from trunkline.agent.line import KEYS
from trunkline.calls import service as calls
from trunkline.crm import queries as crm_reads
from trunkline.crm import service as crm
from trunkline.desk import callbacks, intake
from trunkline.desk.deals import move_callers_deal
from trunkline.desk.identity import Rung, require
from trunkline.errors import Invalid
from trunkline.kit.money import Money
from trunkline.kit.redact import redact
from trunkline.profiles.behaviour import KeyEntry, TransferTarget
from trunkline.profiles.body import ProfileBody

log = structlog.get_logger()

Context = RunContext[Conversation]
Verb = Callable[[AsyncSession, crm.Cause], Awaitable[str]]

_MOST_KEYS = 32

NEEDS: Mapping[str, Rung] = {
    "look_up_contact": Rung.NUMBER_MATCH,
    "find_deals": Rung.NUMBER_MATCH,
    "move_deal": Rung.NUMBER_MATCH,
    "create_contact": Rung.UNKNOWN,
    "log_activity": Rung.UNKNOWN,
    "request_callback": Rung.UNKNOWN,
    "take_message": Rung.UNKNOWN,
    "transfer_to_person": Rung.UNKNOWN,
    "press_keys": Rung.UNKNOWN,
    "collect_digits": Rung.UNKNOWN,
    "end_call": Rung.UNKNOWN,
}
"""Tool → how sure we must be who is calling. What reveals or changes records needs a match."""

WRITES = frozenset(
    {"move_deal", "create_contact", "log_activity", "request_callback", "take_message"}
)
"""Tools that change the CRM; a call of which one fails is shown as such."""


async def run(context: Context, arguments: Mapping[str, Any], verb: Verb) -> str:
    """Run *verb* once as the tool of *context*, and return what the model is told.

    The work outlives a caller who hangs up: it is a task of the conversation, which waits for
    it. A repeat with the same arguments gets the first success. Raises ToolError with words
    that may be spoken.
    """
    name = context.function_call.name
    talk = context.userdata
    task = talk.keep(_run(talk, name, arguments, verb))
    waiting = asyncio.create_task(keep_company(talk, task))
    try:
        return await asyncio.shield(task)
    except Exception as error:
        raise ToolError(say(error)) from None
    finally:
        waiting.cancel()
        await asyncio.wait([waiting])


async def _run(talk: Conversation, name: str, arguments: Mapping[str, Any], verb: Verb) -> str:
    await talk.scribe.settled()
    asked = talk.scribe.last_user_turn
    async with talk.db.work() as session:
        started = await calls.start_tool(
            session,
            talk.lease,
            name=name,
            arguments=_redacted(arguments),
            writes=name in WRITES,
            turn_id=asked.id if asked else None,
            offset_ms=asked.started_ms if asked else None,
            now=talk.clock(),
        )
    if started.state == "ok":
        return started.result or ""
    cause = crm.Cause(
        source="call",
        call_id=talk.lease.call_id,
        tool_run_id=started.id,
        turn_id=started.turn_id,
        offset_ms=started.offset_ms,
    )
    begun = time.monotonic()
    try:
        require(talk.rung, NEEDS[name])
        async with asyncio.timeout(talk.body.limits.tool_timeout_s):
            if delay := talk.options.tool_delays.get(name):
                await asyncio.sleep(delay.total_seconds())
            async with talk.db.work() as session:
                entered = await calls.enter_tool(session, talk.lease, started.id, now=talk.clock())
                if entered.state == "ok":
                    return entered.result or ""
                result = await verb(session, cause)
                await calls.finish_tool(
                    session, talk.lease, started.id, result=result, now=talk.clock()
                )
    except Exception as error:
        log.warning(
            "tool_failed",
            call_id=talk.lease.call_id,
            tool=name,
            error=code_of(error),
            ms=round((time.monotonic() - begun) * 1000),
            exc_info=code_of(error) == "internal",
        )
        async with talk.db.work() as session:
            await calls.fail_tool(
                session, talk.lease, started.id, error=code_of(error), now=talk.clock()
            )
        raise
    return result


def _redacted(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {k: redact(v) if isinstance(v, str) else v for k, v in arguments.items()}


@function_tool
async def look_up_contact(context: Context) -> str:
    """What our records say about the caller: name, company, open deals and what happened last."""

    async def verb(session: AsyncSession, cause: crm.Cause) -> str:
        talk = context.userdata
        contact = await crm_reads.contact(session, talk.contact_id or "")
        deals = await crm_reads.open_deals(session, contact.id)
        recent = await crm_reads.last_activities(session, contact.id, limit=3)
        company = contact.company.name if contact.company else "none"
        return (
            f"Name: {contact.name}. Company: {company}. "
            f"Open deals: {'; '.join(f'{d.title} ({d.stage})' for d in deals) or 'none'}. "
            f"Last activities: {'; '.join(a.summary for a in recent) or 'none'}."
        )

    return await run(context, {}, verb)


@function_tool
async def create_contact(context: Context, name: str, company: str | None) -> str:
    """Put a caller whom we do not know into our records, once they have said their name.

    Args:
        name: The caller's full name as they said it.
        company: Where they work, or null when they did not say.
    """

    async def verb(session: AsyncSession, cause: crm.Cause) -> str:
        talk = context.userdata
        contact, is_new = await intake.create_caller(
            session, talk.lease.call_id, talk.contact_id, name=name, company=company,
            phone=talk.reception.caller, cause=cause, now=talk.clock(),
        )  # fmt: skip
        talk.contact_id = contact.id
        return f"Contact {'created' if is_new else 'known already'}: {contact.name}."

    return await run(context, {"name": name, "company": company}, verb)


@function_tool
async def find_deals(context: Context) -> str:
    """The caller's open deals, numbered, with stage and amount."""

    async def verb(session: AsyncSession, cause: crm.Cause) -> str:
        deals = await crm_reads.open_deals(session, context.userdata.contact_id or "")
        return (
            "\n".join(
                f"{i}. {d.title}, stage {d.stage}, {Money(d.amount_minor, d.currency)}"
                for i, d in enumerate(deals, start=1)
            )
            or "No open deals."
        )

    return await run(context, {}, verb)


@function_tool
async def log_activity(context: Context, kind: Literal["note", "meeting"], summary: str) -> str:
    """Write down in our records what was said or agreed.

    Args:
        kind: A note, or a meeting that was agreed on.
        summary: One or two sentences.
    """

    async def verb(session: AsyncSession, cause: crm.Cause) -> str:
        talk = context.userdata
        await crm.log_activity(
            session,
            kind=kind,
            summary=redact(summary),
            contact_id=talk.contact_id,
            cause=cause,
            now=talk.clock(),
        )
        return f"Logged a {kind}."

    return await run(context, {"kind": kind, "summary": summary}, verb)


def move_deal_for(stages: tuple[str, ...]) -> Tool:
    """The tool that moves a deal, offering just the *stages* of the profile's pipeline."""

    async def move_deal(context: Context, stage: str, which: int | None) -> str:
        """Move the caller's open deal to another stage, once they have said yes to it.

        Args:
            stage: Where the deal goes.
            which: Its number in find_deals when the caller has several, otherwise null.
        """

        async def verb(session: AsyncSession, cause: crm.Cause) -> str:
            talk = context.userdata
            deal, before = await move_callers_deal(
                session, talk.contact_id, which, stage, cause=cause, now=talk.clock()
            )
            return f"{deal.title} moved from {before} to {deal.stage}."

        return await run(context, {"stage": stage, "which": which}, verb)

    # The choices are data of the pipeline, so that the model can name no other stage.
    move_deal.__annotations__["stage"] = Literal[stages]
    return function_tool(move_deal)


@function_tool
async def request_callback(context: Context, date: str, time: str | None, reason: str) -> str:
    """Book a call back to the caller's number.

    Args:
        date: The day as YYYY-MM-DD.
        time: The time of day as HH:MM, or null for our usual time.
        reason: What it is about, in a few words.
    """

    async def verb(session: AsyncSession, cause: crm.Cause) -> str:
        talk, now = context.userdata, context.userdata.clock()
        due = callbacks.due_at(
            date, time, default=talk.body.callback_time, timezone=talk.body.timezone, now=now
        )
        await callbacks.request_callback(
            session,
            contact_id=talk.contact_id,
            number=talk.reception.caller.e164 if talk.reception.caller else None,
            due=due,
            reason=redact(reason),
            cause=cause,
            now=now,
        )
        return f"Callback booked for {due:%Y-%m-%d %H:%M} ({talk.body.timezone})."

    return await run(context, {"date": date, "time": time, "reason": reason}, verb)


@function_tool
async def take_message(context: Context, text: str) -> str:
    """Keep a message from the caller for our people.

    Args:
        text: The message in the caller's own words.
    """

    async def verb(session: AsyncSession, cause: crm.Cause) -> str:
        talk = context.userdata
        await callbacks.take_message(
            session,
            contact_id=talk.contact_id,
            text=redact(text),
            cause=cause,
            now=talk.clock(),
        )
        return "Message taken."

    return await run(context, {"text": text}, verb)


@function_tool
async def press_keys(context: Context, digits: str) -> str:
    """Press keys on the telephone's keypad, for an automatic menu at the other end.

    Args:
        digits: The keys in order: 0 to 9, star as *, hash as #.
    """

    async def verb(session: AsyncSession, cause: crm.Cause) -> str:
        if not digits or len(digits) > _MOST_KEYS or not KEYS.issuperset(digits):
            raise Invalid(f"keys are 0-9, * and #, {_MOST_KEYS} at most")
        return f"Pressed {digits}."

    told = await run(context, {"digits": digits}, verb)
    # Outside the transaction: it takes a quarter of a second for each key.
    await context.wait_for_playout()
    await context.userdata.line.send_digits(digits)
    return told


def transfer_for(targets: Sequence[TransferTarget]) -> Tool:
    """The tool that puts the caller through to one of *targets*; the model can name no other."""

    async def transfer_to_person(context: Context, target: str, reason: str) -> str:
        return await transfer.tool(context, {one.name: one for one in targets}[target], reason)

    whom = "\n".join(f"{one.name}: {one.when}" for one in targets)
    transfer_to_person.__doc__ = (
        f"Put the caller through to a person:\n{whom}\n\n"
        "Args:\n"
        "    target: To whom.\n"
        "    reason: What the caller wants of them, in a few words; they hear it before they decide."
    )
    transfer_to_person.__annotations__["target"] = Literal[tuple(one.name for one in targets)]
    return function_tool(transfer_to_person)


def collect_for(entries: Sequence[KeyEntry]) -> Tool:
    """The tool that has the caller key in one of *entries*; the model can ask for no other."""

    async def collect_digits(context: Context, entry: str) -> str:
        return await keyed_in.tool(context, {one.name: one for one in entries}[entry])

    which = "\n".join(f"{one.name}: {one.when}" for one in entries)
    collect_digits.__doc__ = (
        "Have the caller key something in on the telephone. They are told what and how: say at most "
        f"a few words before.\n{which}\n\n"
        "Args:\n"
        "    entry: What they are to key in."
    )
    collect_digits.__annotations__["entry"] = Literal[tuple(one.name for one in entries)]
    return function_tool(collect_digits)


@function_tool
async def end_call(context: Context) -> str:
    """Hang up, after you have said goodbye in the same reply."""

    async def verb(session: AsyncSession, cause: crm.Cause) -> str:
        return "Hanging up."

    await run(context, {}, verb)
    await context.userdata.say_goodbye(context)
    raise StopResponse


def tools_for(body: ProfileBody, stages: tuple[str, ...]) -> list[Tool]:
    """The tools that a profile allows; *stages* are those of its pipeline."""
    every: dict[str, Tool] = {
        "look_up_contact": look_up_contact,
        "create_contact": create_contact,
        "find_deals": find_deals,
        "log_activity": log_activity,
        "request_callback": request_callback,
        "take_message": take_message,
        "press_keys": press_keys,
        "end_call": end_call,
    }
    if body.transfers:
        every["transfer_to_person"] = transfer_for(body.transfers)
    if body.entries:
        every["collect_digits"] = collect_for(body.entries)
    if stages:
        every["move_deal"] = move_deal_for(stages)
    return [every[name] for name in body.tools if name in every]
