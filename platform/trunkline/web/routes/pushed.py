"""The words that contacts, deals and activities of other systems have in common."""

from datetime import UTC, datetime
from typing import Annotated, Self

from fastapi import Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from trunkline.access.models import ApiKey
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


def _written(moment: object) -> object:
    # Pydantic would take a number for seconds since 1970, which the description does not offer.
    if not isinstance(moment, str | datetime) or (
        isinstance(moment, str) and "T" not in moment.upper()
    ):
        raise ValueError("write a moment like 2026-01-15T09:30:00Z")
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_utc), BeforeValidator(_written)]
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

    def caused_by(self, key: ApiKey) -> Cause:
        """Who brings the change about. Raises Invalid for a name that is ours."""
        return Cause(source=checked_source(self.source), actor=key.name)


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


Limit = Annotated[int, Query(ge=1, le=100, description="Most things on a page.")]
OfSource = Annotated[
    str | None,
    Query(description="With `external_id`: whose id that is.", max_length=20, examples=["hubspot"]),
]
OfExternalId = Annotated[
    str | None,
    Query(description="With `source`: the one of that id, if any.", max_length=200),
]


def both(source: str | None, external_id: str | None) -> tuple[str, str] | None:
    """An external id in full; None when neither is given. Raises Invalid when one is missing."""
    if source is None and external_id is None:
        return None
    if source is None or external_id is None:
        raise Invalid("`source` and `external_id` go together: an id is unique within its system")
    return source, external_id
