"""The pages in a language that nobody speaks: what is still in English there cannot be translated.

Each message of the template for translators is wrapped in ⟦…⟧ and its letters are made full-width. So every
plain letter that a reader sees is data, or words that no translator will find.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from fastapi.routing import APIRoute
from sqlalchemy import MetaData

from trunkline import events
from trunkline.access import passwords
from trunkline.access import service as access
from trunkline.access.roles import Role
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database
from trunkline.sandbox import past, story
from trunkline.web.app import create_app
from trunkline.web.dashboard import language
from trunkline.web.dashboard.language import Language
from trunkline.web.errors import EXPLAINED
from trunkline.web.options import WebOptions
from trunkline.webhooks.options import EndpointOptions

FULL = {ord(c): ord(c) + 0xFEE0 for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
TAG = "ja"
"""The locale of the made-up language: its months have no Latin letters."""
_LEAVE = re.compile(r"(<[^>]*>|%\(\w+\)s|\{\w+\}|&\w+;)")


def pseudo(message: str) -> str:
    """⟦Ｃａｌｌｓ⟧; placeholders and tags stay."""
    parts = _LEAVE.split(message)
    said = "".join(part if _LEAVE.fullmatch(part) else part.translate(FULL) for part in parts)
    return f"⟦{said}⟧"


def made_up(folder: Path) -> Language:
    """A catalogue of every message there is, read as any other."""
    with (language.FOLDER / "trunkline.pot").open("rb") as opened:
        template = read_po(opened)
    made = Catalog(locale=TAG)
    for one in template:
        if not one.id:
            continue
        both = [one.id] if isinstance(one.id, str) else list(one.id)
        said = tuple(pseudo(each) for each in both)
        made.add(
            one.id,
            said[0] if isinstance(one.id, str) else said,
            flags=one.flags,
            context=one.context,
        )
    file = folder / TAG / "LC_MESSAGES" / "trunkline.po"
    file.parent.mkdir(parents=True)
    with file.open("wb") as out:
        write_po(out, made)
    return language.read(file)


class Seen(HTMLParser):
    """What a reader of a page meets: text, and attributes that are shown or read out."""

    ATTRIBUTES = ("title", "placeholder", "aria-label", "alt", "data-label", "data-unit")
    SILENT = frozenset({"script", "style", "code", "pre", "textarea"})
    """Programs, ids and files, the same in each language."""
    VOID = frozenset({"meta", "link", "input", "img", "br", "path", "rect", "circle"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.links: list[str] = []
        self.language: str | None = None
        self._silent = 0
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "html":
            self.language = found.get("lang")
        if tag == "a" and (href := found.get("href")):
            self.links.append(href.partition("#")[0])
        self.texts += [value for name in self.ATTRIBUTES if (value := found.get(name))]
        self._silent += tag in self.SILENT

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in self.SILENT

    def handle_data(self, data: str) -> None:
        if not self._silent and data.strip():
            self.texts.append(" ".join(data.split()).removesuffix(" · Trunkline"))


_PLAIN = re.compile(r"[A-Za-z](?:[^⟦⟧\uff01-\uff5e]*[A-Za-z])?")
"""A run of text from its first plain letter to its last, without anything translated between."""

_PLACES = re.compile(r"\{\w+\}")
"""What a profile's texts may hold in place of a name."""

KNOWN = {
    "Trunkline",
    *("Python", "Node", "curl and openssl"),  # what the samples of verifying are written in
    *("Cartesia", "OpenAI", "Deepgram Aura"),  # firms
    *("USD", "UTF"),  # a currency, and UTF-8
    *("Qualified", "Proposal", "Won", "Lost"),  # stages are named by whoever made the pipeline
    *("receiver.example.com", "authorization: Bearer abc"),  # a host, and a header as an example
    *events.CATALOGUE,
}
"""What is the same in each language."""


def strings(thing: Any) -> Iterator[str]:
    match thing:
        case str():
            yield thing
        case dict():
            for name, value in thing.items():
                yield f"{name}: {value}"
                yield from strings(name)
                yield from strings(value)
        case list() | tuple():
            for value in thing:
                yield from strings(value)


async def stored(db: Database) -> set[str]:
    """Every text in the database: data, whoever wrote it."""
    found: set[str] = set()
    async with db.look() as session:
        connection = await session.connection()
        tables = MetaData()
        await connection.run_sync(lambda sync: tables.reflect(sync))
        for table in tables.tables.values():
            for row in (await session.execute(table.select())).all():
                for value in row:
                    if isinstance(value, str) and value[:1] in '[{"':
                        with suppress(ValueError):
                            found.update(strings(json.loads(value)))
                    found.update(strings(value))
    return {" ".join(text.split()) for text in found}


