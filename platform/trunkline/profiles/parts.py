"""What all parts of a profile are made of: the frozen model, bounded texts, checks of single values."""

import string
from typing import Annotated
from zoneinfo import ZoneInfo

import phonenumbers
from pydantic import BaseModel, ConfigDict, StringConstraints
from pydantic_core import PydanticCustomError

Short = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Spoken = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=600)]
"""Something said aloud. Six hundred characters are about forty seconds."""

ClockTime = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class Part(BaseModel):
    """One part of a profile, or all of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def is_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError, below
        raise PydanticCustomError(
            "zone", "is no time zone; write one like Europe/Berlin"
        ) from error
    except KeyError as error:
        raise PydanticCustomError(
            "zone", "is no time zone; write one like Europe/Berlin"
        ) from error
    return name


def is_region(code: str) -> str:
    if code not in phonenumbers.SUPPORTED_REGIONS:
        raise PydanticCustomError("region", "is no country; write its two capital letters, like US")
    return code


PLACES = ("name", "first_name", "company")


def greets(text: str) -> str:
    return places(text, PLACES)


def places(text: str, known: tuple[str, ...]) -> str:
    try:
        fields = [
            f"{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}"
            for _, name, spec, conversion in string.Formatter().parse(text)
            if name is not None
        ]
    except ValueError as error:
        raise PydanticCustomError("greeting", "has a brace without its partner") from error
    if unknown := [name for name in fields if name not in known]:
        raise PydanticCustomError(
            "greeting",
            "knows {places} only, not {unknown}",
            {
                "places": ", ".join(f"{{{name}}}" for name in known),
                "unknown": ", ".join(f"{{{name}}}" for name in unknown),
            },
        )
    return text
