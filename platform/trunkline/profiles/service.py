"""Verbs that write profiles and numbers."""

from datetime import datetime

import phonenumbers
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.db import insert_for
from trunkline.kit.ids import new_id
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles.body import ProfileBody
from trunkline.profiles.models import Number, Profile, ProfileVersion


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


async def publish(
    session: AsyncSession, profile_id: str, body: ProfileBody, *, now: datetime
) -> ProfileVersion:
    """Make *body* what answers from now on: a new version, unless it is the published one already.

    Calls that run keep theirs. Raises NotFound.
    """
    profile = await session.get(Profile, profile_id, with_for_update=True, populate_existing=True)
    if profile is None:
        raise NotFound(f"no profile {profile_id}")
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


async def assign_number(
    session: AsyncSession,
    number: PhoneNumber,
    profile_id: str,
    *,
    region: str,
    label: str | None = None,
    now: datetime,
) -> Number:
    """Let *profile_id* answer *number*, whatever answered it before; without *label* it keeps its own.

    *region* (ISO 3166) is where callers' national numbers are read. Raises NotFound, or
    Invalid for an unknown region.
    """
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise Invalid(f"{region!r} is no country; write its two capital letters, like US or DE")
    if await session.get(Profile, profile_id) is None:
        raise NotFound(f"no profile {profile_id}")
    values = {"profile_id": profile_id, "region": region}
    if label is not None:
        values["label"] = label
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
