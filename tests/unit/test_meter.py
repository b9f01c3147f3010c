"""What the bench reads from a caller's frames: the ruler itself."""

import math

from tests.bench.beside import Call
from tests.bench.calls import Plan, Result
from tests.bench.meter import Meter, Turn, percentile
from tests.bench.words import Reply

from trunkline.sandbox.caller import Say

LOUD, QUIET = 1000.0, 0.0
REPLY = Reply("One two three four five", (5, 15, 25, 35, 45))


def meter(*tracks: tuple[int, float, float]) -> Meter:
    """A call of so many frames with this loudness of the caller and of the agent, one after another."""
    made = Meter([Say("hello.wav"), Say("hello.wav")])
    for frames, said, heard in tracks:
        made.said += [said] * frames
        made.heard += [heard] * frames
    return made


def test_an_answer_counts_from_the_last_sound_to_the_first() -> None:
    """40 frames of 20 ms between the caller's last and the agent's first are 800 ms."""
    turns = meter((50, LOUD, QUIET), (40, QUIET, QUIET), (60, QUIET, LOUD), (30, QUIET, QUIET))
    assert turns.turns() == [Turn("hello.wav", False, 800, None, None, None, None)]


def test_an_interruption_tells_when_the_agent_stopped_and_how_much_was_heard() -> None:
    """It stops 8 frames after the caller's onset, for good: 160 ms, after 108 frames of its reply."""
    call = meter(
        (50, LOUD, QUIET),
        (40, QUIET, QUIET),
        (100, QUIET, LOUD),
        (8, LOUD, LOUD),
        (42, LOUD, QUIET),
        (37, QUIET, QUIET),
        (50, QUIET, LOUD),
    )
    assert call.turns()[1] == Turn("hello.wav", True, 740, 160, 160, 1580, 108)


def test_a_pause_that_goes_on_is_no_stop() -> None:
    """It falls silent after 160 ms and goes on after 300 ms, until 1.5 s after the caller's end."""
    call = meter(
        (50, LOUD, QUIET),
        (40, QUIET, QUIET),
        (100, QUIET, LOUD),
        (8, LOUD, LOUD),
        (15, LOUD, QUIET),
        (27, LOUD, LOUD),
        (75, QUIET, LOUD),
        (40, QUIET, QUIET),
    )
    turn = call.turns()[1]
    assert (turn.pause_ms, turn.stop_ms, turn.gap_ms) == (160, None, 300)


def test_words_stored_are_compared_with_those_heard() -> None:
    """28 frames are three words; five were stored: two more than were heard."""
    result = Result("x")
    turns = [
        Turn("what_plans_do_you_have.wav", False, 800, None, None, None, None),
        Turn("hello.wav", True, 900, 160, 160, 800, 28),
    ]
    result.take(turns, Call(60, ["Hello.", "One two three four five", "Yes?"]), REPLY)
    assert (result.firsts, result.stops, result.after_cut) == ([800], [160], [900])
    assert (result.words_off, result.lost, result.greetings) == ([2], 0, [60])


def test_an_answer_that_nods_have_spoilt_counts() -> None:
    """Said whole and once it is not spoilt; broken off or said twice it is."""
    turns = [Turn("asides/okay.wav", True, None, 160, None, 500, 90)]
    for said, spoilt in (
        (["One two three four five"], 0),
        (["One two three"], 1),
        (["One two three", "One two three four five"], 1),
    ):
        result = Result("x")
        result.take(turns, Call(60, said), REPLY)
        assert (result.spoilt, result.gaps) == (spoilt, [500])


def test_every_system_gets_the_same_callers() -> None:
    """The plan's dice start anew from its seed each time."""
    plan = Plan(at_once=2, turns=3, cuts=4, rounds=2, seed=8)
    assert plan.groups() == plan.groups()
    assert [len(group) for group in plan.groups()] == [2] * 6


def test_a_percentile_is_one_of_the_values() -> None:
    """Nearest rank; of nothing there is none."""
    assert percentile([40, 10, 30, 20], 0.5) == 20
    assert percentile([40, 10, 30, 20], 0.95) == 40
    assert math.isnan(percentile([], 0.5))
