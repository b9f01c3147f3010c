"""The dialogue file of the sandbox's brain: what may stand in ``brain.toml``, and whether it does.

``intents``  phrases in JSGF, the grammar format of the recogniser: ``(a | b)``, ``[a]``, ``<slot>``.
``slots``    the values that a slot may have, as they are written; spoken in lower case.
``small``, ``guard``, ``rewrite``  words to ignore, words that forbid a loose match, spellings.
``keys``     the intents that keys on the telephone stand for (a user turn ``[keys 2]``).
``facts``, ``defaults``  what to read from the system prompt, and what stands for it if absent.
``outcomes``  per tool, the patterns that say what its output means; all else is ``failed``.
``start``, ``idle``, ``turn``, ``result``  rules, by what came last: nothing, the agent's own
words, the caller's words, a tool's output. The first rule that fits answers.

A rule fits if its conditions hold and its templates can be filled:

``intent``   what the caller said last (one name or a list; ``unknown`` if nothing known).
``earlier``  an intent among everything the caller said before.
``has``, ``lacks``  variables that must (not) be there.
``after``, ``heard``, ``output``  patterns searched in the agent's last words, in the caller's, in
the tool's output. The agent's may be cut short by an interruption: test how they begin.
``result``   ``tool.outcome`` of the first call of the last response; ``*`` for any.
``along``    a tool called in that same response.

It then answers with ``say``, ``call`` or both. A call is ``tool``, ``with`` (its arguments) and
``optional``; without a tool that is not optional ``otherwise`` is said instead of all.

Variables in templates are slots, facts, the groups of outcomes (the latest successful call
counts), ``tool.argument`` of those calls, ``today`` and ``tomorrow`` (dates, by the fact ``now``),
``heard`` (the caller's last words), ``spoken`` (the agent's) and ``output`` (the tool's).
``{variable|filter}`` changes them, see ``_FILTERS``.
"""

import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from trunkline.errors import Misconfigured

UNKNOWN = "unknown"
"""The intent of words that no phrase explains."""

_MAX_SENTENCES = 400
"""Sentences one phrase may stand for; more is a phrase that no recogniser tells from others."""

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_OWN_VARIABLES = ("today", "tomorrow", "heard", "spoken", "output")
_VARIABLE = re.compile(r"\{([a-z_.]+)(?:\|([a-z]+))?\}")


class BrainFileError(Misconfigured):
    """The dialogue file is wrong; the text says where and what to write instead."""


