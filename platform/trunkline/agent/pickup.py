"""How long each part of picking up took, for the log and the bench."""

import time
from contextvars import ContextVar


class Pickup:
    """When what was done, in milliseconds since *received_at* (seconds since the epoch), when LiveKit
    asked for an agent."""

    def __init__(self, received_at: float) -> None:
        self._received_at = received_at
        self.at_ms: dict[str, int] = {}

    def note(self, what: str) -> None:
        """*what* is done. The first time counts."""
        self.at_ms.setdefault(what, round((time.time() - self._received_at) * 1000))


_current: ContextVar[Pickup | None] = ContextVar("pickup", default=None)


def follow(pickup: Pickup) -> None:
    """What is noted from now on, here and in tasks made here, is noted in *pickup*."""
    _current.set(pickup)


def note(what: str) -> None:
    """*what* is done, on whatever line; nothing when nobody follows."""
    if (pickup := _current.get()) is not None:
        pickup.note(what)


def at_ms() -> dict[str, int]:
    """All that was noted so far."""
    pickup = _current.get()
    return dict(pickup.at_ms) if pickup is not None else {}
