"""Takes payment card numbers out of text, typed or spoken in English.

A card number is 13 to 19 digits with a right check digit (ISO/IEC 7812-1, Luhn) and a length that
some scheme issues under its first digit. It may be grouped in any way, be written in figures,
in words or in both ("four two four two", "double four", "forty-two", "oh"), and be broken by
hesitations. Telephone numbers, amounts and order numbers stay, but for one long number in
about fifteen that could be a card as well: what might be a card does not stay.
"""

import re
import unicodedata
from dataclasses import dataclass

CARD = "[card]"
"""Stands where a card number was."""

_SHORTEST, _LONGEST = 13, 19

_FIRST_DIGITS = {
    13: "456",
    14: "356",
    15: "12356",
    16: "2345689",
    17: "256",
    18: "256",
    19: "24568",
}
"""Length → first digits under which schemes issue it: 1 UATP, 2 Mastercard and Mir, 3 American
Express, Diners and JCB, 4 Visa, 5 Mastercard and Maestro, 6 Discover, Maestro and UnionPay,
8 RuPay, 9 Troy."""

_E164_LONGEST = 15
"""Digits of the longest telephone number after its + (ITU-T E.164)."""

_UNITS = {
    **dict.fromkeys(("zero", "oh", "o", "nought", "naught"), "0"),
    # A recogniser writes the short ones as the words that sound alike.
    **dict.fromkeys(("one", "won"), "1"),
    **dict.fromkeys(("two", "to", "too"), "2"),
    "three": "3",
    **dict.fromkeys(("four", "for"), "4"),
    "five": "5",
    "six": "6",
    "seven": "7",
    **dict.fromkeys(("eight", "ate"), "8"),
    **dict.fromkeys(("nine", "niner"), "9"),
}
_TEENS = {
    "ten": "10",
    "eleven": "11",
    "twelve": "12",
    "thirteen": "13",
    "fourteen": "14",
    "fifteen": "15",
    "sixteen": "16",
    "seventeen": "17",
    "eighteen": "18",
    "nineteen": "19",
}
_TENS = {
    "twenty": "2",
    "thirty": "3",
    "forty": "4",
    "fourty": "4",
    "fifty": "5",
    "sixty": "6",
    "seventy": "7",
    "eighty": "8",
    "ninety": "9",
}
_TIMES = {"double": 2, "triple": 3, "treble": 3}
_HESITATIONS = frozenset(
    {
        *("uh", "um", "er", "erm", "ah", "eh", "hm", "hmm", "mm"),
        *("so", "well", "okay", "ok", "yes", "yeah", "right", "and", "then", "next"),
        *("dash", "hyphen", "space", "comma", "dot"),
    }
)

_TOKEN = re.compile(r"\d+|[^\W\d_]+|.", re.DOTALL)


@dataclass
class _Group:
    """Digits that are said or written in one breath, and where they stand."""

    digits: str
    start: int
    end: int
    tens: bool = False
    """A bare "forty": a unit that follows it makes it 42 instead of 40 and 2."""


def redact(text: str) -> str:
    """*text* with every payment card number replaced by CARD. Takes any text and never raises."""
    spans = [span for chain in _chains(text) for span in _cards(chain)]
    out, done = [], 0
    for start, end in spans:
        out += [text[done:start], CARD]
        done = end
    return "".join(out) + text[done:]


def settled(text: str) -> int:
    """Up to where *text*, which grows, says the same whatever follows: before the digits at its end."""
    # What begins with + is no telephone number for sure while it may still grow.
    last = _chains(text.replace("+", " "))[-1]
    return last[0].start if last else len(text)


def _chains(text: str) -> list[list[_Group]]:
    """Runs of digit groups with nothing but separators and hesitations between them."""
    chains: list[list[_Group]] = [[]]
    telephone = False
    times: tuple[int, int] | None = None
    for token in _TOKEN.finditer(text):
        chain, piece = chains[-1], token.group().casefold()
        start, end = token.span()
        group: _Group | None = None
        if piece[0].isdecimal():
            group = _Group("".join(str(unicodedata.decimal(char)) for char in piece), start, end)
        elif piece in _UNITS:
            group = _Group(_UNITS[piece], start, end)
        elif piece in _TEENS:
            group = _Group(_TEENS[piece], start, end)
        elif piece in _TENS:
            group = _Group(_TENS[piece] + "0", start, end, tens=True)
        elif piece in _TIMES:
            times = (_TIMES[piece], start)
        elif not (piece in _HESITATIONS or _separates(piece)):
            times = None
            if telephone and sum(len(group.digits) for group in chain) <= _E164_LONGEST:
                chain.clear()
            telephone = piece == "+"
            if chain:
                chains.append([])
        if group is None:
            continue
        if times and len(group.digits) == 1:
            group.digits, group.start = group.digits * times[0], times[1]
        elif chain and chain[-1].tens and len(group.digits) == 1 and group.digits != "0":
            ten = chain.pop()
            group = _Group(ten.digits[0] + group.digits, ten.start, end)
        times = None
        chain.append(group)
    if telephone and sum(len(group.digits) for group in chains[-1]) <= _E164_LONGEST:
        chains.pop()
    return chains


def _separates(char: str) -> bool:
    if len(char) != 1:
        return False
    return char in ".,_*−·" or char.isspace() or unicodedata.category(char) in ("Pd", "Cf", "Cc")


def _cards(chain: list[_Group]) -> list[tuple[int, int]]:
    """Where in the text cards stand, in order; what overlaps is one."""
    spans: list[tuple[int, int]] = []
    for first, group in enumerate(chain):
        digits = ""
        for last in chain[first:]:
            digits += last.digits
            if len(digits) > _LONGEST:
                break
            if _is_card(digits):
                if spans and group.start < spans[-1][1]:
                    spans[-1] = (spans[-1][0], max(spans[-1][1], last.end))
                else:
                    spans.append((group.start, last.end))
    return spans


def _is_card(digits: str) -> bool:
    if not _SHORTEST <= len(digits) <= _LONGEST or digits[0] not in _FIRST_DIGITS[len(digits)]:
        return False
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    total = sum(map(int, digits[-1::-2])) + sum(
        value - 9 if value > 9 else value for value in doubled
    )
    return total % 10 == 0
