"""The catalogue of events, and which of them an endpoint gets."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from trunkline import events
from trunkline.errors import Invalid
from trunkline.events import CATALOGUE, OPT_IN, SAMPLES, Event
from trunkline.kit.ids import is_id
from trunkline.webhooks import filters

# The names that the design promises, and the test event.
NAMES = {
    "call.queued",
    "call.started",
    "call.answered",
    "call.transferred",
    "call.ended",
    "call.analyzed",
    "voicemail.detected",
    "consent.given",
    "consent.refused",
    "transcript.turn",
    "transcript.ready",
    "recording.ready",
    "contact.matched",
    "contact.created",
    "contact.updated",
    "contact.merged",
    "activity.logged",
    "deal.updated",
    "change.undone",
    "callback.requested",
    "tool.failed",
    "dtmf.received",
    "endpoint.disabled",
    "endpoint.test",
}

each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.type)


def _concrete(kind: type[Event]) -> list[type[Event]]:
    # Other tests make events of their own.
    own = [kind] if "type" in vars(kind) and kind.__module__ == events.__name__ else []
    return own + [found for child in kind.__subclasses__() for found in _concrete(child)]


def test_the_catalogue_holds_every_event_once() -> None:
    """Each event class has one sample and one name, and the names are the ones promised."""
    classes = _concrete(Event)
    assert sorted(kind.type for kind in classes) == sorted(NAMES)
    assert sorted(sample.type for sample in SAMPLES) == sorted(NAMES)
    assert {kind.type: kind for kind in classes} == dict(CATALOGUE)


def test_only_what_is_frequent_or_private_is_opt_in() -> None:
    """Spoken turns and pressed keys are sent to nobody who did not ask for them by name."""
    assert sorted(OPT_IN) == ["dtmf.received", "transcript.turn"]


@each_sample
def test_a_sample_is_a_small_json_document(sample: Event) -> None:
    """Its data is plain JSON, within the 20 kB that Standard Webhooks advises, and leaves room for seq."""
    data = sample.data()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert len(json.dumps(data)) < 20_000
    assert "seq" not in data


@each_sample
def test_a_sample_names_its_subject_by_a_real_id(sample: Event) -> None:
    """The subject, which orders events, is one of our ids and stands in the data."""
    prefix = sample.subject.partition("_")[0]
    assert is_id(prefix, sample.subject)
    assert sample.subject in json.dumps(sample.data())


@each_sample
def test_a_sample_reads_back_by_its_own_schema(sample: Event) -> None:
    """What is sent fits the type's JSON Schema, which describes all of it, and means the same when read."""
    adapter: TypeAdapter[Any] = TypeAdapter(type(sample))
    schema = adapter.json_schema()
    assert set(schema["properties"]) == set(sample.data())
    assert set(schema["required"]) == set(sample.data())
    assert adapter.validate_json(json.dumps(sample.data())) == sample


@each_sample
def test_an_event_says_in_a_sentence_when_it_fires(sample: Event) -> None:
    """The docstring is the catalogue's own sentence, not the one a dataclass makes up."""
    sentence = type(sample).__doc__ or ""
    assert not sentence.startswith(f"{type(sample).__name__}(")
    assert sentence.strip().endswith(".")


SNAPSHOT = Path(__file__).with_name("event_schemas.json")


