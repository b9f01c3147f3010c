"""Templates and assets: how a page is made, and where its files are found."""

import gzip
import json
import mimetypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from starlette.responses import HTMLResponse, Response

from trunkline.access.logins import Person
from trunkline.errors import Misconfigured
from trunkline.web.dashboard import language, nav, waveform, words
from trunkline.web.dashboard.format import FILTERS

_HERE = Path(__file__).parent

_KEPT = re.compile(r"(?P<name>.+)-[0-9A-Z]{8}(?P<kind>\.[a-z0-9]+)")
"""How esbuild names a file: with a hash of its content, so that a browser may keep it for ever."""


@dataclass(frozen=True)
class Bundle:
    """What the build made of assets/src (infra/frontend.py), read once: it is small."""

    files: dict[str, bytes]
    """File, with its hash → content."""
    names: dict[str, str]
    """Name in the templates → file."""
    needs: dict[str, tuple[str, ...]]
    """Name → the chunks that it loads."""

    @classmethod
    def read(cls, folder: Path) -> "Bundle":
        """Raises Misconfigured when there is none."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
        except FileNotFoundError:
            raise Misconfigured(
                "the pages' scripts and styles were not built; "
                "in a checkout `uv run python infra/frontend.py build` builds them"
            ) from None
        return cls(
            files={
                file.name: file.read_bytes()
                for file in folder.iterdir()
                if _KEPT.fullmatch(file.name)
            },
            names={name: made["file"] for name, made in manifest.items()},
            needs={name: tuple(made["needs"]) for name, made in manifest.items()},
        )

    @cached_property
    def packed(self) -> dict[str, bytes]:
        """Each file compressed, for browsers that take gzip."""
        return {name: gzip.compress(content, mtime=0) for name, content in self.files.items()}


BUNDLE = Bundle.read(_HERE / "assets" / "dist")


def asset_url(name: str) -> str:
    """The address of an asset, a hash of its content within. KeyError when there is none."""
    return f"/assets/{BUNDLE.names[name]}"


def asset_chunks(*names: str) -> list[str]:
    """Addresses of what these scripts will ask for, to be fetched at the same time as they."""
    return [f"/assets/{file}" for file in dict.fromkeys(f for n in names for f in BUNDLE.needs[n])]


def asset(file: str, *, packed: bool) -> Response | None:
    """The asset, compressed if *packed*; None when there is none.

    A file of another version, asked for by a page of before or after, is answered with this one's,
    which is not to be kept.
    """
    keep = "public, max-age=31536000, immutable"
    if file not in BUNDLE.files:
        other = _KEPT.fullmatch(file)
        known = BUNDLE.names.get(f"{other['name']}{other['kind']}") if other else None
        if known is None:
            return None
        file, keep = known, "no-cache"
    kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
    headers = {"Cache-Control": keep, "Vary": "Accept-Encoding"}
    if packed:
        headers["Content-Encoding"] = "gzip"
    content = (BUNDLE.packed if packed else BUNDLE.files)[file]
    return Response(content, media_type=kind, headers=headers)


_templates = Environment(
    loader=FileSystemLoader(_HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=["jinja2.ext.i18n"],
)
_templates.policies["ext.i18n.trimmed"] = True
# Old-style: what `_()` gives is plain text and is escaped as any other, also within an attribute.
_templates.install_gettext_callables(  # type: ignore[attr-defined]
    language._,
    language.ngettext,
    newstyle=False,
    pgettext=language.pgettext,
    npgettext=language.npgettext,
)
# Jinja's own `_` looks `gettext` up anew at each word of a page.
_templates.globals["_"] = language._


def _spoken(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose answer depends on the viewer, so that Jinja does not work it out while it compiles."""

    @pass_context
    def filter_(_: Context, *given: Any) -> Any:
        return function(*given)

    return filter_


_templates.filters.update({name: _spoken(function) for name, function in FILTERS.items()})
_templates.filters["translated"] = _spoken(lambda message: language._(message) if message else "")
_templates.globals.update(
    asset=asset_url,
    asset_chunks=asset_chunks,
    places=nav.places,
    words=words,
    waveform=waveform.paths,
    language=language.current,
)


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
    answer = HTMLResponse(html, status, headers=headers)
    answer.headers["Content-Language"] = language.current().tag
    answer.headers.add_vary_header("Accept-Language")
    return answer


def sentence(error: Exception) -> str:
    """An error's words as a sentence of a page."""
    text = str(error)
    begun = text[:1].upper() + text[1:]
    return begun if begun.endswith((".", "!", "?")) else begun + "."
