"""Which models hear, think and speak: one typed choice per provider, told apart by ``provider``.

Only the shape and the bounds are here; what a provider knows of models and voices is in ``known``.
A choice is written into the body whole, so that a provider's change of heart never changes a profile.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from trunkline.profiles.known import takes_temperature
from trunkline.profiles.parts import Part, Short

_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.IGNORECASE)


def _is_base_url(text: str) -> str:
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
        named = bool(_HOST.fullmatch(host)) or bool(ipaddress.ip_address(host))
    except ValueError:
        named = False
    if not named or url.scheme not in ("http", "https"):
        raise PydanticCustomError(
            "url", "is no address of a server; write one like http://127.0.0.1:11434/v1"
        )
    if url.username or url.query or url.fragment:
        raise PydanticCustomError(
            "url",
            "must hold no password and nothing after the path; keys are set in TRUNKLINE_MODEL_KEYS",
        )
    return text.rstrip("/")


BaseUrl = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=300),
    AfterValidator(_is_base_url),
]
_COMPATIBLE = (
    "Another server that speaks OpenAI's API, up to and with /v1; none: OpenAI. "
    "Its key, if it wants one, is set by host in TRUNKLINE_MODEL_KEYS."
)
_MODEL = "The provider's name of the model."
_KEYTERMS = "Names and words it should expect."
_Term = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


# Who hears ----------------------------------------------------------------------------------


class DeepgramNova(Part):
    """Deepgram's speech-to-text v1: words as they come; who is done speaking is ours to tell."""

    provider: Literal["deepgram"] = Field(default="deepgram", description="Deepgram's Nova (v1).")
    model: Short = Field(default="nova-3", description=_MODEL)
    endpointing_ms: int = Field(
        default=25, ge=10, le=5000, description="Silence after which the provider closes a segment."
    )
    keyterms: list[_Term] = Field(default_factory=list, max_length=100, description=_KEYTERMS)


class DeepgramFlux(Part):
    """Deepgram's Flux (v2): tells itself when a turn is over, and early when it likely will be."""

    provider: Literal["deepgram-flux"] = Field(
        default="deepgram-flux", description="Deepgram's Flux (v2), which tells the end of a turn."
    )
    model: Short = Field(default="flux-general-en", description=_MODEL)
    eot_threshold: float = Field(
        default=0.7, ge=0.5, le=0.9, description="How sure it must be that the turn is over."
    )
    eager_eot_threshold: float | None = Field(
        default=0.5,
        ge=0.3,
        le=0.9,
        description="How sure it must be to let the answer be prepared early; none: never early.",
    )
    eot_timeout_ms: int = Field(
        default=3000, ge=500, le=10_000, description="Silence after which the turn is over anyway."
    )
    keyterms: list[_Term] = Field(default_factory=list, max_length=100, description=_KEYTERMS)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.eager_eot_threshold is not None and self.eager_eot_threshold > self.eot_threshold:
            raise PydanticCustomError("order", "eager_eot_threshold must not exceed eot_threshold")
        return self


class OpenaiTranscription(Part):
    """OpenAI's transcription, or a server that speaks its audio API (Whisper and the like)."""

    provider: Literal["openai"] = Field(
        default="openai", description="OpenAI, or a server with OpenAI's audio API."
    )
    model: Short = Field(default="gpt-4o-mini-transcribe", description=_MODEL)
    mode: Literal["batch", "realtime"] = Field(
        default="batch",
        description="batch: each utterance is sent when it is over; realtime: as it is spoken.",
    )
    base_url: BaseUrl | None = Field(default=None, description=_COMPATIBLE)
    prompt: Annotated[str, StringConstraints(max_length=1000)] | None = Field(
        default=None, description="What the calls are about, for the recogniser."
    )
    silence_ms: int = Field(
        default=350,
        ge=100,
        le=5000,
        description="realtime only: silence after which the provider closes a segment.",
    )


# Who thinks ---------------------------------------------------------------------------------

Effort = Literal["none", "minimal", "low", "medium", "high"]