def _broken(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """What a receiver that was written for *old* could stumble over in *new*."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        if old != new:
            yield f"{where}: {json.dumps(old)} became {json.dumps(new)}"
        return
    for key, value in old.items():
        if key in ("description", "title", "$schema"):
            continue  # words for people
        if key not in new:
            yield f"{where}/{key} is gone"
        elif key == "required":
            yield from (f"{where}: {name} may be missing" for name in set(value) - set(new[key]))
        else:
            yield from _broken(value, new[key], f"{where}/{key}")


def test_no_receiver_is_broken_by_a_change_of_the_catalogue() -> None:
    """No type, field or guarantee of the published schemas is ever taken away; additions are welcome.

    Way out for an addition: TRUNKLINE_WRITE_SCHEMAS=1 pytest tests/unit/test_events.py, and commit the file.
    For a change that breaks: a new event type beside the old one.
    """
    now = {type_: events.schema(type_) for type_ in sorted(CATALOGUE)}
    old = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    assert not list(_broken(old, now))
    if os.environ.get("TRUNKLINE_WRITE_SCHEMAS"):
        SNAPSHOT.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    assert json.loads(SNAPSHOT.read_text()) == now, "the schemas have grown: write them (see above)"


@pytest.mark.parametrize(
    ("old", "new", "finds"),
    [
        ({"a": {"type": "string"}}, {"a": {"type": "integer"}}, "/a/type"),
        ({"a": {}, "b": {}}, {"a": {}}, "/b is gone"),
        ({"required": ["a", "b"]}, {"required": ["a"]}, "b may be missing"),
        ({"anyOf": [{"type": "string"}]}, {"anyOf": [{"type": "null"}]}, "/anyOf"),
        ({"required": ["a"]}, {"required": ["a", "b"]}, None),  # more is promised
        ({"a": {}}, {"a": {}, "b": {}}, None),  # more is told
        ({"description": "x"}, {"description": "y"}, None),
    ],
)
def test_what_counts_as_breaking(old: Any, new: Any, finds: str | None) -> None:
    """Less, or something else, breaks; more does not."""
    found = list(_broken(old, new))
    assert (finds in found[0]) if finds else found == []


@each_sample
def test_a_sample_body_has_all_its_schema_requires(sample: Event) -> None:
    """The published sample holds the envelope, the data and seq, and nothing the schema does not name."""
    schema, body = events.schema(sample.type), events.sample_body(sample.type)
    assert set(schema["required"]) == set(body)
    data = schema["properties"]["data"]
    assert set(data["required"]) == set(body["data"]) <= set(data["properties"])
    assert schema["description"] == events.summary(sample.type)


@pytest.mark.parametrize(
    ("data", "cut"),
    [
        ({"text": "é" * 50_000, "id": "x"}, ["text"]),
        ({"text": "🎧" * 30_000, "summary": "y" * 30_000}, ["text", "summary"]),
        ({"before": {"note": "z" * 90_000}, "after": {"note": "short"}}, ["before"]),
        ({"changes": {"name": ["q" * 60_000, "r"]}}, ["changes"]),
    ],
    ids=["one", "two", "nested", "in a list"],
)
def test_a_long_text_is_cut_and_named(data: dict[str, Any], cut: list[str]) -> None:
    """A body stays under 20 kB whatever was said, and tells which fields to fetch."""
    kept = events.fitted(data)
    assert len(json.dumps(kept)) <= events.MAX_DATA_BYTES
    assert kept["truncated"] == cut


def test_what_fits_is_left_alone() -> None:
    """No field is added to an event of ordinary size."""
    assert events.fitted({"text": "x" * 15_000}) == {"text": "x" * 15_000}


def test_what_cannot_be_made_to_fit_is_refused() -> None:
    """Thousands of values are no event."""
    with pytest.raises(ValueError, match="bytes long"):
        events.fitted({"changes": {str(n): n for n in range(9_000)}})


def test_times_are_utc_with_milliseconds() -> None:
    """A moment is written as ISO 8601 in UTC, to the millisecond."""
    moment = datetime(2026, 1, 15, 9, 30, 0, 123_456, tzinfo=UTC)
    event = events.CallbackRequested("call_x", "act_x", None, None, moment, "later")
    assert event.data()["due_at"] == "2026-01-15T09:30:00.123Z"


@pytest.mark.parametrize(
    ("wanted", "type_", "gets"),
    [
        (["call.ended"], "call.ended", True),
        (["call.ended"], "call.started", False),
        (["call.*"], "call.started", True),
        (["call.*"], "callback.requested", False),  # the dot belongs to the pattern
        (["*"], "deal.updated", True),
        (["*"], "transcript.turn", False),  # opt-in
        (["transcript.*"], "transcript.turn", False),  # also for the wildcard of its own group
        (["transcript.*"], "transcript.ready", True),
        (["*", "transcript.turn"], "transcript.turn", True),
        (["dtmf.received"], "dtmf.received", True),
    ],
)
def test_what_an_endpoint_wants(wanted: list[str], type_: str, gets: bool) -> None:
    """Exact names, group wildcards and * let events through; opt-in types only their exact name."""
    assert filters.wants(wanted, type_) is gets


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ([], "at least one event"),
        (["call.endde"], "did you mean 'call.ended'"),
        (["calls.*"], "did you mean 'call.*'"),
        (["dtmf.*"], "dtmf.received must be named in full"),  # would never match anything
        (["zzz"], "known are *, activity.logged"),
        (["call.ended", "deal.update"], "did you mean 'deal.updated'"),
        (["call*"], "did you mean 'call.*'"),
        ([""], "there is no event ''"),
    ],
)
def test_a_filter_that_covers_nothing_is_refused(asked: list[str], sentence: str) -> None:
    """The refusal names what was probably meant."""
    with pytest.raises(Invalid) as refused:
        filters.checked(asked)
    assert sentence in str(refused.value)


def test_a_filter_keeps_its_order_without_repeats() -> None:
    """Naming an event twice is not an error."""
    assert filters.checked(["deal.*", "call.ended", "deal.*"]) == ["deal.*", "call.ended"]
