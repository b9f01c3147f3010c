"""Which column holds what, and a row read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunkline.crm import mapping
from trunkline.errors import Invalid


@pytest.mark.parametrize(
    ("header", "sample", "found"),
    [
        ("Full Name,Phone Number,E-Mail", "", ["name", "phone", "email"]),
        ("first_name,LastName,Company", "", ["first_name", "last_name", "company"]),
        ("Vorname,Nachname,Firma,Telefon", "", ["first_name", "last_name", "company", "phone"]),
        ("Phone 1,Phone 2", "", ["phone", "phone"]),  # numbered
        ("Name,Name", "", ["name", ""]),  # once is enough
        ("Column A,Column B", "dana@example.com,+1 202 555 0134", ["email", "phone"]),
        ("Shoe size,Born", "42,1980-01-01", ["", ""]),
    ],
)
def test_columns_are_guessed(header: str, sample: str, found: list[str]) -> None:
    """By the names that other systems give them, else by what stands in them."""
    rows = [sample.split(",")] if sample else []
    assert mapping.guess(header.split(","), rows) == found


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (["name"], "has 2 columns, and 1"),
        (["name", "age"], "no column can hold age"),
        (["name", "name"], "cannot both hold name"),
        (["name", "company"], "say which column holds numbers"),
    ],
)
def test_a_choice_that_cannot_be(columns: list[str], says: str) -> None:
    """It is refused with what to choose."""
    with pytest.raises(Invalid, match=says):
        mapping.checked(columns, 2)


@pytest.mark.parametrize(
    ("columns", "cells", "says"),
    [
        ("name,phone", ["Dana", "(202) 555-0134"], {"phones": ["+12025550134"]}),  # national
        ("name,phone", ["Dana", "+49 30 123456"], {"phones": ["+4930123456"]}),  # international
        ("name,phone", ["Dana", "001 202 555 0134"], {"phones": ["+12025550134"]}),  # 00
        ("name,phone", ["Dana", "202-555-0134; +1 202 555 0177"],
         {"phones": ["+12025550134", "+12025550177"]}),
        ("name,phone", ["Dana", "202-555-0134, (202) 555-0134"], {"phones": ["+12025550134"]}),
        ("name,phone", ["Dana", ""], {"phones": []}),
        ("phone,phone", ["2025550134", "2025550177"], {"phones": ["+12025550134", "+12025550177"]}),
        ("first_name,last_name", ["Dana", "Whitfield"], {"name": "Dana Whitfield"}),
        ("first_name,last_name", ["", "Whitfield"], {"name": "Whitfield"}),
        ("name,company", ["=cmd()", "'=2+5"], {"name": "=cmd()", "company": "=2+5"}),  # text
        ("name,tags", ["Dana", "vip, north;vip"], {"tags": ["vip", "north"]}),
        ("name,do_not_call", ["Dana", "Yes"], {"do_not_call": True}),
        ("name,do_not_call", ["Dana", "0"], {"do_not_call": False}),
        ("name,do_not_call", ["Dana", " "], {"do_not_call": None}),
        ("name,company", ["Dana", ""], {"external_id": "7"}),
        ("name,", ["Dana", "whatever"], {"name": "Dana"}),  # a column that is left out
        ("name,company", ["Dana", "4242 4242 4242 4242"], {"company": "[card]"}),
        ("name,email", ["Dana", "dana@example.com", "", ""], {"email": "dana@example.com"}),
    ],
)  # fmt: skip
def test_a_row_is_read(columns: str, cells: list[str], says: dict[str, Any]) -> None:
    """Numbers as people write them become E.164 by the chosen country; formulas stay text."""
    columns, cells = f"{columns},external_id", [*cells[:2], "7", *cells[2:]]
    row, fault = mapping.read(cells, columns.split(","), region="US")
    assert fault is None
    assert row is not None
    shown = {
        **row.__dict__,
        "phones": [number.e164 for number in row.phones],
        "tags": list(row.tags),
    }
    assert {field: shown[field] for field in says} == says


@pytest.mark.parametrize(
    ("columns", "cells", "says"),
    [
        ("name,phone", ["Dana", "12"], "Number: '12'"),
        ("name,phone", ["Dana", "911"], "emergency number"),
        ("name,email", ["Dana", "dana"], "Email: 'dana' is no email address"),
        ("name,do_not_call", ["Dana", "perhaps"], "neither yes nor no"),
        ("name,phone", ["", ""], "neither a number nor an address"),
        ("name,phone", ["x" * 201, ""], "may have 200 characters"),
        ("name,phone", ["Dana"], "the row has 1 cells, the first line 2"),
        ("name,phone", ["Dana", "", "more"], "the row has 3 cells"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row(columns: str, cells: list[str], says: str) -> None:
    """It is said in a sentence that names the column."""
    row, fault = mapping.read(cells, columns.split(","), region="US")
    assert row is None
    assert says in str(fault)


def test_everything_wrong_is_told_at_once() -> None:
    """A row with two faults names both, so that it is mended once; numbers are masked."""
    _, fault = mapping.read(["Dana", "+120255501", "x@"], ["name", "phone", "email"], region=None)
    assert "Number: " in str(fault)
    assert "Email: " in str(fault)
    assert "20255501" not in str(fault)


@given(
    st.lists(st.text(max_size=30), max_size=5),
    st.lists(st.sampled_from(["", *mapping.TARGETS]), max_size=5),
    st.sampled_from([None, "US", "DE"]),
)
def test_any_row_is_read_or_told(cells: list[str], columns: list[str], region: str | None) -> None:
    """Whatever stands in the cells: a person, or a sentence."""
    row, fault = mapping.read(cells, columns, region=region)
    assert (row is None) is bool(fault)
