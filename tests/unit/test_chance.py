"""How slow and how broken each of the sandbox's connections is."""

import random
from datetime import timedelta

import pytest

from trunkline.sandbox.chance import Delay, delays, drawn
from trunkline.sandbox.faults import Fault
from trunkline.sandbox.options import Delays, SandboxOptions, Spread

TOKEN = "llm_first_token"


def many(options: SandboxOptions, seed: int = 1) -> list[SandboxOptions]:
    """What a thousand connections get."""
    return [drawn(options, random.Random(f"{seed} {n}")) for n in range(1000)]


def of(text: str) -> SandboxOptions:
    medians, spreads = delays([text])
    return SandboxOptions(delays=medians, spreads=spreads)


def test_a_fixed_delay_is_the_same_each_time() -> None:
    """Without a spread nothing is drawn."""
    assert {one.delays for one in many(of(f"{TOKEN}=375"))} == {Delays()}
    assert delays([f"{TOKEN}=375"]) == (Delays(), {})


def test_a_spread_delay_is_lognormal_around_its_median() -> None:
    """Half of them are below the median; two thirds within one sigma of its logarithm; none is below zero."""
    times = sorted(one.delays.llm_first_token for one in many(of(f"{TOKEN}=400~0.5")))
    assert abs(times[500] - timedelta(milliseconds=400)) < timedelta(milliseconds=30)
    within = [one for one in times if 400 / 1.6487 <= one.total_seconds() * 1000 <= 400 * 1.6487]
    assert 640 < len(within) < 730
    assert times[0] > timedelta(0)


def test_a_tail_takes_its_time() -> None:
    """About so many connections in a hundred take exactly as long as the tail."""
    times = [one.delays.llm_first_token for one in many(of(f"{TOKEN}=400,5%:3000"))]
    assert 30 < times.count(timedelta(seconds=3)) < 75
    assert set(times) == {timedelta(seconds=3), timedelta(milliseconds=400)}


def test_a_fault_strikes_by_chance() -> None:
    """About so many connections have it, and those for certain; one that is certain is always there."""
    given = (Fault.parse("llm:stall%10"), Fault.parse("tts:reset@2"))
    found = [one.faults for one in many(SandboxOptions(faults=given))]
    stalled = [faults for faults in found if len(faults) == 2]
    assert 70 < len(stalled) < 135
    assert {faults[-1] for faults in found} == {given[1]}
    assert {faults[0].chance for faults in stalled} == {1.0}


def test_the_same_seed_gives_the_same() -> None:
    """And another gives another."""
    options = of(f"{TOKEN}=400~0.5")
    assert many(options) == many(options)
    assert many(options) != many(options, seed=2)


@pytest.mark.parametrize("text", ["x=1", f"{TOKEN}=fast", f"{TOKEN}=1~", f"{TOKEN}=1,200%:3"])
def test_what_is_no_delay(text: str) -> None:
    """The sentence says how one is written and what there is."""
    with pytest.raises(ValueError, match=r"is no delay; write name=milliseconds.*stt_final"):
        Delay.parse(text)


def test_what_is_written() -> None:
    """All parts of one, and a fault's chance, are read as they are written."""
    one = Delay.parse(f"{TOKEN}=375~0.4,2%:3000")
    assert one.spread == Spread(0.4, 0.02, timedelta(seconds=3))
    assert Fault.parse("llm/gpt-4.1-mini:stall@2%2.5").text() == "llm/gpt-4.1-mini:stall@2%2.5"
    with pytest.raises(ValueError, match="at most 100 percent"):
        Fault.parse("llm:stall%101")
