"""When a profile is open: weekly hours, holidays, and the question whether a moment is within them."""

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Annotated, Literal, Protocol, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from trunkline.profiles.parts import ClockTime, Part, Short

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[str, ...] = get_args(Day)

_LEAP_YEAR = 2000
"""In which every day that a yearly date may name exists."""


def _is_day(text: str) -> str:
    if re.fullmatch(r"(\d{4}-)?\d\d-\d\d", text, re.ASCII):
        try:
            date.fromisoformat(text if len(text) == 10 else f"{_LEAP_YEAR}-{text}")
        except ValueError:
            pass
        else:
            return text
    raise PydanticCustomError(
        "day", "is no day; write one day as 2026-12-24, or one of every year as 12-25"
    )


class Hours(Part):
    """When it is open. Closing earlier than it opens means the next day; equal means all day."""

    days: list[Day] = Field(min_length=1, max_length=7, description="The days on which it opens.")
    opens: ClockTime = Field(description="HH:MM in the profile's time zone.")
    closes: ClockTime = Field(description="HH:MM; this minute is closed already.")


class Holiday(Part):
    """A day on which the usual hours don't hold: closed, or open at hours of its own."""

    date: Annotated[str, AfterValidator(_is_day)] = Field(
        description="YYYY-MM-DD for one day, MM-DD for that day of every year."
    )
    name: Short = Field(description="What day it is; the agent may say it.")
    opens: ClockTime | None = Field(
        default=None, description="HH:MM when it opens all the same; none: closed all day."
    )
    closes: ClockTime | None = Field(default=None, description="HH:MM; given together with opens.")

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.opens is None) != (self.closes is None):
            raise PydanticCustomError("pair", "opens and closes are given together or not at all")
        return self


class Opens(Protocol):
    """What of a profile says when it is open."""

    @property
    def timezone(self) -> str: ...
    @property
    def hours(self) -> list[Hours]: ...
    @property
    def holidays(self) -> list[Holiday]: ...


@dataclass(frozen=True)
class Opening:
    """Whether it is open at a moment, and the holiday that this is due to."""

    is_open: bool
    holiday: Holiday | None = None


def open_at(body: Opens, moment: datetime) -> bool:
    """Whether business hours cover *moment* (aware)."""
    return opening_at(body, moment).is_open


def opening_at(body: Opens, moment: datetime) -> Opening:
    """Whether business hours cover *moment* (aware), and which holiday it is there.

    Compared as wall-clock times of the profile's zone, so that "opens 09:00" is 09:00 on the
    wall in summer and winter; an hour that daylight saving repeats counts both times. A
    holiday puts its own hours, or none, in place of the day's; nothing of the evening before
    reaches into it, while its own hours may reach into the next day.
    """
    local = moment.astimezone(ZoneInfo(body.timezone))
    today = local.date()
    wall = local.time().replace(fold=0)
    holiday = holiday_on(body, today)
    if holiday is None:
        before = _spans(body, today - timedelta(days=1))
        spill = any(closes <= opens and wall < closes for opens, closes in before)
        return Opening(spill or any(_begun(wall, *span) for span in _spans(body, today)))
    return Opening(any(_begun(wall, *span) for span in _spans(body, today)), holiday)


def covers(hours: list[Hours], zone: str, moment: datetime) -> bool:
    """Whether *hours*, as wall-clock times of *zone*, hold at *moment* (aware); none hold always."""
    local = moment.astimezone(ZoneInfo(zone))
    today, before = _DAYS[local.weekday()], _DAYS[(local.weekday() - 1) % 7]
    wall = local.time().replace(fold=0)
    for span in hours:
        opens, closes = time.fromisoformat(span.opens), time.fromisoformat(span.closes)
        if today in span.days and _begun(wall, opens, closes):
            return True
        if before in span.days and closes <= opens and wall < closes:
            return True
    return not hours


def holiday_on(body: Opens, day: date) -> Holiday | None:
    """The holiday that *day* is; one of that year goes before one of every year."""
    dates = {holiday.date: holiday for holiday in reversed(body.holidays)}
    return dates.get(day.isoformat()) or dates.get(day.isoformat()[5:])


def _spans(body: Opens, day: date) -> list[tuple[time, time]]:
    """When it opens and closes on *day*; closing no later than it opens is on the day after."""
    if holiday := holiday_on(body, day):
        given = [(holiday.opens, holiday.closes)]
    elif not body.hours:
        given = [("00:00", "00:00")]
    else:
        name = _DAYS[day.weekday()]
        given = [(hours.opens, hours.closes) for hours in body.hours if name in hours.days]
    return [
        (time.fromisoformat(opens), time.fromisoformat(closes))
        for opens, closes in given
        if opens is not None and closes is not None
    ]


def _begun(wall: time, opens: time, closes: time) -> bool:
    return opens <= wall and (wall < closes or closes <= opens)
