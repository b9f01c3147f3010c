"""A profile's body: read with every fault told at once, and its business hours."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ValidationError

from trunkline.errors import Invalid
from trunkline.profiles.body import TOOL_NAMES, ProfileBody, read
from trunkline.profiles.hours import open_at, opening_at

if TYPE_CHECKING:
    from tests.conftest import Make


def test_defaults_come_by_themselves(make: "Make") -> None:
    """What a profile leaves out has the documented default."""
    body = make.body()
    assert body.stt.model == "nova-3"
    assert body.limits.max_call_s == 1800
    assert body.record is False
    assert body.hours == []


def test_a_body_survives_json(make: "Make") -> None:
    """What is stored is read back as the same body."""
    body = make.body(hours=[{"days": ["mon"], "opens": "09:00", "closes": "17:00"}])
    assert read(body.model_dump(mode="json")) == body


def test_a_body_never_changes(make: "Make") -> None:
    """A call can keep its profile's body, since nobody can change it under it."""
    with pytest.raises(ValidationError, match="frozen"):
        make.body().company = "Other"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tools": ["find_deals", "sing"]}, "tools.1: 'sing' is no tool, the tools are look_up"),
        ({"greetin": "Hi"}, "greetin is not a field of a profile"),  # a slip of the pen
        ({"timezone": "Mars/Olympus"}, "timezone: 'Mars/Olympus' is no time zone"),
        ({"timezone": "../etc/passwd"}, "is no time zone"),  # a path is none either
        ({"timezone": ""}, "is no time zone"),
        ({"region": "USA"}, "region: 'USA' is no country"),
        ({"greeting": "Hello {nme}"}, "knows {name}, {first_name}, {company} only, not {nme}"),
        ({"greeting": "Hello {name.__class__}"}, "not {name.__class__}"),  # no way into objects
        ({"greeting": "Hello {name:>9999}"}, "not {name:>9999}"),  # no formatting
        ({"greeting": "Hello {name"}, "has a brace without its partner"),
        ({"company": "  "}, "company: string should have at least 1 character"),
        ({"callback_time": "9"}, "callback_time: '9' is no time of day; write HH:MM"),
        ({"limits": {"max_call_s": 30}}, "limits.max_call_s: input should be greater than or"),
        ({"stt": {"provider": "other"}}, "stt.provider: 'other' is none of 'deepgram',"),
        ({"stt": {"endpointing_ms": 1}}, "stt.endpointing_ms: input should be greater"),
        ({"llm": {"temperature": 9}}, "llm.temperature: input should be less than or equal to 2"),
        ({"llm": {"base_url": "localhost"}}, "llm.base_url: 'localhost' is no address of a server"),
        (
            {"llm": {"base_url": "http://u:p@h/v1"}},
            "llm.base_url: 'http://u:p@h/v1' must hold no pass",
        ),
        (
            {"fallback": {"tts": [{"provider": "openai", "speed": 9, "voice": "ash"}]}},
            "fallback.tts.0.speed: input should be less than",
        ),
        (
            {
                "stt": {
                    "provider": "deepgram-flux",
                    "eot_threshold": 0.5,
                    "eager_eot_threshold": 0.8,
                }
            },
            "stt: eager_eot_threshold must not exceed",
        ),
        ({"tts": {}}, "tts.voice is missing"),
        ({"endpointing": {"min_delay_ms": 900, "max_delay_ms": 800}}, "must not exceed"),
        (
            {"hours": [{"days": ["mon"], "opens": "25:00", "closes": "17:00"}]},
            "hours.0.opens: '25:00' is no time of day",
        ),
        (
            {"holidays": [{"date": "25.12.", "name": "x"}]},
            "holidays.0.date: '25.12.' is no day; write",
        ),
        ({"holidays": [{"date": "2026-02-29", "name": "x"}]}, "'2026-02-29' is no day"),
        ({"holidays": [{"date": "12-24", "name": "x", "opens": "09:00"}]}, "given together or not"),
        ({"hidden_callers": "hang up"}, "hidden_callers: input should be 'answer', 'reject' or"),
        (
            {"hours": [{"days": ["monday"], "opens": "09:00", "closes": "17:00"}]},
            "hours.0.days.0: input should be 'mon'",
        ),
    ],
)
def test_a_fault_is_told_with_its_place(make: "Make", fields: dict[str, Any], says: str) -> None:
    """Each fault names the field by its path and says what would be right."""
    with pytest.raises(Invalid) as refusal:
        make.body(**fields)
    assert says in str(refusal.value)


