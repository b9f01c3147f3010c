"""The catalogue: everything that is told to other systems, one frozen dataclass each.

A body is ``{type, timestamp, data}`` (Standard Webhooks); ``data`` is the dataclass as JSON plus
``seq``, which orders the events of one subject. Payloads carry ids and what people filter on;
transcript and recording are fetched by link. Times are ISO 8601 in UTC, durations say their unit.
"""

import dataclasses
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

MAX_DATA_BYTES = 19_000
"""Longest ``data`` as JSON: with its envelope it stays under the 20 kB that Standard Webhooks advises."""


@dataclass(frozen=True)
class Event:
    """Something that happened. ``subject`` names the thing whose ``seq`` orders it."""

    type: ClassVar[str]

    @property
    def subject(self) -> str:
        """The call when there is one, otherwise the thing that changed."""
        raise NotImplementedError

    def data(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return {name: _plain(value) for name, value in dataclasses.asdict(self).items()}


def fitted(data: Mapping[str, Any]) -> dict[str, Any]:
    """*data*, its longest texts cut until it is no longer than MAX_DATA_BYTES as JSON.

    The fields in which something was cut are named in ``truncated``; all of it is fetched by the ids beside
    it. An event is not refused for a long text: the change it tells of has happened. Raises ValueError if
    *data* holds a number that JSON cannot write, or too many values.
    """
    kept = dict(data)
    for longest in (6_000, 3_000, 1_500, 700, 300, 100):
        if len(json.dumps(kept, allow_nan=False)) <= MAX_DATA_BYTES:
            return kept
        kept = {name: _cut(value, longest) for name, value in data.items()}
        kept["truncated"] = [name for name, value in data.items() if kept[name] != value]
    if (length := len(json.dumps(kept))) > MAX_DATA_BYTES:
        raise ValueError(f"an event's data is {length} bytes long without any long text in it")
    return kept


def _cut(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value[:longest]
    if isinstance(value, Mapping):
        return {key: _cut(item, longest) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, longest) for item in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@dataclass(frozen=True)
class Evidence:
    """Where in a call a change was agreed to: the turn, and milliseconds into the recording."""

    call_id: str
    turn_id: str | None
    offset_ms: int | None


@dataclass(frozen=True)
class CallEvent(Event):
    """An event of one call."""

    call_id: str

    @property
    def subject(self) -> str:
        return self.call_id


@dataclass(frozen=True)
class CallQueued(CallEvent):
    """A call is to be placed, no sooner than ``due_at``. ``attempt`` counts from 1; a later one names
    the first call in ``retry_of``."""

    type = "call.queued"
    from_number: str | None
    to_number: str | None
    contact_id: str | None
    profile_version_id: str | None
    reason: str | None
    activity_id: str | None
    due_at: datetime
    attempt: int
    retry_of: str | None
    source: str


@dataclass(frozen=True)
class CallStarted(CallEvent):
    """A call rings, or is being dialled. Fires once per call, also when nobody ever answers it."""

    type = "call.started"
    direction: str
    channel: str
    from_number: str | None
    to_number: str | None
    contact_id: str | None
    profile_version_id: str | None


@dataclass(frozen=True)
class CallAnswered(CallEvent):
    """The line was picked up; ``ring_ms`` is how long it rang."""

    type = "call.answered"
    ring_ms: int


@dataclass(frozen=True)
class CallTransferred(CallEvent):
    """The agent handed the caller over. Fires once the other side has answered, or has not.

    ``kind`` is cold or warm; ``outcome`` is answered, no_answer, busy, rejected, voicemail,
    unreachable, cancelled (the caller hung up meanwhile) or failed.
    """

    type = "call.transferred"
    kind: str
    to_number: str | None
    to_name: str | None
    outcome: str
    leg_id: str | None
    reason: str | None


@dataclass(frozen=True)
class CallEnded(CallEvent):
    """The call is over. Fires for every call that was queued or started, answered or not."""

    type = "call.ended"
    end_reason: str
    direction: str
    from_number: str | None
    to_number: str | None
    contact_id: str | None
    started_at: datetime
    answered_at: datetime | None
    ended_at: datetime
    duration_ms: int


@dataclass(frozen=True)
class CallAnalyzed(CallEvent):
    """An ended call was summed up. Fires once per call that was answered, some seconds after call.ended.

    ``sentiment`` is positive, neutral, negative or unknown; ``successful`` is None when it cannot be
    said; ``fields`` holds what the profile asks to be found out, by name.
    """

    type = "call.analyzed"
    summary: str
    outcome: str | None
    sentiment: str
    successful: bool | None
    in_voicemail: bool
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class VoicemailDetected(CallEvent):
    """A machine answered an outbound call. ``action`` is what the agent does: hang_up or leave_message."""

    type = "voicemail.detected"
    action: str
    offset_ms: int


@dataclass(frozen=True)
class ConsentGiven(CallEvent):
    """The caller agreed. ``purpose`` is what to, such as recording; ``turn_id`` is where they said so."""

    type = "consent.given"
    purpose: str
    turn_id: str | None
    offset_ms: int | None


@dataclass(frozen=True)
class ConsentRefused(CallEvent):
    """The caller did not agree. ``purpose`` is what to, such as recording; it is not done from then on."""

    type = "consent.refused"
    purpose: str
    turn_id: str | None
    offset_ms: int | None


@dataclass(frozen=True)
class TranscriptTurn(CallEvent):
    """One turn is complete. Opt-in: an endpoint gets it only if it names this type."""

    type = "transcript.turn"
    turn_id: str
    turn_seq: int
    role: str
    text: str
    started_ms: int
    ended_ms: int
    interrupted: bool


@dataclass(frozen=True)
class TranscriptReady(CallEvent):
    """All turns of an ended call are stored and can be fetched."""

    type = "transcript.ready"
    turns: int


@dataclass(frozen=True)
class RecordingReady(CallEvent):
    """The recording is complete and can be fetched."""

    type = "recording.ready"
    recording_id: str
    duration_ms: int
    channels: int


@dataclass(frozen=True)
class ContactMatched(CallEvent):
    """The caller's number belongs to a contact we know."""

    type = "contact.matched"
    contact_id: str
    name: str | None


@dataclass(frozen=True)
class ContactCreated(Event):
    """A contact came into being."""

    type = "contact.created"
    contact_id: str
    name: str | None
    source: str
    evidence: Evidence | None

    @property
    def subject(self) -> str:
        return self.evidence.call_id if self.evidence else self.contact_id


@dataclass(frozen=True)
class ContactUpdated(Event):
    """Fields of a contact changed; ``changes`` is field → [before, after]."""

    type = "contact.updated"
    contact_id: str
    source: str
    changes: Mapping[str, list[Any]]
    evidence: Evidence | None

    @property
    def subject(self) -> str:
        return self.evidence.call_id if self.evidence else self.contact_id


@dataclass(frozen=True)
class ContactMerged(Event):
    """Two contacts were one person: ``merged_id`` is ``contact_id`` from now on, with all its numbers, calls,
    deals and activities, counted in ``moved``. ``changes`` is field → [before, after] of the one that
    stays. Taken back, it is followed by change.undone."""

    type = "contact.merged"
    contact_id: str
    merged_id: str
    change_id: str
    source: str
    moved: Mapping[str, int]
    changes: Mapping[str, list[Any]]

    @property
    def subject(self) -> str:
        return self.contact_id


@dataclass(frozen=True)
class ActivityLogged(Event):
    """A call, note, task or meeting was written down."""

    type = "activity.logged"
    activity_id: str
    kind: str
    summary: str
    contact_id: str | None
    deal_id: str | None
    due_at: datetime | None
    source: str
    evidence: Evidence | None

    @property
    def subject(self) -> str:
        return self.evidence.call_id if self.evidence else self.activity_id


@dataclass(frozen=True)
class DealUpdated(Event):
    """Fields of a deal changed; ``before`` and ``after`` hold just those that did."""

    type = "deal.updated"
    deal_id: str
    contact_id: str | None
    title: str
    source: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    evidence: Evidence | None

    @property
    def subject(self) -> str:
        return self.evidence.call_id if self.evidence else self.deal_id


@dataclass(frozen=True)
class ChangeUndone(Event):
    """A change in the ledger was taken back; ``before`` is what it had been changed to."""

    type = "change.undone"
    change_id: str
    entity: str
    entity_id: str
    field: str
    before: Any
    after: Any
    call_id: str | None

    @property
    def subject(self) -> str:
        return self.call_id or self.entity_id


@dataclass(frozen=True)
class CallbackRequested(CallEvent):
    """A caller asked to be called back; the task is due at ``due_at``."""

    type = "callback.requested"
    activity_id: str
    contact_id: str | None
    number: str | None
    due_at: datetime
    reason: str


@dataclass(frozen=True)
class ToolFailed(CallEvent):
    """A tool did not do what the caller was promised; ``error`` is a stable code."""

    type = "tool.failed"
    tool_run_id: str
    name: str
    error: str


@dataclass(frozen=True)
class DtmfReceived(CallEvent):
    """The caller pressed keys. Opt-in, and never for digits collected in secret."""

    type = "dtmf.received"
    digits: str
    offset_ms: int


@dataclass(frozen=True)
class EndpointDisabled(Event):
    """An endpoint will get no more deliveries until someone enables it; ``reason`` says why."""

    type = "endpoint.disabled"
    endpoint_id: str
    reason: str

    @property
    def subject(self) -> str:
        return self.endpoint_id


@dataclass(frozen=True)
class EndpointTest(Event):
    """Sent on request to one endpoint, to see that it works."""

    type = "endpoint.test"
    endpoint_id: str

    @property
    def subject(self) -> str:
        return self.endpoint_id


OPT_IN = frozenset({TranscriptTurn.type, DtmfReceived.type})
"""Types that a wildcard does not cover: an endpoint gets them only when it names them."""

_AT = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
_CALL = "call_01kf0q8m3s7t9v1w3x5y7z9abc"
_CONTACT = "con_01kf0q8m3s7t9v1w3x5y7z9abd"
_EVIDENCE = Evidence(_CALL, "turn_01kf0q8m3s7t9v1w3x5y7z9abe", 21_340)

SAMPLES: tuple[Event, ...] = (
    CallQueued(
        _CALL,
        "+12025550100",
        "+12025550134",
        _CONTACT,
        "pfv_01kf0q8m3s7t9v1w3x5y7z9abf",
        "Your question about the invoice.",
        "act_01kf0q8m3s7t9v1w3x5y7z9abm",
        _AT,
        1,
        None,
        "api",
    ),
    CallStarted(
        _CALL,
        "inbound",
        "sip",
        "+12025550134",
        "+12025550100",
        _CONTACT,
        "pfv_01kf0q8m3s7t9v1w3x5y7z9abf",
    ),
    CallAnswered(_CALL, ring_ms=1_840),
    CallEnded(
        _CALL,
        "caller_hangup",
        "inbound",
        "+12025550134",
        "+12025550100",
        _CONTACT,
        _AT,
        _AT,
        _AT,
        64_210,
    ),
    CallTransferred(
        _CALL,
        "warm",
        "+12025550177",
        "Second-line support",
        "answered",
        "leg_01kf0q8m3s7t9v1w3x5y7z9abq",
        "Asked for a person.",
    ),
    CallAnalyzed(
        _CALL,
        "Dana Whitfield agreed to the bigger plan.",
        "deal_won",
        "positive",
        True,
        False,
        {"follow_up": False},
    ),
    VoicemailDetected(_CALL, "hang_up", 4_200),
    ConsentGiven(_CALL, "recording", "turn_01kf0q8m3s7t9v1w3x5y7z9abe", 6_100),
    ConsentRefused(_CALL, "recording", "turn_01kf0q8m3s7t9v1w3x5y7z9abe", 6_100),
    TranscriptTurn(
        _CALL,
        "turn_01kf0q8m3s7t9v1w3x5y7z9abe",
        3,
        "user",
        "Yes, please go ahead.",
        21_340,
        22_900,
        False,
    ),
    TranscriptReady(_CALL, turns=9),
    RecordingReady(_CALL, "rec_01kf0q8m3s7t9v1w3x5y7z9abg", 64_210, 2),
    ContactMatched(_CALL, _CONTACT, "Dana Whitfield"),
    ContactCreated(_CONTACT, "Peter Novak", "call", _EVIDENCE),
    ContactUpdated(_CONTACT, "api", {"name": ["P. Novak", "Peter Novak"]}, None),
    ContactMerged(
        _CONTACT,
        "con_01kf0q8m3s7t9v1w3x5y7z9abf",
        "chg_01kf0q8m3s7t9v1w3x5y7z9abk",
        "api",
        {"phones": 1, "calls": 3, "deals": 1, "activities": 2},
        {"email": [None, "dana@example.com"]},
    ),
    ActivityLogged(
        "act_01kf0q8m3s7t9v1w3x5y7z9abh",
        "note",
        "Goes ahead with the bigger plan.",
        _CONTACT,
        None,
        None,
        "call",
        _EVIDENCE,
    ),
    DealUpdated(
        "deal_01kf0q8m3s7t9v1w3x5y7z9abj",
        _CONTACT,
        "Office Fiber",
        "call",
        {"stage": "proposal"},
        {"stage": "won"},
        _EVIDENCE,
    ),
    ChangeUndone(
        "chg_01kf0q8m3s7t9v1w3x5y7z9abk",
        "deal",
        "deal_01kf0q8m3s7t9v1w3x5y7z9abj",
        "stage",
        "won",
        "proposal",
        _CALL,
    ),
    CallbackRequested(
        _CALL, "act_01kf0q8m3s7t9v1w3x5y7z9abm", _CONTACT, "+12025550134", _AT, "Internet is down."
    ),
    ToolFailed(_CALL, "run_01kf0q8m3s7t9v1w3x5y7z9abn", "move_deal", "refused"),
    DtmfReceived(_CALL, digits="2", offset_ms=8_120),
    EndpointDisabled("whk_01kf0q8m3s7t9v1w3x5y7z9abp", "the receiver answered 410 Gone"),
    EndpointTest("whk_01kf0q8m3s7t9v1w3x5y7z9abp"),
)
"""One of each, with values that look like the real ones."""

CATALOGUE: Mapping[str, type[Event]] = {sample.type: type(sample) for sample in SAMPLES}
"""Event type → its dataclass."""


def summary(type_: str) -> str:
    """When an event of *type_* fires and what its fields mean: the text of its class."""
    return " ".join((inspect.getdoc(CATALOGUE[type_]) or "").split())


def sample_body(type_: str) -> dict[str, Any]:
    """A body of *type_* as a receiver would get it."""
    sample = next(each for each in SAMPLES if each.type == type_)
    return {"type": type_, "timestamp": _plain(_AT), "data": {**sample.data(), "seq": 4}}


def schema(type_: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of a body of *type_*. Fields may be added later, none is taken away."""
    from pydantic import TypeAdapter

    data = TypeAdapter(CATALOGUE[type_]).json_schema()
    definitions = data.pop("$defs", {})
    data.pop("description", None)
    data["properties"]["seq"] = {
        "type": "integer",
        "minimum": 1,
        "description": "Order within the call, or within what changed.",
    }
    data["required"] = [*data["required"], "seq"]
    data["properties"]["truncated"] = {
        "type": "array",
        "items": {"type": "string"},
        "description": "Fields whose text was cut to keep the body small.",
    }
    data["properties"]["sample"] = {
        "type": "boolean",
        "description": "True when it was sent on request and nothing happened.",
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": type_,
        "description": summary(type_),
        "type": "object",
        "properties": {
            "type": {"const": type_},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": data,
        },
        "required": ["type", "timestamp", "data"],
        **({"$defs": definitions} if definitions else {}),
    }
