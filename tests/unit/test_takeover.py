"""Whom to send for to a caller whose agent died."""

from datetime import timedelta

import pytest
from livekit import api

from trunkline.desk.sip import AGENT, RESCUE
from trunkline.desk.takeover import MOST_AGENTS, MOST_RESCUES, next_agent

S = round(timedelta(seconds=1) / timedelta(microseconds=1)) * 1000


def sent(agent: str, at: int, *, taken: bool = True) -> api.AgentDispatch:
    """An agent that was sent for in second *at*, and whether one took the job."""
    made = api.AgentDispatch(agent_name=agent)
    made.state.created_at = at * S
    if taken:
        made.state.jobs.add()
    return made


FIRST = sent(AGENT, 0)
NOBODY = sent(AGENT, 9, taken=False)


@pytest.mark.parametrize(
    ("dispatches", "expected"),
    [
        ([FIRST], AGENT),
        # The list is in no order; nobody took the newest.
        ([NOBODY, FIRST], RESCUE),
        # It rang when every line was busy, and the menu's process died.
        ([sent(AGENT, 0, taken=False), sent(RESCUE, 1)], RESCUE),
        # Somebody sent for the menu alone.
        ([sent(RESCUE, 1)], AGENT),
        # A call that has killed so many agents would kill the next one.
        ([sent(AGENT, n) for n in range(MOST_AGENTS)], RESCUE),
        ([NOBODY, *[sent(RESCUE, n) for n in range(MOST_RESCUES)]], None),
    ],
    ids=["first", "nobody-free", "menu-died", "menu-alone", "too-many", "enough"],
)
def test_whom_to_send_for(dispatches: list[api.AgentDispatch], expected: str | None) -> None:
    """Another agent while agents come and live, then the menu, and in the end nobody."""
    assert next_agent(dispatches) == expected
