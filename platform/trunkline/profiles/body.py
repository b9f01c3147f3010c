"""What a profile says and how it behaves: one frozen model, checked when it is read.

Stored as JSON in ``profile_versions.body``. Every field has its meaning and bounds beside it, and
its default, if any, is written here and nowhere else.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

import phonenumbers
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from trunkline.errors import Invalid

ToolName = Literal[
    "look_up_contact",
    "create_contact",
    "find_deals",
    "log_activity",
    "move_deal",
    "request_callback",
    "take_message",
    "transfer_to_person",
    "press_keys",
    "end_call",
]
TOOL_NAMES: tuple[str, ...] = get_args(ToolName)

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: tuple[str, ...] = get_args(Day)

Short = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Spoken = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=600)]
"""Something said aloud. Six hundred characters are about forty seconds."""

ClockTime = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


def _is_zone(name: str) -> str:
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


def _is_region(code: str) -> str:
    if code not in phonenumbers.SUPPORTED_REGIONS:
        raise PydanticCustomError("region", "is no country; write its two capital letters, like US")
    return code


_PLACES = ("name", "first_name", "company")


def _greets(text: str) -> str:
    return _places(text, _PLACES)


def _places(text: str, known: tuple[str, ...]) -> str:
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


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SttChoice(_Part):
    """Who hears."""

    provider: Literal["deepgram"] = Field(default="deepgram", description="Speech recogniser.")
    model: Short = Field(default="nova-3", description="The provider's name of the model.")
    endpointing_ms: int = Field(
        default=25, ge=10, le=5000, description="Silence after which the provider closes a segment."
    )
    keyterms: list[Short] = Field(
        default_factory=list, max_length=100, description="Names and words it should expect."
    )


class LlmChoice(_Part):
    """Who thinks."""

    provider: Literal["openai"] = Field(default="openai", description="Language model's provider.")
    model: Short = Field(default="gpt-4.1-mini", description="The provider's name of the model.")
    temperature: float = Field(default=0.3, ge=0, le=2, description="0 is the most predictable.")
    max_tokens: int | None = Field(
        default=None,
        ge=16,
        le=4096,
        description="Bound of one reply; none leaves it to the provider.",
    )


class TtsChoice(_Part):
    """Who speaks."""

    provider: Literal["cartesia"] = Field(default="cartesia", description="Voice's provider.")
    model: Short = Field(default="sonic-2", description="The provider's name of the model.")
    voice: Short = Field(description="The provider's id of the voice.")
    speed: float | None = Field(
        default=None,
        ge=0.6,
        le=1.5,
        description="1 is the voice's own; none leaves it to the provider.",
    )


class Hours(_Part):
    """When it is open. Closing earlier than it opens means the next day; equal means all day."""

    days: list[Day] = Field(min_length=1, max_length=7, description="The days on which it opens.")
    opens: ClockTime = Field(description="HH:MM in the profile's time zone.")
    closes: ClockTime = Field(description="HH:MM; this minute is closed already.")


class Holiday(_Part):
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


class Limits(_Part):
    """Bounds of a call, and of how many there may be."""

    max_call_s: int = Field(
        default=1800, ge=60, le=14400, description="Then the call is ended politely."
    )
    warn_before_end_s: int = Field(
        default=60,
        ge=0,
        le=600,
        description="So long before that end the caller is told; 0: never. "
        "Nobody is told when max_call_s is no longer than that.",
    )
    max_calls: int | None = Field(
        default=None, ge=1, le=10_000, description="Calls at once; none: as many as come."
    )
    max_calls_per_caller_per_hour: int | None = Field(
        default=None, ge=1, le=1000, description="Calls of one number in an hour; none: any."
    )
    silence_s: float = Field(
        default=8.0, ge=2, le=120, description="Silence of the caller before each silence prompt."
    )
    tool_timeout_s: float = Field(
        default=10.0, ge=0.5, le=60, description="Then a tool has failed."
    )


_URI = re.compile(r"(sips?:[^\s@]+@[^\s@]+|tel:\+\d+)", re.ASCII)


def _is_target(text: str) -> str:
    if text.startswith("sip") and _URI.fullmatch(text):
        return text
    try:
        number = phonenumbers.parse(text.removeprefix("tel:"))
    except phonenumbers.NumberParseException:
        number = None
    if number is not None and phonenumbers.is_possible_number(number):
        return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    raise PydanticCustomError(
        "target", "is no number to transfer to; write +12025550123 or sip:desk@example.com"
    )


class TransferTarget(_Part):
    """Somebody whom callers can be put through to. The model names them; the number stays here."""

    name: Short = Field(description="What the agent calls them, as in: I'll put you through to …")
    number: Annotated[str, AfterValidator(_is_target)] = Field(
        description="E.164 (+12025550123); for a cold transfer also a sip: URI."
    )
    when: Spoken = Field(description="When the agent puts callers through to them.")
    mode: Literal["warm", "cold"] = Field(
        default="warm",
        description="warm: they are asked first and may decline; cold: the carrier connects them "
        "and our part is over.",
    )
    ring_s: int = Field(default=25, ge=5, le=120, description="How long it rings there.")

    @property
    def uri(self) -> str:
        """As a REFER names it (RFC 3966, RFC 3261)."""
        return self.number if self.number.startswith("sip") else f"tel:{self.number}"

    @model_validator(mode="after")
    def _can_be_dialled(self) -> Self:
        if self.mode == "warm" and not self.number.startswith("+"):
            raise PydanticCustomError(
                "warm",
                "a warm transfer is dialled over the outbound trunk, which takes a number only",
            )
        return self


class Interruption(_Part):
    """When the agent stops because the caller speaks."""

    min_duration_ms: int = Field(
        default=500, ge=50, le=5000, description="Speech shorter is ignored."
    )
    min_words: int = Field(
        default=0, ge=0, le=20, description="Words heard before it stops; 0: any sound."
    )


def _says(text: str) -> str:
    return _places(text, (*_PLACES, "agent_name", "reason"))


class Outbound(_Part):
    """How we call people. Without it a profile answers only."""

    opening: Annotated[Spoken, AfterValidator(_says)] = Field(
        description="The first words to a person; may use {name}, {first_name}, {company} (ours), "
        "{agent_name}, {reason}."
    )
    voicemail: Annotated[Spoken, AfterValidator(_says)] | None = Field(
        default=None,
        description="Left after the beep when a machine answers; none: hang up. Same places.",
    )
    screening: Annotated[Spoken, AfterValidator(_says)] = Field(
        default="This is {agent_name} from {company}. I am calling about {reason}.",
        description="Said to a service that asks who is calling and why. Same places.",
    )
    reason: Spoken = Field(
        default="your request", description="What {reason} is when a call has none of its own."
    )
    hours: list[Hours] = Field(
        default_factory=lambda: [
            Hours(days=["mon", "tue", "wed", "thu", "fri", "sat"], opens="09:00", closes="20:00")
        ],
        max_length=50,
        description="When we may call, where the person called is; empty is at any time.",
    )
    ring_s: int = Field(default=25, ge=5, le=80, description="Then nobody has answered.")
    max_attempts: int = Field(
        default=1, ge=1, le=10, description="Calls to reach one person, while busy or unanswered."
    )
    retry_after_min: int = Field(
        default=30, ge=1, le=10_080, description="Between two such attempts."
    )
    max_calls: int = Field(default=2, ge=1, le=1000, description="Calls placed at once.")
    max_calls_per_number_per_day: int = Field(
        default=3, ge=1, le=100, description="Calls to one number within 24 hours."
    )


class Endpointing(_Part):
    """How long the agent waits before it takes a turn as over."""

    min_delay_ms: int = Field(
        default=400, ge=0, le=5000, description="When the sentence sounds complete."
    )
    max_delay_ms: int = Field(
        default=2500, ge=100, le=20000, description="When it sounds unfinished."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_delay_ms > self.max_delay_ms:
            raise PydanticCustomError("order", "min_delay_ms must not exceed max_delay_ms")
        return self


MenuAction = Literal["agent", "message", "callback", "hang_up"]


class KeypadMenu(_Part):
    """Choices by key after the greeting. Whoever speaks instead of pressing talks to the agent."""

    prompt: Spoken = Field(description="Says which key does what; said after the greeting.")
    keys: dict[Annotated[str, StringConstraints(pattern=r"^[0-9*#]$")], MenuAction] = Field(
        min_length=1, max_length=12, description="Key → agent, message, callback or hang_up."
    )
    tries: int = Field(default=2, ge=1, le=5, description="How often the prompt is said.")
    wait_s: float = Field(
        default=5.0, ge=1, le=30, description="How long a key is waited for after the prompt."
    )
    otherwise: MenuAction = Field(
        default="agent", description="What happens when nothing was pressed after the last try."
    )


class ProfileBody(_Part):
    """One state of a profile."""

    company: Short = Field(description="Who is answering; said in greetings.")
    agent_name: Short = Field(description="What the agent calls itself.")
    greeting: Annotated[Spoken, AfterValidator(_greets)] = Field(
        description="To known callers; may use {name}, {first_name}, {company} (ours)."
    )
    greeting_unknown: Spoken = Field(description="To callers we don't know; said as it stands.")
    recording_notice: Spoken = Field(
        default="This call is recorded.", description="Said after the greeting when record is on."
    )
    farewell: Spoken = Field(description="The last words before we hang up.")
    end_warning: Spoken = Field(
        default="We can talk for one more minute.",
        description="Said limits.warn_before_end_s before the longest call ends.",
    )
    silence_prompts: list[Spoken] = Field(
        max_length=5, description="Said in turn when the caller is silent."
    )
    silence_farewell: Spoken = Field(description="Said after the last of them; then we hang up.")
    instructions: str = Field(
        max_length=20_000, description="What the agent knows and how it behaves, in free text."
    )
    language: str = Field(
        default="en", pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$", description="BCP 47 tag."
    )
    timezone: Annotated[str, AfterValidator(_is_zone)] = Field(
        description="IANA name; hours, callbacks and spoken times are in it."
    )
    region: Annotated[str, AfterValidator(_is_region)] = Field(
        description="ISO 3166 country in which numbers that callers say are read."
    )
    stt: SttChoice = Field(default_factory=SttChoice, description="Who hears.")
    llm: LlmChoice = Field(default_factory=LlmChoice, description="Who thinks.")
    tts: TtsChoice = Field(description="Who speaks.")
    tools: list[ToolName] = Field(description="What the agent may do.")
    pipeline: Short | None = Field(
        default=None, description="Deals of this pipeline are the ones it looks at; none: all."
    )
    callback_time: ClockTime = Field(
        default="09:00", description="HH:MM of a callback for which the caller names a day only."
    )
    menu: KeypadMenu | None = Field(
        default=None, description="Choices by key after the greeting; none: straight to the agent."
    )
    hours: list[Hours] = Field(
        default_factory=list, max_length=50, description="Business hours; empty is always open."
    )
    holidays: list[Holiday] = Field(
        default_factory=list, max_length=200, description="Days on which the hours don't hold."
    )
    after_hours: Short | None = Field(
        default=None,
        description="Name of the profile that answers when it is closed; none: this one, "
        "which knows that it is closed.",
    )
    transfers: list[TransferTarget] = Field(
        default_factory=list,
        max_length=20,
        description="Whom callers can be put through to; needs the tool transfer_to_person.",
    )
    hidden_callers: Literal["answer", "reject", "message"] = Field(
        default="answer",
        description="A caller who hides the number is answered, rejected, or may leave a message.",
    )
    outbound: Outbound | None = Field(
        default=None, description="How it calls people; none: it never does."
    )
    limits: Limits = Field(default_factory=Limits, description="Bounds of a call.")
    record: bool = Field(default=False, description="Keep the audio; the greeting then says so.")
    interruption: Interruption = Field(
        default_factory=Interruption, description="When the agent stops for the caller."
    )
    endpointing: Endpointing = Field(
        default_factory=Endpointing, description="When a turn is taken as over."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [target.name.casefold() for target in self.transfers]
        if len(set(names)) < len(names):
            raise PydanticCustomError("names", "two transfers have the same name")
        return self


def read(data: Mapping[str, Any]) -> ProfileBody:
    """The body in *data* (JSON's own types). Raises Invalid with one sentence naming every fault."""
    try:
        return ProfileBody.model_validate(dict(data))
    except ValidationError as error:
        faults = "; ".join(_told(fault) for fault in error.errors(include_url=False))
        raise Invalid(f"the profile is not valid: {faults}") from None


def _told(fault: Any) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    match fault["type"]:
        case "missing":
            return f"{path} is missing"
        case "extra_forbidden":
            return f"{path} is not a field of a profile"
        case "literal_error" if fault["loc"][0] == "tools":
            known = ", ".join(TOOL_NAMES)
            return f"{path}: {fault['input']!r} is no tool, the tools are {known}"
        case "zone" | "region" | "greeting" | "day" | "target":
            return f"{path}: {fault['input']!r} {fault['msg']}"
        case "string_pattern_mismatch" if str(fault["loc"][-1]) in (
            "opens",
            "closes",
            "callback_time",
        ):
            return f"{path}: {fault['input']!r} is no time of day; write HH:MM, like 09:00"
        case _:
            message = fault["msg"]
            return f"{path}: {message[0].lower()}{message[1:]}"


@dataclass(frozen=True)
class Opening:
    """Whether it is open at a moment, and the holiday that this is due to."""

    is_open: bool
    holiday: Holiday | None = None


def open_at(body: ProfileBody, moment: datetime) -> bool:
    """Whether business hours cover *moment* (aware)."""
    return opening_at(body, moment).is_open


def opening_at(body: ProfileBody, moment: datetime) -> Opening:
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


def holiday_on(body: ProfileBody, day: date) -> Holiday | None:
    """The holiday that *day* is; one of that year goes before one of every year."""
    dates = {holiday.date: holiday for holiday in reversed(body.holidays)}
    return dates.get(day.isoformat()) or dates.get(day.isoformat()[5:])


def _spans(body: ProfileBody, day: date) -> list[tuple[time, time]]:
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
