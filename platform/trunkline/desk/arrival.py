"""A call arrives: whose number was dialled, who is calling, and what we know of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import service as calls
from trunkline.crm import queries as crm
from trunkline.crm.models import Activity, Contact, Deal
from trunkline.kit import phone
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles import queries as profiles
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
    now: datetime,
) -> Reception:
    """Store the call and gather what is known. May be repeated: the call is found again by its room.

    Nothing a line says of its numbers makes this fail; what cannot be read is taken as not known.
    Raises Invalid when the profile that would answer cannot be read.
    """
    ours_raw, theirs_raw = (to_raw, from_raw) if direction == "inbound" else (from_raw, to_raw)
    ours = dialled(ours_raw)
    answering = await profiles.answering(session, ours.e164) if ours else None
    theirs = _caller(theirs_raw, answering.number.region if answering else None)
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
        now=now,
    )
    if contact:
        await calls.identify(session, call.id, contact_id=contact.id, name=contact.name, now=now)
    return Reception(
        call_id=call.id,
        answering=answering,
        caller=theirs,
        contact=contact,
        company=contact.company.name if contact and contact.company else None,
        first_name=first_name(contact.name) if contact and contact.name else None,
        open_deals=await crm.open_deals(session, contact.id) if contact else (),
        last_activities=await crm.last_activities(session, contact.id) if contact else (),
    )


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


def _caller(text: str | None, region: str | None) -> PhoneNumber | None:
    try:
        return phone.parse_caller(text, region=region)
    except ValueError:
        return None


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
