"""Which column of a table holds what of a contact, and a row of it read. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trunkline.crm import fields
from trunkline.errors import Invalid
from trunkline.kit import phone
from trunkline.kit.messages import N_
from trunkline.kit.phone import PhoneNumber
from trunkline.kit.redact import redact
from trunkline.kit.sheets import bare

T = TypeVar("T")

TARGETS = {
    "name": N_("Name"),
    "first_name": N_("First name"),
    "last_name": N_("Last name"),
    "company": N_("Company"),
    "email": N_("Email"),
    "phone": N_("Number"),
    "tags": N_("Tags"),
    "do_not_call": N_("Do not call"),
    "do_not_call_reason": N_("Why not to call"),
    "external_id": N_("Id in the other system"),
}
"""What a column may hold, and what it is called. Of numbers and tags there may be several columns."""

SEVERAL = frozenset({"phone", "tags"})
IGNORED = ""
"""What a column holds that is left out."""

_NAMES: dict[str, str] = {
    "name": "name|full name|contact|contact name|customer|person|display name|ansprechpartner|nom complet",
    "first_name": "first name|firstname|given name|forename|vorname|prenom|prénom|nombre|nome",
    "last_name": "last name|lastname|surname|family name|nachname|nom|apellido|apellidos|cognome",
    "company": "company|company name|organization|organisation|account|account name|employer|business"
    "|firma|unternehmen|société|entreprise|empresa|azienda",
    "email": "email|e mail|email address|mail|e mail address|e mail adresse|correo|courriel",
    "phone": "phone|phone number|telephone|tel|mobile|mobile phone|cell|cell phone|number|work phone"
    "|home phone|business phone|mobile number|telefon|telefonnummer|handy|mobil|mobiltelefon"
    "|téléphone|portable|teléfono|movil|móvil|telefono|cellulare",
    "tags": "tags|tag|labels|label|groups|categories|list",
    "do_not_call": "do not call|dnc|no calls|opt out|optout|blocked",
    "do_not_call_reason": "do not call reason|reason|why not to call",
    "external_id": "id|external id|record id|contact id|customer id|customer number|crm id|kundennummer",
}
_GUESS = {name: target for target, names in _NAMES.items() for name in names.split("|")}

_YES = frozenset({"yes", "y", "true", "1", "x", "on", "ja", "oui", "si", "sí"})
_NO = frozenset({"no", "n", "false", "0", "off", "nein", "non", "-"})
_BETWEEN_NUMBERS = re.compile(r"[;|\n]|,(?=\s*[+(\d])|\s/\s|\s+or\s+")


@dataclass(frozen=True)
class Row:
    """What a row says of a person; None and empty where it says nothing."""

    name: str | None = None
    company: str | None = None
    email: str | None = None
    phones: tuple[PhoneNumber, ...] = ()
    tags: tuple[str, ...] = ()
    do_not_call: bool | None = None
    do_not_call_reason: str | None = None
    external_id: str | None = None


def guess(header: Sequence[str], sample: Sequence[Sequence[str]] = ()) -> list[str]:
    """What each column holds, by its name, or else by what stands in *sample*, some of its rows."""
    found: list[str] = []
    for at, name in enumerate(header):
        words = " ".join(re.split(r"[\W_]+", name.casefold())).strip()
        target = _GUESS.get(words) or _GUESS.get(re.sub(r" ?\d+$", "", words)) or IGNORED
        if target == IGNORED:
            target = _by_content([row[at] for row in sample if at < len(row)])
        taken = target in found and target not in SEVERAL
        found.append(IGNORED if taken else target)
    return found


def _by_content(cells: Sequence[str]) -> str:
    given = [cell.strip() for cell in cells if cell.strip()]
    if given and all(re.fullmatch(r"[^@\s]+@[^@\s]+\.\w+", cell) for cell in given):
        return "email"
    if given and all(re.fullmatch(r"\+[\d ().-]{7,}", cell) for cell in given):
        return "phone"
    return IGNORED


def checked(columns: Sequence[str], width: int) -> list[str]:
    """*columns*, what each of *width* holds. Raises Invalid with what is to be chosen."""
    if len(columns) != width:
        raise Invalid(
            f"the file has {width} columns, and {len(columns)} were said to hold something"
        )
    if unknown := sorted({one for one in columns if one != IGNORED and one not in TARGETS}):
        raise Invalid(f"no column can hold {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    for one in TARGETS:
        if one not in SEVERAL and list(columns).count(one) > 1:
            raise Invalid(f"two columns cannot both hold {TARGETS[one].lower()}")
    if not {"phone", "email", "external_id"} & set(columns):
        raise Invalid(
            "say which column holds numbers, addresses or ids of the other system; "
            "by a name alone nobody is told from somebody else"
        )
    return list(columns)


def read(
    cells: Sequence[str], columns: Sequence[str], *, region: str | None
) -> tuple[Row | None, str | None]:
    """What a row says, or everything that is wrong with it, in sentences.

    *region* (ISO 3166) is where numbers without a country code are. Cells are text, whatever they look
    like; a formula is none.
    """
    if len(cells) > len(columns) and not any(cell.strip() for cell in cells[len(columns) :]):
        cells = cells[: len(columns)]
    if len(cells) != len(columns):
        return None, f"the row has {len(cells)} cells, the first line {len(columns)}"
    faults: list[str] = []

    def take(target: str, reading: Callable[[str], T]) -> T | None:
        text = " ".join(
            bare(cell.strip()).strip()
            for cell, held in zip(cells, columns, strict=True)
            if held == target
        )
        if not text:
            return None
        try:
            return reading(text)
        except (Invalid, ValueError) as error:
            faults.append(f"{TARGETS[target]}: {error}")
            return None

    def every(target: str, parts: Callable[[str], list[Any]]) -> tuple[Any, ...]:
        found: list[Any] = []
        for cell, held in zip(cells, columns, strict=True):
            if held == target and cell.strip():
                try:
                    found += parts(bare(cell.strip()))
                except (Invalid, ValueError) as error:
                    faults.append(f"{TARGETS[target]}: {error}")
        return tuple(dict.fromkeys(found))

    name = take("name", _text("a name"))
    if name is None:
        both = (take("first_name", _text("a name")), take("last_name", _text("a name")))
        name = " ".join(part for part in both if part) or None
        if name is not None and len(name) > 200:
            faults.append("Name: a name may have 200 characters")
    phones = every("phone", lambda cell: _numbers(cell, region))
    row = Row(
        name=name,
        company=take("company", _text("a company's name")),
        email=take("email", lambda text: fields.email(text)),
        phones=phones,
        tags=every("tags", _tags),
        do_not_call=take("do_not_call", _flag),
        do_not_call_reason=take("do_not_call_reason", lambda text: fields.reason(redact(text))),
        external_id=take("external_id", lambda text: fields.text(text, "an id", 200)),
    )
    if row.do_not_call_reason and not row.do_not_call:
        row = Row(**{**row.__dict__, "do_not_call_reason": None})
    if not faults and not (row.phones or row.email or row.external_id):
        faults.append("there is neither a number nor an address nor an id of the other system")
    return (None, "; ".join(faults)) if faults else (row, None)


def _text(what: str) -> Callable[[str], str]:
    return lambda text: fields.text(redact(text), what, 200)


def _numbers(cell: str, region: str | None) -> list[PhoneNumber]:
    parts = [part.strip() for part in _BETWEEN_NUMBERS.split(cell)]
    return [phone.parse(part, region=region) for part in parts if part]


def _tags(cell: str) -> list[str]:
    parts = [part.strip() for part in re.split(r"[,;|]", redact(cell))]
    return fields.tags([part for part in parts if part])


def _flag(text: str) -> bool:
    word = text.casefold()
    if word in _YES or word in _NO:
        return word in _YES
    raise Invalid(f"{text[:40]!r} is neither yes nor no")
