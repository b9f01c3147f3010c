"""What is known of a call when it comes in, before anything is looked up. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from trunkline.desk import sip
from trunkline.desk.identity import Attestation


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
    reason: str | None = None
    """Why we call; of calls that we place."""
    attestation: Attestation | None = None
    """How far the carrier vouches for the caller's number."""


def from_sip(room: str, identity: str, attributes: Mapping[str, str]) -> Arrival:
    """The arrival of a SIP participant, as far as its *attributes* tell. Never fails."""
    call = sip.read(attributes)
    return Arrival(
        room=room,
        channel="sip",
        from_raw=call.from_raw,
        to_raw=call.to_raw or "",
        direction=call.direction,
        participant=sip.clean(identity),
        sip_call_id=call.call_id,
        sip_trunk_id=call.trunk_id,
        attestation=call.attestation,
    )
