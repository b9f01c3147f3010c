"""Which settings of an endpoint somebody saw, so that of two who change it none overwrites the other."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from trunkline.errors import Conflict, Invalid
from trunkline.webhooks.models import Endpoint

_FIELDS: Mapping[str, str] = {
    "url": "the address",
    "events": "the events",
    "description": "the description",
    "headers": "the headers",
    "format": "the format",
    "ordered": "keeping order",
    "ignored_sources": "the ignored sources",
    "rate_per_s": "the rate limit",
}
_DIGITS = 6


def version(endpoint: Endpoint) -> str:
    """Some hexadecimal digits for each setting; they differ when it does."""
    return "".join(_digest(getattr(endpoint, name)) for name in _FIELDS)


def check(endpoint: Endpoint, seen: str) -> None:
    """Raise Conflict, saying what changed and to what, unless *endpoint* is still as at version *seen*.

    Raises Invalid when *seen* never was a version.
    """
    if len(seen) != _DIGITS * len(_FIELDS) or not set(seen) <= set("0123456789abcdef"):
        raise Invalid(
            f"{seen[:60]!r} is no version of an endpoint; send back the one it was read with"
        )
    changed = [
        f"{words}{_now(name, getattr(endpoint, name))}"
        for at, (name, words) in enumerate(_FIELDS.items())
        if seen[at * _DIGITS : (at + 1) * _DIGITS] != _digest(getattr(endpoint, name))
    ]
    if changed:
        raise Conflict(
            f"somebody changed it meanwhile: {'; '.join(changed)}. Nothing of yours was stored; to put it "
            "in place of that, save it again (a program: with the version that it has now)"
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _now(name: str, value: Any) -> str:
    if name == "headers":
        # Their values may be passwords.
        return f" (now {', '.join(sorted(value)) or 'none'})"
    if isinstance(value, bool):
        return f" (now {'on' if value else 'off'})"
    if isinstance(value, list):
        return f" (now {', '.join(value) or 'none'})"
    return f" (now {'none' if value is None else value})"
