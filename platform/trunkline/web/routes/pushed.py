"""The words that contacts, deals and activities of other systems have in common."""

from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from trunkline.crm.service import Cause
from trunkline.crm.upsert import Named, checked_source
from trunkline.errors import Invalid
from trunkline.kit.phone import PhoneNumber, parse
from trunkline.kit.redact import redact

CONTACT_ID = "con_01kf0q8m3s7t9v1w3x5y7z9abd"
DEAL_ID = "deal_01kf0q8m3s7t9v1w3x5y7z9abj"
ACTIVITY_ID = "act_01kf0q8m3s7t9v1w3x5y7z9abh"

OurId = Annotated[str, StringConstraints(min_length=1, max_length=40)]
TheirId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Text = Annotated[str, AfterValidator(redact)]
"""Free text; card numbers are blacked out before anything stores it."""


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("that moment is out of range") from None


Moment = Annotated[AwareDatetime, AfterValidator(_utc)]
"""ISO 8601 with a zone; kept in UTC."""


class Pushed(BaseModel):
    """What every such request may say; a field that is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        "api",
        description="Your system's name, in up to 20 of a-z, 0-9, dot, dash, underscore. It stands in "
        "the ledger and in the events, so that you can leave out what you caused yourself.",
        examples=["hubspot"],
    )
    external_id: TheirId | None = Field(
        None, description="What your system calls it.", examples=["48213"]
    )

    @property
    def cause(self) -> Cause:
        """Who brings the change about. Raises Invalid for a name that is ours."""
        return Cause(source=checked_source(self.source))


class ContactRef(BaseModel):
    """Which contact: by one of these."""

    model_config = ConfigDict(extra="forbid")

    id: OurId | None = Field(None, examples=[CONTACT_ID])
    external_id: TheirId | None = Field(
        None, description="As you sent it with the contact, under the same source."
    )
    phone: str | None = Field(None, description="E.164.", examples=["+12025550134"])

    @model_validator(mode="after")
    def _one_is_given(self) -> Self:
        if not (self.id or self.external_id or self.phone):
            raise ValueError("say which: by id, external_id or phone")
        return self

    def named(self, source: str) -> Named:
        """As the domain takes it. Raises Invalid."""
        phones = numbers([self.phone], region=None) if self.phone else ()
        return Named(source, self.id, self.external_id, phones)


class DealRef(BaseModel):
    """Which deal: by one of these."""

    model_config = ConfigDict(extra="forbid")

    id: OurId | None = Field(None, examples=[DEAL_ID])
    external_id: TheirId | None = Field(
        None, description="As you sent it with the deal, under the same source."
    )

    @model_validator(mode="after")
    def _one_is_given(self) -> Self:
        if not (self.id or self.external_id):
            raise ValueError("say which: by id or external_id")
        return self

    def named(self, source: str) -> Named:
        """As the domain takes it."""
        return Named(source, self.id, self.external_id)


def numbers(texts: list[str], *, region: str | None) -> tuple[PhoneNumber, ...]:
    """Telephone numbers as written; *region* is where national ones are. Raises Invalid."""
    try:
        return tuple(parse(text, region=region) for text in texts)
    except ValueError as error:
        raise Invalid(str(error)) from None


def given(model: BaseModel, *names: str) -> dict[str, object]:
    """Those of the fields *names* that the request holds, null included."""
    return {name: getattr(model, name) for name in names if name in model.model_fields_set}
