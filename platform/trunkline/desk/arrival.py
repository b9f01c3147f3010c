"""A call arrives: whose number was dialled, who is calling, and what we know of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import service as calls
from trunkline.crm import queries as crm
from trunkline.crm.models import Activity, Contact, Deal
from trunkline.desk import caps, door
from trunkline.desk.door import OPEN, Block, Door, House, Kind
from trunkline.desk.identity import Attestation
from trunkline.kit import phone
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles import queries as profiles
from trunkline.profiles.blocks import Action
from trunkline.profiles.hours import Opening, opening_at
from trunkline.profiles.queries import Answering


@dataclass(frozen=True)
class Reception:
    """What is known before the first word is said."""

    call_id: str
    answering: Answering | None
    """Which profile answers; None when the dialled number is none of ours."""
    caller: PhoneNumber | None
    """None when the caller hides the number, or it is none."""
    contact: Contact | None
    company: str | None
    """The contact's company."""
    first_name: str | None
    """As it may be spoken in a greeting; None when the name has none."""
    open_deals: Sequence[Deal]
    """Newest first."""
    last_activities: Sequence[Activity]
    """Newest first, at most five."""
    door: Door = OPEN
    """Whether the caller is let in, and by whom."""
    attestation: Attestation | None = None
    """How far the carrier vouches for the caller's number."""


async def receive(
    session: AsyncSession,
    *,
    room: str,
    channel: str,
    from_raw: str | None,
    to_raw: str,
    direction: str = "inbound",
    sip_call_id: str | None = None,
    sip_trunk_id: str | None = None,
    attestation: Attestation | None = None,
    house: House | None = None,
    now: datetime,
) -> Reception:
    """Store the call and gather what is known. May be repeated: the call is found again by its room.

    With *house* it is decided, once and for all, whether the caller is let in; without, as for
    somebody who only sees the call ring, that stays open. Nothing a line says of its numbers makes
    this fail; what cannot be read is taken as not known. Raises Invalid when the profile that would
    answer cannot be read.
    """
    ours_raw, theirs_raw = (to_raw, from_raw) if direction == "inbound" else (from_raw, to_raw)
    ours = dialled(ours_raw)
    answering = await profiles.answering(session, ours.e164) if ours else None
    theirs, hidden = _caller(theirs_raw, answering.number.region if answering else None)
    at_the_door = OPEN
    if answering and direction == "inbound":
        answering, at_the_door, _ = await on_duty(session, answering, now=now)
    contact = await crm.contact_by_number(session, theirs.e164) if theirs else None
    from_number, to_number = (theirs, ours) if direction == "inbound" else (ours, theirs)
    call = await calls.start(
        session,
        room=room,
        direction=direction,
        channel=channel,
        from_number=from_number.e164 if from_number else None,
        to_number=to_number.e164 if to_number else None,
        contact_id=contact.id if contact else None,
        profile_version_id=answering.version.id if answering else None,
        sip_call_id=sip_call_id,
        sip_trunk_id=sip_trunk_id,
        attestation=attestation,
        now=now,
    )
    if contact:
        await calls.identify(session, call.id, contact_id=contact.id, name=contact.name, now=now)
    if answering and call.profile_version_id not in (None, answering.version.id):
        # Another agent takes a call over, or the hour struck while it rang: it stays what it was.
        answering = await profiles.as_begun(session, answering, call.profile_version_id or "")
    if call.door is not None:
        at_the_door = Door(Kind(call.door), call.door_reason)
    elif house is not None and direction == "inbound":
        at_the_door = await _decide(
            session, call.id, answering, at_the_door, theirs, hidden=hidden, house=house, now=now
        )
        await calls.decide_door(
            session, call.id, kind=at_the_door.kind.value, reason=at_the_door.reason
        )
    return Reception(
        call_id=call.id,
        answering=answering,
        caller=theirs,
        contact=contact,
        company=contact.company.name if contact and contact.company else None,
        first_name=first_name(contact.name) if contact and contact.name else None,
        open_deals=await crm.open_deals(session, contact.id) if contact else (),
        last_activities=await crm.last_activities(session, contact.id) if contact else (),
        door=at_the_door,
        attestation=cast(Attestation | None, call.attestation),
    )


_LONGEST_WAY = 10
"""Profiles that may stand in for each other. Publishing refuses a way that leads back; should two be
published at the same moment that do, it ends here."""


