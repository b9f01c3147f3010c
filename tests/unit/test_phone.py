"""Telephone numbers: read in every common way of writing, printed masked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.kit.phone import PhoneNumber, mask, parse, parse_caller

DANA = "+12025550134"
LONDON = "+442079460958"
BERLIN = "+4930123456"


@pytest.mark.parametrize(
    ("text", "region", "e164"),
    [
        ("+12025550134", None, DANA),  # E.164 itself
        ("+1 202 555 0134", None, DANA),  # spaces
        ("+1-202-555-0134", None, DANA),  # dashes
        ("+1.202.555.0134", None, DANA),  # dots
        ("+1 (202) 555-0134", None, DANA),  # brackets
        ("\uff0b\uff11\uff12\uff10\uff12\uff15\uff15\uff15\uff10\uff11\uff13\uff14", None, DANA),  # wide
        ("\u0662\u0660\u0662\u0665\u0665\u0665\u0660\u0661\u0663\u0664", "US", DANA),  # Arabic digits
        ("\u202a+1 202\u00a0555\u20110134\u202c", None, DANA),  # direction marks, hard space, hard hyphen
        ("  +1 202 555 0134 \t\n", None, DANA),  # space around
        ("(202) 555-0134", "US", DANA),  # national
        ("202 555 0134", "us", DANA),  # the region in small letters
        ("1 202 555 0134", "US", DANA),  # national with the trunk prefix 1
        ("0012025550134", "DE", DANA),  # 00 where it is dialled
        ("00 1 202 555 0134", "US", DANA),  # 00 where it is not dialled but often written
        ("00 1 202 555 0134", None, DANA),  # 00 without any region
        ("011 44 20 7946 0958", "US", LONDON),  # 011, dialled abroad from North America
        ("0011 44 20 7946 0958", "AU", LONDON),  # Australia's 0011
        ("8~10 44 20 7946 0958", "RU", LONDON),  # Russia's 8, then after a tone 10
        ("+44 (0)20 7946 0958", None, LONDON),  # the trunk 0 kept in brackets
        ("020 7946 0958", "GB", LONDON),  # national with the trunk 0
        ("030/123456", "DE", BERLIN),  # a slash after the area code
        ("+49 (0) 30 - 123 456", None, BERLIN),  # all of it at once
        ("06 6982", "IT", "+39066982"),  # Italy's 0 belongs to the number
        ("00+12025550134", "DE", DANA),  # both forms of the prefix
        ("+001 202 555 0134", None, DANA),  # the other way round
        ("12025550134", "DE", DANA),  # a carrier that leaves the plus sign out
        ("442079460958", "US", LONDON),  # the same, and too long to be national
        ("+1 202 555 0134 x12", None, DANA),  # extension
        ("(202) 555-0134 ext. 12", "US", DANA),  # extension, written out
        ("+1 202 555 0134;ext=12", None, DANA),  # extension of RFC 3966
        ("+1 202 555 0134 #12", None, DANA),  # extension after a hash
        ("tel:+1-202-555-0134;ext=12", None, DANA),  # tel URI with a parameter
        ("tel:555-0134;phone-context=+1-202", None, DANA),  # a local number and where it is local
        ("TEL:2025550134", "US", DANA),  # schemes have no case
        ("sip:+12025550134@sip.example.com", None, DANA),  # SIP URI
        ("sip:+12025550134@10.0.0.1:5060;transport=udp", None, DANA),  # port and parameters
        ("sips:2025550134;phone-context=+1@example.com;user=phone", None, DANA),  # RFC 3261, 19.1.6
        ("sip:%2B12025550134@example.com", None, DANA),  # the plus sign escaped
        ("sip:2025550134:secret@example.com", "US", DANA),  # a password after the user
        ('"Dana Whitfield" <sip:0012025550134@example.com>;tag=1928', "DE", DANA),  # a From header
        ("Phone: (202) 555-0134", "US", DANA),  # copied with its caption
        ("737 874 2833", "US", "+17378742833"),  # spells RESTRICTED, and is a number in Texas
        ("1-800-FLOWERS", "US", "+18003569377"),  # letters of the keypad
        ("+1 333 555 0100", None, "+13335550100"),  # no such area yet, but a possible number
        ("+882 16 4444 4444", None, "+8821644444444"),  # satellite telephone: a code of no country
    ],
)  # fmt: skip
def test_every_common_way_of_writing_is_understood(
    text: str, region: str | None, e164: str
) -> None:
    """However a number is written, it comes out as the same E.164."""
    assert parse(text, region=region).e164 == e164
    assert parse_caller(text, region=region) == PhoneNumber(e164)


@pytest.mark.parametrize(
    ("text", "region", "says"),
    [
        ("", "US", "is no telephone number"),  # nothing
        ("Dana", "US", "is no telephone number"),  # a name
        ("sip:dana@example.com", "US", "is no telephone number"),  # a user who has no number
        ("sip:dana7@example.com", "US", "is no telephone number"),  # digits in a name are no number
        ("sip:gateway.example.com", "US", "is no telephone number"),  # a host without a user
        ("2025550134", None, "no country code"),  # national, and nobody knows where
        ("555 0134", "US", "lacks its area code"),  # local
        ("+1 202 555 013", None, "is too short"),  # a digit lost
        ("+1 202 555 01345", None, "is too long"),  # a digit too many
        ("+999 123 4567", None, "is no telephone number"),  # no such country code
        ("+49 1234567890123456", None, "more than 15 digits"),  # beyond E.164
        ("911", "US", "short or emergency number"),  # emergency
        ("112", "DE", "short or emergency number"),  # emergency in Europe
        ("115", "DE", "short or emergency number"),  # a service's short code
        ("1" * 400, "US", "is too long|no telephone number"),  # far too much
        ("2025550134", "ZZ", "is no country"),  # no such region
    ],
)
def test_what_is_no_number_is_refused_with_advice(text: str, region: str | None, says: str) -> None:
    """What is no contact's number is refused in a sentence that says what to write."""
    with pytest.raises(ValueError, match=says) as refusal:
        parse(text, region=region)
    assert "write" in str(refusal.value)


