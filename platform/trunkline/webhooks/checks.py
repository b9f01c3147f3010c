"""What an endpoint may be: each check raises Invalid, saying what to write instead."""

import re
from collections.abc import Collection, Mapping, Sequence

import httpx

from trunkline.errors import Invalid, Misconfigured
from trunkline.kit.http import Allowed, problem_with
from trunkline.webhooks import filters, retell

MAX_URL_CHARS = 2_000
MAX_HEADERS = 20
MAX_RATE_PER_S = 1_000
_MAX_DESCRIPTION_CHARS = 200
_MAX_HEADER_CHARS = 1_000
_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token of RFC 9110, section 5.6.2
_OURS = ("webhook-", "trunkline-", "x-retell-")
_OF_THE_PROTOCOL = frozenset(
    {"accept-encoding", "connection", "content-encoding", "content-length", "content-type"}
    | {"expect", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te"}
    | {"trailer", "transfer-encoding", "upgrade", "user-agent"}
)


def url(text: str, *, allow: Sequence[str]) -> None:
    """Whether a delivery can be sent to *text*; *allow* as in ``EndpointOptions``.

    The address itself is never repeated in the message: it may hold a key.
    """
    if len(text) > MAX_URL_CHARS:
        raise Invalid(f"the address is {len(text)} characters long; at most {MAX_URL_CHARS} may be")
    try:
        # The same parser that will send, so that both see the same host.
        parsed = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise Invalid("that is no web address; write https://host/path") from None
    if parsed.scheme not in ("https", "http"):
        raise Invalid("the address must begin with https:// or http://")
    if not parsed.host:
        raise Invalid("the address names no host; write https://host/path")
    if parsed.userinfo:
        raise Invalid(
            "the address holds a user name or password; leave it out, "
            "deliveries are proved by their signature"
        )
    if parsed.port is not None and not 1 <= parsed.port <= 65_535:
        raise Invalid("the address names no possible port; leave it out or write 1 to 65535")
    if wrong := problem_with(parsed, allowed(allow)):
        raise Invalid(wrong)


def allowed(entries: Sequence[str]) -> Allowed:
    """The allow list of the settings. Raises Misconfigured."""
    try:
        return Allowed.parse(entries)
    except ValueError as error:
        raise Misconfigured(f"TRUNKLINE_WEBHOOK_ALLOW: {error}") from None


def headers(given: Mapping[str, str]) -> dict[str, str]:
    """*given* with names in lower case."""
    if len(given) > MAX_HEADERS:
        raise Invalid(f"at most {MAX_HEADERS} headers may be added, not {len(given)}")
    checked = {}
    for name, value in given.items():
        lower = name.lower()
        if not _NAME.fullmatch(lower):
            raise Invalid(f"{name[:40]!r} is no name of a header")
        if lower in _OF_THE_PROTOCOL or lower.startswith(_OURS):
            raise Invalid(f"the header {lower} is set by the delivery itself; choose another name")
        if len(value) > _MAX_HEADER_CHARS or not (value.isascii() and value.isprintable()):
            raise Invalid(
                f"the header {lower} needs up to {_MAX_HEADER_CHARS} printable ASCII characters"
            )
        checked[lower] = value.strip()
    return checked


def description(text: str | None) -> None:
    """Whether *text* is short enough."""
    if text is not None and len(text) > _MAX_DESCRIPTION_CHARS:
        raise Invalid(f"a description has at most {_MAX_DESCRIPTION_CHARS} characters")


def rate(per_s: int | None) -> None:
    """Whether *per_s* is a rate that can be kept."""
    if per_s is not None and not 1 <= per_s <= MAX_RATE_PER_S:
        raise Invalid(f"a rate limit is 1 to {MAX_RATE_PER_S} deliveries in a second, or none")


def format(name: str, known: Collection[str]) -> None:
    """Whether *name* is a payload format."""
    if name not in known:
        raise Invalid(f"there is no format {name[:40]!r}; known are {', '.join(known)}")


def has_counterpart(events: Sequence[str]) -> None:
    """Whether Retell has a name for at least one event of *events*."""
    covered = {type_ for text in events for type_ in filters.covered(text)}
    if not covered & retell.EVENTS.keys():
        known = ", ".join(retell.EVENTS)
        raise Invalid(f"none of these events exists in the format retell; it has {known}")


def sources(names: Sequence[str]) -> list[str]:
    """*names* without repeats."""
    if any(not name or len(name) > 40 for name in names) or len(names) > 20:
        raise Invalid("up to 20 sources can be ignored, each a name of 1 to 40 characters")
    return list(dict.fromkeys(names))
