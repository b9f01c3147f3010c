"""Whether a Realtime model begins a session with what a profile chooses: one is opened, set, and closed.

Nothing is said to it and no answer is asked for, so it costs nothing. Events as in OpenAI's API reference,
"Realtime"; the address is made as LiveKit's plugin makes it (livekit-agents 1.8.9, ``process_base_url``).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import aiohttp

from trunkline.profiles.realtime import AzureRealtime, RealtimeChoice

_BARE = ("", "/v1", "/openai", "/openai/v1")
"""Paths of a base URL behind which the plugin puts ``/realtime``; any other it takes for the whole."""
_PARAMS = {
    "session.audio.output.voice": "voice",
    "session.audio.output.speed": "speed",
    "session.audio.input.turn_detection": "turns",
    "session.audio.input.transcription": "transcription",
    "session.audio.input.noise_reduction": "noise_reduction",
    "session.max_output_tokens": "max_tokens",
    "session.tool_choice": "tool_choice",
    "session.model": "model",
}
"""The provider's name of a setting, or how it begins → the profile's field."""


@dataclass(frozen=True)
class Begun:
    """What came of it; all None: the session began."""

    status: int | None = None
    """Of the HTTP answer that refused the connection."""
    code: str | None = None
    """Of the error event."""
    message: str | None = None
    field: str | None = None
    """The profile's field that the error names."""
    silence: str | None = None
    """Why nothing could be asked."""


def address(choice: RealtimeChoice, base_url: str) -> str:
    """Where the session of *choice* is opened; *base_url* is the provider's, or Azure's resource."""
    if isinstance(choice, AzureRealtime):
        root = f"{base_url}/openai/v1/realtime"
        return f"{_ws(root)}?model={quote(choice.deployment)}"
    path = base_url.partition("://")[2].partition("/")[1:]
    whole = base_url if "".join(path) not in _BARE else f"{base_url}/realtime"
    return f"{_ws(whole)}?model={quote(choice.model)}"


def _ws(url: str) -> str:
    return f"ws{url.removeprefix('http')}"


async def begin(
    choice: RealtimeChoice, base_url: str, key: str, language: str, patience: timedelta
) -> Begun:
    """Open a session of *choice*, ask for its settings, and close it. Raises nothing."""
    azure = isinstance(choice, AzureRealtime)
    headers = {"api-key": key} if azure else {"Authorization": f"Bearer {key}"}
    try:
        async with asyncio.timeout(patience.total_seconds()), aiohttp.ClientSession() as http:
            url = address(choice, base_url)
            async with http.ws_connect(url, headers=headers, autoclose=True) as socket:
                found = await _first(socket, "session.created")
                # Of Azure's sessions the settings are its own.
                if found == Begun() and not azure:
                    wish = {"type": "session.update", "session": _session(choice, language)}
                    await socket.send_json(wish)
                    found = await _first(socket, "session.updated")
                return found
    except aiohttp.WSServerHandshakeError as error:
        return Begun(status=error.status)
    except TimeoutError:
        return Begun(silence=f"no answer within {patience.total_seconds():.0f} s")
    except aiohttp.ClientConnectorError as error:
        return Begun(silence=str(error.os_error.strerror or "no connection").lower())
    except (aiohttp.ClientError, ValueError, OSError) as error:
        return Begun(silence=f"the connection broke ({type(error).__name__})")


async def _first(socket: aiohttp.ClientWebSocketResponse, wanted: str) -> Begun:
    """Wait for the event *wanted*, or for an error."""
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue
        event = message.json()
        if not isinstance(event, dict):
            continue
        if event.get("type") == wanted:
            return Begun()
        if event.get("type") == "error":
            error: Mapping[str, Any] = event.get("error") or {}
            param = str(error.get("param") or "")
            field = next(
                (ours for theirs, ours in _PARAMS.items() if param.startswith(theirs)), None
            )
            return Begun(
                code=str(error.get("code") or "error"),
                message=str(error.get("message") or "no reason given").rstrip("."),
                field=field,
            )
    return Begun(silence="it closed the connection")


def _session(choice: RealtimeChoice, language: str) -> dict[str, Any]:
    turns, hears = choice.turns, choice.transcription
    detection: dict[str, Any] | None = None
    if turns.by == "server_vad":
        detection = {
            "type": "server_vad",
            "threshold": turns.threshold,
            "prefix_padding_ms": turns.prefix_padding_ms,
            "silence_duration_ms": turns.silence_ms,
        }
    elif turns.by == "semantic_vad":
        detection = {"type": "semantic_vad", "eagerness": turns.eagerness}
    transcription = {"model": hears.model, "language": hears.language or language.split("-")[0]}
    if hears.prompt:
        transcription["prompt"] = hears.prompt
    reduction = {"type": choice.noise_reduction} if choice.noise_reduction else None
    return {
        "type": "realtime",
        "output_modalities": [choice.modality],
        "tool_choice": "auto",
        "max_output_tokens": choice.max_tokens or "inf",
        "audio": {
            "input": {
                "turn_detection": detection,
                "transcription": transcription,
                "noise_reduction": reduction,
            },
            "output": {"voice": choice.voice, "speed": choice.speed},
        },
    }