@pytest.mark.parametrize(
    "text",
    [
        None,  # no header at all
        "",  # an empty header
        "   ",  # spaces
        "anonymous",  # RFC 3323
        "Anonymous",  # in any case
        "sip:anonymous@anonymous.invalid",  # RFC 3323, 4.1.1.3
        '"Anonymous" <sip:anonymous@anonymous.invalid>;tag=9',  # the whole From header
        "restricted",  # common with carriers
        "RESTRICTED",
        "unavailable",
        "unknown",
        "private",
        "withheld",
        "Private Number",
        "no-caller-id",  # with dashes
        "+266696687",  # ANONYMOUS typed on a keypad
        "+7378742833",  # RESTRICTED typed on a keypad
        "0000000000",  # zeros for a number
        "-",  # a placeholder
        "tel:unknown",
    ],
)
def test_a_hidden_caller_has_no_number(text: str | None) -> None:
    """However a carrier says that the caller hides the number, the answer is None."""
    assert parse_caller(text, region="US") is None


def test_a_caller_that_is_neither_hidden_nor_a_number_is_a_fault() -> None:
    """A SIP user's name is no hidden number, so the reader of it must decide."""
    with pytest.raises(ValueError, match="no telephone number"):
        parse_caller("sip:dana@example.com", region="US")


def test_a_number_never_prints_in_clear() -> None:
    """Every way of turning a number into text masks it."""
    number = parse("(202) 555-0134", region="US")
    shown = f"{number} {number!r} {number:>20} {[number]}" + "%s" % number  # noqa: UP031
    assert "+1202•••0134" in shown
    assert "555" not in shown


def test_people_read_numbers_in_their_own_form() -> None:
    """The clear forms follow the country's custom."""
    number = parse(DANA, region=None)
    assert number.national == "(202) 555-0134"
    assert number.international == "+1 202-555-0134"
    assert PhoneNumber("+9991234567").national == "+9991234567"


def test_the_number_as_given_is_kept_but_does_not_tell_two_apart() -> None:
    """Equality is of the number, not of its writing."""
    written = parse("(202) 555-0134", region="US")
    assert written.raw == "(202) 555-0134"
    assert {written, PhoneNumber(DANA)} == {PhoneNumber(DANA)}


@pytest.mark.parametrize(
    "e164", ["12025550134", "+0202555013", "+1 202 555 0134", "+123", "+" + "1" * 16]
)
def test_only_e164_makes_a_number(e164: str) -> None:
    """A number cannot be made around the reader from something else."""
    with pytest.raises(ValueError, match=r"not E\.164"):
        PhoneNumber(e164)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("call +12025550134 now", "call +1202•••0134 now"),  # E.164
        ("call (202) 555-0134 now", "call (202•••0134 now"),  # national
        ("sip:+12025550134@host", "sip:+1202•••0134@host"),  # in an address
        ("room_+12025550134_x", "room_+1202•••0134_x"),  # in a room's name
        ("5550134", "•••0134"),  # local: nothing but the end
        ("at 2026-01-15 09:30:00", "at 2026-01-15 09:30:00"),  # a date is none
        ("2,400.00 USD, order 48213", "2,400.00 USD, order 48213"),  # too short
        ("call_01kf0q8m3s7t9v1w3x5y7z9abc", "call_01kf0q8m3s7t9v1w3x5y7z9abc"),  # our ids
        ("+1202•••0134", "+1202•••0134"),  # masked already
    ],
)  # fmt: skip
def test_numbers_in_any_text_are_masked(text: str, masked: str) -> None:
    """A number in a sentence loses its middle; dates, amounts and ids stay."""
    assert mask(text) == masked


WRITING = st.text(
    st.one_of(st.sampled_from("+0123456789 ()-./;=@:x#*"), st.characters()), max_size=40
)
REGIONS = st.sampled_from([None, "US", "DE", "GB", "IT", "JP", "RU"])


@given(WRITING, REGIONS)
def test_nothing_written_breaks_the_reader(text: str, region: str | None) -> None:
    """Any text at all is a number or a ValueError, and a number read twice is the same."""
    try:
        number = parse_caller(text, region=region)
    except ValueError:
        return
    if number is not None:
        assert parse(number.e164, region=None) == number
        assert parse(number.e164, region=region) == number


@given(st.integers(2_000_000_000, 9_999_999_999), REGIONS)
def test_numbers_of_the_right_length_survive_both_forms(digits: int, region: str | None) -> None:
    """Any ten digits of North America come back from the national and the international form."""
    try:
        number = parse(f"+1{digits}", region=region)
    except ValueError:
        return
    assert parse(number.international, region=region) == number
    assert parse(number.national, region="US") == number


@given(WRITING)
def test_masking_is_final_and_hides_every_number(text: str) -> None:
    """Masking again changes nothing, and a number put into any text is not to be read in it."""
    once = mask(f"{text} +12025550134 {text}")
    assert mask(once) == once
    assert "2025550134" not in once
