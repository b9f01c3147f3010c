"""What ``trunkline route`` says of the door: hours, who stands in, blocks and caps."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trunkline.desk.arrival import receive
from trunkline.desk.door import House
from trunkline.kit.db import Database
from trunkline.profiles import service
from trunkline.trunks.commands import Told, route
from trunkline.trunks.options import TrunkOptions

if TYPE_CHECKING:
    from tests.conftest import Make

OURS, DANA = "+12025550100", "+12025550134"
SIP = Path(__file__).resolve().parents[2] / "sip"
OFFICE = [{"days": ["mon", "tue", "wed", "thu", "fri"], "opens": "09:00", "closes": "17:00"}]


async def asked(
    db: Database, now: datetime, caller: str | None = DANA, house: House | None = None
) -> Told:
    options = TrunkOptions(folder=SIP, house=house or House())
    return await route(options, db, OURS, caller=caller, offline=True, now=now)


def said(told: Told, part: str) -> list[tuple[bool | None, str]]:
    return [(each["ok"], each["says"]) for each in told.data["findings"] if each["part"] == part]


@pytest.mark.parametrize(
    ("fields", "hours", "says"),
    [
        ({}, 0, "always open"),
        ({"hours": OFFICE}, 6, "open at this moment (America/New_York, Thursday 10:30)"),
        (
            {"hours": OFFICE},
            0,
            "closed at this moment (America/New_York, Thursday 04:30): "
            "it is answered all the same, and the agent knows that it is closed",
        ),
        (
            {"holidays": [{"date": "01-15", "name": "Founder's Day"}]},
            6,
            "closed at this moment, on Founder's Day (America/New_York, Thursday 10:30): "
            "it is answered all the same, and the agent knows that it is closed",
        ),
    ],
)
async def test_the_hours_are_told_in_words(
    sqlite_db: Database,
    make: "Make",
    now: datetime,
    fields: dict[str, Any],
    hours: int,
    says: str,
) -> None:
    """The clock where the number rings, the holiday, and what being closed means."""
    async with sqlite_db.work() as session:
        await make.profile(session, body=make.body(**fields))
    told = await asked(sqlite_db, now + timedelta(hours=hours))
    assert said(told, "hours") == [(True, says)]
    assert told.lines[-1] == "It would be answered."


async def test_who_stands_in_is_named(db: Database, make: "Make", now: datetime) -> None:
    """After hours both profiles are named, the number's own and the one that answers."""
    async with db.work() as session:
        await make.profile(session, name="Night", number=None)
        await make.profile(session, name="Day", body=make.body(hours=OFFICE, after_hours="Night"))
    told = await asked(db, now)
    assert said(told, "profile") == [
        (True, "'Day', version 1, answers +12025550100"),
        (True, "'Night', version 1, answers in its place"),
    ]
    assert said(told, "hours")[0][1].endswith("'Night' answers after hours")


async def test_a_caller_who_is_not_put_through(db: Database, make: "Make", now: datetime) -> None:
    """The pattern and its reason are told, and that nobody answers; the exit code is not ok."""
    async with db.work() as session:
        await make.profile(session, body=make.body(hidden_callers="message"))
        await service.block_caller(session, "+1202555*", reason="advertising", now=now)
    told = await asked(db, now)
    assert not told.ok
    assert told.data["rings_for_ever"] is False
    assert told.lines[-1] == (
        "It would not be answered: the caller is blocked by +1202555*: advertising: "
        "rejected, the line ends unanswered."
    )
    hidden = await asked(db, now, caller=None)
    assert hidden.ok
    assert said(hidden, "caller") == [
        (True, "the caller hides the number: may leave a message, nothing else")
    ]


async def test_caps_are_told_with_what_is_free(db: Database, make: "Make", now: datetime) -> None:
    """There is room, or all lines are busy: looked at now, and nothing is taken by looking."""
    async with db.work() as session:
        await make.profile(session, body=make.body(limits={"max_calls": 1}))
    house = House(max_calls=5)
    for _ in range(2):
        told = await asked(db, now, house=house)
        assert said(told, "lines") == [
            (True, "there is room at this moment (1 with this profile, 5 in all)")
        ]
    async with db.work() as session:
        await receive(
            session, room="r1", channel="sip", from_raw=DANA, to_raw=OURS, house=house, now=now
        )
    told = await asked(db, now, house=house)
    assert not told.ok
    assert told.lines[-1] == (
        "It would be told that all lines are busy: all 1 lines of this profile are busy "
        "at this moment."
    )
