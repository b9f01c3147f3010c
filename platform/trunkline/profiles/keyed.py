"""Keys that only the right caller knows, kept so that nobody can read them off a profile. Pure.

A code of a few digits can be found by trying all of them, whatever it is hashed with; this keeps it from
being read by whoever sees a profile, a backup or a screen. What protects it is the number of tries in a call.
"""

import hashlib
import hmac

_MARK = "scrypt:"
_SALT = b"trunkline entries"
"""The same for all: a profile that is read twice from one file must be the same profile."""


def sealed(keys: str) -> str:
    """How *keys* are kept; what is sealed already stays as it is."""
    if keys.startswith(_MARK):
        return keys
    # About 50 ms and 16 MB (RFC 7914 §2 names these costs for interactive use).
    digest = hashlib.scrypt(keys.encode(), salt=_SALT, n=2**14, r=8, p=1, dklen=32)
    return _MARK + digest.hex()


def opens(keys: str, accepted: list[str]) -> bool:
    """Whether *keys* are among those *accepted*, which are ``sealed``."""
    tried = sealed(keys)
    return any(hmac.compare_digest(tried, one) for one in accepted)
