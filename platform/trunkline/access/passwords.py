"""Passwords: what is good enough, and how one is kept. Pure, but slow on purpose.

A hash takes about 50 ms of one core (argon2id with the parameters of RFC 9106 §4's second
recommendation, as pwdlib has them), so edges run these in a thread.
"""

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from trunkline.errors import Invalid

LEAST, MOST = 12, 200
"""Characters. Longer beats stranger (NIST SP 800-63B-4 §3.1.1.2): no rules on digits and signs."""

_WORN = ("password", "passwort", "trunkline", "qwerty", "letmein", "welcome", "changeme", "123456")
"""What guessing begins with; a password that is one of them, filled up with digits, is refused."""

_hasher = PasswordHash((Argon2Hasher(),))
_NOBODY = _hasher.hash("nobody has this password")


def check(password: str, *, email: str = "") -> None:
    """Raise Invalid, with what to do, when *password* would be guessed soon."""
    if not LEAST <= len(password) <= MOST:
        raise Invalid(
            f"choose a password of {LEAST} to {MOST} characters; four unrelated words are a good one"
        )
    letters = "".join(c for c in password.casefold() if c.isalpha())
    mailbox = email.partition("@")[0].casefold()
    if len(set(password)) < 5 or letters in ("", *_WORN) or (mailbox and letters == mailbox):
        raise Invalid("this password would be guessed soon; take four unrelated words, for example")


def hashed(password: str) -> str:
    """What is stored: algorithm, parameters, salt and hash in PHC form."""
    return _hasher.hash(password)


def matches(password: str, stored: str | None) -> bool:
    """Whether *password* is the stored one. None (nobody, or no password) takes as long and is False."""
    good = _hasher.verify(password[: MOST + 1], stored or _NOBODY)
    return good and stored is not None
