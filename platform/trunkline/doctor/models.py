"""Whether the providers have what a profile chooses of them: one look per choice, which costs nothing.

Asked when a profile is saved, by ``doctor`` and when a worker starts. A provider that cannot be reached
says nothing about the profile: that is a doubt, and refuses nothing.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import httpx
import structlog
from pydantic import SecretStr

from trunkline.doctor import realtime
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
    OpenaiChat,
    SttChoice,
    TtsChoice,
)
from trunkline.profiles.realtime import AzureRealtime, OpenaiRealtime, RealtimeChoice
from trunkline.settings import Settings

log = structlog.get_logger()

PATIENCE = timedelta(seconds=4)
Choice = SttChoice | LlmChoice | TtsChoice | RealtimeChoice
_OURS = "TRUNKLINE_MODEL_KEYS"


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a profile's choices, each in a sentence that names the field."""

    faults: tuple[str, ...]
    """Sure: a call with this profile would fail."""
    doubts: tuple[str, ...] = ()
    """What could not be asked."""


@dataclass(frozen=True)
class _Ask:
    """One question to one provider about ``value`` of the field ``field``."""

    url: str
    headers: dict[str, str]
    key: str
    """The setting that holds the key."""
    field: str
    value: str
    how: Literal["listed", "named", "key", "blank"]
    """listed: the answer lists what there is; named: 404 says that it is not there; key: whether the key is
    taken; blank: so do 404 and 400, for a request without content that costs nothing."""


@dataclass(frozen=True)
class _Told:
    """What came of a question: the field and what is sure to be wrong with it, or what is not known."""

    field: str = ""
    fault: str | None = None
    doubt: str | None = None


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
    known = {fault.partition(":")[0] for fault in faults}
    doubts: list[str] = []
    for place, told in await _told_by_all(client, settings, body):
        if told.fault is not None and f"{place}.{told.field}" not in known:
            faults.append(f"{place}.{told.field}: {told.fault}")
        if told.doubt is not None:
            doubts.append(f"{place}: {told.doubt}")
    return Verdict(tuple(faults), tuple(doubts))


async def refused(settings: Settings, body: ProfileBody) -> list[str]:
    """What the providers whose keys we have say against *body*; for when it is saved."""
    async with open_client(connect=PATIENCE, total=PATIENCE, max_connections=10) as client:
        answers = await _told_by_all(client, settings, body)
    return [
        f"{place}.{told.field}: {told.fault}" for place, told in answers if told.fault is not None
    ]


async def at_start(settings: Settings, db: Database) -> None:
    """Raises Misconfigured when a published profile chooses what cannot work, naming each field.

    The providers are asked, side by side. One that cannot be reached, or has a bad minute, keeps no worker
    from starting: that is a warning.
    """
    async with db.look() as session:
        rows = await profiles.published_by_name(session)
    faults = [f"profile {name!r}: {body}" for name, body in rows if isinstance(body, Invalid)]
    read = [(name, body) for name, body in rows if not isinstance(body, Invalid)]
    async with open_client(connect=PATIENCE, total=PATIENCE, max_connections=10) as client:
        verdicts = await asyncio.gather(*(judge(client, settings, body) for _, body in read))
    for (name, _), verdict in zip(read, verdicts, strict=True):
        faults += [f"profile {name!r}: {fault}" for fault in verdict.faults]
        for doubt in verdict.doubts:
            log.warning("provider_in_doubt", profile=name, doubt=doubt)
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


async def _told_by_all(
    client: httpx.AsyncClient, settings: Settings, body: ProfileBody
) -> list[tuple[str, _Told]]:
    """What each provider whose key we have says of its choice in *body*, with the choice's place."""
    places: list[str] = []
    asking: list[Awaitable[_Told]] = []
    for place, choice in _choices(body):
        if _missing_key(settings, choice) is not None:
            continue
        places.append(place)
        if isinstance(choice, OpenaiRealtime | AzureRealtime):
            asking.append(_begun(settings, choice, body.language))
        else:
            asking.append(_asked(client, _ask(settings, choice)))
    return list(zip(places, await asyncio.gather(*asking), strict=True))


def _choices(body: ProfileBody) -> Iterator[tuple[str, Choice]]:
    for part in PARTS:
        yield part, getattr(body, part)
        for at, choice in enumerate(getattr(body.fallback, part)):
            yield f"fallback.{part}.{at}", choice
    if body.realtime is not None:
        yield "realtime", body.realtime


def _missing_key(settings: Settings, choice: Choice) -> str | None:
    match choice:
        case DeepgramNova() | DeepgramFlux() | DeepgramAura():
            name, key = "DEEPGRAM_API_KEY", settings.deepgram_api_key
        case CartesiaVoice():
            name, key = "CARTESIA_API_KEY", settings.cartesia_api_key
        case AzureChat() | AzureRealtime():
            host = _host(choice.endpoint)
            if settings.key_of(host) is None:
                return f"azure needs a key for {host}, set it in TRUNKLINE_MODEL_KEYS"
            return None
        case _ if choice.base_url is None:
            name, key = "OPENAI_API_KEY", settings.openai_api_key
        case _:
            return None
    return None if key else f"{choice.provider} needs {name}, which is not set"