def test_all_faults_are_told_at_once(make: "Make") -> None:
    """One sentence lists every fault, so nobody mends a profile one error at a time."""
    data = make.body().model_dump(mode="json")
    del data["farewell"]
    with pytest.raises(Invalid) as refusal:
        read({**data, "tools": ["sing"], "timezone": "Nowhere"})
    told = str(refusal.value)
    assert "farewell is missing" in told
    assert "'sing' is no tool" in told
    assert "'Nowhere' is no time zone" in told
    assert "\n" not in told
    assert all(tool in told for tool in TOOL_NAMES)


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [model, *(each for sub in model.__subclasses__() for each in _models(sub))]


def test_every_field_says_what_it_means() -> None:
    """Nobody has to read code to write a profile."""
    base = ProfileBody.__mro__[1]
    assert issubclass(base, BaseModel)
    mute = [
        f"{model.__name__}.{name}"
        for model in _models(base)
        for name, field in model.model_fields.items()
        if not field.description
    ]
    assert mute == []


WEEKDAYS = {"days": ["mon", "tue", "wed", "thu", "fri"], "opens": "09:00", "closes": "17:30"}
NIGHT = {"days": ["sat"], "opens": "22:00", "closes": "02:00"}
DAWN = {"days": ["sun"], "opens": "02:30", "closes": "03:30"}
ALL_DAY = {"days": ["wed"], "opens": "00:00", "closes": "00:00"}
NY, BERLIN, KIRITIMATI = "America/New_York", "Europe/Berlin", "Pacific/Kiritimati"


@pytest.mark.parametrize(
    ("zone", "hours", "moment", "is_open"),
    [
        (NY, [], "2026-01-18T03:00", True),  # no hours: always open
        (NY, [WEEKDAYS], "2026-01-15T14:00", True),  # Thursday 09:00 in New York: just opened
        (NY, [WEEKDAYS], "2026-01-15T13:59", False),  # a minute before
        (NY, [WEEKDAYS], "2026-01-15T22:29", True),  # 17:29, the last minute
        (NY, [WEEKDAYS], "2026-01-15T22:30", False),  # the closing minute is closed
        (NY, [WEEKDAYS], "2026-01-17T15:00", False),  # Saturday
        (NY, [WEEKDAYS], "2026-07-16T13:00", True),  # 09:00 in summer is an hour earlier in UTC
        (NY, [WEEKDAYS], "2026-07-16T12:59", False),
        (KIRITIMATI, [WEEKDAYS], "2026-01-18T19:00", True),  # Monday 09:00 there, Sunday in UTC
        (BERLIN, [NIGHT], "2026-01-17T21:00", True),  # Saturday 22:00
        (BERLIN, [NIGHT], "2026-01-18T00:59", True),  # Sunday 01:59, still Saturday's night
        (BERLIN, [NIGHT], "2026-01-18T01:00", False),  # Sunday 02:00, over
        (BERLIN, [NIGHT], "2026-01-18T21:30", False),  # Sunday 22:30 is not Saturday's
        (BERLIN, [NIGHT], "2026-01-17T00:30", False),  # Saturday 01:30 would be Friday's night
        (BERLIN, [DAWN], "2026-03-29T01:00", True),  # 03:00, an instant after 01:59: 02:30 never was
        (BERLIN, [DAWN], "2026-03-29T00:59", False),  # 01:59, the minute before the clocks go on
        (BERLIN, [DAWN], "2026-10-25T00:45", True),  # 02:45 in summer time, before they go back
        (BERLIN, [DAWN], "2026-10-25T01:15", False),  # 02:15 the second time
        (BERLIN, [DAWN], "2026-10-25T01:45", True),  # 02:45 the second time
        (BERLIN, [ALL_DAY], "2026-01-13T23:00", True),  # Wednesday's first minute
        (BERLIN, [ALL_DAY], "2026-01-14T22:59", True),  # its last
        (BERLIN, [ALL_DAY], "2026-01-14T23:00", False),  # Thursday
        (BERLIN, [WEEKDAYS, NIGHT], "2026-01-17T22:00", True),  # any of several will do
    ],
)  # fmt: skip
def test_business_hours_are_the_walls(
    make: "Make", zone: str, hours: list[dict[str, Any]], moment: str, is_open: bool
) -> None:
    """Hours are read as the clock on the profile's wall, over midnight and daylight saving."""
    body = make.body(timezone=zone, hours=hours)
    assert open_at(body, datetime.fromisoformat(moment).replace(tzinfo=UTC)) is is_open


