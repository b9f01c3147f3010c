"""What follows an attempt at a delivery."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.webhooks.retry import (
    LONGEST_WAIT,
    SCHEDULE,
    Decision,
    Delivered,
    GiveUp,
    RetryAt,
    decide,
    is_given_up,
)

NOW = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
S = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("attempt", "status", "jitter", "expected"),
    [
        (1, 200, 1.0, Delivered()),
        (9, 299, 1.0, Delivered()),  # the last attempt counts as well
        (1, 500, 1.0, RetryAt(NOW + 5 * S)),  # the whole first wait
        (1, 500, 0.0, RetryAt(NOW)),  # full jitter reaches down to at once
        (1, 500, 0.5, RetryAt(NOW + 2.5 * S)),
        (2, 503, 1.0, RetryAt(NOW + 60 * S)),
        (1, None, 1.0, RetryAt(NOW + 5 * S)),  # no answer at all
        (1, 301, 1.0, RetryAt(NOW + 5 * S)),  # a redirect is a failure
        (1, 404, 1.0, RetryAt(NOW + 5 * S)),  # a deployment may be under way
        (1, 199, 1.0, RetryAt(NOW + 5 * S)),
        (1, 300, 1.0, RetryAt(NOW + 5 * S)),
        (8, 500, 1.0, RetryAt(NOW + timedelta(hours=28))),  # the longest wait
        (9, 500, 1.0, GiveUp("all 9 attempts failed")),  # eight waits, so the ninth is the last
        (9, None, 0.0, GiveUp("all 9 attempts failed")),
        (1, 410, 1.0, GiveUp("the receiver answered 410 Gone", disable=True)),
        (9, 410, 1.0, GiveUp("the receiver answered 410 Gone", disable=True)),
    ],
)
def test_what_follows_an_attempt(
    attempt: int, status: int | None, jitter: float, expected: Decision
) -> None:
    """Only 2xx delivers; 410 switches off; all else is tried again on schedule, then given up."""
    assert decide(attempt=attempt, status=status, now=NOW, jitter=jitter) == expected


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("120", 120 * S),
        (" 120 ", 120 * S),
        ("Thu, 15 Jan 2026 09:32:00 GMT", 120 * S),  # an HTTP date
        ("Thu, 15 Jan 2026 09:32:00 -0000", 120 * S),  # a zone left open is UTC
        ("1", 5 * S),  # never sooner than planned
        ("Thu, 15 Jan 2026 09:00:00 GMT", 5 * S),  # already past
        ("99999999999999999999999999", LONGEST_WAIT),  # nobody holds a delivery for ever
        ("Thu, 15 Jan 2099 09:30:00 GMT", LONGEST_WAIT),
        (None, 5 * S),
        ("", 5 * S),
        ("soon", 5 * S),
        ("-5", 5 * S),
        ("1.5", 5 * S),  # not in the grammar
        ("²", 5 * S),  # a digit for Python, not for HTTP
    ],
)
def test_a_receiver_may_ask_for_a_longer_wait(header: str | None, wait: timedelta) -> None:
    """Retry-After, in seconds or as a date, lengthens the wait within bounds; nonsense changes nothing."""
    decision = decide(attempt=1, status=429, now=NOW, jitter=1.0, retry_after=header)
    assert decision == RetryAt(NOW + wait)


@given(
    attempt=st.integers(1, len(SCHEDULE)),
    jitter=st.floats(0, 1),
    header=st.one_of(st.none(), st.text(max_size=40)),
)
def test_no_retry_is_in_the_past_or_later_than_the_longest_wait(
    attempt: int, jitter: float, header: str | None
) -> None:
    """Whatever the header says, the next attempt lies between now and the longest wait."""
    decision = decide(attempt=attempt, status=503, now=NOW, jitter=jitter, retry_after=header)
    assert isinstance(decision, RetryAt)
    assert NOW <= decision.at <= NOW + LONGEST_WAIT


def test_the_schedule_spans_three_days() -> None:
    """Nine attempts, each wait longer than the one before, from 5 s to three days in all."""
    assert len(SCHEDULE) + 1 == 9
    assert list(SCHEDULE) == sorted(SCHEDULE)
    assert SCHEDULE[0] == 5 * S
    assert timedelta(days=3) <= sum(SCHEDULE, timedelta()) < timedelta(days=3, hours=1)


@pytest.mark.parametrize("jitter", [-0.1, 1.1])
def test_jitter_is_a_part_of_the_wait(jitter: float) -> None:
    """A jitter that is no part from 0 to 1 is a mistake of the caller."""
    with pytest.raises(ValueError, match="from 0 to 1"):
        decide(attempt=1, status=500, now=NOW, jitter=jitter)


@pytest.mark.parametrize(
    ("days", "failures", "expected"),
    [
        (3, 20, True),
        (2.9, 500, False),  # a long weekend's outage is no reason
        (30, 19, False),  # two bad events of a quiet endpoint are none either
        (30, 20, True),
    ],
)
def test_when_an_endpoint_is_given_up(days: float, failures: int, expected: bool) -> None:
    """It takes both: three days without a success, and twenty failures in a row."""
    since = NOW - timedelta(days=days)
    assert is_given_up(failing_since=since, failures=failures, now=NOW) is expected


def test_one_that_does_not_fail_is_never_given_up() -> None:
    """Without a first failure there is nothing to count from."""
    assert not is_given_up(failing_since=None, failures=99, now=NOW)