class OpenaiChat(Part):
    """OpenAI's chat completions, or any server that speaks them (Ollama, vLLM, Groq …)."""

    provider: Literal["openai"] = Field(
        default="openai", description="OpenAI, or a server with OpenAI's chat API."
    )
    model: Short = Field(default="gpt-4.1-mini", description=_MODEL)
    base_url: BaseUrl | None = Field(default=None, description=_COMPATIBLE)
    temperature: float | None = Field(
        default=0.3,
        ge=0,
        le=2,
        description="0 is the most predictable; none for a model that takes no temperature.",
    )
    reasoning_effort: Effort | None = Field(
        default=None, description="For models that reason; none leaves it at the quickest."
    )
    max_tokens: int | None = Field(
        default=None,
        ge=16,
        le=4096,
        description="Bound of one reply; none leaves it to the provider.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_temperature(cls, data: Any) -> Any:
        """A default that the model refuses is no default."""
        if not isinstance(data, Mapping) or "temperature" in data or data.get("base_url"):
            return data
        model = data.get("model")
        if isinstance(model, str) and not takes_temperature(model):
            return {**data, "temperature": None}
        return data


class AzureChat(Part):
    """A model deployed at Azure OpenAI."""

    provider: Literal["azure"] = Field(default="azure", description="Azure OpenAI.")
    endpoint: BaseUrl = Field(
        description="The resource's address, like https://acme.openai.azure.com; its key is set by "
        "host in TRUNKLINE_MODEL_KEYS."
    )
    deployment: Short = Field(description="The deployment's name.")
    api_version: Annotated[
        str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d(-preview)?$|^(latest|preview)$")
    ] = Field(default="2024-10-21", description="Azure's api-version.")
    temperature: float | None = Field(
        default=0.3,
        ge=0,
        le=2,
        description="0 is the most predictable; none for a model that takes no temperature.",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=16,
        le=4096,
        description="Bound of one reply; none leaves it to the provider.",
    )


# Who speaks ---------------------------------------------------------------------------------


class CartesiaVoice(Part):
    """Cartesia: tells of each word when it is spoken."""

    provider: Literal["cartesia"] = Field(default="cartesia", description="Cartesia.")
    model: Short = Field(default="sonic-2", description=_MODEL)
    voice: Short = Field(description="Cartesia's id of the voice.")
    speed: float | None = Field(
        default=None,
        ge=0.6,
        le=1.5,
        description="1 is the voice's own; none leaves it to the provider.",
    )


class OpenaiVoice(Part):
    """OpenAI's speech, or a server that speaks its audio API (XTTS, Kokoro and the like)."""

    provider: Literal["openai"] = Field(
        default="openai", description="OpenAI, or a server with OpenAI's audio API."
    )
    model: Short = Field(default="gpt-4o-mini-tts", description=_MODEL)
    voice: Short = Field(description="The provider's name of the voice.")
    base_url: BaseUrl | None = Field(default=None, description=_COMPATIBLE)
    speed: float | None = Field(
        default=None,
        ge=0.25,
        le=4,
        description="1 is the voice's own; none leaves it to the provider.",
    )
    instructions: Annotated[str, StringConstraints(max_length=1000)] | None = Field(
        default=None, description="How it is to sound, for models that take such a wish."
    )


class DeepgramAura(Part):
    """Deepgram's Aura: the voice and its language are one name."""

    provider: Literal["deepgram"] = Field(default="deepgram", description="Deepgram's Aura.")
    voice: Short = Field(description="Deepgram's name of it, like aura-2-thalia-en.")
    speed: float | None = Field(
        default=None,
        ge=0.7,
        le=1.5,
        description="1 is the voice's own; none leaves it to the provider.",
    )


# The three, told apart by provider ----------------------------------------------------------


def _of(default: str) -> BeforeValidator:
    """A choice that names no provider is of *default*."""

    def fill(data: Any) -> Any:
        if isinstance(data, Mapping) and "provider" not in data:
            return {"provider": default, **data}
        return data

    return BeforeValidator(fill)


SttChoice = Annotated[
    Annotated[DeepgramNova | DeepgramFlux | OpenaiTranscription, Field(discriminator="provider")],
    _of("deepgram"),
]
"""Who hears."""
LlmChoice = Annotated[
    Annotated[OpenaiChat | AzureChat, Field(discriminator="provider")], _of("openai")
]
"""Who thinks."""
TtsChoice = Annotated[
    Annotated[CartesiaVoice | OpenaiVoice | DeepgramAura, Field(discriminator="provider")],
    _of("cartesia"),
]
"""Who speaks."""

PROVIDERS = frozenset({"deepgram", "deepgram-flux", "openai", "azure", "cartesia"})
"""Every value of a choice's ``provider``."""

PartName = Literal["stt", "llm", "tts"]
PARTS: tuple[PartName, ...] = get_args(PartName)


class Fallback(Part):
    """Who takes over when the first choice fails, and how long each is waited for."""

    stt: list[SttChoice] = Field(
        default_factory=list, max_length=2, description="Who hears when stt can't, in this order."
    )
    llm: list[LlmChoice] = Field(
        default_factory=list, max_length=2, description="Who thinks when llm can't, in this order."
    )
    tts: list[TtsChoice] = Field(
        default_factory=list,
        max_length=2,
        description="Who speaks when tts can't, in this order; choose voices that sound alike.",
    )
    hearing_ms: int = Field(
        default=1200,
        ge=500,
        le=10_000,
        description="The caller speaks so long and nothing is heard: the next recogniser hears it.",
    )
    first_token_ms: int = Field(
        default=800,
        ge=300,
        le=10_000,
        description="No word of an answer for so long: the next model is asked as well, and whoever "
        "is first answers.",
    )
    first_audio_ms: int = Field(
        default=800,
        ge=300,
        le=10_000,
        description="No sound of a sentence for so long: the next voice says it.",
    )
