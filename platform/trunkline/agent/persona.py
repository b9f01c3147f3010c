"""Who the agent is on one call: its instructions and its first words. Pure."""

import re
from datetime import datetime
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from trunkline.agent.phrases import phrase, spoken, waiting
from trunkline.desk.arrival import Reception
from trunkline.kit.money import Money
from trunkline.profiles.body import ProfileBody
from trunkline.profiles.hours import opening_at


@cache
def _prompt() -> str:
    return (Path(__file__).parent / "prompt.txt").read_text(encoding="utf-8")


def instructions(body: ProfileBody, reception: Reception, *, now: datetime) -> str:
    """The system prompt: how to speak, what is so now, what is known of the caller."""
    local = now.astimezone(ZoneInfo(body.timezone))
    return _prompt().format(
        agent_name=body.agent_name,
        company=body.company,
        now=f"{local:%Y-%m-%d %H:%M %A} ({body.timezone})",
        office=_office(body, now),
        caller=(reception.contact and reception.contact.name) or "unknown",
        caller_facts=_caller_facts(reception),
        language=body.language,
        instructions=body.instructions,
    )


def greeting(body: ProfileBody, reception: Reception) -> str:
    """The first words, with the caller's name when it is known and the notice when it is recorded."""
    # A contact whose name cannot be spoken ("Mr.", a number) is greeted as an unknown caller is.
    if reception.contact is None or not reception.first_name:
        return greeting_unknown(body)
    words = body.greeting.format(
        name=reception.contact.name, first_name=reception.first_name, company=body.company
    )
    return _with_notice(words, body)


def greeting_unknown(body: ProfileBody) -> str:
    """The first words to somebody who is not known, with the notice when it is recorded."""
    return _with_notice(body.greeting_unknown, body)


def fixed(body: ProfileBody) -> tuple[str, ...]:
    """What is said in the same words whoever calls, without a model: its sound is the same in every call."""
    return (
        greeting_unknown(body),
        phrase(body, "back"),
        spoken(body, "moment"),
        *waiting(body),
        *body.silence_prompts,
        body.silence_farewell,
        body.end_warning,
        *((body.menu.prompt,) if body.menu else ()),
        body.farewell,
    )


def opening(body: ProfileBody, reception: Reception, reason: str | None) -> str:
    """The first words to a person whom we call, with the notice when it is recorded."""
    assert body.outbound is not None
    return _with_notice(fill(body.outbound.opening, body, reception, reason), body)


def fill(text: str, body: ProfileBody, reception: Reception, reason: str | None) -> str:
    """A sentence for calls that we place with its places filled; a name not known is left out."""
    assert body.outbound is not None
    said = text.format(
        name=(reception.contact and reception.contact.name) or "",
        first_name=reception.first_name or "",
        company=body.company,
        agent_name=body.agent_name,
        reason=(reason or body.outbound.reason or spoken(body, "reason")).rstrip("."),
    )
    return " ".join(re.sub(r"\s+([,.?!])", r"\1", said).split())


def _with_notice(words: str, body: ProfileBody) -> str:
    if body.record and body.recording_notice not in words:
        # Before the question, so that the caller's answer comes after the notice.
        head, _, question = words.rpartition(". ")
        words = (
            f"{head}. {body.recording_notice} {question}"
            if head
            else (f"{body.recording_notice} {words}")
        )
    return words


def _office(body: ProfileBody, now: datetime) -> str:
    opening = opening_at(body, now)
    word = "open" if opening.is_open else "closed"
    return f"{word} (today is {opening.holiday.name})" if opening.holiday else word


def _caller_facts(reception: Reception) -> str:
    if reception.contact is None:
        return "Nobody in our records has this number."
    facts = []
    if reception.company:
        facts.append(f"Company: {reception.company}")
    for deal in reception.open_deals:
        amount = Money(deal.amount_minor, deal.currency)
        facts.append(f"Open deal: {deal.title}, stage {deal.stage}, {amount}")
    for activity in reception.last_activities:
        facts.append(f"{activity.created_at:%Y-%m-%d} {activity.kind}: {activity.summary}")
    return "\n".join(facts) or "No deals and no activities yet."
