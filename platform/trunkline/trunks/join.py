"""The files joined with the numbers we answer: one trunk per file, one rule per number, as LiveKit has them.

The table ``numbers`` is the truth about which numbers are ours, so that a number is written down once;
the files say on which line it rings and what happens then. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trunkline.desk.sip import NUMBER_ATTRIBUTE
from trunkline.errors import Invalid
from trunkline.kit import phone
from trunkline.kit.livekit import Kind, canonical
from trunkline.trunks.files import Digest, Files, InboundTrunk, OutboundTrunk, Rule, Trunk
from trunkline.trunks.plan import Wanted

_ENCRYPTION = {
    "disable": "SIP_MEDIA_ENCRYPT_DISABLE",
    "allow": "SIP_MEDIA_ENCRYPT_ALLOW",
    "require": "SIP_MEDIA_ENCRYPT_REQUIRE",
}
_HEADERS = {"none": "SIP_NO_HEADERS", "x": "SIP_X_HEADERS", "all": "SIP_ALL_HEADERS"}


@dataclass(frozen=True)
class Joined:
    """What LiveKit is to hold, and what the operator should know of what it won't."""

    wanted: tuple[Wanted, ...]
    notes: tuple[str, ...] = ()


def join(files: Files, numbers: Sequence[str], environment: Mapping[str, str]) -> Joined:
    """What LiveKit is to hold for these *numbers* (E.164, the table's). Raises Invalid with all faults."""
    faults: list[str] = []
    notes: list[str] = []
    on_trunk = _shared_out("trunk", files.inbound, numbers, faults)
    by_rule = _shared_out("rule", files.rules, numbers, faults)
    wanted: list[Wanted] = []
    for name, trunk in files.inbound.items():
        if not on_trunk[name]:
            notes.append(f"{name}: no number of ours is on this trunk, so it is not made")
            continue
        auth = _auth(f"trunks/{name}.yaml", trunk.auth, environment, faults)
        wanted.append(_wanted("inbound", name, _inbound(trunk, on_trunk[name], auth)))
    for name, outbound in files.outbound.items():
        address = outbound.address or environment.get(outbound.address_env or "", "")
        ours = list(numbers) if outbound.numbers == "all" else list(outbound.numbers)
        faults += [f"trunks/{name}.yaml: {fault}" for fault in _strangers(outbound, numbers)]
        if not address:
            notes.append(f"{name}: {outbound.address_env} is not set, so it is not made")
        elif not ours:
            notes.append(f"{name}: we have no number it could show, so it is not made")
        else:
            auth = _auth(f"trunks/{name}.yaml", outbound.auth, environment, faults)
            wanted.append(_wanted("outbound", name, _outbound(outbound, address, ours, auth)))
    rule_of = {number: name for name, covered in by_rule.items() for number in covered}
    for trunk_name, rings in on_trunk.items():
        for number in rings:
            if rule_name := rule_of.get(number):
                dialled = number
                if files.inbound[trunk_name].dialled_as == "e164":
                    dialled = number.removeprefix("+")
                body = _rule(files.rules[rule_name], trunk_name, number, dialled)
                wanted.append(_wanted("rule", number, body))
            else:
                faults.append(f"no rule covers {phone.mask(number)}: it would ring for ever")
    idle = sorted(set(numbers) - {number for rings in on_trunk.values() for number in rings})
    notes += [f"{number} is on no trunk: it would ring for ever" for number in idle]
    if not numbers:
        notes.append("no number leads to a profile yet, so there is nothing to answer")
    if faults:
        raise Invalid("; ".join(faults))
    return Joined(tuple(wanted), tuple(notes))


def _strangers(part: Trunk | Rule, numbers: Sequence[str]) -> Iterator[str]:
    if part.numbers != "all":
        for number in part.numbers:
            if number not in numbers:
                yield f"{phone.mask(number)} leads to no profile; assign it to one, or take it out here"


def _shared_out(
    what: str, parts: Mapping[str, Any], numbers: Sequence[str], faults: list[str]
) -> dict[str, list[str]]:
    """Which of the *numbers* each part gets: those it names, and the rest for the one that says all."""
    taken: dict[str, str] = {}
    alls = [name for name, part in parts.items() if part.numbers == "all"]
    if len(alls) > 1:
        faults.append(f"the {what}s {' and '.join(alls)} both say 'numbers: all'; only one may")
    for name, part in parts.items():
        faults += [f"{what}s/{name}.yaml: {fault}" for fault in _strangers(part, numbers)]
        for number in [] if part.numbers == "all" else part.numbers:
            if taken.setdefault(number, name) != name:
                faults.append(
                    f"the {what}s {taken[number]} and {name} both name {phone.mask(number)}; only one may"
                )
    shares: dict[str, list[str]] = {name: [] for name in parts}
    for number in numbers:
        owner = taken.get(number) or (alls[0] if alls else None)
        if owner:
            shares[owner].append(number)
    return shares


def _auth(
    where: str, auth: Digest | None, environment: Mapping[str, str], faults: list[str]
) -> dict[str, str]:
    if auth is None:
        return {}
    missing = [v for v in (auth.username_env, auth.password_env) if not environment.get(v)]
    faults += [f"{where}: {name} is not set in the environment" for name in missing]
    return {
        "auth_username": environment.get(auth.username_env, ""),
        "auth_password": environment.get(auth.password_env, ""),
    }


def _wanted(kind: Kind, name: str, body: dict[str, Any]) -> Wanted:
    return Wanted(kind, name, canonical(kind, body))


def _common(trunk: Trunk, numbers: Sequence[str], auth: Mapping[str, str]) -> dict[str, Any]:
    return {
        "numbers": list(numbers),
        **auth,
        "headers": trunk.headers,
        "headers_to_attributes": trunk.headers_to_attributes,
        "include_headers": _HEADERS[trunk.include_headers],
        "media": {"encryption": _ENCRYPTION[trunk.encryption]},
    }


def _inbound(
    trunk: InboundTrunk, numbers: Sequence[str], auth: Mapping[str, str]
) -> dict[str, Any]:
    return {
        **_common(trunk, numbers, auth),
        "allowed_addresses": trunk.allow_addresses,
        "allowed_numbers": trunk.allow_callers,
        "ringing_timeout": f"{trunk.ringing_timeout_s}s",
        "max_call_duration": f"{trunk.max_call_s}s",
    }


def _outbound(
    trunk: OutboundTrunk, address: str, numbers: Sequence[str], auth: Mapping[str, str]
) -> dict[str, Any]:
    return {
        **_common(trunk, numbers, auth),
        "address": address,
        "transport": f"SIP_TRANSPORT_{trunk.transport.upper()}",
        "destination_country": trunk.country or "",
        "from_host": trunk.from_host or "",
    }


def _rule(rule: Rule, trunk: str, number: str, dialled: str) -> dict[str, Any]:
    room = (
        {"dispatch_rule_callee": {"room_prefix": rule.room_prefix, "randomize": True}}
        if rule.room_named_after == "dialled"
        else {"dispatch_rule_individual": {"room_prefix": rule.room_prefix}}
    )
    return {
        "rule": room,
        "trunk_ids": [trunk],
        "numbers": [dialled],
        "hide_phone_number": rule.hide_caller,
        "attributes": {**rule.attributes, NUMBER_ATTRIBUTE: number},
        "room_config": {
            "empty_timeout": rule.empty_timeout_s,
            "departure_timeout": rule.departure_timeout_s,
            "agents": [{"agent_name": rule.agent}],
        },
    }
