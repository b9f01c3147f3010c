"""What is said without a model, by language: ``phrases.toml``. Pure."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from trunkline.profiles.body import ProfileBody

FALLBACK = "en"
"""The language of whoever's is not there."""


@cache
def _all() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads((Path(__file__).parent / "phrases.toml").read_text(encoding="utf-8"))


def languages() -> tuple[str, ...]:
    """The languages that there are phrases in, as ISO 639-1 codes."""
    return tuple(_all())


def language_of(body: ProfileBody) -> str:
    """The language in which a profile's phrases are said."""
    code = body.language.split("-")[0].lower()
    return code if code in _all() else FALLBACK


def phrase(body: ProfileBody, name: str) -> str:
    """One phrase of a profile. KeyError for a name that there is none of."""
    return _all()[language_of(body)][name].format(company=body.company)


def phrases(body: ProfileBody) -> dict[str, str]:
    """All phrases of a profile: name → words."""
    return {name: phrase(body, name) for name in _all()[FALLBACK]}


def unnamed(name: str) -> str:
    """The English phrase without a company's name, as the clips of the package say it."""
    return _all()[FALLBACK][name].replace(" for calling {company}", " for calling")