def untranslated(seen: Seen, data: set[str], everything: str) -> Iterator[str]:
    """Runs of plain letters that are no data. A single word must be a stored text by itself."""
    for text in (part for whole in seen.texts for part in _PLACES.sub("", whole).split(" · ")):
        for run in _PLAIN.findall(text):
            # A letter by itself is a key to press, or whom somebody's name begins with.
            if text in data or run in data or run in KNOWN or len(run) == 1:
                continue
            if " " in run and run in everything:
                continue
            yield f"{run!r} in {text[:90]!r}"


def routes(all_: Sequence[Any]) -> Iterator[APIRoute]:
    for route in all_:
        if hasattr(route, "original_router"):
            yield from routes(route.original_router.routes)
        elif (
            isinstance(route, APIRoute)
            and not route.include_in_schema
            and "GET" in (route.methods or ())
        ):
            yield route


NO_PAGES = {
    "/assets/{file}",
    "/livekit/probe/{room}",
    "/calls/exports/{export_id}/calls.csv",
    "/calls/{call_id}/recording.wav",
    "/contacts/imports/{import_id}/errors.csv",
    "/profiles/{name}/profile.yaml",
    "/login/oidc",
    "/login/oidc/callback",
}
"""What is fetched, not read."""
OF_EACH = 4
"""Pages of one kind that are looked at; calls are of more kinds than others."""


async def test_every_word_of_the_pages_can_be_translated(
    sqlite_db: Database, tmp_path: Path, now: datetime
) -> None:
    """In a made-up language no page shows a word in English that is not data."""
    db = sqlite_db
    async with db.work() as session:
        await story.seed(session, now=now)
    await past.fill(db, now=now, endpoints=EndpointOptions(keys=(new_key(),)))
    async with db.work() as session:
        _row, token = await access.invite(
            session, role=Role.OWNER, email="dana@example.com", by=None, now=now
        )
        _row, other = await access.invite(
            session, role=Role.VIEWER, email="kim@example.com", by=None, now=now
        )
        hash_ = passwords.hashed("correct horse battery")
        await access.accept(
            session, token, email="dana@example.com", name="Dana W", password_hash=hash_, now=now
        )
    app = create_app(
        db,
        open_blobs(BlobOptions(str(tmp_path / "blobs"))),
        WebOptions(),
        lambda: now,
        languages={"en": language.ENGLISH, TAG: made_up(tmp_path)},
    )
    pages = list(routes(app.routes))
    transport = httpx.ASGITransport(app=app, client=("203.0.113.7", 40_000))
    headers = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin", "Accept-Language": TAG}
    faults: dict[str, list[str]] = {}
    visits: Counter[str] = Counter()
    async with httpx.AsyncClient(
        transport=transport, base_url="https://trunkline.example", headers=headers
    ) as browser:
        data = await stored(db)
        # The reference of the webhooks, which stays as its authors wrote it.
        pieces = (part for name in events.CATALOGUE for part in events.summary(name).split("``"))
        data |= {part.strip(" .,;") for part in pieces}
        everything = "\n".join(sorted(data))
        todo = [
            "/login",
            f"/welcome/{other}",
            *(f"/errors/{code}" for code in EXPLAINED),
            "/nothing",
        ]

        async def look(path: str) -> Seen | None:
            answer = await browser.get(path)
            if "text/html" not in answer.headers.get("content-type", ""):
                return None
            seen = Seen(answer.text)
            assert seen.language == TAG, path
            if found := sorted(set(untranslated(seen, data, everything))):
                faults[path] = found
            return seen

        for path in todo:
            await look(path)
        assert (
            await browser.post(
                "/login", data={"email": "dana@example.com", "password": "correct horse battery"}
            )
        ).status_code == 303
        data |= await stored(db)
        file = ("people.csv", b"Name,Phone\nKim Vale,+12025550171\n", "text/csv")
        brought = await browser.post("/contacts/imports", files={"file": file})
        data |= await stored(db)
        todo = [
            "/",
            "/account",
            "/contacts/new",
            "/profiles/new",
            "/webhooks/off",
            brought.headers["location"],
        ]
        known: set[str] = set()
        while todo:
            path = todo.pop(0)
            bare = path.partition("?")[0]
            kind = next((one.path for one in pages if one.path_regex.fullmatch(bare)), None)
            if path in known or kind is None or kind in NO_PAGES:
                continue
            known.add(path)
            if visits[kind] >= (3 * OF_EACH if kind == "/calls/{call_id}" else OF_EACH):
                continue
            visits[kind] += 1
            if seen := await look(path):
                todo += [link for link in seen.links if link.startswith("/")]
    unseen = (
        {one.path for one in pages}
        - NO_PAGES
        - set(visits)
        - {"/login", "/welcome/{token}", "/errors/{code}"}
    )
    listed = "\n".join(f"{path}: {fault}" for path, found in faults.items() for fault in found)
    assert not faults, f"plain English on {len(faults)} pages:\n{listed}"
    assert not unseen, unseen
