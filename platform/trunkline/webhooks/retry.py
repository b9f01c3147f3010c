"""What follows an attempt at a delivery: a rule without I/O."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

SCHEDULE: tuple[timedelta, ...] = (
    timedelta(seconds=5),
    timedelta(minutes=1),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=5),
    timedelta(hours=16),
    timedelta(hours=22),
    timedelta(hours=28),
)
"""Upper bounds of the waits after the first, second … attempt: nine attempts within three days, near the
example in the Standard Webhooks specification. Each wait is a random part of its bound ("full
jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter), so that what
failed together does not come back together."""

LONGEST_WAIT = timedelta(hours=28)
"""No ``Retry-After`` is obeyed for longer than this."""


FAILING_FOR = timedelta(days=3)
FAILURES_IN_A_ROW = 20
"""An endpoint is switched off when nothing has reached it for three days, as long as one delivery is
tried, and at least 20 attempts have failed since: more than two deliveries make, so a quiet endpoint is
not given up for one bad event."""


FAILING_FROM = 3
"""From so many failures in a row on an endpoint is in the lane of those that fail, apart from the others.
Fewer happen to everyone who is busy for a moment."""


def is_given_up(*, failing_since: datetime | None, failures: int, now: datetime) -> bool:
    """Whether an endpoint is to be switched off that failed so often in a row since *failing_since*."""
    if failing_since is None:
        return False
    return failures >= FAILURES_IN_A_ROW and now - failing_since >= FAILING_FOR


@dataclass(frozen=True)
class Delivered:
    """The receiver has it."""


@dataclass(frozen=True)
class RetryAt:
    """Try again at this moment."""

    at: datetime


@dataclass(frozen=True)
class GiveUp:
    """Try no more."""

    reason: str
    disable: bool = False
    """Whether the endpoint itself is to be switched off."""


Decision = Delivered | RetryAt | GiveUp


def decide(
    *,
    attempt: int,
    status: int | None,
    now: datetime,
    jitter: float,
    retry_after: str | None = None,
    schedule: tuple[timedelta, ...] = SCHEDULE,
) -> Decision:
    """Say what follows attempt number *attempt* (1 = the first).

    *status* is None when no answer came. *jitter*, from 0 to 1, is the part of the scheduled wait that is
    waited. *retry_after* is the header of that name; it can only lengthen the wait.
    """
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter is a part of the wait, from 0 to 1, not {jitter}")
    if status is not None and 200 <= status < 300:
        return Delivered()
    if status == 410:
        return GiveUp("the receiver answered 410 Gone", disable=True)
    if attempt > len(schedule):
        return GiveUp(f"all {attempt} attempts failed")
    at = now + schedule[attempt - 1] * jitter
    asked = wait_asked_for(retry_after, now=now)
    return RetryAt(at if asked is None else max(at, now + asked))


def wait_asked_for(retry_after: str | None, *, now: datetime) -> timedelta | None:
    """How long a ``Retry-After`` header asks to wait, at most LONGEST_WAIT; None if it says nothing sensible.

    Its value is seconds or an HTTP date (RFC 9110, section 10.2.3).
    """
    text = (retry_after or "").strip()
    if text.isascii() and text.isdecimal():
        # More digits than this would not fit into a timedelta.
        return min(timedelta(seconds=int(text[:12])), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(moment - now, LONGEST_WAIT)
