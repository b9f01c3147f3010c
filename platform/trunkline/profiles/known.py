"""What providers know: their models, voices and limits, as far as that can be said without asking them.

Pure tables. They are asked when a profile is saved, by ``doctor`` and at start-up, and never for a stored
body that a call needs. Servers of one's own (``base_url``) know what they like.

Sources: https://platform.openai.com/docs/models, .../docs/guides/text-to-speech, .../docs/guides/reasoning,
https://developers.deepgram.com/docs/models-languages-overview, .../docs/tts-models,
https://docs.cartesia.ai/build-with-cartesia/tts-models; all as the plugins of livekit-agents 1.8.9 list them.
"""

import re

OPENAI_VOICES = (
    "alloy",
    "ash",
    "ballad",
    "coral",
    "echo",
    "fable",
    "nova",
    "onyx",
    "sage",
    "shimmer",
    "verse",
    "marin",
    "cedar",
)
OPENAI_OLD_VOICES = ("alloy", "ash", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer")
"""What tts-1 and tts-1-hd speak with."""
OPENAI_SPEECH_MODELS = ("gpt-4o-mini-tts", "tts-1", "tts-1-hd")
OPENAI_BATCH_MODELS = (
    "whisper-1",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-transcribe",
)
OPENAI_LIVE_MODELS = (
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-transcribe",
    "gpt-realtime-whisper",
    "gpt-live-transcribe",
)
OPENAI_REALTIME_VOICES = (
    "alloy",
    "ash",
    "ballad",
    "cedar",
    "coral",
    "echo",
    "marin",
    "sage",
    "shimmer",
    "verse",
)
FLUX_MODELS = ("flux-general-en", "flux-general-multi")

_CHAT = re.compile(r"(gpt-\d|chatgpt-|o\d|ft:gpt-)[\w.:-]*")
_NOT_CHAT = re.compile(r"audio|transcribe|tts|image|realtime|search|instruct|codex|whisper")
_NOVA = re.compile(r"(nova|enhanced|base|whisper)(-[\w-]+)?|[0-9a-f-]{36}")
_SONIC = re.compile(r"sonic(-[\w.-]+)?")
_AURA = re.compile(r"aura(-2)?-[a-z]+-([a-z]{2})")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def takes_temperature(model: str) -> bool:
    """Whether OpenAI's *model* lets its temperature be set: those that always reason do not."""
    return not re.match(r"o\d|gpt-5(-(mini|nano|pro|\d{4})|$)", model)


def is_realtime(model: str) -> bool:
    """Whether *model* is speech-to-speech, which no part of a pipeline can be."""
    return "realtime" in model and "whisper" not in model


def chat_model(model: str) -> str | None:
    """What is wrong with OpenAI's *model* as one that thinks, to follow its name."""
    if is_realtime(model):
        return "is a Realtime model, which hears and speaks itself; choose it under realtime"
    if not _CHAT.fullmatch(model) or _NOT_CHAT.search(model):
        return "is no chat model of OpenAI's; write one like gpt-4.1-mini, or set base_url"
    return None


def realtime_model(model: str) -> str | None:
    """What is wrong with OpenAI's *model* as one that hears, thinks and speaks."""
    if not re.fullmatch(r"(gpt-realtime|gpt-4o(-mini)?-realtime-preview)[\w.-]*", model) or (
        not is_realtime(model)
    ):
        return "is no Realtime model of OpenAI's; write one like gpt-realtime, or set base_url"
    return None


def realtime_voice(voice: str) -> str | None:
    """What is wrong with OpenAI's *voice* for speech-to-speech."""
    if voice in OPENAI_REALTIME_VOICES:
        return None
    return f"is no voice of Realtime models; choose {_or(OPENAI_REALTIME_VOICES)}"


def transcription_model(model: str, mode: str) -> str | None:
    """What is wrong with OpenAI's *model* as one that hears."""
    if is_realtime(model):
        return "is a Realtime model, which hears and speaks itself; choose it under realtime"
    known = OPENAI_LIVE_MODELS if mode == "realtime" else OPENAI_BATCH_MODELS
    base = re.sub(r"-\d{4}-\d\d-\d\d$", "", model)
    if base not in known:
        return f"transcribes nothing in mode {mode} at OpenAI; choose {_or(known)}"
    return None


def speech_model(model: str) -> str | None:
    """What is wrong with OpenAI's *model* as one that speaks."""
    if is_realtime(model):
        return "is a Realtime model, which hears and speaks itself; choose it under realtime"
    if re.sub(r"-\d{4}-\d\d-\d\d$", "", model) not in OPENAI_SPEECH_MODELS:
        return f"does not speak at OpenAI; choose {_or(OPENAI_SPEECH_MODELS)}"
    return None


def openai_voice(voice: str, model: str) -> str | None:
    """What is wrong with OpenAI's *voice* for *model*."""
    known = OPENAI_OLD_VOICES if model.startswith("tts-1") else OPENAI_VOICES
    return None if voice in known else f"is no voice of {model}; choose {_or(known)}"


def nova_model(model: str) -> str | None:
    """What is wrong with Deepgram's *model* as one of speech-to-text v1."""
    if model.startswith("flux"):
        return "is a Flux model; choose the provider deepgram-flux with it"
    if model.startswith("aura"):
        return "is a voice; choose it under tts"
    if not _NOVA.fullmatch(model):
        return "is no model of Deepgram's that listens; write one like nova-3"
    return None


def flux_model(model: str, language: str) -> str | None:
    """What is wrong with Deepgram's *model* as a Flux that hears *language* (BCP 47)."""
    if model not in FLUX_MODELS:
        return f"is no Flux model; choose {_or(FLUX_MODELS)}"
    if model == "flux-general-en" and language.split("-")[0] != "en":
        return (
            f"hears English only and the profile's language is {language}; use flux-general-multi"
        )
    return None


def sonic_model(model: str) -> str | None:
    """What is wrong with Cartesia's *model*."""
    if not _SONIC.fullmatch(model):
        return "is no model of Cartesia's that speaks; write one like sonic-2"
    return None


def cartesia_voice(voice: str) -> str | None:
    """What is wrong with Cartesia's *voice*."""
    if not _UUID.fullmatch(voice):
        return "is no id of a voice at Cartesia; it has the form of f786b574-daa5-4673-aa0c-cbe3e8534c02"
    return None


def aura_voice(voice: str, language: str) -> str | None:
    """What is wrong with Deepgram's *voice* for *language* (BCP 47)."""
    found = _AURA.fullmatch(voice)
    if not found:
        return "is no voice of Deepgram's; write one like aura-2-thalia-en"
    if found[2] != language.split("-")[0]:
        return f"speaks {found[2]!r} and the profile's language is {language}"
    return None


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
