"""The one place that reads the time of day; everything else takes it as an argument."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present moment, aware and in UTC. Handed to edges, so that tests own the time."""


def utc_now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)
