"""How sure we are who is calling, as a ladder, and what each rung may do. Pure."""

from enum import IntEnum
from typing import Literal

from trunkline.errors import Refused

Attestation = Literal["A", "B", "C"]
"""How far a carrier vouches for a caller's number (ATIS-1000074, STIR/SHAKEN): A, it knows the caller and
their right to the number; B, it knows the caller only; C, it knows neither."""


class Rung(IntEnum):
    """How sure we are. Each rung includes those below it."""

    UNKNOWN = 0
    """Nobody we know, or a withheld number."""
    NUMBER_MATCH = 1
    """The number belongs to a contact. A number can be forged."""
    ATTESTED = 2
    """The carrier vouches for the number (STIR/SHAKEN level A)."""
    VERIFIED = 3
    """The caller has proved who they are in this call."""


def rung(*, matched: bool, attestation: Attestation | None) -> Rung:
    """How sure we are of a caller whose number belongs to a contact, or not (*matched*).

    A carrier's word for a number says nothing of somebody whom we don't know.
    """
    if not matched:
        return Rung.UNKNOWN
    return Rung.ATTESTED if attestation == "A" else Rung.NUMBER_MATCH


def require(held: Rung, needed: Rung) -> None:
    """Raise Refused unless *held* reaches *needed*."""
    if held < needed:
        raise Refused(
            f"this needs a caller who is {needed.name.lower().replace('_', ' ')}, "
            f"this one is {held.name.lower().replace('_', ' ')}"
        )
