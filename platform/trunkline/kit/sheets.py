"""Tables as text (CSV, RFC 4180): read what spreadsheets and other systems write, and write what no
spreadsheet runs."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trunkline.kit.messages import N_

ENCODINGS = {"utf-8": "UTF-8", "utf-16": "UTF-16", "cp1252": N_("Windows-1252 (Western Europe)")}
"""What files come in: Python's name → what people call it."""

DELIMITERS = {",": N_("comma"), ";": N_("semicolon"), "\t": N_("tab"), "|": N_("bar")}
"""What stands between two cells, and what it is called."""

_LONGEST_RECORD = 20
"""Lines that one record may be written on: with more, a quote was opened by mistake."""
_LONGEST_CELL = 32_767
"""Characters, as in Excel (https://support.microsoft.com/office/1672b34d-7043-467e-8e27-269d656771c3)."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Record:
    """One row. Of a broken one ``fault`` says what is wrong, and ``cells`` holds its line as it stands."""

    line: int
    """Where it begins, counted from 1."""
    cells: tuple[str, ...]
    fault: str | None = None


def decoded(raw: bytes, encoding: str | None = None) -> tuple[str, str]:
    """The text of a file, and its encoding: *encoding*, or else the likeliest.

    What is no UTF is taken for Windows-1252, which old spreadsheets write. Raises ValueError for what is
    no text in that encoding, or no text at all.
    """
    if encoding is None:
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            encoding = "utf-16"
        else:
            try:
                return _cleaned(raw.decode("utf-8-sig")), "utf-8"
            except UnicodeDecodeError:
                encoding = "cp1252"
    try:
        text = raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeError:
        raise ValueError(
            f"the file is not written in {ENCODINGS[encoding]}; save it as CSV in UTF-8"
        ) from None
    return _cleaned(text), encoding


def _cleaned(text: str) -> str:
    if "\0" in text:
        raise ValueError("the file is no table of text; save it as CSV in UTF-8")
    return text


def delimiter_of(text: str) -> str:
    """What stands between the cells: what splits the first lines best, a comma when nothing does."""
    lines = [line for line in _lines(text[:100_000])[:20] if line.strip()]

    def splits(delimiter: str) -> tuple[int, int]:
        counts = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        first = counts[0] if counts else 1
        return (sum(count == first for count in counts) if first > 1 else 0, first)

    return max(DELIMITERS, key=splits)


def records(text: str, delimiter: str) -> Iterator[Record]:
    """Every row of *text* that is not blank; a broken one is told as such and does not take others along."""
    lines = _lines(text)
    at = 0
    while at < len(lines):
        record, used = _record(lines, at, delimiter)
        at += used
        if record.fault is not None or any(cell.strip() for cell in record.cells):
            yield record


def _lines(text: str) -> list[str]:
    """Lines, each with a line feed for its end, whichever it had; no other character ends one."""
    return list(io.StringIO(text, newline=None))


def _record(lines: list[str], at: int, delimiter: str) -> tuple[Record, int]:
    fault = None
    for used in range(1, min(_LONGEST_RECORD, len(lines) - at) + 1):
        if used > 1 and '"' not in lines[at + used - 1]:
            continue  # a quote that is open cannot end here
        try:
            rows = list(csv.reader(lines[at : at + used], delimiter=delimiter, strict=True))
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                fault = "a quote is opened and never closed"
                continue
            fault = "a quote stands in the middle of a cell; write it twice"
            break
        if len(rows) > 1:
            break
        cells = tuple(rows[0]) if rows else ()
        if any(len(cell) > _LONGEST_CELL for cell in cells):
            fault = f"a cell is longer than {_LONGEST_CELL} characters"
            break
        return Record(at + 1, cells), used
    kept = lines[at].rstrip("\n")[:_LONGEST_CELL]
    return Record(at + 1, (kept,), fault or "the line cannot be read"), 1


def written(cells: Sequence[object]) -> str:
    """One line of a file, which no spreadsheet takes for a formula."""
    out = io.StringIO()
    csv.writer(out).writerow([guarded(str(cell)) for cell in cells])
    return out.getvalue()


def guarded(cell: str) -> str:
    """A cell that no spreadsheet runs (OWASP, "CSV Injection"); a number stays as it is.

    What is guarded already is guarded once more, so that ``bare`` gives back what it was.
    """
    if cell.lstrip("'").startswith(_FORMULA) and not cell[1:].replace(" ", "").isdigit():
        return f"'{cell}"
    return cell


def bare(cell: str) -> str:
    """The cell without the guard."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell
