"""The rules of the door: who is put through, and what is said of it."""

from typing import TYPE_CHECKING, Any

import pytest

from trunkline.desk import caps
from trunkline.desk.door import Block, Door, House, Kind, Load, full, hours, unwanted
from trunkline.desk.identity import Rung, rung
from trunkline.errors import Invalid
from trunkline.profiles.behaviour import Limits
from trunkline.profiles.blocks import pattern_of, patterns_for
from trunkline.profiles.hours import Holiday, Opening

if TYPE_CHECKING:
    from tests.conftest import Make

REJECTED = Block("+4490*", "reject", "they sell numbers")
MAY_WRITE = Block("+12025550134", "message")
CHRISTMAS = Holiday(date="12-25", name="Christmas Day")


@pytest.mark.parametrize(
    ("hidden_callers", "block", "hidden", "kind"),
    [
        ("answer", None, False, None),  # nothing speaks against them
        ("answer", None, True, None),  # hidden callers are answered unless the profile says else
        ("reject", None, True, Kind.BLOCKED),
        ("message", None, True, Kind.MESSAGE),
        ("reject", None, False, None),  # a caller who shows a number is none of them
        ("answer", REJECTED, False, Kind.BLOCKED),
        ("answer", MAY_WRITE, False, Kind.MESSAGE),
    ],
)
def test_who_is_not_put_through(
    make: "Make", hidden_callers: str, block: Block | None, hidden: bool, kind: Kind | None
) -> None:
    """A blocked caller never is, a hidden one as the profile says."""
    found = unwanted(make.body(hidden_callers=hidden_callers), block, hidden=hidden)
    assert (found.kind if found else None) == kind


def test_the_reason_names_the_block() -> None:
    """Whoever looks at the call later sees which of the patterns it was, and why that is there."""
    found = unwanted(None, REJECTED, hidden=False)
    assert found == Door(Kind.BLOCKED, "the caller is blocked by +4490*: they sell numbers")


@pytest.mark.parametrize(
    ("limits", "house", "load", "says"),
    [
        ({}, House(), Load(1000, 1000, 1000), None),  # no cap, no end
        ({"max_calls": 2}, House(), Load(of_profile=1), None),  # this one is the second
        ({"max_calls": 2}, House(), Load(of_profile=2), "all 2 lines of this profile are busy"),
        ({}, House(max_calls=3), Load(all=3), "all 3 lines are busy"),
        ({"max_calls": 9}, House(max_calls=3), Load(all=2, of_profile=2), None),
        (
            {"max_calls_per_caller_per_hour": 3},
            House(),
            Load(of_caller=3),
            "this caller has called 3 times within an hour, 3 are allowed",
        ),
    ],
)
def test_when_a_cap_is_reached(
    make: "Make", limits: dict[str, Any], house: House, load: Load, says: str | None
) -> None:
    """A cap of n lets the n-th call in and not the one after."""
    found = full(make.body(limits=limits), house, load)
    assert (found.reason if found else None) == says
    assert found is None or found.kind is Kind.CAPACITY


def test_without_caps_nothing_is_counted() -> None:
    """A call that no cap is about waits for no count."""
    assert not caps.any_cap(Limits(), House())
    assert caps.any_cap(Limits(), House(max_calls=1))
    assert caps.any_cap(Limits(max_calls_per_caller_per_hour=1), House())


def test_the_clock_says_who_stands_in() -> None:
    """Closed with nobody to stand in is no reason to turn anybody away."""
    assert hours(Opening(False, CHRISTMAS), None) == Door()
    assert hours(Opening(False), "Night") == Door(Kind.AFTER_HOURS, "closed, so 'Night' answers")
    assert hours(Opening(False, CHRISTMAS), "Night").reason == (
        "closed (Christmas Day), so 'Night' answers"
    )
    assert hours(Opening(False), "Night").lets_in


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("+44 90*", "+4490*"),
        ("+1*", "+1*"),  # a whole country
        ("+44-(0)90*", "+4490*"),  # a national zero is no part of it
        ("*", None),
        ("+*", None),
        ("+0*", None),  # no country code begins so
        ("90*", None),  # where?
        ("+449012345678901234*", None),
        ("+1 (202) 555-0134", "+12025550134"),
        ("tel:+12025550134", "+12025550134"),
        ("202 555 0134", None),  # where?
        ("*67", None),
    ],
)
def test_what_can_be_blocked(text: str, pattern: str | None) -> None:
    """One number however it is written, or all that begin with certain digits."""
    if pattern is not None:
        assert pattern_of(text) == pattern
        return
    with pytest.raises(Invalid, match=r"like \+4490\*"):
        pattern_of(text)


def test_a_caller_is_meant_by_each_beginning_of_the_number() -> None:
    """The narrowest pattern comes first, so that an exception can be made for one number."""
    assert patterns_for("+4490123") == [
        "+4490123", "+449012*", "+44901*", "+4490*", "+449*", "+44*", "+4*",
    ]  # fmt: skip
    assert all(pattern_of(one) == one for one in patterns_for("+12025550134"))


@pytest.mark.parametrize(
    ("matched", "attestation", "held"),
    [
        (True, "A", Rung.ATTESTED),
        (True, "B", Rung.NUMBER_MATCH),  # the carrier knows the caller, not the number
        (True, "C", Rung.NUMBER_MATCH),
        (True, None, Rung.NUMBER_MATCH),
        (False, "A", Rung.UNKNOWN),  # a true number of somebody we don't know
    ],
)
def test_the_rung_of_an_attested_caller(matched: bool, attestation: Any, held: Rung) -> None:
    """Only a carrier's full word for a number that we know lifts a caller."""
    assert rung(matched=matched, attestation=attestation) is held
