"""Tables as text: what is read from whatever file, and what is written."""

import csv
import io
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trunkline.kit import sheets

FILE = 'Name,Phone\r\n"Whitfield, Dana",+12025550134\r\n'


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        ("Müller".encode(), "utf-8"),
        ("Müller".encode("utf-8-sig"), "utf-8"),  # a byte order mark, as Excel writes it
        ("Müller".encode("cp1252"), "cp1252"),  # an older Excel
        ("Müller".encode("utf-16"), "utf-16"),  # "Unicode text"
    ],
)
def test_the_encoding_is_found(raw: bytes, encoding: str) -> None:
    """Every way in which spreadsheets save is read without a question."""
    assert sheets.decoded(raw) == ("Müller", encoding)


@pytest.mark.parametrize(
    ("raw", "encoding"),
    [
        (b"PK\x03\x04\x00\x00", None),  # an .xlsx
        (b"\x81\x8d", None),  # bytes that no encoding of ours has
        (b"\xff", "utf-8"),  # not what was said
        (b"a", "utf-16"),
    ],
)
def test_what_is_no_text_is_refused(raw: bytes, encoding: str | None) -> None:
    """The sentence says what to save it as."""
    with pytest.raises(ValueError, match="save it as CSV in UTF-8"):
        sheets.decoded(raw, encoding)


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2\n", ";"),  # a decimal comma in a cell
        ("a\tb\n1\t2\n", "\t"),
        ("a|b\n", "|"),
        ('"a;b",c\n"d;e;f",g\n', ","),  # semicolons within quotes
        ("name\nDana\n", ","),  # one column
        ("", ","),
    ],
)
def test_the_delimiter_is_found(text: str, delimiter: str) -> None:
    """It is what splits the lines alike."""
    assert sheets.delimiter_of(text) == delimiter


def test_a_broken_row_takes_no_other_along() -> None:
    """An open quote in the middle of a file costs its own line; the rows around it are read."""
    text = 'Name,Phone\nDana,1\n"Peter,2\nMaría,3\n"Kim, 4\n"Lee",5\nJo"e,6\n"x"y,7\nZoë,8\n'
    found = list(sheets.records(text, ","))
    assert [record.cells for record in found if record.fault is None] == [
        ("Name", "Phone"), ("Dana", "1"), ("María", "3"), ("Lee", "5"), ('Jo"e', "6"), ("Zoë", "8"),
    ]  # fmt: skip
    broken = [record for record in found if record.fault]
    assert [(record.line, record.cells) for record in broken] == [
        (3, ('"Peter,2',)), (5, ('"Kim, 4',)), (8, ('"x"y,7',)),
    ]  # fmt: skip
    assert "quote" in str(broken[0].fault)


def test_a_cell_may_have_several_lines() -> None:
    """A quoted line break belongs to the cell, and the next row knows its line."""
    found = list(sheets.records('a,"b\r\nc"\r\n\r\n,\r\nd,e\r\n', ","))
    assert [(record.line, record.cells) for record in found] == [
        (1, ("a", "b\nc")),
        (5, ("d", "e")),
    ]  # blank rows are none


CELL = st.text(max_size=20).map(lambda text: re.sub("[\0\r\ud800-\udfff]", "", text))


@given(st.lists(st.lists(CELL, min_size=2, max_size=4), max_size=6))
@example([["=cmd()", "'=x"], ["+1", "-a"]])
def test_what_is_written_is_read_back(table: list[list[str]]) -> None:
    """Any text survives, guards against formulas included; rows without any are left out."""
    text = "".join(map(sheets.written, table))
    found = list(sheets.records(text, ","))
    assert all(record.fault is None for record in found)
    kept = [row for row in table if any(cell.strip() for cell in row)]
    assert [[sheets.bare(cell) for cell in record.cells] for record in found] == kept


@given(st.text(max_size=200), st.sampled_from(list(sheets.DELIMITERS)))
@example('"' * 50, ",")
@example('a,"\n' * 60, ",")
def test_any_text_is_read_to_its_end(text: str, delimiter: str) -> None:
    """Nothing raises, and no line is left out or read twice."""
    last = 0
    for record in sheets.records(text, delimiter):
        assert record.line > last
        last = record.line
    assert last <= len(re.findall("\r\n|[\r\n]", text)) + 1
    assert sheets.delimiter_of(text) in sheets.DELIMITERS


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|'/c calc'!A1", "'=cmd|'/c calc'!A1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("+12025550134", "+12025550134"),  # a number, which people want to read
        ("-5", "-5"),
        ("Dana", "Dana"),
        ("O'Hara", "O'Hara"),
    ],
)
def test_no_spreadsheet_runs_a_cell(cell: str, written: str) -> None:
    """What begins like a formula is written as text; a number is none."""
    (row,) = csv.reader(io.StringIO(sheets.written([cell, "x"])))
    assert row[0] == written
    assert sheets.bare(written) == cell
