"""From an error to words that may be spoken; no exception's own text ever is."""

from livekit.agents import APIConnectionError, APIError, APIStatusError, APITimeoutError

from trunkline.errors import (
    Conflict,
    Invalid,
    NotFound,
    ProviderFailed,
    Refused,
    TrunklineError,
    Unavailable,
)

SPOKEN: dict[type[BaseException], str] = {
    NotFound: "I can't find that one.",
    Invalid: "I couldn't do it that way.",
    Refused: "I'm sorry, I may not do that on this call.",
    Conflict: "That has changed in the meantime.",
    Unavailable: "I can't reach our system right now.",
    TimeoutError: "That is taking too long, so I stopped it.",
    TrunklineError: "I'm sorry, that did not work.",
}
"""Error class → what the model is told to tell the caller; subclasses inherit."""

FALLBACK = "I'm sorry, that did not work."


def say(error: BaseException) -> str:
    """The sentence for *error*, by the nearest class of its MRO that has one."""
    for cls in type(error).__mro__:
        if cls in SPOKEN:
            return SPOKEN[cls]
    return FALLBACK


def code_of(error: BaseException) -> str:
    """The stable code under which *error* is stored."""
    if isinstance(error, TrunklineError):
        return error.code
    return "timeout" if isinstance(error, TimeoutError) else "internal"


_KEY_OF = {
    "deepgram": "DEEPGRAM_API_KEY",
    "deepgram-flux": "DEEPGRAM_API_KEY",
    "openai": "OPENAI_API_KEY (or its host's in TRUNKLINE_MODEL_KEYS)",
    "azure": "its host's key in TRUNKLINE_MODEL_KEYS",
    "cartesia": "CARTESIA_API_KEY",
}
_NAME_OF = {
    "stt": "speech recognition",
    "llm": "language model",
    "tts": "speech synthesis",
    "realtime": "Realtime model",
}


def provider_failed(part: str, error: BaseException, base_url: str, label: str) -> ProviderFailed:
    """One sentence for the operator: which provider and model, where, what it said, what to do."""
    where = f"The {_NAME_OF.get(part, part)} ({label}) at {base_url}"
    key = _KEY_OF.get(label.partition(" ")[0], "the API key")
    # The plugins put a websocket's close code (1006, 1011 …) where an HTTP status would be.
    status = error.status_code if isinstance(error, APIStatusError) else 0
    if status in (401, 403):
        what, fix = f"refused the key ({status})", f"set {key}"
    elif status == 429:
        what, fix = "has no capacity left for us (429)", "raise the account's limits or wait"
    elif 400 <= status < 600:
        what, fix = f"answered with an error ({status})", "see the provider's status page"
    elif isinstance(error, APITimeoutError | TimeoutError):
        what, fix = "did not answer in time", "check the address and the network"
    elif isinstance(error, APIConnectionError | APIError | OSError):
        what, fix = "broke off the connection", "check the address and the network"
    else:
        what, fix = f"failed ({type(error).__name__})", "see the log of this call"
    return ProviderFailed(f"{where} {what}; {fix}")
