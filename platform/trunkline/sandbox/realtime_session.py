"""What a Realtime session is set to, and the error events OpenAI answers wrong settings with. Pure.

Shapes as in OpenAI's API reference, "Realtime": the session of ``session.update``, its parts and bounds.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

from trunkline.sandbox.realtime_audio import RATES_HZ

VOICES = ("alloy", "ash", "ballad", "cedar", "coral", "echo", "marin", "sage", "shimmer", "verse")
EAGERNESS_MS = {"low": 8000, "medium": 4000, "auto": 4000, "high": 2000}
"""How long semantic VAD waits after words that don't make sense yet (its own limits there)."""

_FIELDS = {
    "audio",
    "id",
    "include",
    "instructions",
    "max_output_tokens",
    "model",
    "object",
    "output_modalities",
    "prompt",
    "reasoning",
    "tool_choice",
    "tools",
    "tracing",
    "truncation",
    "type",
}
_RESPONSE_FIELDS = {
    "audio",
    "conversation",
    "input",
    "instructions",
    "max_output_tokens",
    "metadata",
    "output_modalities",
    "prompt",
    "reasoning",
    "tool_choice",
    "tools",
}


class Refused(Exception):
    """An error event: the session goes on unless it is told to close."""

    def __init__(
        self,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = "invalid_value",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error = {"type": kind, "code": code, "message": message, "param": param}


def server_vad() -> dict[str, Any]:
    """The turn detection of a session that asks for none in particular."""
    return {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }


def fresh(session_id: str, model: str, expires_at: int, *, transcription: bool) -> dict[str, Any]:
    """A session nothing was asked of yet."""
    heard: dict[str, Any] = {
        "format": {"type": "audio/pcm", "rate": 24_000},
        "transcription": None,
        "noise_reduction": None,
        "turn_detection": server_vad(),
    }
    common = {"id": session_id, "expires_at": expires_at, "include": None}
    if transcription:
        return {
            "type": "transcription",
            "object": "realtime.transcription_session",
            **common,
            "audio": {"input": heard},
        }
    return {
        "type": "realtime",
        "object": "realtime.session",
        **common,
        "model": model,
        "output_modalities": ["audio"],
        "instructions": "",
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "audio": {
            "input": heard,
            "output": {
                "format": {"type": "audio/pcm", "rate": 24_000},
                "voice": "alloy",
                "speed": 1.0,
            },
        },
    }


def updated(session: Mapping[str, Any], changes: object, *, has_spoken: bool) -> dict[str, Any]:
    """*session* with *changes* of a ``session.update``. Raises Refused."""
    if not isinstance(changes, Mapping):
        raise Refused(
            "Missing required parameter: 'session'.",
            code="missing_required_parameter",
            param="session",
        )
    if changes.get("type") != session["type"]:
        raise Refused(
            f"Passing a {changes.get('type') or 'missing'} session type to a {session['type']} "
            "session is not allowed.",
            code="invalid_session_type" if changes.get("type") else "missing_required_parameter",
            param="session.type",
        )
    for name in changes:
        if name not in _FIELDS:
            raise Refused(
                f"Unknown parameter: 'session.{name}'.",
                code="unknown_parameter",
                param=f"session.{name}",
            )
    new = copy.deepcopy(dict(session))
    for name, value in changes.items():
        if name == "audio":
            _audio(new, value or {}, has_spoken=has_spoken)
        elif name not in ("id", "object", "type", "model"):  # a model, once chosen, stays
            _check(f"session.{name}", name, value)
            new[name] = copy.deepcopy(value)
    return new


def for_response(session: Mapping[str, Any], wishes: object) -> dict[str, Any]:
    """*session* as one response sees it, after the wishes of its ``response.create``. Raises Refused."""
    new = copy.deepcopy(dict(session))
    new["conversation"], new["metadata"], new["input"] = "auto", None, None
    if wishes is None:
        return new
    if not isinstance(wishes, Mapping):
        raise Refused("Invalid type for 'response': expected an object.", param="response")
    for name, value in wishes.items():
        if name not in _RESPONSE_FIELDS:
            raise Refused(
                f"Unknown parameter: 'response.{name}'.",
                code="unknown_parameter",
                param=f"response.{name}",
            )
        if value is None:
            continue
        if name == "audio":
            output = value.get("output") or {}
            _voice("response.audio.output.voice", output)
            _format("response.audio.output.format", output)
            new["audio"]["output"].update(copy.deepcopy(output))
        else:
            _check(f"response.{name}", name, value)
            new[name] = copy.deepcopy(value)
    return new


def _audio(new: dict[str, Any], wishes: Mapping[str, Any], *, has_spoken: bool) -> None:
    heard, said = wishes.get("input") or {}, wishes.get("output") or {}
    _format("session.audio.input.format", heard)
    _format("session.audio.output.format", said)
    _voice("session.audio.output.voice", said)
    speed = said.get("speed")
    if speed is not None and not (isinstance(speed, int | float) and 0.25 <= speed <= 1.5):
        raise Refused(
            f"Invalid 'session.audio.output.speed': {speed!r} is not within 0.25 and 1.5.",
            param="session.audio.output.speed",
        )
    if "turn_detection" in heard:
        _turn_detection(heard["turn_detection"])
    if said and "output" in new["audio"]:
        old = new["audio"]["output"]["voice"]
        if has_spoken and said.get("voice", old) != old:
            raise Refused(
                "Cannot update a conversation's voice if assistant audio is present.",
                code="cannot_update_voice",
                param="session.audio.output.voice",
            )
        new["audio"]["output"].update(copy.deepcopy(dict(said)))
    wish = copy.deepcopy(dict(heard))
    detection = wish.get("turn_detection")
    if detection is not None and detection["type"] == "server_vad":
        wish["turn_detection"] = {**server_vad(), **_given(detection)}
    elif detection is not None:
        answers = {"eagerness": "auto", "create_response": True, "interrupt_response": True}
        wish["turn_detection"] = {**answers, **_given(detection)}
    new["audio"]["input"].update(wish)


def _given(part: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if value is not None}


def _format(place: str, part: Mapping[str, Any]) -> None:
    wish = part.get("format")
    if wish is None:
        return
    kind = wish.get("type") if isinstance(wish, Mapping) else wish
    if kind not in RATES_HZ:
        raise Refused(
            f"Invalid value: {kind!r}. Supported values are: 'audio/pcm', 'audio/pcmu', and 'audio/pcma'.",
            param=f"{place}.type",
        )
    if kind == "audio/pcm" and wish.get("rate", 24_000) != 24_000:
        raise Refused(
            f"Invalid value: {wish['rate']}. Supported values are: 24000.", param=f"{place}.rate"
        )


def _voice(place: str, part: Mapping[str, Any]) -> None:
    voice = part.get("voice")
    if voice is not None and voice not in VOICES:
        allowed = ", ".join(f"'{name}'" for name in VOICES[:-1])
        raise Refused(
            f"Invalid value: {voice!r}. Supported values are: {allowed}, and '{VOICES[-1]}'.",
            param=place,
        )


def _turn_detection(wish: object) -> None:
    place = "session.audio.input.turn_detection"
    if wish is None:
        return
    kind = wish.get("type") if isinstance(wish, Mapping) else wish
    if not isinstance(wish, Mapping) or kind not in ("server_vad", "semantic_vad"):
        raise Refused(
            f"Invalid value: {kind!r}. Supported values are: 'server_vad' and 'semantic_vad'.",
            param=f"{place}.type",
        )
    bounds: dict[str, tuple[float, float]] = {
        "threshold": (0, 1),
        "prefix_padding_ms": (0, 10_000),
        "silence_duration_ms": (0, 10_000),
    }
    for name, (low, high) in bounds.items():
        value = wish.get(name)
        if value is not None and not (isinstance(value, int | float) and low <= value <= high):
            raise Refused(
                f"Invalid '{place}.{name}': expected a value from {low} to {high}, got {value!r}.",
                param=f"{place}.{name}",
            )
    eagerness = wish.get("eagerness")
    if eagerness is not None and eagerness not in EAGERNESS_MS:
        raise Refused(
            f"Invalid value: {eagerness!r}. Supported values are: 'low', 'medium', 'high', and 'auto'.",
            param=f"{place}.eagerness",
        )


def _check(place: str, name: str, value: object) -> None:
    match name:
        case "output_modalities":
            if value not in (["audio"], ["text"]):
                raise Refused(
                    f"Invalid modalities: {value!r}. Supported combinations are: ['text'] and ['audio'].",
                    param=place,
                )
        case "max_output_tokens":
            bounded = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 4096
            if value != "inf" and value is not None and not bounded:
                raise Refused(
                    f"Invalid '{place}': expected an integer from 1 to 4096 or 'inf', got {value!r}.",
                    param=place,
                )
        case "tool_choice":
            named = isinstance(value, Mapping) and value.get("type") == "function"
            if value not in ("auto", "none", "required") and not named:
                raise Refused(f"Invalid value for '{place}': {value!r}.", param=place)
        case "tools":
            for at, tool in enumerate(value if isinstance(value, list) else [None]):
                function = isinstance(tool, Mapping) and tool.get("type") == "function"
                if not function or not re.fullmatch(r"[\w-]{1,64}", str(tool.get("name"))):
                    raise Refused(
                        f"Missing required parameter: '{place}[{at}].name'.",
                        code="missing_required_parameter",
                        param=f"{place}[{at}].name",
                    )
        case "instructions":
            if not isinstance(value, str):
                raise Refused(
                    f"Invalid type for '{place}': expected a string.",
                    code="invalid_type",
                    param=place,
                )
        case _:
            return
