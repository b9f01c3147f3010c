"""The table of a call's life: every state × signal has exactly this answer."""

import pytest

from trunkline.calls.lifecycle import NEXT, EndReason, Signal, State, after
from trunkline.errors import IllegalTransition

# One row per state; columns in the order of Signal; "-" is refused.
TABLE = """
              ring          answer   hold  resume   transfer      rescue   take_over  end
queued        ringing       -        -     -        -             -        -          ended
ringing       ringing       talking  -     -        -             rescued  -          ended
talking       talking       talking  held  -        transferring  rescued  talking    ended
held          held          talking  held  talking  -             rescued  talking    ended
transferring  transferring  talking  -     talking  -             rescued  talking    ended
rescued       rescued       rescued  -     talking  -             rescued  talking    ended
ended         ended         ended    -     -        -             ended    ended      ended
"""


def _cells() -> list[tuple[str, str, str]]:
    head, *rows = (line.split() for line in TABLE.strip().splitlines())
    return [
        (state, signal, cell)
        for state, *cells in rows
        for signal, cell in zip(head, cells, strict=True)
    ]


@pytest.mark.parametrize(("state", "signal", "expected"), _cells())
def test_each_state_answers_each_signal(state: str, signal: str, expected: str) -> None:
    """A call goes to the state that the table says, or the signal is refused with both words."""
    if expected == "-":
        with pytest.raises(IllegalTransition, match=f"{state} cannot {signal}"):
            after(State(state), Signal(signal))
    else:
        assert after(State(state), Signal(signal)) == expected


def test_the_table_is_complete() -> None:
    """Every state and signal of the code stands in the table above."""
    cells = {(state, signal) for state, signal, _ in _cells()}
    assert cells == {(str(state), str(signal)) for state in State for signal in Signal}


def test_every_call_can_end_and_stays_ended() -> None:
    """From anywhere a call can end, and nothing leads out of the end."""
    assert all(after(state, Signal.END) is State.ENDED for state in State)
    assert set(NEXT[State.ENDED].values()) == {State.ENDED}


def test_every_state_is_reached() -> None:
    """No state is written in vain: all can be reached from a call that is queued."""
    reached = {State.QUEUED}
    while new := {state for known in reached for state in NEXT[known].values()} - reached:
        reached |= new
    assert reached == set(State)


def test_end_reasons_fit_their_column() -> None:
    """The stable words fit into calls.end_reason and legs.outcome, 30 characters each."""
    assert max(map(len, EndReason)) <= 30
