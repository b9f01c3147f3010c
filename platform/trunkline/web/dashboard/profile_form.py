"""The plain form of a profile: from its body to fields, and from what was sent back to a body. Pure.

What the form doesn't show stays as it is; a row that was left empty is none. Nothing is checked here: the
body is, as a whole, and names what is wrong.
"""

from collections.abc import Mapping
from typing import Any, get_args

from starlette.datastructures import FormData

from trunkline.kit.messages import N_
from trunkline.profiles.hours import Day
from trunkline.profiles.known import OPENAI_REALTIME_VOICES, OPENAI_VOICES

PLAIN = (
    *("company", "agent_name", "greeting", "greeting_unknown", "recording_notice", "farewell"),
    *("silence_farewell", "instructions", "language", "timezone", "region", "callback_time"),
)
"""Texts that have a field of their own."""

DAYS: Mapping[str, str] = dict(
    zip(
        get_args(Day),
        (N_("Mon"), N_("Tue"), N_("Wed"), N_("Thu"), N_("Fri"), N_("Sat"), N_("Sun")),
        strict=True,
    )
)
"""Day as profiles write it → as people do."""

VOICES: Mapping[str, str] = {
    "cartesia": "Cartesia",
    "openai": "OpenAI",
    "deepgram": "Deepgram Aura",
}
"""Provider of a voice → its name."""

MODES: Mapping[str, str] = {
    "warm": N_("Ask them first"),
    "cold": N_("Put through at once"),
}
"""How a caller is put through."""

SPARE = 2
"""Empty rows at the end, to be filled in. Saved, they are followed by as many again."""

_HOURS: Mapping[str, Any] = {"days": (), "opens": "", "closes": ""}
_TRANSFER: Mapping[str, Any] = {"name": "", "number": "", "when": "", "mode": "warm", "ring_s": ""}


def speaker(body: Mapping[str, Any]) -> str:
    """Which part of *body* the voice is in: ``tts``, or ``realtime`` for speech to speech."""
    realtime = body["realtime"]
    return "realtime" if realtime and realtime["modality"] == "audio" else "tts"


def suggestions(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Voices that are known to be there; none: the provider has them by id."""
    if speaker(body) == "realtime":
        return OPENAI_REALTIME_VOICES
    return OPENAI_VOICES if body["tts"]["provider"] == "openai" else ()


def hours(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of its business hours."""
    return [{**_HOURS, **row} for row in (*body["hours"], *[{}] * SPARE)]


def transfers(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of whom callers can be put through to."""
    return [{**_TRANSFER, **row} for row in (*body["transfers"], *[{}] * SPARE)]


def taken(form: FormData, body: Mapping[str, Any]) -> dict[str, Any]:
    """What *form* says of the fields it has; *body* is what they change."""
    typed: dict[str, Any] = {field: _text(form, field) for field in PLAIN}
    typed["silence_prompts"] = _lines(_text(form, "silence_prompts"))
    typed["tools"] = [str(tool) for tool in form.getlist("tools")]
    typed["record"] = form.get("record") is not None
    if "voice" in form:
        part = speaker(body)
        typed[part] = _voice(form, body[part], switches=part == "tts")
    if rows := _rows(form, "hours"):
        typed["hours"] = [
            {
                "days": [str(day) for day in form.getlist(f"{row}-days")],
                "opens": _text(form, f"{row}-opens"),
                "closes": _text(form, f"{row}-closes"),
            }
            for row in rows
            if any(form.get(f"{row}-{field}") for field in _HOURS)
        ]
    if rows := _rows(form, "transfers"):
        typed["transfers"] = [
            {name: text for name in _TRANSFER if (text := _text(form, f"{row}-{name}"))}
            for row in rows
            if any(_text(form, f"{row}-{name}") for name in ("name", "number", "when"))
        ]
    return typed


def _voice(form: FormData, speaks: Mapping[str, Any], *, switches: bool) -> dict[str, Any]:
    """Another provider's voice has none of the former one's settings."""
    provider = _text(form, "voice_provider")
    same = not switches or provider in ("", speaks["provider"])
    kept = dict(speaks) if same else {"provider": provider}
    kept["voice"] = _text(form, "voice")
    if speed := _text(form, "voice_speed"):
        kept["speed"] = speed
    else:
        kept.pop("speed", None)
    return kept


def _rows(form: FormData, name: str) -> list[str]:
    """The names of the rows that were sent, in order."""
    found = {
        int(parts[1])
        for key in form
        if (parts := key.split("-"))[0] == name and len(parts) == 3 and parts[1].isdecimal()
    }
    return [f"{name}-{number}" for number in sorted(found)]


def _text(form: FormData, field: str) -> str:
    return str(form.get(field, "")).replace("\r\n", "\n").strip()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
