"""A profile as a file that people write, and what differs between two."""

from typing import TYPE_CHECKING, Any

import pytest

from trunkline.errors import Invalid
from trunkline.profiles.body import ProfileBody, read
from trunkline.profiles.diff import Difference, differences
from trunkline.profiles.text import example, parse, write
from trunkline.sandbox.story import PROFILE

if TYPE_CHECKING:
    from tests.conftest import Make

SMALLEST = """\
# the least that a profile needs
company: Acme   # ours
agent_name: Ava
greeting: Hello
greeting_unknown: Hello
farewell: Goodbye
silence_prompts: []
silence_farewell: Goodbye
instructions: Be kind.
timezone: Europe/Oslo
region: NO
tts: {voice: v1}
tools: []
"""


def test_the_example_is_a_complete_profile() -> None:
    """A newcomer's first file is valid as it stands and shows every field with its meaning."""
    text = example()
    assert parse(text).company == "Acme Plumbing"
    lines = text.split("\n")
    for name, field in ProfileBody.model_fields.items():
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{name}:"))
        assert lines[at - 1].startswith("#"), name
        assert ("Must be given." in " ".join(lines[at - 2 : at])) is field.is_required(), name
    assert max(map(len, lines)) <= 100


def test_what_is_written_is_read_back(make: "Make") -> None:
    """Exporting and publishing again changes nothing, whatever the profile says."""
    odd = make.body(
        instructions="One: two\n\n- three # no comment\n  {braces}: 'quotes'\tand ☎",
        company="NO",
        farewell="17:30",
        greeting_unknown="yes",
        pipeline="2026-12-24",
        holidays=[{"date": "12-25", "name": "null"}],
        hours=[{"days": ["mon"], "opens": "09:00", "closes": "17:30"}],
    )
    for body in (odd, read(PROFILE)):
        assert parse(write(body)) == body


def test_words_are_words() -> None:
    """Norway is not false, and half past five is not a number."""
    body = parse(
        SMALLEST
        + "hours:\n  - {days: [mon], opens: 9:00, closes: 17:30}\n".replace("9:00", "09:00")
        + "holidays:\n  - date: 2026-12-24\n    name: Julaften\n"
    )
    assert body.region == "NO"
    assert body.hours[0].closes == "17:30"
    assert body.holidays[0].date == "2026-12-24"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SMALLEST + "record: maybe\ncolour: red\n", "record: input should be a valid boolean"),
        (SMALLEST + "colour: red\n", "colour is not a field of a profile"),
        (SMALLEST + "limits: {max_call_s: 5}\n", "limits.max_call_s: input should be greater"),
        (SMALLEST + "company: Other\n", "line 14: company is there already, in line 2"),
        ("company: [Acme\n", "the file is no YAML: line 2, column 1"),
        ("company: !!python/object:os.system x\n", "the file is no YAML: line 1, column 10"),
        ("- a\n- b\n", "the file is no profile"),
        ("", "the file is no profile"),
        ("1: 2\n", "the file is no profile"),
        ("x: " + "y" * 200_000, "more than 200,000 characters"),
        ("[" * 5000, "the file is no YAML"),
        ("? {a: b}\n: c\n", "the file is no YAML"),  # a field whose name is no word
    ],
)
def test_a_bad_file_is_refused_with_the_place(text: str, says: str) -> None:
    """Whoever wrote it learns where and what, in one sentence."""
    with pytest.raises(Invalid) as refusal:
        parse(text)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"a": 1}, {"a": 1}, ()),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, (Difference("a.c", 2, 3),)),
        ({"a": [{"b": 1}]}, {"a": [{"b": 2}]}, (Difference("a.0.b", 1, 2),)),
        ({"a": [1]}, {"a": [1, 2]}, (Difference("a", [1], [1, 2]),)),
        ({"old": 1}, {"new": 2}, (Difference("new", None, 2), Difference("old", 1, None))),
    ],
)
def test_what_differs_is_told_field_by_field(
    before: dict[str, Any], after: dict[str, Any], told: tuple[Difference, ...]
) -> None:
    """Each field that is not the same, by its path, with both values."""
    assert differences(before, after) == told
