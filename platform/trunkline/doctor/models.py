"""Whether the providers have what a profile chooses of them: one look per choice, which costs nothing.

Asked when a profile is saved and by ``doctor``. A provider that cannot be reached says nothing about the
profile: that is a doubt, and refuses nothing.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import httpx
from pydantic import SecretStr

from trunkline.doctor.report import Finding, Findings
from trunkline.errors import Invalid, Misconfigured
from trunkline.kit.db import Database
from trunkline.kit.http import in_words, open_client
from trunkline.profiles import queries as profiles
from trunkline.profiles.body import ProfileBody, provider_faults
from trunkline.profiles.choices import (
    PARTS,
    AzureChat,
    CartesiaVoice,
    DeepgramAura,
    DeepgramFlux,
    DeepgramNova,
    LlmChoice,
    OpenaiVoice,
    SttChoice,
    TtsChoice,
)
from trunkline.settings import Settings

PATIENCE = timedelta(seconds=4)
Choice = SttChoice | LlmChoice | TtsChoice


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a profile's choices, each in a sentence that names the field."""

    faults: tuple[str, ...]
    """Sure: a call with this profile would fail."""
    doubts: tuple[str, ...] = ()
    """What could not be asked."""


@dataclass(frozen=True)
class _Ask:
    """One question to one provider; ``named`` finds out what the answer means for ``value``."""

    url: str
    headers: dict[str, str]
    field: str
    value: str
    listed: bool
    """The answer lists what there is; otherwise 404 says that it is not there."""


def known_faults(settings: Settings, body: ProfileBody) -> list[str]:
    """What is sure to be wrong without asking anybody: unknown models and voices, missing keys."""
    missing = [
        f"{place}.provider: {says}"
        for place, choice in _choices(body)
        if (says := _missing_key(settings, choice)) is not None
    ]
    return [*provider_faults(body), *missing]


async def judge(client: httpx.AsyncClient, settings: Settings, body: ProfileBody) -> Verdict:
    """Look at all choices of *body*: by what is known of providers, by the keys, and by asking."""
    faults = known_faults(settings, body)
    doubts: list[str] = []
    asks = _asks(settings, body)
    known = {fault.partition(":")[0] for fault in faults}
    answers = await asyncio.gather(*(_asked(client, ask) for _, ask in asks))
    for (place, ask), (fault, doubt) in zip(asks, answers, strict=True):
        if fault is not None and f"{place}.{ask.field}" not in known:
            faults.append(f"{place}.{ask.field}: {fault}")
        if doubt is not None:
            doubts.append(f"{place}: {doubt}")
    return Verdict(tuple(faults), tuple(doubts))


async def refused(settings: Settings, body: ProfileBody) -> list[str]:
    """What the providers whose keys we have say against *body*; for when it is saved."""
    asks = _asks(settings, body)
    async with open_client(connect=PATIENCE, total=PATIENCE, max_connections=10) as client:
        answers = await asyncio.gather(*(_asked(client, ask) for _, ask in asks))
    return [
        f"{place}.{ask.field}: {fault}"
        for (place, ask), (fault, _) in zip(asks, answers, strict=True)
        if fault is not None
    ]


async def at_start(settings: Settings, db: Database) -> None:
    """Raises Misconfigured when a published profile chooses what cannot work, naming each field.

    What a provider would say is not asked here: its bad minute must not keep a worker from starting.
    """
    async with db.look() as session:
        rows = await profiles.published_by_name(session)
    faults = [
        f"profile {name!r}: {fault}"
        for name, body in rows
        for fault in ([str(body)] if isinstance(body, Invalid) else known_faults(settings, body))
    ]
    if faults:
        raise Misconfigured("; ".join(faults))


async def published(client: httpx.AsyncClient, settings: Settings, db: Database) -> Findings:
    """Of each published profile, whether its providers have what it chooses."""
    async with db.look() as session:
        rows = await profiles.published_by_name(session)
    found: list[Finding] = []
    for name, body in rows:
        if isinstance(body, Invalid):
            found.append(Finding.wrong("providers", f"profile {name}", body))
            continue
        verdict = await judge(client, settings, body)
        for fault in verdict.faults:
            fix = f"publish {name!r} anew with another choice, or mend the key in .env"
            found.append(Finding("providers", f"profile {name}", False, fault, fix))
        for doubt in verdict.doubts:
            fix = "let this machine reach it, if calls are to be answered with it"
            found.append(Finding("providers", f"profile {name}", None, doubt, fix))
        if not verdict.faults and not verdict.doubts:
            says = "every provider has what it chooses"
            found.append(Finding("providers", f"profile {name}", True, says))
    return found


