"""Telephone numbers: every common way of writing one, stored as E.164, printed masked.

Reading is Google's libphonenumber (https://github.com/daviddrysdale/python-phonenumbers). A number
is taken when it is *possible* (the right length for its country), not only when it is in a range
known to be in use: ranges change faster than any table.

Not a contact's number, so refused: emergency numbers, short codes, and a number without its area
code. An extension is understood and dropped, since a caller's number never carries one.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from urllib.parse import unquote

import phonenumbers
from phonenumbers import PhoneNumberFormat, ValidationResult

_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
"""ITU-T E.164, 6.2.1: at most 15 digits, country code included."""

_HIDDEN = frozenset(
    {
        "anonymous",
        "blocked",
        "callerid blocked",
        "hidden",
        "id unavailable",
        "no caller id",
        "no number",
        "none",
        "not available",
        "not provided",
        "null",
        "number withheld",
        "out of area",
        "private",
        "private caller",
        "private number",
        "restricted",
        "suppressed",
        "unavailable",
        "undisclosed",
        "unknown",
        "unknown caller",
        "withheld",
    }
)
_HIDDEN_ON_KEYPAD = frozenset(
    {
        "+266696687",  # ANONYMOUS
        "+2562533",  # BLOCKED
        "+7378742833",  # RESTRICTED
        "+86282452253",  # UNAVAILABLE
        "+8656696",  # UNKNOWN
    }
)
"""The same words typed on a keypad, as carriers send them that pass only digits. None is a number in
use; without the plus sign they could be national ones that are."""

_ADDRESS = re.compile(r"<([^<>]*)>")
_URI = re.compile(r"(?P<scheme>sips?|tel|callto):/{0,2}(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_DIALLABLE = re.compile(r"[0-9+().\-*# ]+")

# A run of seven or more digits with the separators people write. A date is none.
_DATE = r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"
_RUN = re.compile(
    rf"(?:\+|(?<![^\W_]))(?!{_DATE})\d(?:[\s\u00a0()./\u2010-\u2015-]{{0,3}}\d){{6,}}(?![^\W_])"
    rf"|\+\d(?:[\s\u00a0()./\u2010-\u2015-]{{0,3}}\d){{6,}}"
)


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A number in E.164. Printing it in any way shows it masked; ``.e164`` is the clear one.

    Raises ValueError when *e164* is not ``+`` and 7 to 15 digits; use :func:`parse` for other forms.
    """

    e164: str = field(repr=False)
    raw: str = field(default="", repr=False, compare=False)
    """As it was given, before it was normalised; empty when that is ``e164`` itself."""

    def __post_init__(self) -> None:
        if not _E164.fullmatch(self.e164):
            raise ValueError(f"{mask(self.e164)!r} is not E.164; write + and 7 to 15 digits")

    def __str__(self) -> str:
        return _masked(self.e164)

    def __repr__(self) -> str:
        return f"PhoneNumber({_masked(self.e164)})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def national(self) -> str:
        """In clear, as people of its country write it: ``(202) 555-0134``."""
        return self._written(PhoneNumberFormat.NATIONAL)

    @property
    def international(self) -> str:
        """In clear, as people of other countries write it: ``+1 202-555-0134``."""
        return self._written(PhoneNumberFormat.INTERNATIONAL)

    def _written(self, form: int) -> str:
        try:
            return phonenumbers.format_number(phonenumbers.parse(self.e164, None), form)
        except phonenumbers.NumberParseException:  # a country code that does not exist (yet)
            return self.e164


def parse(text: str, *, region: str | None) -> PhoneNumber:
    """Read a number written in any common way; *region* (ISO 3166, "US") is where national ones are.

    Raises ValueError with a sentence that says what to write; digits in it are masked.
    """
    home = _region(region)
    written = _unwrapped(_plain(text))
    if not any(c.isdigit() for c in written):
        raise ValueError(f"{_shown(text)} is no telephone number; {_ADVICE}")
    if home and not written.startswith("+") and _is_short(written, home):
        raise ValueError(
            f"{_shown(text)} is a short or emergency number in {home}, which is nobody's own; {_ADVICE}"
        )
    faults = []
    for candidate, reading_region in _readings(written, home):
        try:
            number = phonenumbers.parse(candidate, reading_region)
        except phonenumbers.NumberParseException:
            continue
        fault = _fault(number)
        if fault is None:
            e164 = phonenumbers.format_number(number, PhoneNumberFormat.E164)
            return PhoneNumber(e164, "" if text == e164 else text)
        faults.append(fault)
    if faults:
        raise ValueError(f"{_shown(text)} {faults[0]}; {_ADVICE}")
    if home is None and not written.startswith("+"):
        raise ValueError(
            f"{_shown(text)} has no country code, and no region says which country is meant; {_ADVICE}"
        )
    raise ValueError(f"{_shown(text)} is no telephone number; {_ADVICE}")


def zones(e164: str) -> tuple[str, ...]:
    """The IANA time zones in which a number may be, by its country and area code; none when unknown.

    A mobile number keeps its area code where it moves to, and some countries' numbers say only the
    country, so several may be given.
    """
    # Its table takes a moment to load, and only who calls out needs it.
    from phonenumbers import timezone

    found = timezone.time_zones_for_number(phonenumbers.parse(e164))
    return tuple(name for name in found if name != timezone.UNKNOWN_TIMEZONE)


