"""What a SIP participant's attributes say of its call. Pure; names as livekit/sip's ``types.go`` has them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trunkline.desk.identity import Attestation
from trunkline.kit import phone

AGENT = "trunkline"
"""The name under which workers register and rules dispatch. Without a name an agent would be sent to
every room, also those of people who talk among themselves."""

CALL_KEY = "call"
"""In the metadata of a dispatch, a JSON object: the id of the queued call that the agent is to dial."""

RESCUE = "trunkline-rescue"
"""The name of the agent that answers without models, when no other can."""

NUMBER_ATTRIBUTE = "trunkline.number"
"""The number that was dialled, as the dispatch rule that brought the call says it: it is there also when
the caller hides their own, which makes livekit-sip leave out both numbers (1.10, ``hide_phone_number``)."""

ATTESTATION = "trunkline.attestation"
"""To which a trunk's file maps a header with nothing but the carrier's verdict: X-Twilio-VerStat."""
ASSERTED_IDENTITY = "trunkline.asserted_identity"
"""To which a trunk's file maps P-Asserted-Identity (RFC 3325): Telnyx says ``verstat`` in it."""

_LEVELS: dict[str, Attestation] = {
    "TN-Validation-Passed-A": "A",
    "TN-Validation-Passed-B": "B",
    "TN-Validation-Passed-C": "C",
}
_IN_IDENTITY: dict[str, Attestation] = {**_LEVELS, "TN-Validation-Passed": "A"}
"""Telnyx names no level when it is A (its documentation, "SIP header parameters")."""
_NAME_ADDR = re.compile(
    r"""[^<>;,"]*<(?P<uri>(?:sips?|tel):[^<>,"]*)>(?P<after>(?:;[^<>,"]*)?)""", re.IGNORECASE
)
"""RFC 3261 25.1, name-addr and its parameters, once quoted display names are taken out."""
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

_LONGEST_IDENTITY = 1000
"""In characters. Cut anywhere it would say something else, so a longer one says nothing."""

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
    attestation: Attestation | None = None
    """How far the carrier vouches for the caller's number; None: it says nothing, or that it is false."""


def call_to_dial(metadata: str) -> str | None:
    """The queued call that a dispatch with this *metadata* is for; None when it is for none."""
    try:
        told = json.loads(metadata or "{}")
    except ValueError:
        return None
    found = told.get(CALL_KEY) if isinstance(told, dict) else None
    return found if isinstance(found, str) else None


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
        attestation=None if outbound else _attestation(attributes, theirs),
    )


def _attestation(attributes: Mapping[str, str], caller: str | None) -> Attestation | None:
    """The level that the carrier gives the *caller*'s number, from whichever header it uses.

    Only what a carrier itself writes counts: parameters outside the display name, which the caller
    chooses, and in P-Asserted-Identity only when that is the number which is calling.
    """
    if caller is None:
        return None
    if level := _LEVELS.get(clean(attributes.get(ATTESTATION, ""))):
        return level
    identity = attributes.get(ASSERTED_IDENTITY, "")
    if len(identity) > _LONGEST_IDENTITY:
        return None
    found = _NAME_ADDR.fullmatch(_QUOTED.sub("", identity).strip())
    if found is None or _digits(found["uri"]) != _digits(caller):
        return None
    said = {
        value.partition("@")[0]
        for part in f"{found['uri']}{found['after']}".split(";")[1:]
        for name, _, value in [part.strip().partition("=")]
        if name.strip().lower() == "verstat"
    }
    # Two different verdicts are none.
    return _IN_IDENTITY.get(said.pop()) if len(said) == 1 else None


def _digits(text: str) -> str | None:
    """The number's digits, by which two ways of writing it are compared; None when it has none."""
    try:
        return phone.parse(text, region=None).e164[1:]
    except ValueError:
        user = re.split(r"[@;]", text, maxsplit=1)[0]
        return "".join(c for c in user if c in "0123456789") or None


def clean(text: str) -> str:
    """*text* without what no database takes, and not longer than any number or id."""
    kept = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "", text[: 2 * _LONGEST])
    return kept.strip()[:_LONGEST]


def _text(attributes: Mapping[str, str], name: str) -> str | None:
    return clean(attributes.get(name, "")) or None
