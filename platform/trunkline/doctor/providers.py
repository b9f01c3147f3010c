"""Whether the providers of speech and language take our keys: one cheap request each, which costs nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from trunkline.doctor.house import ENV
from trunkline.doctor.report import Finding, Findings
from trunkline.kit.http import in_words
from trunkline.settings import Settings

PATIENCE_S = 6.0


@dataclass(frozen=True)
class _Provider:
    """One provider: which settings it has, and what to ask it."""

    name: str
    key_name: str
    key: SecretStr | None
    address: str
    headers: Mapping[str, str]
    keys_at: str


def _providers(settings: Settings) -> tuple[_Provider, ...]:
    deepgram, openai, cartesia = (
        key.get_secret_value() if key else ""
        for key in (settings.deepgram_api_key, settings.openai_api_key, settings.cartesia_api_key)
    )
    # The plugin's base_url of Deepgram is the address of one service, the others' that of them all.
    listen = settings.deepgram_base_url or "https://api.deepgram.com/v1/listen"
    return (
        _Provider(
            "Deepgram",
            "DEEPGRAM_API_KEY",
            settings.deepgram_api_key,
            # https://developers.deepgram.com/reference/auth/tokens/details
            f"{listen.rstrip('/').removesuffix('/listen')}/auth/token",
            {"Authorization": f"Token {deepgram}"},
            "https://console.deepgram.com",
        ),
        _Provider(
            "OpenAI",
            "OPENAI_API_KEY",
            settings.openai_api_key,
            f"{(settings.openai_base_url or 'https://api.openai.com/v1').rstrip('/')}/models",
            {"Authorization": f"Bearer {openai}"},
            "https://platform.openai.com/api-keys",
        ),
        _Provider(
            "Cartesia",
            "CARTESIA_API_KEY",
            settings.cartesia_api_key,
            # https://docs.cartesia.ai/api-reference/voices/list
            f"{(settings.cartesia_base_url or 'https://api.cartesia.ai').rstrip('/')}/voices?limit=1",
            {"X-API-Key": cartesia, "Cartesia-Version": "2025-04-16"},
            "https://play.cartesia.ai/keys",
        ),
    )


NAMES = ("Deepgram", "OpenAI", "Cartesia")


async def provider(client: httpx.AsyncClient, settings: Settings, name: str) -> Findings:
    """Whether the provider of that *name* can be reached and takes our key."""
    one = next(each for each in _providers(settings) if each.name == name)
    where = httpx.URL(one.address).host
    if one.key is None:
        return [Finding("providers", name, None, f"{one.key_name} is not set", ENV)]
    if not one.key.get_secret_value().isascii():
        says = f"{one.key_name} holds characters that no key has"
        return [Finding("providers", name, False, says, f"copy it again from {one.keys_at}")]
    try:
        answer = await client.get(one.address, headers=dict(one.headers), timeout=PATIENCE_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        fix = f"let this machine reach {where} by HTTPS; without it callers hear an apology"
        return [Finding("providers", name, False, f"cannot be reached: {in_words(error)}", fix)]
    return [_judged(one, where, answer.status_code)]


def _judged(one: _Provider, where: str, status: int) -> Finding:
    new_key = f"make a new key at {one.keys_at} and set {one.key_name} in .env"
    match status:
        case 200:
            return Finding("providers", one.name, True, f"{where} takes the key")
        case 401:
            says, fix = f"{where} refuses the key in {one.key_name}", new_key
        case 403:
            says = f"{where} knows the key in {one.key_name} but lets it do too little"
            fix = f"give the key all rights for speech and models at {one.keys_at}"
        case 402 | 429:
            says = (
                f"{where} takes no more requests now: the credit or the rate is used up ({status})"
            )
            fix = f"look at the account's balance and limits at {one.keys_at}"
        case _:
            says = f"{where} answers {status}"
            fix = f"try again later; if {one.name}'s base URL is set, is it right?"
    return Finding("providers", one.name, False, says, fix)
