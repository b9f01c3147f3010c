"""What is known of a call when it comes in, before anything is looked up. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arrival:
    """A call at the door.

    ``room`` is its unique name on the line, ``from_raw``/``to_raw`` the caller's and the dialled
    number as the line gave them (``from_raw`` None or ``anonymous`` when withheld).
    """

    room: str
    channel: str
    from_raw: str | None
    to_raw: str
    direction: str = "inbound"
    participant: str | None = None
    sip_call_id: str | None = None
    sip_trunk_id: str | None = None
