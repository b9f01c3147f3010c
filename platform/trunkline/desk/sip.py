"""What a SIP participant's attributes say of its call. Pure; names as livekit/sip's ``types.go`` has them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

AGENT = "trunkline"
"""The name under which workers register and rules dispatch. Without a name an agent would be sent to
every room, also those of people who talk among themselves."""

NUMBER_ATTRIBUTE = "trunkline.number"
"""The number that was dialled, as the dispatch rule that brought the call says it: it is there also when
the caller hides their own, which makes livekit-sip leave out both numbers (1.10, ``hide_phone_number``)."""

_LONGEST = 200
"""No number or id is longer; a header may be 64 kB."""


@dataclass(frozen=True)
class SipCall:
    """Who calls whom, as far as the attributes tell; None is not known, or withheld."""

    direction: str
    from_raw: str | None
    to_raw: str | None
    call_id: str | None
    trunk_id: str | None


def is_complete(attributes: Mapping[str, str]) -> bool:
    """Whether *attributes* tell all that they will: whose number was dialled, and which call it is.

    livekit-sip 1.10 gives them when the participant joins, other builds a moment later. The caller's
    number is no sign: a hidden one never comes.
    """
    dialled = attributes.get(NUMBER_ATTRIBUTE) or attributes.get("sip.trunkPhoneNumber")
    return bool(dialled) and bool(attributes.get("sip.callID"))


def read(attributes: Mapping[str, str]) -> SipCall:
    """The call of a participant with these *attributes*.

    Never fails: what is missing is not known, what is too long is cut, and control characters,
    which no database takes, are left out. A call that we placed has a trunk but no rule.
    """
    ours = _text(attributes, NUMBER_ATTRIBUTE) or _text(attributes, "sip.trunkPhoneNumber")
    theirs = _text(attributes, "sip.phoneNumber")
    inbound = "sip.ruleID" in attributes or NUMBER_ATTRIBUTE in attributes
    outbound = not inbound and "sip.trunkID" in attributes
    trunk = _text(attributes, "sip.trunkID")
    return SipCall(
        direction="outbound" if outbound else "inbound",
        from_raw=ours if outbound else theirs,
        to_raw=theirs if outbound else ours,
        call_id=_text(attributes, "sip.callID"),
        trunk_id=trunk[:60] if trunk else None,
    )


def clean(text: str) -> str:
    """*text* without what no database takes, and not longer than any number or id."""
    kept = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", text[: 2 * _LONGEST])
    return kept.strip()[:_LONGEST]


def _text(attributes: Mapping[str, str], name: str) -> str | None:
    return clean(attributes.get(name, "")) or None
