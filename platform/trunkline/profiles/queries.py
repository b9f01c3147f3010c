"""All reads of profiles and numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.errors import Invalid, NotFound
from trunkline.profiles.body import ProfileBody, read
from trunkline.profiles.models import Number, Profile, ProfileVersion


@dataclass(frozen=True)
class Answering:
    """What answers a number: the profile and its published version."""

    number: Number
    profile: Profile
    version: ProfileVersion
    body: ProfileBody


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
    return Answering(number, profile, version, _body(profile, version))


async def profile(session: AsyncSession, profile_id: str) -> Profile:
    """The profile. Raises NotFound."""
    found = await session.get(Profile, profile_id)
    if found is None:
        raise NotFound(f"no profile {profile_id}")
    return found


async def profile_named(session: AsyncSession, name: str) -> Profile | None:
    """The profile of that name."""
    return await session.scalar(select(Profile).where(Profile.name == name))


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


async def published(session: AsyncSession, profile_id: str) -> tuple[ProfileVersion, ProfileBody]:
    """The version that answers now, and its body. Raises NotFound or Invalid."""
    owner = await profile(session, profile_id)
    current = await version(session, owner.published_version_id or "")
    return current, _body(owner, current)


async def numbers(session: AsyncSession) -> Sequence[Number]:
    """All numbers that lead to us, in order."""
    return (await session.scalars(select(Number).order_by(Number.e164))).all()


def _body(owner: Profile, current: ProfileVersion) -> ProfileBody:
    try:
        return read(current.body)
    except Invalid as error:
        raise Invalid(f"version {current.version} of {owner.name!r}: {error}") from error