async def on_duty(
    session: AsyncSession, answering: Answering, *, now: datetime
) -> tuple[Answering, Door, Opening]:
    """Who answers at this hour: the number's own profile or the one that stands in for it.

    The third value says whether the number's own is open. A profile that should stand in and is not
    there any more is passed over: a caller is answered in any case.
    """
    first = opening_at(answering.body, now)
    opening, own = first, answering
    for _ in range(_LONGEST_WAY):
        name = answering.body.after_hours
        if opening.is_open or name is None:
            break
        standing_in = await profiles.instead(session, answering, name)
        if standing_in is None:
            break
        answering, opening = standing_in, opening_at(standing_in.body, now)
    name = None if answering is own else answering.profile.name
    return answering, door.hours(first, name), first


@dataclass(frozen=True)
class Foreseen:
    """What a call would find at this moment."""

    own: Answering
    """The number's own profile."""
    on_duty: Answering
    """Who would answer; the same when it is open or nobody stands in."""
    opening: Opening
    """Of the number's own."""
    door: Door


async def foresee(
    session: AsyncSession, e164: str, caller_raw: str | None, *, house: House, now: datetime
) -> Foreseen | None:
    """What a call to *e164* would find; None when that is none of ours. Changes nothing."""
    own = await profiles.answering(session, e164)
    if own is None:
        return None
    caller, hidden = _caller(caller_raw, own.number.region)
    answering, by_the_clock, opening = await on_duty(session, own, now=now)
    found = await _decide(
        session, None, answering, by_the_clock, caller, hidden=hidden, house=house, now=now
    )
    return Foreseen(own, answering, opening, found)


async def block_on(session: AsyncSession, caller: PhoneNumber, *, now: datetime) -> Block | None:
    """What blocks this caller at this moment."""
    row = await profiles.block_on(session, caller.e164, now=now)
    return Block(row.pattern, cast(Action, row.action), row.reason) if row else None


async def _decide(
    session: AsyncSession,
    call_id: str | None,
    answering: Answering | None,
    by_the_clock: Door,
    caller: PhoneNumber | None,
    *,
    hidden: bool,
    house: House,
    now: datetime,
) -> Door:
    block = await block_on(session, caller, now=now) if caller else None
    body = answering.body if answering else None
    if refused := door.unwanted(body, block, hidden=hidden):
        return refused
    if answering is None or not caps.any_cap(answering.body.limits, house):
        return by_the_clock
    if call_id is not None:
        await caps.in_turn(session)
    load = await caps.count(
        session,
        call_id=call_id,
        profile_id=answering.profile.id,
        caller=caller.e164 if caller else None,
        limits=answering.body.limits,
        house=house,
        now=now,
    )
    return door.full(answering.body, house, load) or by_the_clock


def dialled(text: str | None) -> PhoneNumber | None:
    """Our own number as a trunk says it, mostly E.164 with or without the plus sign; None if unreadable."""
    if not text:
        return None
    try:
        return phone.parse(text, region=None)
    except ValueError:
        # Only one of ours can match, so a wrong guess of the country cannot mislead.
        digits = "".join(c for c in text.partition("@")[0] if c in "0123456789")
    try:
        return PhoneNumber(f"+{digits}", text)
    except ValueError:
        return None


def _caller(text: str | None, region: str | None) -> tuple[PhoneNumber | None, bool]:
    """The caller's number, and whether they hide it, which somebody without a number does not."""
    try:
        number = phone.parse_caller(text, region=region)
    except ValueError:
        return None, False
    return number, number is None


_TITLES = frozenset(
    [
        "dr",
        "herr",
        "frau",
        "ing",
        "mag",
        "miss",
        "mme",
        "mr",
        "mrs",
        "ms",
        "mx",
        "prof",
        "rev",
        "sir",
    ]
)


def first_name(name: str) -> str | None:
    """The name to greet somebody by: without title, initial or surname; None if nothing is left.

    "Dr. Dana Whitfield", "Whitfield, Dana" and "DANA WHITFIELD" all give "Dana".
    """
    last, comma, rest = name.partition(",")
    for word in (rest if comma and rest.strip() else last).split():
        bare = re.sub(r"[^\w'’-]|[\d_]", "", word).strip("-'’")
        if len(bare) < 2 or bare.casefold() in _TITLES:
            continue
        return bare.capitalize() if bare.isupper() or bare.islower() else bare
    return None
