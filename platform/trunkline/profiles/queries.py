"""All reads of profiles and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.errors import Invalid, NotFound
from trunkline.kit import phone
from trunkline.profiles.blocks import pattern_of, patterns_for
from trunkline.profiles.body import ProfileBody, read
from trunkline.profiles.models import BlockedCaller, Number, Profile, ProfileVersion


@dataclass(frozen=True)
class Answering:
    """What answers a number: the profile and its published version."""

    number: Number
    profile: Profile
    version: ProfileVersion
    body: ProfileBody
    """Its time zone is the number's, if that has one of its own."""


async def answering(session: AsyncSession, e164: str) -> Answering | None:
    """What answers the dialled number; None when it is none of ours. One statement, by unique index.

    Raises Invalid when the stored body no longer fits this program.
    """
    statement = (
        select(Number, Profile, ProfileVersion)
        .join(Profile, Profile.id == Number.profile_id)
        .join(ProfileVersion, ProfileVersion.id == Profile.published_version_id)
        .where(Number.e164 == e164)
    )
    found = (await session.execute(statement)).one_or_none()
    if found is None:
        return None
    number, profile, version = found
    return Answering(number, profile, version, _body_at(number, profile, version))


async def instead(session: AsyncSession, before: Answering, name: str) -> Answering | None:
    """The profile *name* in place of *before*, on the same number; None when there is none.

    Raises Invalid when its stored body no longer fits this program.
    """
    statement = (
        select(Profile, ProfileVersion)
        .join(ProfileVersion, ProfileVersion.id == Profile.published_version_id)
        .where(Profile.name == name)
    )
    found = (await session.execute(statement)).one_or_none()
    if found is None:
        return None
    profile, version = found
    return replace(
        before, profile=profile, version=version, body=_body_at(before.number, profile, version)
    )


async def as_begun(session: AsyncSession, before: Answering, version_id: str) -> Answering:
    """The version with which a call began, in place of *before*. Raises NotFound or Invalid."""
    began = await version(session, version_id)
    owner = await profile(session, began.profile_id)
    return replace(before, profile=owner, version=began, body=_body_at(before.number, owner, began))


async def profile(session: AsyncSession, profile_id: str) -> Profile:
    """The profile. Raises NotFound."""
    found = await session.get(Profile, profile_id)
    if found is None:
        raise NotFound(f"no profile {profile_id}")
    return found


async def profile_named(session: AsyncSession, name: str) -> Profile | None:
    """The profile of that name."""
    return await session.scalar(select(Profile).where(Profile.name == name))


async def named(session: AsyncSession, name: str) -> Profile:
    """The profile of that name, for somebody who wrote it. Raises NotFound saying which there are."""
    found = await profile_named(session, name)
    if found is None:
        there = ", ".join(repr(one.name) for one in await profiles(session)) or "none yet"
        raise NotFound(f"there is no profile {name!r}; there are: {there}")
    return found


async def profiles(session: AsyncSession) -> Sequence[Profile]:
    """All profiles by name."""
    return (await session.scalars(select(Profile).order_by(Profile.name))).all()


async def version(session: AsyncSession, version_id: str) -> ProfileVersion:
    """One version. Raises NotFound."""
    found = await session.get(ProfileVersion, version_id)
    if found is None:
        raise NotFound(f"no profile version {version_id}")
    return found


async def versions(session: AsyncSession, profile_id: str) -> Sequence[ProfileVersion]:
    """All versions of a profile, the latest first."""
    statement = (
        select(ProfileVersion)
        .where(ProfileVersion.profile_id == profile_id)
        .order_by(ProfileVersion.version.desc())
    )
    return (await session.scalars(statement)).all()


async def versions_page(
    session: AsyncSession, profile_id: str, *, before: str | None, limit: int
) -> Sequence[ProfileVersion]:
    """Versions of a profile, the latest first, those before the one with the id *before*."""
    mine = ProfileVersion.profile_id == profile_id
    statement = select(ProfileVersion).where(mine).order_by(ProfileVersion.version.desc())
    if before is not None:
        # By number: two that were published in one millisecond have ids in any order.
        number = select(ProfileVersion.version).where(mine, ProfileVersion.id == before)
        statement = statement.where(ProfileVersion.version < number.scalar_subquery())
    return (await session.scalars(statement.limit(limit))).all()


async def published(session: AsyncSession, profile_id: str) -> tuple[ProfileVersion, ProfileBody]:
    """The version that answers now, and its body. Raises NotFound or Invalid."""
    owner = await profile(session, profile_id)
    current = await version(session, owner.published_version_id or "")
    return current, _body(owner, current)


async def published_bodies(session: AsyncSession) -> Sequence[ProfileBody]:
    """What every profile says and does now; one that this program cannot read is left out."""
    return [body for _, body in await published_by_name(session) if isinstance(body, ProfileBody)]


