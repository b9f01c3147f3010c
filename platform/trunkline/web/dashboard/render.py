"""Templates and assets: how a page is made, and where its files are found."""

import hashlib
import mimetypes
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from trunkline.access.logins import Person
from trunkline.web.dashboard import waveform, words
from trunkline.web.dashboard.format import FILTERS

_HERE = Path(__file__).parent

ASSETS: dict[str, bytes] = {
    file.name: file.read_bytes() for file in sorted((_HERE / "assets").iterdir()) if file.is_file()
}
"""Name → content; few and small, so they are read once."""

VERSION = hashlib.sha256(b"".join(ASSETS.values())).hexdigest()[:10]
"""Changes with any asset, so that a browser may keep each for ever."""


def asset_url(name: str) -> str:
    """The address of an asset, its version within. KeyError when there is none."""
    assert name in ASSETS, name
    return f"/assets/{VERSION}/{name}"


def asset(version: str, name: str) -> Response | None:
    """The asset; None when there is none. One of another version is not to be kept."""
    content = ASSETS.get(name)
    if content is None:
        return None
    keep = "public, max-age=31536000, immutable" if version == VERSION else "no-cache"
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(content, media_type=kind, headers={"Cache-Control": keep})


_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.filters.update(FILTERS)
_templates.globals.update(asset=asset_url, words=words, waveform=waveform.paths)


def page(
    template: str,
    *,
    person: Person | None = None,
    status: int = 200,
    headers: dict[str, str] | None = None,
    **facts: Any,
) -> Response:
    """The page that *template* makes of these facts, for *person*: what they may not do is not offered."""
    html = _templates.get_template(template).render(person=person, **facts)
    return HTMLResponse(html, status, headers=headers)


def sentence(error: Exception) -> str:
    """An error's words as a sentence of a page."""
    text = str(error)
    begun = text[:1].upper() + text[1:]
    return begun if begun.endswith((".", "!", "?")) else begun + "."