CHRISTMAS = {"date": "12-25", "name": "Christmas Day"}
EVE = {"date": "12-24", "name": "Christmas Eve", "opens": "09:00", "closes": "12:00"}
PARTY = {"date": "2026-12-31", "name": "New Year's Eve", "opens": "20:00", "closes": "02:00"}
MOVED = {"date": "2026-12-25", "name": "Moving day", "opens": "10:00", "closes": "11:00"}
LEAP = {"date": "02-29", "name": "Leap day"}
CHANGE = {"date": "2026-10-25", "name": "Clocks", "opens": "02:30", "closes": "03:30"}
LATE = {"days": ["wed", "thu", "fri"], "opens": "22:00", "closes": "02:00"}


@pytest.mark.parametrize(
    ("hours", "holidays", "moment", "is_open", "holiday"),
    [
        ([WEEKDAYS], [CHRISTMAS], "2026-12-25T10:00", False, "Christmas Day"),  # a Friday
        ([WEEKDAYS], [CHRISTMAS], "2025-12-25T10:00", False, "Christmas Day"),  # every year
        ([WEEKDAYS], [CHRISTMAS], "2026-12-24T23:00", False, "Christmas Day"),  # 00:00 in Berlin
        ([WEEKDAYS], [CHRISTMAS], "2026-12-24T10:00", True, None),
        ([], [CHRISTMAS], "2026-12-25T10:00", False, "Christmas Day"),  # else always open
        ([], [CHRISTMAS], "2026-12-25T23:00", True, None),  # the first minute after it
        ([WEEKDAYS], [EVE], "2026-12-24T10:59", True, "Christmas Eve"),  # 11:59
        ([WEEKDAYS], [EVE], "2026-12-24T11:00", False, "Christmas Eve"),  # in place of 17:30
        ([WEEKDAYS], [CHRISTMAS, MOVED], "2026-12-25T09:30", True, "Moving day"),  # the narrower
        ([WEEKDAYS], [PARTY], "2026-12-31T22:59", True, "New Year's Eve"),
        ([WEEKDAYS], [PARTY], "2027-01-01T00:59", True, None),  # 01:59, still the holiday's hours
        ([WEEKDAYS], [PARTY], "2027-01-01T01:00", False, None),
        ([WEEKDAYS], [PARTY], "2027-12-31T22:00", False, None),  # that year only
        ([LATE], [CHRISTMAS], "2026-12-25T00:30", False, "Christmas Day"),  # 01:30: closed all day
        ([LATE], [CHRISTMAS], "2026-12-26T00:30", False, None),  # nor does it open in the evening
        ([LATE], [], "2026-12-26T00:30", True, None),
        ([], [LEAP], "2028-02-29T10:00", False, "Leap day"),
        ([], [LEAP], "2027-03-01T10:00", True, None),
        ([WEEKDAYS], [CHANGE], "2026-10-25T00:45", True, "Clocks"),  # 02:45, for the first time
        ([WEEKDAYS], [CHANGE], "2026-10-25T01:45", True, "Clocks"),  # and for the second
        ([WEEKDAYS], [CHANGE], "2026-10-25T01:15", False, "Clocks"),  # 02:15, for the second time
    ],
)  # fmt: skip
def test_a_holiday_has_hours_of_its_own(
    make: "Make",
    hours: list[dict[str, Any]],
    holidays: list[dict[str, Any]],
    moment: str,
    is_open: bool,
    holiday: str | None,
) -> None:
    """On a holiday its own hours hold, or none, from midnight to midnight on the wall in Berlin."""
    body = make.body(timezone=BERLIN, hours=hours, holidays=holidays)
    found = opening_at(body, datetime.fromisoformat(moment).replace(tzinfo=UTC))
    assert (found.is_open, found.holiday.name if found.holiday else None) == (is_open, holiday)
