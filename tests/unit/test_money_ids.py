"""Money and ids, as they are printed and sorted."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.kit.ids import is_id, new_id
from trunkline.kit.money import Money

NOW = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("money", "shown"),
    [
        (Money(240_000, "USD"), "2,400.00 USD"),  # two digits, thousands parted
        (Money(5, "EUR"), "0.05 EUR"),  # less than a unit keeps its zeros
        (Money(0, "USD"), "0.00 USD"),
        (Money(-199, "USD"), "-1.99 USD"),  # a refund: the sign belongs to the whole
        (Money(-5, "USD"), "-0.05 USD"),  # also where the whole is nought
        (Money(2_400, "JPY"), "2,400 JPY"),  # no minor unit
        (Money(1_234_567, "KWD"), "1,234.567 KWD"),  # three digits
    ],
)
def test_money_is_shown_with_its_currencys_digits(money: Money, shown: str) -> None:
    """An amount prints with as many digits as its currency has."""
    assert str(money) == shown


@given(st.lists(st.timedeltas(timedelta(0), timedelta(days=9000)), min_size=2, max_size=50))
def test_ids_sort_by_when_they_were_made(offsets: list[timedelta]) -> None:
    """Ids sort by their moment, and within one millisecond by the order they were made."""
    moments = sorted(NOW + offset for offset in offsets)
    ids = [new_id("call", now=moment) for moment in moments]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("prefix", "text", "expected"),
    [
        ("call", "call_01kf0q8m3s7t9v1w3x5y7z9abc", True),  # the right form
        ("deal", "call_01kf0q8m3s7t9v1w3x5y7z9abc", False),  # another kind of thing
        ("call", "call_01kf0q8m3s7t9v1w3x5y7z9ab", False),  # a character short
        ("call", "call_01kf0q8m3s7t9v1w3x5y7z9abu", False),  # u is not in Crockford's alphabet
        ("call", "CALL_01KF0Q8M3S7T9V1W3X5Y7Z9ABC", False),  # ids are lower case
        ("call", "", False),
    ],
)
def test_an_id_is_known_by_its_form(prefix: str, text: str, expected: bool) -> None:
    """What is no id of its kind is seen before a database is asked."""
    assert is_id(prefix, text) is expected


def test_a_new_id_has_the_form_of_one() -> None:
    """What we make, we recognise."""
    assert is_id("evt", new_id("evt", now=NOW))
