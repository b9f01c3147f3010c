"""The language of whoever looks: which there are, who gets which, and gettext over it.

English is the source, so it needs no catalogue. Every other language is one file,
``trunkline/locale/<language>/LC_MESSAGES/trunkline.po``, read when the program starts. The language of a
request stands in a context variable, since words are made in templates, filters and routes alike.
"""

import gettext as stdlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import structlog
from babel import Locale, UnknownLocaleError
from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, read_po
from babel.support import Translations
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from trunkline.errors import Misconfigured

log = structlog.get_logger(__name__)

FOLDER = Path(__file__).parents[2] / "locale"
DOMAIN = "trunkline"

_LONGEST = 500
"""Characters of an Accept-Language that are read; browsers send some fifty."""


@dataclass(frozen=True, eq=False)  # each is made once; a cache finds it by identity
class Language:
    """One that the pages can be read in."""

    tag: str
    """As HTML and browsers write it: ``en``, ``pt-BR`` (BCP 47)."""
    locale: Locale
    words: stdlib.NullTranslations


ENGLISH = Language("en", Locale("en"), stdlib.NullTranslations())


def read(file: Path) -> Language:
    """A catalogue of messages.

    A translation that is fuzzy, or whose placeholders are not those of the English words, is left out: the
    page says it in English. Raises Misconfigured where the file or the name of its folder makes no sense.
    """
    folder = file.parent.parent.name
    try:
        locale = Locale.parse(folder)
        with file.open("rb") as opened:
            catalogue = read_po(opened, locale=folder, domain=DOMAIN, abort_invalid=True)
    except (ValueError, UnknownLocaleError, PoFileError, UnicodeDecodeError) as error:
        raise Misconfigured(f"the catalogue {file} cannot be read: {error}") from None
    for message, faults in list(catalogue.check()):
        log.warning(
            "translation_left_out", catalogue=str(file), message=message.id, why=str(faults[0])
        )
        catalogue.delete(message.id, message.context)
    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return Language(folder.replace("_", "-"), locale, Translations(compiled, domain=DOMAIN))


def read_all(folder: Path) -> dict[str, Language]:
    """Tag → language: English and what has a catalogue in *folder*. Raises Misconfigured as `read` does."""
    found = (read(file) for file in sorted(folder.glob(f"*/LC_MESSAGES/{DOMAIN}.po")))
    return {"en": ENGLISH} | {one.tag: one for one in found}


@cache
def installed() -> Mapping[str, Language]:
    """What there is in the package."""
    return read_all(FOLDER)


_TAKES = re.compile(
    r"\s*([A-Za-z]{1,8}(?:-[A-Za-z0-9]{1,8})*)\s*(?:;\s*q\s*=\s*(\d(?:\.\d{0,3})?)\s*)?"
)


def chosen(header: str | None, there_are: Mapping[str, Language]) -> Language:
    """What an Accept-Language asks for (RFC 9110 §12.5.4), looked up as RFC 4647 §3.4 says; else English."""
    asked: list[tuple[float, str]] = []
    for part in (header or "")[:_LONGEST].split(","):
        if (read := _TAKES.fullmatch(part)) and (weight := float(read[2] or 1)) > 0:
            asked.append((-weight, read[1]))
    known = {tag.lower(): one for tag, one in there_are.items()}
    for _, tag in sorted(asked, key=lambda one: one[0]):
        pieces = tag.lower().split("-")
        for length in range(len(pieces), 0, -1):
            if found := known.get("-".join(pieces[:length])):
                return found
    return ENGLISH


_now: ContextVar[Language] = ContextVar("language", default=ENGLISH)


def current() -> Language:
    """The language of whoever is looking."""
    return _now.get()


@contextmanager
def speaking(language: Language) -> Iterator[None]:
    """Say everything within in *language*."""
    before = _now.set(language)
    try:
        yield
    finally:
        _now.reset(before)


def _(message: str, /, **values: Any) -> str:
    """*message* in the viewer's language, its ``%(name)s`` filled in."""
    said = _now.get().words.gettext(message)
    return said % values if values else said


def ngettext(one: str, many: str, number: int, /, **values: Any) -> str:
    """The form that *number* of them takes, its ``%(name)s`` filled in."""
    said = _now.get().words.ngettext(one, many, number)
    return said % values if values else said


def pgettext(context: str, message: str, /, **values: Any) -> str:
    """*message* where it stands in *context*: ``Open`` is a state of a deal, and what one does to a door."""
    said = _now.get().words.pgettext(context, message)
    return said % values if values else said


def npgettext(context: str, one: str, many: str, number: int, /, **values: Any) -> str:
    """As `ngettext`, in *context*."""
    said = _now.get().words.npgettext(context, one, many, number)
    return said % values if values else said


class Languages:
    """The middleware around everything: each request is answered in its viewer's language."""

    def __init__(self, app: ASGIApp, there_are: Mapping[str, Language] | None = None) -> None:
        self._app = app
        self._there_are = installed() if there_are is None else there_are

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header = Request(scope).headers.get("accept-language")
        with speaking(chosen(header, self._there_are)):
            await self._app(scope, receive, send)
