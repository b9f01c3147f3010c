"""What is said without a model, and how answers to it are understood, by language: ``phrases.toml``. Pure."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trunkline.profiles.body import ProfileBody

FALLBACK = "en"
"""The language of whoever's is not there."""


@cache
def _all() -> Mapping[str, Mapping[str, Any]]:
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
    return str(_all()[language_of(body)][name].format(company=body.company))


def phrases(body: ProfileBody) -> dict[str, str]:
    """All phrases of a profile that have clips: name → words."""
    names = [name for name, words in _all()[FALLBACK].items() if isinstance(words, str)]
    return {name: phrase(body, name) for name in names}


def unnamed(name: str) -> str:
    """The English phrase without a company's name, as the clips of the package say it."""
    return str(_all()[FALLBACK][name].replace(" for calling {company}", " for calling"))


def spoken(body: ProfileBody, key: str, **places: str) -> str:
    """A sentence for the profile's voice, its *places* filled beside ``agent_name`` and ``company``.

    KeyError for a key that there is none of, or a place that is not given.
    """
    known = {"agent_name": body.agent_name, "company": body.company, **places}
    return str(_all()[language_of(body)]["spoken"][key].format(**known))


def waiting(body: ProfileBody) -> tuple[str, ...]:
    """What is said to a caller who waits for a tool, one after the other."""
    return tuple(_all()[language_of(body)]["waiting"])


def template(body: ProfileBody, key: str) -> str:
    """A sentence for the profile's voice as it is written, its places to be filled by others."""
    return str(_all()[language_of(body)]["spoken"][key])


def understands(body: ProfileBody, meaning: str, words: str) -> bool:
    """Whether *words* say *meaning*: yes, no, machine, screening or person."""
    return understood(language_of(body), meaning).search(plain(words)) is not None


@cache
def understood(language: str, meaning: str) -> re.Pattern[str]:
    """The pattern of *meaning* in ``plain`` words of that language."""
    return re.compile(_all()[language]["understood"][meaning])


def plain(words: str) -> str:
    """*words* as the patterns expect them, however the recogniser writes."""
    return words.lower().replace("\u2019", "'")
