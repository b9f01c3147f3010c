"""What must change in LiveKit so that it holds what is wanted. Pure: two lists in, steps out.

Ours is what carries our mark in its metadata; everything else is somebody else's and is never touched,
also when it is in the way: that is told as a conflict.

The steps are in an order in which each is allowed by itself. LiveKit refuses a number on two trunks,
so a number that moves leaves its old trunk first; and a rule names its trunk by an id, so rules come after
trunks. An apply that was cut short anywhere is finished by the next one.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trunkline.kit.livekit import Kind, Stored

Action = Literal["create", "update", "delete"]

_Key = tuple[Kind, str]
_State = dict[_Key, Stored]

_SECRET = frozenset({"auth_password"})
_OURS = "trunkline"


@dataclass(frozen=True)
class Wanted:
    """A trunk or rule that LiveKit is to hold. A trunk's name is its file's, a rule's is its number.

    ``body`` is canonical (kit.livekit), with names instead of ids in a rule's ``trunk_ids``, and without
    name and metadata, which are the plan's.
    """

    kind: Kind
    name: str
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Difference:
    """One field that is not as it is wanted; None means unset. A secret's values are never here."""

    field: str
    have: Any
    want: Any


@dataclass(frozen=True)
class Step:
    """One write. ``body`` is what LiveKit is given, with trunks' names still in a rule's trunk_ids."""

    action: Action
    kind: Kind
    name: str
    id: str | None = None
    differences: tuple[Difference, ...] = ()
    why: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Plan:
    """All that has to be done, in order; ``ids`` are of our trunks that are there already."""

    steps: tuple[Step, ...] = ()
    conflicts: tuple[str, ...] = ()
    """What of other people's is in the way, in words; nothing may be applied before it is gone."""
    foreign: tuple[Stored, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)


def mark(name: str) -> str:
    """The metadata by which a trunk or rule is known as ours."""
    return json.dumps({"managed_by": _OURS, "name": name})


def name_of(stored: Stored) -> str | None:
    """The name under which it is ours; None when it is somebody else's."""
    try:
        data = json.loads(stored.body.get("metadata", ""))
    except ValueError:
        return None
    if not isinstance(data, dict) or data.get("managed_by") != _OURS:
        return None
    return str(data.get("name", ""))


def title(kind: Kind, name: str) -> str:
    """The name that people see in LiveKit."""
    return f"trunkline {name}" if kind != "outbound" else f"trunkline {name} (outbound)"


def make_plan(wanted: Sequence[Wanted], stored: Sequence[Stored]) -> Plan:
    """Compare and say what to do."""
    wants = {(want.kind, want.name): want for want in wanted}
    foreign: list[Stored] = []
    state: _State = {}
    steps: list[Step] = []
    for one in stored:
        name = name_of(one)
        if name is None:
            foreign.append(one)
        elif (one.kind, name) in state:
            steps.append(Step("delete", one.kind, name, one.id, why="a second copy"))
        else:
            state[one.kind, name] = one
    steps += [_removal(key, one) for key, one in state.items() if _is_unwanted(key, wants, "rule")]
    freeing, state = _free_numbers(wants, state)
    steps += freeing
    ids = {key[1]: one.id for key, one in state.items() if key in wants and one.kind != "rule"}
    names = {id: name for name, id in ids.items()}
    made = [step for key, want in wants.items() for step in _make_so(want, state.get(key), names)]
    # What is changed may give up what is then made anew.
    steps += sorted(made, key=lambda step: (step.kind == "rule", step.action == "create"))
    steps += [
        _removal(key, one)
        for key, one in state.items()
        if _is_unwanted(key, wants, "inbound", "outbound")
    ]
    return Plan(tuple(steps), tuple(_conflicts(wanted, foreign, names)), tuple(foreign), ids)


def body_for(want: Wanted) -> dict[str, Any]:
    """What is stored for *want*: its body under our name and mark."""
    return {**want.body, "name": title(want.kind, want.name), "metadata": mark(want.name)}


