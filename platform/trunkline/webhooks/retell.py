"""The payload format ``retell``: our call events under Retell's names and in its shape.

For receivers that were written for Retell (https://docs.retellai.com/features/webhook-overview): the body is
``{event, call}`` and ``x-retell-signature`` is what its libraries verify, with the endpoint's secret in the
place of the API key. Fields that we have no counterpart for are left out.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

EVENTS: Mapping[str, str] = {
    # Not call.started: Retell tells of a call that never connected only by its end.
    "call.answered": "call_started",
    "call.ended": "call_ended",
    "call.analyzed": "call_analyzed",
    "transcript.turn": "transcript_updated",
}
"""Our type → Retell's event."""

REASONS: Mapping[str, str] = {
    "caller_hangup": "user_hangup",
    "callee_hangup": "user_hangup",
    "agent_hangup": "agent_hangup",
    "message_taken": "agent_hangup",
    "callback_booked": "agent_hangup",
    "transferred": "call_transfer",
    "voicemail": "voicemail_reached",
    "voicemail_left": "voicemail_reached",
    "silence": "inactivity",
    "max_duration": "max_duration_reached",
    "busy": "dial_busy",
    "no_answer": "dial_no_answer",
    "rejected": "dial_failed",
    "unreachable": "dial_failed",
    "cancelled": "dial_failed",
    "trunk_error": "dial_failed",
    "invalid_number": "invalid_destination",
}
"""Our end reason → Retell's ``disconnection_reason``, any other being ``error_unknown``
(https://docs.retellai.com/reliability/debug-call-disconnect)."""

_NOT_CONNECTED = ("dial_busy", "dial_no_answer", "dial_failed", "invalid_destination")


@dataclass(frozen=True)
class Spoken:
    """A turn: who, what, and from when to when on the recording."""

    role: str
    text: str
    started_ms: int
    ended_ms: int | None


@dataclass(frozen=True)
class CallFacts:
    """What is known of a call when it is told of."""

    id: str
    channel: str
    direction: str
    from_number: str | None
    to_number: str | None
    profile_version_id: str | None
    started_at: datetime
    answered_at: datetime | None
    ended_at: datetime | None
    end_reason: str | None
    turns: Sequence[Spoken]


def body(event: Mapping[str, Any], call: CallFacts | None) -> bytes:
    """The body for our *event* (``{type, timestamp, data}``) of *call*, None when the call is gone."""
    data = event["data"]
    told: dict[str, Any] = _call(call) if call else {"call_id": data.get("call_id")}
    if event["type"] == "call.analyzed":
        told["call_analysis"] = {
            "call_summary": data["summary"],
            "user_sentiment": str(data["sentiment"]).capitalize(),
            "call_successful": data["successful"],
            "in_voicemail": data["in_voicemail"],
            "custom_analysis_data": data["fields"],
        }
    name = EVENTS.get(event["type"], event["type"].replace(".", "_"))
    text = json.dumps({"event": name, "call": told}, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace")


def signature(content: bytes, *, at: datetime, secret: str) -> str:
    """``v=<milliseconds>,d=<hex>``: HMAC-SHA256 of the body followed by the milliseconds."""
    stamp = str(int(at.timestamp() * 1000))
    digest = hmac.new(secret.encode(), content + stamp.encode(), hashlib.sha256).hexdigest()
    return f"v={stamp},d={digest}"


def _call(call: CallFacts) -> dict[str, Any]:
    reason = REASONS.get(call.end_reason, "error_unknown") if call.end_reason else None
    status = "ongoing"
    if reason is not None:
        status = "not_connected" if reason in _NOT_CONNECTED else "ended"
        status = "error" if reason == "error_unknown" else status
    told: dict[str, Any] = {
        "call_id": call.id,
        "call_type": "phone_call" if call.channel == "sip" else "web_call",
        "agent_id": call.profile_version_id,
        "call_status": status,
        "direction": call.direction,
        "from_number": call.from_number,
        "to_number": call.to_number,
        "start_timestamp": _ms(call.answered_at or call.started_at),
        "end_timestamp": _ms(call.ended_at),
        "duration_ms": _between(call.answered_at or call.started_at, call.ended_at),
        "disconnection_reason": reason,
        "transcript": "".join(
            f"{'Agent' if turn.role == 'agent' else 'User'}: {turn.text}\n" for turn in call.turns
        ),
        "transcript_object": [
            {
                "role": turn.role,
                "content": turn.text,
                "words": [],
                "metadata": {"start_ms": turn.started_ms, "end_ms": turn.ended_ms},
            }
            for turn in call.turns
        ],
        "metadata": {},
    }
    return {name: value for name, value in told.items() if value is not None}


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


def _between(start: datetime, end: datetime | None) -> int | None:
    return None if end is None else int((end - start).total_seconds() * 1000)
