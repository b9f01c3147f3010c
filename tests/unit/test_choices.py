"""Which models and voices a profile may choose, and what is said of a choice no provider knows."""

from typing import TYPE_CHECKING, Any

import pytest

from trunkline.errors import Invalid
from trunkline.profiles import text
from trunkline.profiles.body import check, read
from trunkline.profiles.choices import AzureChat, DeepgramFlux, OpenaiTranscription

if TYPE_CHECKING:
    from tests.conftest import Make

VOICE = "f786b574-daa5-4673-aa0c-cbe3e8534c02"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"llm": {"model": "gpt-realtime"}}, "llm.model: 'gpt-realtime' is a Realtime model"),
        (
            {"llm": {"model": "gpt-realtime", "base_url": "http://127.0.0.1:1/v1"}},
            "llm.model: 'gpt-realtime' is a Realtime model",  # wherever it is served
        ),
        ({"llm": {"model": "llama3"}}, "llm.model: 'llama3' is no chat model of OpenAI's"),
        ({"llm": {"model": "gpt-4o-mini-tts"}}, "is no chat model of OpenAI's"),
        (
            {"llm": {"model": "o4-mini", "temperature": 0.5}},
            "llm.temperature: 0.5 is not taken: o4-mini lets no temperature be set",
        ),
        ({"stt": {"model": "flux-general-en"}}, "choose the provider deepgram-flux with it"),
        ({"stt": {"model": "whisperer"}}, "stt.model: 'whisperer' is no model of Deepgram's"),
        ({"stt": {"model": "nova-2", "keyterms": ["Acme"]}}, "stt.keyterms: ['Acme'] are taken by"),
        (
            {"stt": {"provider": "deepgram-flux"}, "language": "de"},
            "stt.model: 'flux-general-en' hears English only",
        ),
        (
            {"stt": {"provider": "openai", "model": "gpt-live-transcribe"}},
            "transcribes nothing in mode batch",
        ),
        ({"tts": {"voice": "Bob"}}, "tts.voice: 'Bob' is no id of a voice at Cartesia"),
        (
            {"tts": {"provider": "openai", "voice": "Bob"}},
            "tts.voice: 'Bob' is no voice of gpt-4o-mini-tts; choose alloy",
        ),
        (
            {"tts": {"provider": "openai", "model": "tts-1", "voice": "cedar"}},
            "tts.voice: 'cedar' is no voice of tts-1",
        ),
        (
            {"tts": {"provider": "deepgram", "voice": "aura-2-viktoria-de"}},
            "tts.voice: 'aura-2-viktoria-de' speaks 'de' and the profile's language is en",
        ),
        (
            {"fallback": {"llm": [{"model": "gpt-4.1"}, {"model": "gpt-realtime"}]}},
            "fallback.llm.1.model: 'gpt-realtime' is a Realtime model",
        ),
    ],
)
def test_what_a_provider_does_not_know_is_refused(
    make: "Make", fields: dict[str, Any], says: str
) -> None:
    """One sentence names the field, its value and what would be right."""
    body = make.body(**fields)  # a stored one like it stays readable
    with pytest.raises(Invalid) as refusal:
        check(body)
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"llm": {"model": "llama3.2", "base_url": "http://127.0.0.1:11434/v1"}},  # Ollama
        {"llm": {"model": "openai/gpt-oss-120b", "base_url": "https://api.groq.com/openai/v1"}},
        {"llm": {"model": "gpt-5-mini"}},  # the default temperature is not held against it
        {"llm": {"model": "gpt-4.1-2025-04-14", "temperature": 2}},
        {
            "llm": {
                "provider": "azure",
                "endpoint": "https://acme.openai.azure.com",
                "deployment": "front-desk",
            }
        },
        {"stt": {"provider": "deepgram-flux"}},
        {"stt": {"provider": "deepgram-flux", "model": "flux-general-multi"}, "language": "de"},
        {"stt": {"provider": "openai"}},
        {"stt": {"provider": "openai", "mode": "realtime", "model": "gpt-realtime-whisper"}},
        {"tts": {"provider": "openai", "voice": "marin"}},
        {"tts": {"provider": "openai", "voice": "af_bella", "base_url": "http://[::1]:8880/v1"}},
        {"tts": {"provider": "deepgram", "voice": "aura-2-thalia-en"}},
    ],
)
def test_what_a_provider_knows_is_taken(make: "Make", fields: dict[str, Any]) -> None:
    """Every provider's own models and voices, and whatever a server of one's own may have."""
    body = make.body(**fields)
    check(body)
    assert text.parse(text.write(body)) == body


def test_a_choice_is_told_apart_by_its_provider(make: "Make") -> None:
    """Each provider's choice has its own fields; a choice that names none is what it always was."""
    assert isinstance(make.body(stt={"provider": "deepgram-flux"}).stt, DeepgramFlux)
    assert isinstance(make.body(stt={"provider": "openai"}).stt, OpenaiTranscription)
    azure = {"provider": "azure", "endpoint": "https://a.example/", "deployment": "x"}
    chosen = make.body(llm=azure).llm
    assert isinstance(chosen, AzureChat)
    assert chosen.endpoint == "https://a.example"
    assert make.body(tts={"voice": VOICE}).tts.provider == "cartesia"


def test_a_body_stored_before_there_was_a_choice_is_read(make: "Make") -> None:
    """What was stored when each part had one provider means the same today."""
    stored = {
        **make.body().model_dump(mode="json"),
        "stt": {"provider": "deepgram", "model": "nova-2", "endpointing_ms": 25, "keyterms": ["A"]},
        "llm": {
            "provider": "openai",
            "model": "gpt-4.1-mini",
            "temperature": 0.3,
            "max_tokens": None,
        },
        "tts": {"provider": "cartesia", "model": "sonic-2", "voice": "v1", "speed": None},
    }
    del stored["fallback"]
    body = read(stored)
    assert (body.stt.provider, body.llm.provider, body.tts.provider) == (
        "deepgram",
        "openai",
        "cartesia",
    )
    assert (body.fallback.stt, body.fallback.llm, body.fallback.tts) == ([], [], [])
