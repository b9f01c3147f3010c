"""When a caller who waits because of a failure hears that somebody is there."""

from trunkline.agent.models.bridge import AFTER_S, Bridge


def waiting(*, trouble: bool = True) -> Bridge:
    """The caller ended at 10 s."""
    bridge = Bridge("One moment.")
    if trouble:
        bridge.trouble()
    bridge.caller(9.0, speaks=True)
    bridge.caller(10.0, speaks=False)
    return bridge


def test_the_words_are_due_once_after_a_while() -> None:
    """Not before the time, then once for each wait, also when what failed did so while the caller spoke."""
    bridge = waiting()
    assert bridge.take(10.0 + AFTER_S - 0.01) is None
    assert bridge.take(10.0 + AFTER_S) == "One moment."
    assert bridge.take(10.0 + 2 * AFTER_S) is None


def test_an_answer_in_good_health_needs_no_words() -> None:
    """Nothing failed: nothing is said, however long it takes; a failure in the wait makes it due."""
    bridge = waiting(trouble=False)
    assert bridge.take(20.0) is None
    bridge.trouble()
    assert bridge.take(20.0) == "One moment."


def test_nobody_waits() -> None:
    """While the caller speaks, and once the agent is heard, nothing is due; the next wait is
    a healthy one."""
    bridge = waiting()
    bridge.caller(10.5, speaks=True)
    assert bridge.take(20.0) is None
    bridge.caller(20.0, speaks=False)
    bridge.agent()
    assert bridge.take(30.0) is None
    bridge.caller(31.0, speaks=True)
    bridge.caller(32.0, speaks=False)
    assert bridge.take(40.0) is None
