"""Money as whole minor units and an ISO 4217 currency, never as a float."""

from dataclasses import dataclass

_DIGITS = {"JPY": 0, "KRW": 0, "VND": 0, "CLP": 0, "ISK": 0, "KWD": 3, "BHD": 3, "TND": 3}
"""Minor-unit digits that differ from two (ISO 4217, table A.1)."""


@dataclass(frozen=True)
class Money:
    """An amount: ``Money(240_000, "USD")`` is 2,400.00 US dollars."""

    minor: int
    currency: str

    @property
    def digits(self) -> int:
        """How many digits of *minor* stand behind the point."""
        return _DIGITS.get(self.currency, 2)

    def __str__(self) -> str:
        digits = self.digits
        whole, rest = divmod(abs(self.minor), 10**digits)
        sign = "-" if self.minor < 0 else ""
        tail = f".{rest:0{digits}d}" if digits else ""
        return f"{sign}{whole:,}{tail} {self.currency}"
