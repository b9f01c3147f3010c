"""What is taken out of text before anybody stores it, and what stays."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trunkline.kit.redact import CARD, redact, settled

WORDS = ["oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The schemes' own test numbers, in the grouping printed on the card.
        ("4242424242424242", "[card]"),  # Visa, in one piece
        ("it's 4242 4242 4242 4242, yes", "it's [card], yes"),  # as printed
        ("5555-5555-5555-4444.", "[card]."),  # dashes; the full stop is the sentence's
        ("3782 822463 10005", "[card]"),  # American Express: 4-6-5
        ("3056 930902 5904", "[card]"),  # Diners: 14 digits
        ("4222 2222 2222 2", "[card]"),  # an old Visa of 13 digits
        ("6212 3456 7890 0000 003", "[card]"),  # UnionPay: 19 digits
        ("2223 0031 2200 3222", "[card]"),  # Mastercard's second range
        # Typed in other ways.
        ("4242\u00a04242\u20134242\u22124242", "[card]"),  # no-break space, dash, minus
        ("4\u200b2\u200b4\u200b2 4242 4242 4242", "[card]"),  # invisible characters between
        ("４２４２ 4242 4242 4242", "[card]"),  # full-width figures
        ("42 4242 424242 4242", "[card]"),  # any grouping
        ("card:4242424242424242!", "card:[card]!"),  # no space around
        # Spoken.
        ("four two four two " * 4, "[card] "),  # digit by digit
        ("Forty-two forty two 42 4 2 4242 4242", "[card]"),  # pairs, mixed with figures
        ("five five five five double five 55 treble five five double four 44", "[card]"),  # doubled
        (
            "four oh one two eight eight eight eight eight eight eight eight one eight eight one",
            CARD,
        ),
        ("4242, uh, 4242, um and then 4242 okay 4242", "[card]"),  # hesitations
        ("for to for to 4242 4242 4242", "[card]"),  # what a recogniser writes for four two
        # What stands around it stays.
        ("4242 4242 4242 4242 expires 12/27", "[card] expires 12/27"),
        ("4242424242424242 and 5555555555554444", "[card] and [card]"),  # two of them
        ("my number is 12 4242 4242 4242 4242", "my number is 12 [card]"),  # digits before it
        ("[card]", "[card]"),  # what was redacted stays as it is
    ],
)
def test_a_card_number_is_taken_out(text: str, expected: str) -> None:
    """A card number in any of the ways people write or say it is replaced, and nothing else."""
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4242 4242 4242 4241",  # wrong check digit
        "4242 4242 4242",  # 12 digits: too short for a card
        "0000 0000 0000 0000",  # no scheme begins with 0
        "+1 202 555 0134",  # telephone numbers, as people write them
        "+49 1512 3456789 and +44 7700 900123",
        "+491512345678906",  # 15 digits with a right check digit: still E.164
        "0049 1512 3456789",
        "(202) 555-0134 or 2025550199",
        "two oh two five five five oh one three four",
        "$2,400.00, $12,000.00 and $1,300,000.00",  # amounts
        "two thousand four hundred dollars",
        "order 2026-000481, ticket 88812",  # order numbers
        "call_01kf0q8m3s7t9v1w3x5y7z9abc",  # our own ids
        "2026-01-15T09:30:00.123Z",  # a moment has 17 digits
        "the code is 4 to 8 digits for one or two of them",
        "forty-two people and the two of us won",
    ],
)
def test_everything_else_stays(text: str) -> None:
    """Telephone numbers, amounts, order numbers and plain words are not touched."""
    assert redact(text) == text


@given(st.text())
@example("ß" * 3 + "İ")
@example("forty")
@example("double")
@example("+")
@example("٤" * 16)
def test_any_text_is_taken(text: str) -> None:
    """No text makes it fail, and doing it twice is doing it once."""
    once = redact(text)
    assert redact(once) == once


@st.composite
def _cards(draw: st.DrawFn) -> str:
    """Sixteen digits that a scheme issues, check digit included."""
    body = draw(st.sampled_from("23456")) + draw(st.text("0123456789", min_size=14, max_size=14))
    doubled = [int(d) * 2 if at % 2 == 0 else int(d) for at, d in enumerate(body)]
    total = sum(value - 9 if value > 9 else value for value in doubled)
    return body + str(-total % 10)


@st.composite
def _said(draw: st.DrawFn) -> str:
    """A card number, each piece of it written or spoken, with anything harmless in between."""
    card, parts = draw(_cards()), []
    while card:
        form = draw(st.sampled_from(["figures", "word", "double", "teen", "tens"]))
        piece = card[: draw(st.integers(1, 6))] if form == "figures" else card[:1]
        spoken = piece if form == "figures" else WORDS[int(piece)]
        if form == "double" and card[:1] == card[1:2]:
            piece, spoken = card[:2], f"double {spoken}"
        elif form == "teen" and card[:2] in ("10", "11", "12", "15", "19"):
            piece = card[:2]
            spoken = {"10": "ten", "11": "Eleven", "12": "twelve", "15": "fifteen"}.get(
                piece, "nineteen"
            )
        elif form == "tens" and card[0] in "23456789" and card[1:2] not in ("", "0"):
            tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
            piece, spoken = card[:2], f"{tens[int(card[0]) - 2]}-{WORDS[int(card[1])]}"
        card = card[len(piece) :]
        parts += [spoken, draw(st.sampled_from([" ", "-", ", ", ". ", "  ", " – ", " um, "]))]
    return "".join(parts)


@given(
    _said(), st.sampled_from(["", "My card is ", "it's: "]), st.sampled_from(["", "thanks", "?"])
)
def test_no_way_of_saying_a_card_gets_through(said: str, before: str, behind: str) -> None:
    """A card with a right check digit is gone, in figures, in words, in both, however grouped."""
    left = redact(before + said + behind)
    assert left.startswith(before + CARD)
    assert left.endswith(behind)
    assert left.removeprefix(before + CARD).removesuffix(behind).strip(" -–,.") in ("", "um")


@given(st.lists(st.sampled_from([*WORDS, "4111", "1111", "42", "and", "uh", "street", "please,"])))
@example(["4111", "1111", "1111", "1111", "and", "street"])
def test_text_that_grows_word_by_word(words: list[str]) -> None:
    """Handed out only as far as it is settled, what was said reads as if it had been taken whole."""
    out, held = "", ""
    for word in words:
        held += f"{word} "
        cut = settled(held)
        out, held = out + redact(held[:cut]), held[cut:]
    assert out + redact(held) == redact("".join(f"{word} " for word in words))
