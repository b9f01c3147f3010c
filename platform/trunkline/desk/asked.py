"""Which calls somebody asks for, in the words of the list's address, of the API, of a saved view and of an
export: the same names everywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from urllib.parse import parse_qsl, urlencode
from zoneinfo import ZoneInfo, available_timezones

from sqlalchemy.ext.asyncio import AsyncSession

from trunkline.calls import query
from trunkline.calls.filters import Filters
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.query import Query
from trunkline.calls.review import LONGEST_TAG, Review
from trunkline.errors import Invalid
from trunkline.kit.phone import parse
from trunkline.profiles import queries as profiles

NAMES = (
    "q", "from", "to", "number", "profile", "direction", "end_reason", "answered", "min_duration",
    "max_duration", "contact", "tag", "transferred", "crm_failed", "review", "tests", "timezone",
)  # fmt: skip
"""Every name there is; what stands under another in an address asks nothing."""

_MOST = 20_000
"""Characters of an address that are looked at."""
_LONGEST_S = 7 * 24 * 3600
_ANSWERS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class Asked:
    """Which calls are asked for, as far as it has been understood."""

    filters: Filters
    wanted: Query | None
    """What must have been said in them."""


def given(query_string: str) -> dict[str, str]:
    """What an address asks for: the names there are, without empty values; of a repeated one the last."""
    pairs = parse_qsl(query_string[:_MOST])
    return {name: value.strip() for name, value in pairs if name in NAMES and value.strip()}


def as_query(asked: Mapping[str, str]) -> str:
    """The other way: what stands behind the ``?`` of an address, in the order of NAMES."""
    return urlencode([(name, asked[name]) for name in NAMES if asked.get(name)])


async def read(session: AsyncSession, asked: Mapping[str, str]) -> Asked:
    """What is asked for. Raises Invalid, naming what cannot be and what can, and NotFound for a profile
    that does not exist."""
    zone = _zone(asked.get("timezone"))
    number = asked.get("number")
    versions: tuple[str, ...] | None = None
    if name := asked.get("profile"):
        found = await profiles.named(session, name)
        versions = tuple(one.id for one in await profiles.versions(session, found.id))
    filters = Filters(
        since=_moment("from", asked.get("from"), zone),
        until=_moment("to", asked.get("to"), zone, whole_day=True),
        number=await _number(session, number) if number else None,
        profile_version_ids=versions,
        direction=_one_of("direction", asked.get("direction"), ("inbound", "outbound")),
        end_reason=_one_of("end_reason", asked.get("end_reason"), [*EndReason]),
        answered=_yes_or_no("answered", asked.get("answered")),
        min_ms=_seconds("min_duration", asked.get("min_duration")),
        max_ms=_seconds("max_duration", asked.get("max_duration")),
        contact_id=_short("contact", asked.get("contact")),
        tag=_tag(asked.get("tag")),
        transferred=_yes_or_no("transferred", asked.get("transferred")),
        crm_failed=_yes_or_no("crm_failed", asked.get("crm_failed")),
        review=_review(asked.get("review")),
        hide_tests=_one_of("tests", asked.get("tests"), ("hide", "show")) == "hide",
    )
    text = asked.get("q", "").strip()
    return Asked(filters, query.parse(text) if text else None)


def _zone(name: str | None) -> ZoneInfo:
    if name and name not in available_timezones():
        raise Invalid(f"timezone: {name[:40]!r} is none; write one like Europe/Lisbon")
    return ZoneInfo(name or "UTC")


def _moment(
    name: str, text: str | None, zone: ZoneInfo, *, whole_day: bool = False
) -> datetime | None:
    """A day stands for its beginning in *zone*, with *whole_day* for its end."""
    if text is None:
        return None
    try:
        if len(text) == len("2026-01-15"):
            day = date.fromisoformat(text) + timedelta(days=1 if whole_day else 0)
            return datetime.combine(day, time(), zone).astimezone(ZoneInfo("UTC"))
        # A plus sign that nobody escaped arrives as a space.
        at = datetime.fromisoformat(text.replace(" ", "+"))
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(ZoneInfo("UTC"))
    except (ValueError, OverflowError):
        raise Invalid(
            f"{name}: {text[:40]!r} is no time; write 2026-01-15 or 2026-01-15T09:30:00Z"
        ) from None


async def _number(session: AsyncSession, text: str) -> str:
    """In the country of our own numbers, where it is not written with one."""
    ours = await profiles.numbers(session)
    region = ours[0].region if ours else None
    try:
        return parse(text if not text[:1].isspace() else text.strip(), region=region).e164
    except ValueError as error:
        raise Invalid(f"number: {error}") from None


def _one_of(name: str, text: str | None, known: Sequence[str]) -> str | None:
    names = [str(one) for one in known]
    if text is not None and text not in names:
        raise Invalid(f"{name}: {text[:40]!r} is none; use one of: {', '.join(names)}")
    return text


def _yes_or_no(name: str, text: str | None) -> bool | None:
    if text is None:
        return None
    if text.lower() not in _ANSWERS:
        raise Invalid(f"{name}: {text[:40]!r} is neither yes nor no")
    return _ANSWERS[text.lower()]


def _seconds(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and int(text) <= _LONGEST_S):
        raise Invalid(f"{name}: {text[:40]!r} is no time; write whole seconds up to {_LONGEST_S}")
    return int(text) * 1000


def _short(name: str, text: str | None) -> str | None:
    if text is not None and (len(text) > 40 or "\x00" in text):
        raise Invalid(f"{name}: this is no id")
    return text


def _tag(text: str | None) -> str | None:
    if text is None:
        return None
    tag = " ".join(text.lower().replace("\x00", "").split())
    if len(tag) > LONGEST_TAG:
        raise Invalid(f"tag: a tag has {LONGEST_TAG} characters at most")
    return tag


def _review(text: str | None) -> Review | None:
    found = _one_of("review", text, [*Review])
    return Review(found) if found else None
