"""How sure we are who is calling, as a ladder, and what each rung may do. Pure."""

from enum import IntEnum

from trunkline.errors import Refused


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


def require(held: Rung, needed: Rung) -> None:
    """Raise Refused unless *held* reaches *needed*."""
    if held < needed:
        raise Refused(
            f"this needs a caller who is {needed.name.lower().replace('_', ' ')}, "
            f"this one is {held.name.lower().replace('_', ' ')}"
        )
