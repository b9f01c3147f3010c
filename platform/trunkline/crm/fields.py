"""What the fields of the CRM may hold: each takes what was given and returns what is kept. Pure."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from unicodedata import normalize

from trunkline.errors import Invalid
from trunkline.kit.money import Money

LONGEST_KEY = 600
"""Characters; some letters are several when folded."""


def key(text: str) -> str:
    """*text* as it is compared: without case, spaces and forms of one letter told apart."""
    return " ".join(normalize("NFKC", text).casefold().split())[:LONGEST_KEY]


def only(what: str, changes: Mapping[str, Any], fields: frozenset[str]) -> None:
    if unknown := sorted(changes.keys() - fields):
        known = ", ".join(sorted(fields))
        raise Invalid(f"{what} has no field {', '.join(unknown)} to set; there are {known}")


def text(text: Any, what: str, longest: int) -> str:
    if not isinstance(text, str) or not (trimmed := " ".join(text.split())):
        raise Invalid(f"{what} must not be empty")
    if len(trimmed) > longest:
        raise Invalid(f"{what} may have {longest} characters, not {len(trimmed)}")
    return trimmed


def title(title: Any) -> str:
    return text(title, "a deal's title", 200)


def summary(summary: Any) -> str:
    return text(summary, "a summary", 10_000)


def amount(amount: Money) -> Money:
    """*amount*, if a deal can be worth it. Raises Invalid."""
    code = amount.currency
    if amount.minor < 0 or not (len(code) == 3 and code.isascii() and code.isupper()):
        raise Invalid(f"{amount} is no amount of a deal; write minor units and a code like USD")
    return amount


def name(name: str | None) -> str | None:
    return None if name is None else text(name, "a name", 200)


def email(email: str | None) -> str | None:
    if email is None:
        return None
    trimmed = text(email, "an email address", 320)
    local, at, domain = trimmed.rpartition("@")
    if not (local and at and domain) or " " in trimmed:
        raise Invalid(f"{trimmed!r} is no email address; write one like dana@example.com")
    return trimmed


def tags(tags: Any) -> list[str]:
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise Invalid("tags must be a list of words")
    return list(dict.fromkeys(text(tag, "a tag", 60) for tag in tags))


def iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def reason(given: str | None) -> str | None:
    return None if given is None else text(given, "a reason", 200)