Names = Annotated[
    frozenset[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


class Part(BaseModel):
    """A piece of the file: a name that it doesn't know is a fault, not a setting ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Call(Part):
    """A tool that a rule calls."""

    tool: str
    arguments: dict[str, str | int] = Field({}, alias="with")
    optional: bool = False


class Rule(Part):
    """When it fits, and what is then answered."""

    intent: Names = frozenset()
    earlier: Names = frozenset()
    has: Names = frozenset()
    lacks: Names = frozenset()
    after: re.Pattern[str] | None = None
    heard: re.Pattern[str] | None = None
    output: re.Pattern[str] | None = None
    result: str | None = Field(None, pattern=r"^[\w*]+\.[\w*]+$")
    along: str | None = None
    say: str = ""
    call: tuple[Call, ...] = ()
    otherwise: str | None = None

    def templates(self) -> list[str]:
        """Every text with variables."""
        arguments = (value for call in self.call for value in call.arguments.values())
        return [self.say, self.otherwise or "", *(a for a in arguments if isinstance(a, str))]


class DialogueFile(Part):
    """All of the file."""

    small: frozenset[str] = frozenset()
    guard: frozenset[str] = frozenset()
    rewrite: dict[str, str] = {}
    slots: dict[str, list[str]] = {}
    intents: dict[str, list[str]]
    keys: dict[str, str] = {}
    facts: dict[str, re.Pattern[str]] = {}
    defaults: dict[str, str] = {}
    outcomes: dict[str, dict[str, re.Pattern[str]]] = {}
    start: list[Rule]
    idle: list[Rule]
    turn: list[Rule]
    result: list[Rule]

    def rules(self, kind: str) -> list[Rule]:
        """The rules for what came last."""
        return {"start": self.start, "idle": self.idle, "turn": self.turn}.get(kind, self.result)


def template(text: str, values: Mapping[str, str]) -> str:
    """Fill *text*. LookupError if a variable is not there or its filter can't be applied."""

    def one(found: re.Match[str]) -> str:
        value = values[found[1]]
        return _FILTERS[found[2]](value, values) if found[2] else value

    return _VARIABLE.sub(one, text)


def fill(value: object, values: Mapping[str, str]) -> object:
    """The same for an argument of a call, which may be a number. Raises as ``template`` does."""
    return template(value, values) if isinstance(value, str) else value


def _date_of(value: str, values: Mapping[str, str]) -> str:
    """The date of a spoken day ("tomorrow", "Monday", "next week"), counted from today."""
    today = date.fromisoformat(values["today"])
    if value in _WEEKDAYS:
        ahead = (_WEEKDAYS.index(value) - today.weekday() - 1) % 7 + 1
    else:
        ahead = {"today": 0, "tomorrow": 1, "next week": 7 - today.weekday()}[value]
    return (today + timedelta(days=ahead)).isoformat()


def _day_of(value: str, values: Mapping[str, str]) -> str:
    """A date as one says it: "tomorrow", "on Monday", "on March 3"."""
    day, today = iso_date(value), date.fromisoformat(values["today"])
    if day is None:
        raise KeyError(value)
    ahead = (day - today).days
    if ahead in (0, 1):
        return ("today", "tomorrow")[ahead]
    return f"on {_WEEKDAYS[day.weekday()]}" if 1 < ahead < 8 else f"on {day:%B} {day.day}"


def _sentence(value: str, _: Mapping[str, str]) -> str:
    """The first sentence, with its full stop."""
    first = re.split(r"(?<=[.!?])\s", value.strip().splitlines()[0])[0]
    return first if first[-1] in ".!?" else first + "."


_FILTERS: Mapping[str, Callable[[str, Mapping[str, str]], str]] = {
    "date": _date_of,
    "day": _day_of,
    "first": lambda value, _: value.split()[0],
    "sentence": _sentence,
}


def iso_date(text: str) -> date | None:
    """The date that *text* is in ISO 8601; None when it is none."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def check(file: DialogueFile) -> None:
    """What the shapes can't tell: every name used is defined, and some rule always fits."""
    for section in ("slots", "intents", "facts"):
        for name in getattr(file, section):
            if not re.fullmatch(r"[a-z_]+", name):
                raise BrainFileError(f"{section}.{name}: names are lower-case letters and _")
    for name, values in file.slots.items():
        if not all(re.fullmatch(r"[A-Za-z]+( [A-Za-z]+)*", value) for value in values):
            raise BrainFileError(f"slots.{name}: values are words, written in letters")
        if any(word in file.small for value in values for word in value.lower().split()):
            raise BrainFileError(f"slots.{name}: a value may not hold a word listed in `small`")
    for name, fact in file.facts.items():
        if fact.groups != 1:
            raise BrainFileError(f"facts.{name}: needs one group, which is the fact's value")
    intents = {*file.intents, *file.keys.values(), UNKNOWN}
    groups = (
        group
        for patterns in file.outcomes.values()
        for pattern in patterns.values()
        for group in pattern.groupindex
    )
    variables = {*file.slots, *file.facts, *file.defaults, *groups, *_OWN_VARIABLES}
    for kind in ("start", "idle", "turn", "result"):
        rules = file.rules(kind)
        for number, rule in enumerate(rules, 1):
            place = f"[[{kind}]] number {number}"
            if unnamed := {*rule.intent, *rule.earlier} - intents:
                raise BrainFileError(f"{place}: no intent is called {min(unnamed)!r}")
            used = {found for text in rule.templates() for found in _VARIABLE.findall(text)}
            names = {*(name for name, _ in used), *rule.has, *rule.lacks}
            if unnamed := {name for name in names if "." not in name} - variables:
                raise BrainFileError(f"{place}: no variable is called {min(unnamed)!r}")
            if unnamed := {chosen for _, chosen in used} - {"", *_FILTERS}:
                raise BrainFileError(f"{place}: no filter is called {min(unnamed)!r}")
            if any(not call.optional for call in rule.call) and not rule.otherwise:
                raise BrainFileError(f"{place}: needs `otherwise`, for when the tool is missing")
        last = rules[-1] if rules else None
        if (
            last is None
            or last.model_fields_set != {"say"}
            or not {name for name, _ in _VARIABLE.findall(last.say)} <= set(file.defaults)
        ):
            raise BrainFileError(f"[[{kind}]]: the last rule must fit always: `say` alone")


def expand(place: str, phrase: str, slots: Mapping[str, object]) -> list[tuple[str, ...]]:
    """All word sequences of a JSGF phrase, slots kept as ``<slot>``."""
    tokens = re.findall(r"<[a-z_]+>|[a-z]+|\S", phrase)
    at = 0

    def choice(closing: str) -> list[tuple[str, ...]]:
        nonlocal at
        found: list[tuple[str, ...]] = []
        current: list[tuple[str, ...]] = [()]
        while True:
            item = tokens[at] if at < len(tokens) else ""
            at += 1
            if item in (closing, "|"):
                found += current
                if item == closing:
                    return found
                current = [()]
                continue
            if item in ("(", "["):
                inner = choice({"(": ")", "[": "]"}[item]) + ([()] if item == "[" else [])
            elif re.fullmatch(r"[a-z]+", item) or (item and item[1:-1] in slots):
                inner = [(item,)]
            elif item.startswith("<"):
                raise BrainFileError(f"{place}: {item} is not among the slots")
            else:
                raise BrainFileError(f"{place}: {item or 'the end'!r} is not expected there")
            current = [left + right for left in current for right in inner]
            if len(current) > _MAX_SENTENCES:
                raise BrainFileError(f"{place} stands for more than {_MAX_SENTENCES} sentences")

    return choice("")
