"""Who gets in: what the house's rules say of a call that rings. Pure.

Blocked callers come first, then hidden ones, then the caps: somebody whom nobody wants to hear is told
nothing of busy lines.
"""

from dataclasses import dataclass
from enum import StrEnum

from trunkline.profiles.blocks import Action
from trunkline.profiles.body import ProfileBody
from trunkline.profiles.hours import Opening


class Kind(StrEnum):
    """How a call is let in or turned away; stored with it, so these words are stable."""

    OPEN = "open"
    """The number's own profile answers, whether it is open or knows that it is closed."""
    AFTER_HOURS = "after_hours"
    """It is closed, and the profile for that answers."""
    MESSAGE = "message"
    """Only a message is taken."""
    BLOCKED = "blocked"
    """Nobody answers; the caller hears the line end."""
    CAPACITY = "capacity"
    """All lines are busy: a message or a call back is offered."""


LET_IN = (Kind.OPEN, Kind.AFTER_HOURS)
"""Those who talk to an agent, and so count for the caps."""


@dataclass(frozen=True)
class Door:
    """What was decided of a call, and why in words."""

    kind: Kind = Kind.OPEN
    reason: str | None = None

    @property
    def lets_in(self) -> bool:
        """Whether the caller talks to an agent."""
        return self.kind in LET_IN


OPEN = Door()
"""Nothing stands in the way."""


@dataclass(frozen=True)
class House:
    """What holds for every number here."""

    max_calls: int | None = None
    """Calls at once, in and out; None: as many as come."""


@dataclass(frozen=True)
class Block:
    """A pattern that means this caller."""

    pattern: str
    action: Action
    reason: str | None = None


@dataclass(frozen=True)
class Load:
    """How many calls there are beside this one."""

    all: int = 0
    """At this moment."""
    of_profile: int = 0
    """At this moment, with the profile that would answer."""
    of_caller: int = 0
    """Of this caller in the last hour."""


def hours(opening: Opening, on_duty: str | None) -> Door:
    """Who answers by the clock: *on_duty* is the profile that stands in for the number's own."""
    if on_duty is None:
        return Door()
    because = f" ({opening.holiday.name})" if opening.holiday else ""
    return Door(Kind.AFTER_HOURS, f"closed{because}, so {on_duty!r} answers")


def unwanted(body: ProfileBody | None, block: Block | None, *, hidden: bool) -> Door | None:
    """Why this caller is not put through; None when nothing speaks against them."""
    if block is not None:
        why = f": {block.reason}" if block.reason else ""
        return Door(_KINDS[block.action], f"the caller is blocked by {block.pattern}{why}")
    if hidden and body is not None and body.hidden_callers != "answer":
        return Door(_KINDS[body.hidden_callers], "the caller hides the number")
    return None


def full(body: ProfileBody, house: House, load: Load) -> Door | None:
    """Which cap is reached; None when there is room for this call."""
    limits = body.limits
    for cap, there, says in (
        (house.max_calls, load.all, "all {cap} lines are busy"),
        (limits.max_calls, load.of_profile, "all {cap} lines of this profile are busy"),
        (
            limits.max_calls_per_caller_per_hour,
            load.of_caller,
            "this caller has called {there} times within an hour, {cap} are allowed",
        ),
    ):
        if cap is not None and there >= cap:
            return Door(Kind.CAPACITY, says.format(cap=cap, there=there))
    return None


_KINDS: dict[Action, Kind] = {"reject": Kind.BLOCKED, "message": Kind.MESSAGE}