def _asks(settings: Settings, body: ProfileBody) -> list[tuple[str, _Ask]]:
    return [
        (place, ask)
        for place, choice in _choices(body)
        if _missing_key(settings, choice) is None and (ask := _ask(settings, choice)) is not None
    ]


def _choices(body: ProfileBody) -> Iterator[tuple[str, Choice]]:
    for part in PARTS:
        yield part, getattr(body, part)
        for at, choice in enumerate(getattr(body.fallback, part)):
            yield f"fallback.{part}.{at}", choice


def _missing_key(settings: Settings, choice: Choice) -> str | None:
    match choice:
        case DeepgramNova() | DeepgramFlux() | DeepgramAura():
            name, key = "DEEPGRAM_API_KEY", settings.deepgram_api_key
        case CartesiaVoice():
            name, key = "CARTESIA_API_KEY", settings.cartesia_api_key
        case AzureChat():
            host = httpx.URL(choice.endpoint).netloc.decode()
            if settings.key_of(host) is None:
                return f"azure needs a key for {host}, set it in TRUNKLINE_MODEL_KEYS"
            return None
        case _ if choice.base_url is None:
            name, key = "OPENAI_API_KEY", settings.openai_api_key
        case _:
            return None
    return None if key else f"{choice.provider} needs {name}, which is not set"


def _ask(settings: Settings, choice: Choice) -> _Ask | None:
    match choice:
        case DeepgramNova() | DeepgramAura():
            listen = (settings.deepgram_base_url or "https://api.deepgram.com/v1/listen").rstrip(
                "/"
            )
            # https://developers.deepgram.com/reference/manage/models/list
            url = f"{listen.removesuffix('/listen')}/models"
            headers = {"Authorization": f"Token {_text(settings.deepgram_api_key)}"}
            if isinstance(choice, DeepgramNova):
                return _Ask(url, headers, "model", choice.model, listed=True)
            return _Ask(url, headers, "voice", choice.voice, listed=True)
        case CartesiaVoice():
            base = (settings.cartesia_base_url or "https://api.cartesia.ai").rstrip("/")
            # https://docs.cartesia.ai/api-reference/voices/get
            headers = {
                "X-API-Key": _text(settings.cartesia_api_key),
                "Cartesia-Version": "2025-04-16",
            }
            return _Ask(
                f"{base}/voices/{choice.voice}", headers, "voice", choice.voice, listed=False
            )
        case DeepgramFlux() | AzureChat():
            return None  # neither lists what it has
        case _ if choice.base_url is None:
            base = (settings.openai_base_url or "https://api.openai.com/v1").rstrip("/")
            headers = {"Authorization": f"Bearer {_text(settings.openai_api_key)}"}
            return _Ask(
                f"{base}/models/{choice.model}", headers, "model", choice.model, listed=False
            )
        case OpenaiVoice():
            return None  # servers of one's own for speech mostly list nothing
        case _:
            key = settings.key_of(httpx.URL(choice.base_url).netloc.decode()) or "none"
            headers = {"Authorization": f"Bearer {key}"}
            return _Ask(f"{choice.base_url}/models", headers, "model", choice.model, listed=True)


async def _asked(client: httpx.AsyncClient, ask: _Ask) -> tuple[str | None, str | None]:
    """What is sure to be wrong, and what could not be found out."""
    host = httpx.URL(ask.url).host
    try:
        answer = await client.get(ask.url, headers=ask.headers, timeout=PATIENCE.total_seconds())
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        return None, f"{host} cannot be reached: {in_words(error)}"
    if answer.status_code in (401, 403):
        return f"{host} refuses the key ({answer.status_code})", None
    if answer.status_code == 404 and not ask.listed:
        return f"{ask.value!r} is not there at {host}", None
    if answer.status_code != 200:
        return None, f"{host} answers {answer.status_code}"
    if not ask.listed:
        return None, None
    names = _names(answer)
    if not names or any(_same(ask.value, name) for name in names):
        return None, None
    some = ", ".join(sorted(names)[:5])
    return f"{ask.value!r} is not there at {host}, which has {some}", None


def _names(answer: httpx.Response) -> set[str]:
    """Of models, in OpenAI's list or in Deepgram's."""
    try:
        told = answer.json()
    except ValueError:
        return set()
    rows = [
        row
        for part in ("data", "stt", "tts")
        for row in (told.get(part) or [] if isinstance(told, dict) else [])
        if isinstance(row, dict)
    ]
    keys = ("id", "canonical_name", "architecture", "name")
    return {str(row[key]) for row in rows for key in keys if row.get(key)}


def _same(wanted: str, name: str) -> bool:
    # Ollama's names end with a tag, Deepgram's with what the model is for.
    return name == wanted or name.startswith((f"{wanted}:", f"{wanted}-"))


def _text(key: SecretStr | None) -> str:
    return key.get_secret_value() if key else ""