def _removal(key: _Key, one: Stored) -> Step:
    return Step("delete", *key, one.id)


def _is_unwanted(key: _Key, wants: Mapping[_Key, Wanted], *kinds: Kind) -> bool:
    return key[0] in kinds and key not in wants


def _free_numbers(
    wants: Mapping[_Key, Wanted], state: Mapping[_Key, Stored]
) -> tuple[list[Step], _State]:
    """Steps that take numbers off trunks of ours which other trunks of ours are to get, and what
    is there after them. A trunk that would have no number left goes: LiveKit would take every call on it."""
    claims = {
        number: want.name
        for want in wants.values()
        if want.kind == "inbound"
        for number in want.body.get("numbers", ())
    }
    steps, after = [], dict(state)
    for key, one in state.items():
        have = [plus(number) for number in one.body.get("numbers", ())]
        moving = [number for number in have if claims.get(number, key[1]) != key[1]]
        if one.kind != "inbound" or not moving:
            continue
        why = f"{', '.join(moving)} moves to {', '.join(sorted({claims[n] for n in moving}))}"
        left = [number for number in have if number not in moving]
        if left and key in wants:
            body = {**one.body, "numbers": left}
            changed = tuple(_differences(one.body, body))
            steps.append(Step("update", *key, one.id, changed, why, body))
            after[key] = replace(one, body=body)
        else:
            steps.append(Step("delete", *key, one.id, why=why))
            del after[key]
    return steps, after


def _make_so(want: Wanted, have: Stored | None, names: Mapping[str, str]) -> Iterator[Step]:
    body = body_for(want)
    if have is None:
        yield Step("create", want.kind, want.name, body=body)
        return
    current = dict(have.body)
    if "trunk_ids" in current:
        current["trunk_ids"] = sorted(names.get(id, id) for id in current["trunk_ids"])
    if differences := tuple(_differences(current, body)):
        yield Step("update", want.kind, want.name, have.id, differences, body=body)


def _differences(have: Any, want: Any, path: str = "") -> Iterator[Difference]:
    if isinstance(have, Mapping) and isinstance(want, Mapping):
        for name in sorted({*have, *want}):
            inner = f"{path}.{name}" if path else str(name)
            yield from _differences(have.get(name), want.get(name), inner)
    elif have != want:
        if path in _SECRET:
            yield Difference(path, have and "(another secret)", want and "(secret)")
        else:
            yield Difference(path, have, want)


def _conflicts(
    wanted: Sequence[Wanted], foreign: Sequence[Stored], names: Mapping[str, str]
) -> Iterator[str]:
    for want in wanted:
        numbers = {plus(number) for number in want.body.get("numbers", ())}
        for other in foreign:
            theirs = {plus(number) for number in other.body.get("numbers", ())}
            shared = sorted(numbers & theirs)
            if want.kind != other.kind or want.kind == "outbound" or not shared:
                continue
            shown = f"{other.id} ({other.name or 'without a name'}), which is not ours"
            if want.kind == "inbound":
                yield f"{', '.join(shared)} is also on the trunk {shown}; take it off there"
            elif {names.get(id) for id in other.body.get("trunk_ids", ())} & {
                *want.body["trunk_ids"]
            }:
                yield f"{', '.join(shared)} on our trunk is taken by the rule {shown}; delete it"


def plus(number: str) -> str:
    """As LiveKit normalises it (livekit/protocol NormalizeNumber)."""
    plain = number.translate(str.maketrans("", "", " -()"))
    return plain if plain.startswith("+") or not plain.isdigit() else f"+{plain}"


def with_ids(body: Mapping[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    """*body* with the ids of our trunks in place of their names."""
    if "trunk_ids" not in body:
        return dict(body)
    return {**body, "trunk_ids": [ids.get(name, name) for name in body["trunk_ids"]]}


def without_secrets(one: Stored) -> Stored:
    """*one* as it may be shown."""
    hidden = {n: "(secret)" if n in _SECRET else v for n, v in one.body.items()}
    return replace(one, body=hidden)