async def published_by_name(session: AsyncSession) -> Sequence[tuple[str, ProfileBody | Invalid]]:
    """Every profile's name and what it says now, or why this program cannot read it."""
    statement = (
        select(Profile, ProfileVersion)
        .join(ProfileVersion, ProfileVersion.id == Profile.published_version_id)
        .order_by(Profile.name)
    )
    found: list[tuple[str, ProfileBody | Invalid]] = []
    for owner, current in (await session.execute(statement)).all():
        try:
            found.append((owner.name, _body(owner, current)))
        except Invalid as error:
            found.append((owner.name, error))
    return found


async def numbers(session: AsyncSession) -> Sequence[Number]:
    """All numbers that lead to us, in order."""
    return (await session.scalars(select(Number).order_by(Number.e164))).all()


async def find_number(session: AsyncSession, e164: str) -> tuple[Number, Profile] | None:
    """One number and the profile it leads to; None when it is none of ours."""
    statement = (
        select(Number, Profile)
        .join(Profile, Profile.id == Number.profile_id)
        .where(Number.e164 == e164)
    )
    found = (await session.execute(statement)).one_or_none()
    return (found[0], found[1]) if found else None


async def number(session: AsyncSession, e164: str) -> tuple[Number, Profile]:
    """One number and the profile it leads to. Raises NotFound."""
    found = await find_number(session, e164)
    if found is None:
        raise NotFound(f"{phone.mask(e164)} is no number of ours")
    return found


async def numbers_page(
    session: AsyncSession, *, after: str | None, limit: int
) -> Sequence[tuple[Number, Profile]]:
    """Numbers with their profiles in the order in which they were added, those after the id *after*."""
    statement = (
        select(Number, Profile)
        .join(Profile, Profile.id == Number.profile_id)
        .order_by(Number.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(Number.id > after)
    return [(row[0], row[1]) for row in await session.execute(statement)]


async def profiles_page(
    session: AsyncSession, *, after: str | None, limit: int
) -> Sequence[tuple[Profile, ProfileVersion]]:
    """Profiles with what answers now, in the order in which they were made, those after the id *after*."""
    statement = (
        select(Profile, ProfileVersion)
        .join(ProfileVersion, ProfileVersion.id == Profile.published_version_id)
        .order_by(Profile.id)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(Profile.id > after)
    return [(row[0], row[1]) for row in await session.execute(statement)]


async def number_counts(session: AsyncSession) -> dict[str, int]:
    """Id of a profile → how many numbers lead to it; those with none are left out."""
    statement = select(Number.profile_id, func.count()).group_by(Number.profile_id)
    return {row[0]: row[1] for row in await session.execute(statement)}


async def version_numbered(
    session: AsyncSession, profile_id: str, number: int
) -> ProfileVersion | None:
    """The profile's version of that number."""
    statement = select(ProfileVersion).where(
        ProfileVersion.profile_id == profile_id, ProfileVersion.version == number
    )
    return await session.scalar(statement)


# --- callers who are not put through ----------------------------------------------------------


async def block_on(session: AsyncSession, e164: str, *, now: datetime) -> BlockedCaller | None:
    """What blocks this caller: the narrowest pattern that has not run out. One statement, by unique index."""
    patterns = patterns_for(e164)
    statement = select(BlockedCaller).where(
        BlockedCaller.pattern.in_(patterns),
        or_(BlockedCaller.expires_at.is_(None), BlockedCaller.expires_at > now),
    )
    found = {row.pattern: row for row in await session.scalars(statement)}
    return next((found[pattern] for pattern in patterns if pattern in found), None)


async def block(session: AsyncSession, block_id: str) -> BlockedCaller:
    """One blocked caller. Raises NotFound."""
    found = await session.get(BlockedCaller, block_id)
    if found is None:
        raise NotFound(f"no blocked caller {block_id}")
    return found


async def block_named(session: AsyncSession, text: str) -> BlockedCaller:
    """The block of this pattern, as people write it. Raises Invalid or NotFound."""
    pattern = pattern_of(text)
    found = await session.scalar(select(BlockedCaller).where(BlockedCaller.pattern == pattern))
    if found is None:
        raise NotFound(f"{phone.mask(pattern)} is not blocked; trunkline block list shows what is")
    return found


async def blocks_page(
    session: AsyncSession, *, before: str | None = None, limit: int | None = None
) -> Sequence[BlockedCaller]:
    """Blocked callers, the newest first, those before the id *before*; also those that ran out."""
    statement = select(BlockedCaller).order_by(BlockedCaller.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(BlockedCaller.id < before)
    return (await session.scalars(statement)).all()


def _body_at(number: Number, owner: Profile, current: ProfileVersion) -> ProfileBody:
    body = _body(owner, current)
    return body.model_copy(update={"timezone": number.timezone}) if number.timezone else body


def _body(owner: Profile, current: ProfileVersion) -> ProfileBody:
    try:
        return read(current.body)
    except Invalid as error:
        raise Invalid(f"version {current.version} of {owner.name!r}: {error}") from error
