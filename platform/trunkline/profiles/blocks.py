"""Which callers a pattern means: one number, or all that begin alike. Pure."""

import re
from typing import Literal, get_args

from trunkline.errors import Invalid
from trunkline.kit import phone

Action = Literal["reject", "message"]
ACTIONS: tuple[str, ...] = get_args(Action)

_PREFIX = re.compile(r"\+[1-9][0-9]{0,13}\*")
"""At least a digit, at most one fewer than a whole number has (ITU-T E.164)."""


def pattern_of(text: str) -> str:
    """The pattern that people write as ``+44 90*`` or ``+44 20 7946 0123``. Raises Invalid."""
    if text.rstrip().endswith("*"):
        # "(0)" is how people write the zero that is left out with a country code.
        plain = re.sub(r"[\s().\-\u00a0]", "", text.replace("(0)", ""))
        if not _PREFIX.fullmatch(plain):
            raise Invalid(
                f"{phone.mask(text.strip())!r} is no beginning of a number; "
                "write + and the country code, then a star, like +4490*"
            )
        return plain
    try:
        return phone.parse(text, region=None).e164
    except ValueError as error:
        raise Invalid(f"{error}, or the beginning of numbers and a star, like +4490*") from None


def patterns_for(e164: str) -> list[str]:
    """Every pattern that means the caller *e164*, the narrowest first."""
    return [e164, *(f"{e164[:end]}*" for end in range(len(e164) - 1, 1, -1))]
