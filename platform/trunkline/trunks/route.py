"""Who would take a call, and if nobody, why: the decisions of LiveKit's server, made here step by step.

Pure. The order and the comparisons are those of livekit/protocol ``sip/sip.go`` (MatchTrunkIter,
MatchDispatchRuleIter, DispatchRulePriority) as livekit-server 1.13.5 uses them. Two of them surprise:
trunks compare numbers with or without ``+``, rules compare them letter by letter; and a call that
no rule takes is not refused: the caller hears ringing until they hang up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trunkline.desk.sip import NUMBER_ATTRIBUTE
from trunkline.kit.livekit import Stored
from trunkline.trunks.plan import name_of, plus

_SHORTEST = 7
"""Digits that two numbers must share at their end to be taken for the same one."""

Part = Literal["trunk", "rule", "agent", "worker", "profile", "hours", "caller", "lines"]


@dataclass(frozen=True)
class Finding:
    """One thing on the way of the call. ``ok`` None: it could not be looked at."""

    part: Part
    ok: bool | None
    says: str


@dataclass
class Way:
    """The way of a call through what LiveKit has stored."""

    findings: list[Finding] = field(default_factory=list)
    agent: str | None = None
    """Whom LiveKit would send for; None when the call never gets that far."""
    number: str | None = None
    """The number of ours by which the profile is found, E.164."""

    def note(self, part: Part, ok: bool | None, says: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(part, ok, says))


def follow(dialled: str, caller: str | None, stored: Sequence[Stored]) -> Way:
    """Follow a call to *dialled* from *caller*, both as the carrier writes them; None is a hidden caller."""
    way = Way()
    trunks = [one for one in stored if one.kind == "inbound"]
    rules = [one for one in stored if one.kind == "rule"]
    fitting = _trunks_for(dialled, caller, trunks)
    trunk = fitting[0] if len(fitting) == 1 else None
    rule = _rule_for(dialled, caller, trunk, rules)
    if len(fitting) > 1:
        way.note(
            "trunk",
            False,
            f"{len(fitting)} trunks take this call ({', '.join(map(_shown, fitting))}), so LiveKit "
            "takes none of them; leave the number on one",
        )
        return way
    if trunk is not None:
        way.note("trunk", True, _trunk_says(trunk))
    elif rule is not None:
        way.note(
            "trunk", True, f"{_why_no_trunk(dialled, trunks)}, but the rule takes any trunk's calls"
        )
    else:
        way.note("trunk", False, _why_no_trunk(dialled, trunks))
        return way
    if rule is None:
        way.note("rule", False, _why_no_rule(dialled, trunk, rules, trunks))
        return way
    kind, room = _room(rule)
    if room.get("pin"):
        way.note("rule", False, f"{_shown(rule)} asks the caller for a PIN before anybody answers")
        return way
    rooms = "one room for all calls" if kind == "dispatch_rule_direct" else "a room for each call"
    ours = "" if name_of(rule) is not None else ", which is not ours,"
    way.note("rule", True, f"{_shown(rule)}{ours} takes it: {rooms}")
    agents = [a.get("agent_name", "") for a in rule.body.get("room_config", {}).get("agents", [])]
    if not any(agents):
        way.note("agent", False, f"the rule {_shown(rule)} sends for no agent, so nobody comes")
        return way
    way.agent = next(name for name in agents if name)
    way.note("agent", True, f"{way.agent!r} is sent for")
    way.number = rule.body.get("attributes", {}).get(NUMBER_ATTRIBUTE) or plus(dialled)
    return way


def _trunks_for(dialled: str, caller: str | None, trunks: Sequence[Stored]) -> list[Stored]:
    """Those that list the number; else those that list none. LiveKit takes it only if it is one."""
    listed, open_to_all = [], []
    for trunk in trunks:
        numbers, callers = trunk.body.get("numbers", []), trunk.body.get("allowed_numbers", [])
        if callers and plus(caller or "") not in map(plus, callers):
            continue
        if not numbers:
            open_to_all.append(trunk)
        elif plus(dialled) in map(plus, numbers):
            listed.append(trunk)
    return listed or open_to_all


def _rule_for(
    dialled: str, caller: str | None, trunk: Stored | None, rules: Sequence[Stored]
) -> Stored | None:
    """The best of the trunk's own rules; else the best of those that are for any trunk."""
    own, any_trunk = [], []
    for rule in rules:
        callers, numbers = rule.body.get("inbound_numbers", []), rule.body.get("numbers", [])
        if (callers and caller not in callers) or (numbers and dialled not in numbers):
            continue
        ids = rule.body.get("trunk_ids", [])
        if not ids:
            any_trunk.append(rule)
        elif trunk is not None and trunk.id in ids:
            own.append(rule)
    return min(own or any_trunk, key=_priority, default=None)