def _ask(settings: Settings, choice: SttChoice | LlmChoice | TtsChoice) -> _Ask:
    match choice:
        case DeepgramNova() | DeepgramFlux() | DeepgramAura():
            listen = settings.deepgram_base_url or "https://api.deepgram.com/v1/listen"
            root = listen.rstrip("/").removesuffix("/listen")
            headers = {"Authorization": f"Token {_text(settings.deepgram_api_key)}"}
            name = "DEEPGRAM_API_KEY"
            # https://developers.deepgram.com/reference/manage/models/list
            models = f"{root}/models"
            if isinstance(choice, DeepgramNova):
                return _Ask(models, headers, name, "model", choice.model, "listed")
            if isinstance(choice, DeepgramAura):
                return _Ask(models, headers, name, "voice", choice.voice, "listed")
            # Flux is in no list: https://developers.deepgram.com/reference/auth/tokens/details
            return _Ask(f"{root}/auth/token", headers, name, "model", choice.model, "key")
        case CartesiaVoice():
            base = (settings.cartesia_base_url or "https://api.cartesia.ai").rstrip("/")
            # https://docs.cartesia.ai/api-reference/voices/get
            headers = {
                "X-API-Key": _text(settings.cartesia_api_key),
                "Cartesia-Version": "2025-04-16",
            }
            voice = choice.voice
            return _Ask(
                f"{base}/voices/{voice}", headers, "CARTESIA_API_KEY", "voice", voice, "named"
            )
        case AzureChat(deployment=deployment):
            # What is deployed is in no list that a key opens: without messages the answer is 400, or
            # 404 where there is no such deployment.
            url = f"{choice.endpoint}/openai/deployments/{deployment}/chat/completions"
            headers = {"api-key": settings.key_of(_host(choice.endpoint)) or "none"}
            return _Ask(
                f"{url}?api-version={choice.api_version}",
                headers, _OURS, "deployment", deployment, "blank",
            )  # fmt: skip
        case _:
            base, name, key = _compatible(settings, choice.base_url)
            headers = {"Authorization": f"Bearer {key}"}
            model = choice.model
            if choice.base_url is None:
                return _Ask(f"{base}/models/{model}", headers, name, "model", model, "named")
            # Servers of one's own for speech mostly list nothing, or not by what they are asked for.
            how: Literal["listed", "key"] = "listed" if isinstance(choice, OpenaiChat) else "key"
            return _Ask(f"{base}/models", headers, name, "model", model, how)


def _compatible(settings: Settings, base_url: str | None) -> tuple[str, str, str]:
    """Where OpenAI, or a server that speaks its API, is asked; the setting that holds the key; the key."""
    openai = (settings.openai_base_url or "https://api.openai.com/v1").rstrip("/")
    if base_url is None or _host(base_url) == _host(openai):
        return base_url or openai, "OPENAI_API_KEY", _text(settings.openai_api_key)
    return base_url, _OURS, settings.key_of(_host(base_url)) or "none"


async def _begun(settings: Settings, choice: RealtimeChoice, language: str) -> _Told:
    """What a Realtime model says to a session with the settings of *choice*."""
    if isinstance(choice, AzureRealtime):
        base, name, own = choice.endpoint, _OURS, "deployment"
        key, value = settings.key_of(_host(base)) or "none", choice.deployment
    else:
        base, name, key = _compatible(settings, choice.base_url)
        own, value = "model", choice.model
    host = httpx.URL(base).host
    found = await realtime.begin(choice, base, key, language, PATIENCE)
    if found.silence is not None:
        return _Told(doubt=f"{host} cannot be reached: {found.silence}")
    if found.status in (401, 403) or found.code == "invalid_api_key":
        return _Told("provider", _no_key(host, name, found.status or 401))
    if found.status == 404 or found.code in ("model_not_found", "invalid_model"):
        return _Told(own, f"{value!r} is not there at {host} for Realtime")
    if found.status is not None:
        return _Told(doubt=f"{host} answers {found.status}")
    if found.field is not None:
        return _Told(found.field, f"{host} refuses it: {found.message}")
    if found.code is not None:
        return _Told(doubt=f"{host} says: {found.message}")
    return _Told()


async def _asked(client: httpx.AsyncClient, ask: _Ask) -> _Told:
    host = httpx.URL(ask.url).host
    try:
        if ask.how == "blank":
            answer = await client.post(ask.url, headers=ask.headers, json={"messages": []})
        else:
            answer = await client.get(ask.url, headers=ask.headers)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        return _Told(doubt=f"{host} cannot be reached: {in_words(error)}")
    status = answer.status_code
    if status in (401, 403):
        if "incorrect_hostname" in answer.text:  # OpenAI's code for a key of another region
            fix = "is for another region, set OPENAI_BASE_URL to that region's address"
            return _Told("provider", f"the key in {ask.key} {fix}")
        return _Told("provider", _no_key(host, ask.key, status))
    if status == 404 and ask.how in ("named", "blank"):
        return _Told(ask.field, f"{ask.value!r} is not there at {host}")
    if ask.how == "blank" and status == 400:
        return _Told()
    if status == 404 and ask.how == "key":
        return _Told()  # it has no such list; the key it did not look at
    if status != 200:
        return _Told(doubt=f"{host} answers {status}")
    if ask.how in ("listed", "key") and "json" not in answer.headers.get("content-type", ""):
        kind = answer.headers.get("content-type", "").partition(";")[0] or "nothing"
        field = "base_url" if ask.key == _OURS else "provider"
        return _Told(field, f"{host} is no such provider: it answers with {kind} in place of JSON")
    if ask.how != "listed":
        return _Told()
    names = _names(answer)
    if not names or any(_same(ask.value, name) for name in names):
        return _Told()
    some = ", ".join(sorted(names)[:5])
    return _Told(ask.field, f"{ask.value!r} is not there at {host}, which has {some}")


def _no_key(host: str, name: str, status: int) -> str:
    return (
        f"{host} refuses the key in {name} ({status}): it is wrong, expired or for another region"
    )


def _host(url: str) -> str:
    return httpx.URL(url).netloc.decode()


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