def parse_caller(text: str | None, *, region: str | None) -> PhoneNumber | None:
    """Like :func:`parse`, for what a carrier says of a caller: None when they hide their number.

    Hidden are: nothing at all, ``anonymous``, ``restricted``, ``unavailable`` and the like, also as
    a SIP address (RFC 3323 4.1.1.3: ``sip:anonymous@anonymous.invalid``) or typed on a keypad.
    Raises ValueError for anything else that is no number.
    """
    plain = _plain(text or "")
    inner = _unwrapped(plain)
    for form in (plain, inner, inner.partition(";")[0]):
        word = re.sub(r"[\s_.\-+\"']+", " ", form).strip().casefold()
        if word in _HIDDEN or not any(c.isalnum() for c in word) or not word.strip("0 "):
            return None
    if inner in _HIDDEN_ON_KEYPAD:
        return None
    return parse(text or "", region=region)


def mask(text: str) -> str:
    """Hide the middle of every run of digits in *text* that may be a telephone number.

    Those are seven digits or more, with the separators that people write. Masking again
    changes nothing.
    """
    return _RUN.sub(lambda found: _masked(found.group()), text)


_ADVICE = "write it with + and the country code, like +1 202 555 0134"


def _masked(text: str) -> str:
    """The last four digits and, of what is left, at most four while three stay hidden."""
    digits = [c for c in text if c.isdigit()]
    head = max(0, min(4, len(digits) - 7))
    plus = "+" if text.startswith("+") else ""
    return f"{plus}{''.join(digits[:head])}•••{''.join(digits[-4:])}"


def _shown(text: str) -> str:
    """The text as an error may repeat it."""
    return repr(mask(_plain(text))[:60])


def _plain(text: str) -> str:
    """Full-width forms and any script's digits as ASCII, without invisible characters."""
    kept = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if category == "Nd":
            kept.append(str(unicodedata.decimal(char)))
        elif category == "Cc":
            kept.append(" ")
        elif category != "Cf":  # direction marks and zero-width joiners come with copied numbers
            kept.append(char)
    return "".join(kept).strip()


def _unwrapped(text: str) -> str:
    """The number within ``"Name" <uri>``, ``sip:`` and ``tel:`` forms (RFC 3261, RFC 3966)."""
    address = _ADDRESS.search(text)
    if address:
        text = address.group(1).strip()
    uri = _URI.fullmatch(text)
    if not uri:
        return text
    rest = unquote(uri["rest"])
    if uri["scheme"].lower() in ("tel", "callto"):
        user = rest
    else:
        # A SIP user may carry a password and telephone parameters; without one it is a host only.
        user, at, _ = rest.rpartition("@")
        if not at:
            user = rest.partition(";")[0]
        user = user.partition(":")[0]
    number, _, parameters = user.partition(";")
    number = number.strip()
    if not _DIALLABLE.fullmatch(number):
        return number if not any(c.isdigit() for c in number) else ""
    context = re.search(r"phone-context=(\+[0-9.()\-]+)", parameters)
    if context and not number.startswith("+"):
        return context.group(1) + number
    return number


def _region(region: str | None) -> str | None:
    if region is None:
        return None
    upper = region.strip().upper()
    if upper not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError(f"{region!r} is no country; write its two letters, like US or DE")
    return upper


def _is_short(written: str, home: str) -> bool:
    digits = "".join(c for c in written if c.isdigit())
    if phonenumbers.is_emergency_number(digits, home):
        return True
    try:
        number = phonenumbers.parse(digits, home)
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_short_number_for_region(
        number, home
    ) and not phonenumbers.is_valid_number(number)


def _readings(written: str, home: str | None) -> list[tuple[str, str | None]]:
    """The ways to read it, most likely first, as (text, region)."""
    # "00+1…" and "+001…" have both the plus sign and what it stands for.
    written = re.sub(r"^(?:\+\s*00|00\s*\+)\s*", "+", written)
    if written.startswith("+"):
        return [(written, None)]
    readings: list[tuple[str, str | None]] = []
    if home:
        readings.append((written, home))
    digits = "".join(c for c in written if c.isdigit())
    if digits.startswith("00"):
        # ITU-T E.164 recommends 00 for calls abroad; it is written so also where another is dialled.
        readings.append(("+" + written.replace("0", "", 2), None))
    elif home and len(digits) >= 11 and digits[0] != "0":
        # Carriers leave the plus sign out. Only a number in use is believed over a merely
        # possible national one.
        abroad = ("+" + digits, None)
        if not _in_use(written, home) and _in_use(*abroad):
            readings.insert(0, abroad)
    return readings


def _in_use(text: str, region: str | None) -> bool:
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(text, region))
    except phonenumbers.NumberParseException:
        return False


def _fault(number: phonenumbers.PhoneNumber) -> str | None:
    """What is wrong with it, or None."""
    if len(f"{number.country_code}{phonenumbers.national_significant_number(number)}") > 15:
        return "has more than 15 digits"
    match phonenumbers.is_possible_number_with_reason(number):
        case ValidationResult.IS_POSSIBLE:
            return None
        case ValidationResult.IS_POSSIBLE_LOCAL_ONLY:
            return "lacks its area code"
        case ValidationResult.TOO_SHORT:
            return "is too short"
        case ValidationResult.TOO_LONG:
            return "is too long"
        case ValidationResult.INVALID_COUNTRY_CODE:
            return "has a country code that does not exist"
        case _:
            return "has a length that its country does not have"