def _trunk_says(trunk: Stored) -> str:
    listed = (
        "lists the number" if trunk.body.get("numbers") else "lists none and so takes any number"
    )
    sources = trunk.body.get("allowed_addresses", [])
    only = f"; calls only from {_some(sources)}" if sources else ""
    asks = "; asks for a user name and password" if trunk.body.get("auth_username") else ""
    return f"{_shown(trunk)} {listed}{only}{asks}"


def _why_no_trunk(dialled: str, trunks: Sequence[Stored]) -> str:
    for trunk, number in _numbers(trunks):
        if plus(number) == plus(dialled):
            return f"{_shown(trunk)} lists {number} but does not let this caller call"
    for trunk, number in _numbers(trunks):
        short, long = sorted((plus(dialled)[1:], plus(number)[1:]), key=len)
        if len(short) >= _SHORTEST and long.endswith(short):
            return (
                f"no trunk lists {dialled}, though {_shown(trunk)} lists {number}: the same number but for "
                "its country code; carrier and trunk must both write + and the country code"
            )
    return f"no trunk lists {dialled}"


def _why_no_rule(
    dialled: str, trunk: Stored | None, rules: Sequence[Stored], trunks: Sequence[Stored]
) -> str:
    for rule in rules:
        numbers = rule.body.get("numbers", [])
        same = next((n for n in numbers if plus(n) == plus(dialled)), None)
        if same is None:
            continue
        ids = rule.body.get("trunk_ids", [])
        if ids and (trunk is None or trunk.id not in ids):
            shown = {one.id: _shown(one) for one in trunks}
            lines = ", ".join(shown.get(id, f"{id}, which is gone") for id in ids)
            here = _shown(trunk) if trunk else "no trunk"
            return f"the rule {_shown(rule)} is for another trunk ({lines}), the call comes in on {here}"
        if same != dialled:
            with_plus, without = (same, dialled) if same.startswith("+") else (dialled, same)
            return (
                f"the rule {_shown(rule)} lists {same}, the carrier sends {dialled}: LiveKit's rules compare "
                f"letter by letter, and the + differs. Make the carrier send {with_plus}, or set "
                f"dialled_as in the trunk's file ({'e164' if without == dialled else '+e164'}) and apply"
            )
        return f"the rule {_shown(rule)} lists the number but does not let this caller call"
    return f"no rule takes {dialled}" + (f" on {_shown(trunk)}" if trunk else "")


def _priority(rule: Stored) -> tuple[int, str]:
    """Lower is taken first (livekit/protocol DispatchRulePriority)."""
    kind, room = _room(rule)
    kinds = ("dispatch_rule_direct", "dispatch_rule_individual", "dispatch_rule_callee")
    rank = kinds.index(kind) if kind in kinds else 1_000_000
    rank += 0 if room.get("pin") else 100
    rank += 0 if rule.body.get("inbound_numbers") else 1000
    rank += 0 if rule.body.get("numbers") else 1000
    return rank, str(room.get("room_name") or room.get("room_prefix") or "")


def _room(rule: Stored) -> tuple[str, dict[str, Any]]:
    return next(iter(rule.body.get("rule", {}).items()), ("", {}))


def _numbers(trunks: Sequence[Stored]) -> Iterator[tuple[Stored, str]]:
    for trunk in trunks:
        for number in trunk.body.get("numbers", []):
            yield trunk, number


def _shown(one: Stored) -> str:
    name = name_of(one) or one.name
    return f"{name} ({one.id})" if name and name != one.id else one.id


def _some(values: Sequence[str]) -> str:
    return (
        ", ".join(values) if len(values) < 4 else f"{values[0]} and {len(values) - 1} more networks"
    )
