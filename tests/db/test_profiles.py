"""Profiles, their versions and the numbers that lead to them, on both databases."""

from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from trunkline.errors import Conflict, Invalid, NotFound
from trunkline.kit.db import Database
from trunkline.kit.phone import PhoneNumber
from trunkline.profiles import queries, service
from trunkline.profiles.models import ProfileVersion

if TYPE_CHECKING:
    from tests.conftest import Make

OURS = PhoneNumber("+12025550100")


async def test_a_number_leads_to_the_published_version(
    db: Database, make: "Make", now: datetime
) -> None:
    """What answers is the version published last; those before it stay as they were."""
    async with db.work() as session:
        first = await make.profile(session)
        second = await service.publish(
            session, first.profile_id, make.body(company="Southwind"), now=now
        )
    async with db.look() as session:
        answering = await queries.answering(session, OURS.e164)
        assert answering is not None
        assert answering.version.id == second.id
        assert answering.body.company == "Southwind"
        assert answering.number.region == "US"
        assert answering.profile.name == "Front desk"
        current, body = await queries.published(session, first.profile_id)
        assert (current.id, body) == (second.id, answering.body)
        versions = await queries.versions(session, first.profile_id)
        assert [each.version for each in versions] == [2, 1]
        assert versions[1].body["company"] == "Northwind Internet"


async def test_publishing_the_same_again_makes_no_version(
    db: Database, make: "Make", now: datetime
) -> None:
    """A deployment that publishes its file each time does not count up."""
    async with db.work() as session:
        first = await make.profile(session)
    async with db.work() as session:
        again = await service.publish(session, first.profile_id, make.body(), now=now)
        assert again.id == first.id


async def test_an_unknown_number_leads_nowhere(db: Database, make: "Make") -> None:
    """A number that is none of ours has nothing that answers."""
    async with db.work() as session:
        await make.profile(session)
        assert await queries.answering(session, "+12025550199") is None


async def test_a_number_changes_hands(db: Database, make: "Make", now: datetime) -> None:
    """Assigning a number again moves it, keeping its id and, unless a new one is given, its label."""
    async with db.work() as session:
        day = await make.profile(session, name="Day", number=None)
        night = await make.profile(session, name="Night", number=None)
        first = await service.assign_number(
            session, OURS, day.profile_id, region="US", label="Main line", now=now
        )
        first_id = first.id
    async with db.work() as session:
        moved = await service.assign_number(session, OURS, night.profile_id, region="CA", now=now)
        assert (moved.id, moved.label, moved.region) == (first_id, "Main line", "CA")
        renamed = await service.assign_number(
            session, OURS, night.profile_id, region="CA", label="Night line", now=now
        )
        assert renamed.label == "Night line"
    async with db.look() as session:
        answering = await queries.answering(session, OURS.e164)
        assert answering is not None
        assert answering.profile.name == "Night"
        assert [each.e164 for each in await queries.numbers(session)] == [OURS.e164]


async def test_profiles_have_names_of_their_own(db: Database, make: "Make", now: datetime) -> None:
    """A name is taken once and must be one; the unit goes on after a refusal."""
    async with db.work() as session:
        made = await make.profile(session, name="Day", number=None)
        with pytest.raises(Conflict, match="a profile 'Day' already"):
            await service.create_profile(session, name=" Day ", body=make.body(), now=now)
        with pytest.raises(Invalid, match="1 to 60 characters"):
            await service.create_profile(session, name="  ", body=make.body(), now=now)
        await make.profile(session, name="Another", number=None)
    async with db.look() as session:
        found = await queries.profile_named(session, "Day")
        assert found is not None
        assert found.id == made.profile_id
        assert [each.name for each in await queries.profiles(session)] == ["Another", "Day"]


async def test_what_is_not_there_is_not_found(
    sqlite_db: Database, make: "Make", now: datetime
) -> None:
    """Unknown profiles, versions and regions are refused before anything is written."""
    async with sqlite_db.work() as session:
        with pytest.raises(NotFound, match="no profile pro_none"):
            await service.publish(session, "pro_none", make.body(), now=now)
        with pytest.raises(NotFound, match="no profile pro_none"):
            await service.assign_number(session, OURS, "pro_none", region="US", now=now)
        with pytest.raises(Invalid, match="'USA' is no country"):
            await service.assign_number(session, OURS, "pro_none", region="USA", now=now)
        with pytest.raises(NotFound, match="no profile version pfv_none"):
            await queries.version(session, "pfv_none")
        assert await queries.numbers(session) == []


async def test_a_stored_body_that_no_longer_fits_says_whose_it_is(
    sqlite_db: Database, make: "Make"
) -> None:
    """A version stored by another program is refused with profile, version and field."""
    async with sqlite_db.work() as session:
        version = await make.profile(session)
        await session.execute(
            update(ProfileVersion)
            .where(ProfileVersion.id == version.id)
            .values(body={**version.body, "mood": "sunny"})
        )
    async with sqlite_db.look() as session:
        with pytest.raises(Invalid, match=r"version 1 of 'Front desk': .*mood is not a field"):
            await queries.answering(session, OURS.e164)
