"""Speech-to-speech: one model that hears, thinks and speaks, in place of the three of the pipeline."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from trunkline.profiles.choices import BaseUrl
from trunkline.profiles.parts import Part, Short

Hint = Annotated[str, StringConstraints(strip_whitespace=True, max_length=1000)]


class Turns(Part):
    """Who tells that the caller has finished, and how."""

    by: Literal["server_vad", "semantic_vad", "local"] = Field(
        default="semantic_vad",
        description="server_vad: the provider, by silence; semantic_vad: the provider, by what was "
        "said; local: we do, by endpointing and interruption as in the pipeline.",
    )
    threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="server_vad only: how loud speech must be; higher for noisy lines.",
    )
    prefix_padding_ms: int = Field(
        default=300, ge=0, le=2000, description="server_vad only: sound kept from before speech."
    )
    silence_ms: int = Field(
        default=450, ge=100, le=5000, description="server_vad only: silence that ends a turn."
    )
    eagerness: Literal["low", "medium", "high", "auto"] = Field(
        default="auto",
        description="semantic_vad only: how soon it answers when it is not sure; low waits longest.",
    )


class Transcription(Part):
    """How the caller's words are written down; the answers don't depend on it."""

    model: Short = Field(
        default="gpt-4o-mini-transcribe", description="The provider's name of the model."
    )
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")] | None = Field(
        default=None, description="ISO 639 code; none: the profile's language."
    )
    prompt: Hint | None = Field(
        default=None, description="Names and words it should expect, in free text."
    )


class _Realtime(Part):
    voice: Short = Field(
        default="marin",
        description="The model's voice. Choose one under tts that sounds alike: sentences that are "
        "said word for word, like the greeting, and the pipeline if it takes over, use that.",
    )
    speed: float = Field(default=1.0, ge=0.25, le=1.5, description="1 is the voice's own.")
    modality: Literal["audio", "text"] = Field(
        default="audio",
        description="audio: the model speaks itself; text: it writes, and tts speaks (half-cascade).",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=64,
        le=4096,
        description="Bound of each answer, words and sound; none: as the provider has it.",
    )
    tool_choice: Literal["auto", "required", "none"] = Field(
        default="auto", description="Whether the model may, must or must not use tools."
    )
    reply_instructions: Hint | None = Field(
        default=None,
        description="Added to the instructions for answers that we ask for: after a tool, after keys, "
        "and all of them with turns by local.",
    )
    reply_max_tokens: int | None = Field(
        default=None, ge=64, le=4096, description="Bound of such an answer; none: max_tokens."
    )
    turns: Turns = Field(default_factory=Turns, description="Who tells the end of a turn.")
    transcription: Transcription = Field(
        default_factory=Transcription, description="How the caller's words are written down."
    )
    noise_reduction: Literal["near_field", "far_field"] | None = Field(
        default=None,
        description="near_field: handsets and headsets; far_field: speakerphones; none: off.",
    )
    answer_ms: int = Field(
        default=2500,
        ge=500,
        le=15_000,
        description="No answer for so long after the caller's turn: the pipeline goes on instead.",
    )


class OpenaiRealtime(_Realtime):
    """OpenAI's Realtime, or a server that speaks it."""

    provider: Literal["openai"] = Field(
        default="openai", description="OpenAI, or a server that speaks its Realtime API."
    )
    model: Short = Field(default="gpt-realtime", description="The provider's name of the model.")
    base_url: BaseUrl | None = Field(
        default=None,
        description="Another server, up to and with /v1; none: OpenAI. Its key is set by host in "
        "TRUNKLINE_MODEL_KEYS.",
    )


class AzureRealtime(_Realtime):
    """A Realtime model deployed at Azure OpenAI."""

    provider: Literal["azure"] = Field(default="azure", description="Azure OpenAI.")
    endpoint: BaseUrl = Field(
        description="The resource's address, like https://acme.openai.azure.com; its key is set by "
        "host in TRUNKLINE_MODEL_KEYS."
    )
    deployment: Short = Field(description="The deployment's name.")


RealtimeChoice = Annotated[OpenaiRealtime | AzureRealtime, Field(discriminator="provider")]
"""Who hears, thinks and speaks."""
