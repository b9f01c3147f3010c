"""What the courier is told at start."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class CourierOptions:
    """Limits of delivery; picklable, reads no environment."""

    total: timedelta = timedelta(seconds=15)
    """Longest time one attempt may take, from connecting to the last byte of the answer that is kept.
    Standard Webhooks advises 15 to 30 s."""
    connect: timedelta = timedelta(seconds=5)
    """Longest time to a connection, TLS included."""
    lease: timedelta = timedelta(seconds=30)
    """How long a claimed delivery is left alone. Above ``total``, or a slow one is sent twice."""
    grace: timedelta = timedelta(seconds=5)
    """How long attempts under way may still take when the courier is asked to stop."""
    idle: timedelta = timedelta(seconds=1)
    """Longest wait without looking, should a wake-up get lost. Also the wait after a failed round."""
    max_in_flight: int = 32
    """Attempts at the same time."""
    max_per_endpoint: int = 4
    """Attempts at the same time to one endpoint, so that a slow one never holds up the others."""
    max_body_bytes: int = 4_096
    """How much of an answer is read and kept."""
    batch: int = 500
    """Events published in one transaction."""

    def __post_init__(self) -> None:
        if self.lease <= self.total:
            raise ValueError(
                f"lease ({self.lease.total_seconds():g} s) must be longer than "
                f"total ({self.total.total_seconds():g} s)"
            )
