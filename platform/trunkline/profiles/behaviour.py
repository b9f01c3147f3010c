"""How a call of a profile goes: its bounds, who cuts off whom, keys, transfers, calling out."""

import re
from typing import Annotated, Literal, Self

import phonenumbers
from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from trunkline.profiles.hours import Hours
from trunkline.profiles.keyed import sealed
from trunkline.profiles.parts import PLACES, Part, Short, Spoken, places


class Limits(Part):
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


class Interruption(Part):
    """When the agent stops because the caller speaks.

    It pauses at any sound, and goes on at the same word when no words come that are meant.
    """

    min_duration_ms: int = Field(
        default=120, ge=50, le=5000, description="Sound shorter does not make it pause."
    )
    min_words: int = Field(
        default=0, ge=0, le=20, description="Words heard before it stops; 0: any sound."
    )


class Endpointing(Part):
    """How long the agent waits before it takes a turn as over."""

    min_delay_ms: int = Field(
        default=400, ge=0, le=5000, description="When the sentence sounds complete."
    )
    max_delay_ms: int = Field(
        default=2500, ge=100, le=20000, description="When it sounds unfinished."
    )
    adaptive: bool = Field(
        default=True,
        description="Whether min_delay_ms grows with the pauses of a caller who speaks haltingly, up to "
        "max_delay_ms.",
    )
    speculation: bool = Field(
        default=True,
        description="Whether the model is asked before the turn is certain, for an answer that comes sooner; "
        "drafts that are thrown away cost tokens.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_delay_ms > self.max_delay_ms:
            raise PydanticCustomError("order", "min_delay_ms must not exceed max_delay_ms")
        return self


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


class TransferTarget(Part):
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


def _is_code(text: str) -> str:
    if re.fullmatch(r"[0-9*#]{1,40}|scrypt:[0-9a-f]{64}", text):
        return sealed(text)
    raise PydanticCustomError("code", "is no code; write the keys, like 4711")


class KeyEntry(Part):
    """Something that callers key in. The agent asks for it with collect_digits; code collects it."""

    name: Short = Field(description="What it is, as in: order number.")
    when: Spoken = Field(description="When the agent asks for it.")
    prompt: Spoken = Field(description="Said before it; should say which key ends it.")
    length: int | None = Field(
        default=None, ge=1, le=40, description="Complete with this many keys; none: any number."
    )
    terminator: Literal["#", "*"] | None = Field(
        default="#", description="The key that ends it; none: only its length or a pause does."
    )
    first_s: float = Field(
        default=8.0, ge=1, le=60, description="How long the first key is waited for."
    )
    between_s: float = Field(
        default=4.0, ge=0.5, le=30, description="How long each further key is waited for."
    )
    tries: int = Field(
        default=3, ge=1, le=10, description="How often it is asked for; of wrong codes, in a call."
    )
    secret: bool = Field(
        default=False,
        description="The keys are stored nowhere and no model gets them; it is told whether they "
        "were right.",
    )
    accepts: list[Annotated[str, AfterValidator(_is_code)]] = Field(
        default_factory=list,
        max_length=20,
        description="The codes that are right, sealed when the profile is read; empty: any keys.",
    )

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if self.secret and not self.accepts:
            raise PydanticCustomError(
                "secret", "a secret entry needs accepts: nobody else could use its keys"
            )
        return self


MenuAction = Literal["agent", "message", "callback", "hang_up"]


class KeypadMenu(Part):
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


def _says(text: str) -> str:
    return places(text, (*PLACES, "agent_name", "reason"))


class Outbound(Part):
    """How we call people. Without it a profile answers only."""

    opening: Annotated[Spoken, AfterValidator(_says)] = Field(
        description="The first words to a person; may use {name}, {first_name}, {company} (ours), "
        "{agent_name}, {reason}."
    )
    voicemail: Annotated[Spoken, AfterValidator(_says)] | None = Field(
        default=None,
        description="Left after the beep when a machine answers; none: hang up. Same places.",
    )
    screening: Annotated[Spoken, AfterValidator(_says)] | None = Field(
        default=None,
        description="Said to a service that asks who is calling and why; none: just that, in the "
        "profile's language. Same places.",
    )
    reason: Spoken | None = Field(
        default=None,
        description="What {reason} is when a call has none of its own; none: 'your request', in "
        "the profile's language.",
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
