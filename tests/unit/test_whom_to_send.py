"""Whom the guardian sends for when a room rings without an agent."""

from datetime import timedelta

import pytest

from trunkline.desk.sip import AGENT, RESCUE
from trunkline.guardian import GuardianOptions, whom_to_send


@pytest.mark.parametrize(
    ("rings_s", "sent", "rescues", "coming", "agent"),
    [
        (0.9, 1, 0, False, None),  # the first dispatch may still find somebody
        (1.0, 1, 0, False, AGENT),
        (1.0, 1, 0, True, None),  # an agent has taken the job
        (1.5, 2, 0, False, None),  # one was sent for half a second ago
        (2.0, 2, 0, False, AGENT),
        (3.9, 3, 0, False, None),  # twice is enough; nobody is there
        (4.0, 3, 0, False, RESCUE),
        (4.0, 1, 0, True, RESCUE),  # whoever took the job is not in the room yet
        (4.1, 3, 1, False, None),
        (7.9, 3, 1, False, None),
        (8.0, 3, 1, False, RESCUE),  # the rescue itself did not come
        (16.0, 3, 2, False, RESCUE),
        (31.9, 3, 3, False, None),
    ],
)
def test_whom_to_send(
    rings_s: float, sent: int, rescues: int, coming: bool, agent: str | None
) -> None:
    """An agent after one second and after two; after four the rescue, then ever more rarely."""
    found = whom_to_send(
        GuardianOptions(), timedelta(seconds=rings_s), sent=sent, rescues=rescues, coming=coming
    )
    assert found == agent
