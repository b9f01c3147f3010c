"""Secrets at rest: sealed with a key that is kept outside the database.

Fernet (https://github.com/fernet/spec): AES-128-CBC with an HMAC-SHA256, so that a changed token does not
open. Several keys may be known at once: the first one seals, all of them open, which is how a key is
replaced without a moment at which nothing can be read.
"""

import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_PREFIX = "fernet:"


class CryptError(Exception):
    """A key or a sealed text cannot be used; the message says what to do about it."""


def new_key() -> str:
    """A fresh key: 32 random bytes in URL-safe base64."""
    return Fernet.generate_key().decode()


def key_in(path: Path) -> str:
    """The key in the file *path*, which is made, readable by its owner alone, if there is none.

    For a deployment on one machine; where several share a database each must be given the same key.
    Raises CryptError when the file can be neither read nor made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path.read_text(encoding="ascii").strip()
        with os.fdopen(handle, "w", encoding="ascii") as file:
            key = new_key()
            file.write(key + "\n")
        return key
    except (OSError, UnicodeDecodeError) as error:
        raise CryptError(f"the key file {path} cannot be used: {error}") from error


def sign(keys: Sequence[str], purpose: str, text: str) -> str:
    """The signature of *text* for *purpose*: HMAC-SHA256 (RFC 2104), in hexadecimal.

    The first of *keys* signs, through a key of its own per purpose, so that a signature for one never
    serves another. Raises CryptError when there is no key.
    """
    if not keys:
        raise CryptError("no key to sign with; give at least one")
    return _signature(keys[0], purpose, text)


def is_signed(keys: Sequence[str], purpose: str, text: str, signature: str) -> bool:
    """Whether one of *keys* made *signature* for *text* and *purpose*; compared in constant time."""
    return any(
        hmac.compare_digest(_signature(key, purpose, text).encode(), signature.encode())
        for key in keys
    )


def _signature(key: str, purpose: str, text: str) -> str:
    derived = hmac.digest(key.encode(), purpose.encode(), "sha256")
    return hmac.digest(derived, text.encode(), "sha256").hex()


class Sealer:
    """Seals and opens short texts. The first of *keys* seals, all of them open. Raises CryptError."""

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise CryptError("no key to seal secrets with; give at least one")
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except (ValueError, TypeError) as error:
            # The key itself is never repeated.
            raise CryptError(
                "a key to seal secrets with is not 32 bytes in URL-safe base64; make one with: "
                'python -c "import base64,os;print(base64.urlsafe_b64encode(os.urandom(32)).decode())"'
            ) from error

    def seal(self, text: str) -> str:
        """*text*, unreadable without a key; different each time."""
        return _PREFIX + self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """What was sealed. A text that never was is returned as it is; raises CryptError for one that
        none of the keys opens."""
        if not sealed.startswith(_PREFIX):
            return sealed
        try:
            return self._fernet.decrypt(sealed.removeprefix(_PREFIX)).decode()
        except InvalidToken:
            raise CryptError(
                "a stored secret does not open with any of the keys given; "
                "give the one it was sealed with too"
            ) from None

    def reseal(self, sealed: str) -> str:
        """The same secret, sealed with the first key."""
        return self.seal(self.open(sealed))
