"""Verbs that write profiles, numbers and blocked callers."""

from datetime import datetime
from enum import Enum
from typing import Any, Literal
from zoneinfo import ZoneInfo

import phonenumbers
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles import queries
from trunkline.profiles.blocks import ACTIONS, pattern_of
from trunkline.profiles.body import ProfileBody, check
from trunkline.profiles.models import BlockedCaller, Number, Profile, ProfileVersion


class Keep(Enum):
    """The one value that means: leave it as it is."""

    KEEP = "keep"


KEEP = Keep.KEEP


async def create_profile(
    session: AsyncSession, *, name: str, body: ProfileBody, now: datetime
) -> ProfileVersion:
    """Add a profile and publish its version 1. Raises Invalid, or Conflict when the name is taken."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= 60:
        raise Invalid("a profile's name must have 1 to 60 characters")
    profile = Profile(
        id=new_id("pro", now=now), name=name, published_version_id=None, created_at=now
    )
    try:
        async with session.begin_nested():
            session.add(profile)
            await session.flush()
    except IntegrityError:
        raise Conflict(f"there is a profile {name!r} already") from None
    return await publish(session, profile.id, body, now=now)


async def put_profile(
    session: AsyncSession, *, name: str, body: ProfileBody, now: datetime
) -> tuple[ProfileVersion, ProfileVersion | None]:
    """Make *body* what the profile *name* says, and the profile if there is none.

    Returns the version that answers now and the one that did before: none when the profile is new, the
    same when there was nothing to change. Raises Invalid, or Conflict when somebody made it just now.
    """
    profile = await queries.profile_named(session, " ".join(name.split()))
    if profile is None:
        return await create_profile(session, name=name, body=body, now=now), None
    before = await queries.version(session, profile.published_version_id or "")
    return await publish(session, profile.id, body, now=now), before


async def publish(
    session: AsyncSession, profile_id: str, body: ProfileBody, *, now: datetime
) -> ProfileVersion:
    """Make *body* what answers from now on: a new version, unless it is the published one already.

    Calls that run keep theirs. Raises NotFound, or Invalid when a provider would refuse what is chosen
    of it, and when ``after_hours`` names no published profile, or one that leads back here.
    """
    check(body)
    profile = await session.get(Profile, profile_id, with_for_update=True, populate_existing=True)
    if profile is None:
        raise NotFound(f"no profile {profile_id}")
    await _check_after_hours(session, profile.name, body.after_hours)
    as_json = body.model_dump(mode="json")
    if profile.published_version_id is not None:
        current = await session.get(ProfileVersion, profile.published_version_id)
        if current is not None and current.body == as_json:
            return current
    last = await session.scalar(
        select(func.max(ProfileVersion.version)).where(ProfileVersion.profile_id == profile_id)
    )
    version = ProfileVersion(
        id=new_id("pfv", now=now),
        profile_id=profile_id,
        version=(last or 0) + 1,
        body=as_json,
        created_at=now,
    )
    session.add(version)
    profile.published_version_id = version.id
    await session.flush()
    return version


async def _check_after_hours(session: AsyncSession, name: str, after_hours: str | None) -> None:
    """Follow the names until one has nobody after it. Raises Invalid."""
    way, following = [name], after_hours
    while following is not None:
        if following in way:
            loop = " → ".join([*way, following])
            raise Invalid(
                f"after_hours: {following!r} leads back to where it came from ({loop}), so nobody "
                "would answer; let the last of them have no after_hours"
            )
        profile = await queries.profile_named(session, following)
        if profile is None or profile.published_version_id is None:
            known = ", ".join(repr(one.name) for one in await queries.profiles(session))
            raise Invalid(
                f"after_hours: there is no profile {following!r}; publish it first, or name one of "
                f"these: {known}"
            )
        way.append(following)
        version = await queries.version(session, profile.published_version_id)
        following = version.body.get("after_hours")


async def assign_number(
    session: AsyncSession,
    number: PhoneNumber,
    profile_id: str,
    *,
    region: str,
    label: str | Literal[Keep.KEEP] | None = KEEP,
    timezone: str | Literal[Keep.KEEP] | None = KEEP,
    now: datetime,
) -> Number:
    """Let *profile_id* answer *number*, whatever answered it before.

    *region* (ISO 3166) is where callers' national numbers are read, *timezone* (IANA) where the
    number rings, None being wherever the profile is. What is not given stays. Raises NotFound,
    or Invalid for an unknown region or zone.
    """
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise Invalid(f"{region!r} is no country; write its two capital letters, like US or DE")
    if await session.get(Profile, profile_id) is None:
        raise NotFound(f"no profile {profile_id}")
    values: dict[str, Any] = {"profile_id": profile_id, "region": region}
    if label is not KEEP:
        values["label"] = label
    if timezone is not KEEP:
        values["timezone"] = _zone(timezone)
    upsert = insert_for(session, Number).values(
        id=new_id("num", now=now), e164=number.e164, created_at=now, **values
    )
    upsert = upsert.on_conflict_do_update(index_elements=[Number.e164], set_=values)
    row: Number = (
        await session.scalars(
            upsert.returning(Number), execution_options={"populate_existing": True}
        )
    ).one()
    return row


def region_of(number: PhoneNumber) -> str | None:
    """The country (ISO 3166) that a number belongs to; None for one of no country, like +800."""
    region = phonenumbers.region_code_for_number(phonenumbers.parse(number.e164, None))
    return region if region in phonenumbers.SUPPORTED_REGIONS else None


def _zone(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise Invalid(f"{name!r} is no time zone; write one like Europe/Berlin") from None
    return name


async def remove_number(session: AsyncSession, e164: str) -> None:
    """No profile answers *e164* any more. Raises NotFound."""
    row, _ = await queries.number(session, e164)
    await session.execute(delete(Number).where(Number.id == row.id))


async def block_caller(
    session: AsyncSession,
    pattern: str,
    *,
    action: str = "reject",
    reason: str | None = None,
    expires_at: datetime | None = None,
    now: datetime,
) -> tuple[BlockedCaller, bool]:
    """Do not put through a caller, or all whose numbers begin alike (``+4490*``).

    A pattern that is there already gets the new action, reason and end. The second value says
    whether it is new. Raises Invalid for what is no pattern or action, and for an end that is past.
    """
    if action not in ACTIONS:
        raise Invalid(f"{action!r} is no action; choose {' or '.join(ACTIONS)}")
    if expires_at is not None and expires_at <= now:
        raise Invalid("the block would have run out already; choose a time to come, or none")
    reason = " ".join((reason or "").split()) or None
    if reason is not None and len(reason) > 200:
        raise Invalid("the reason must have at most 200 characters")
    values = {"action": action, "reason": reason, "expires_at": expires_at}
    id_ = new_id("blk", now=now)
    upsert = insert_for(session, BlockedCaller).values(
        id=id_, pattern=pattern_of(pattern), created_at=now, **values
    )
    upsert = upsert.on_conflict_do_update(index_elements=[BlockedCaller.pattern], set_=values)
    row: BlockedCaller = (
        await session.scalars(
            upsert.returning(BlockedCaller), execution_options={"populate_existing": True}
        )
    ).one()
    return row, row.id == id_


async def unblock(session: AsyncSession, block_id: str) -> BlockedCaller:
    """Put the caller through again. Raises NotFound."""
    row = await queries.block(session, block_id)
    await session.delete(row)
    await session.flush()
    return row
