"""Keys without a model: entries, and the phrases that ask for them."""

import asyncio
from datetime import timedelta

import pytest

from trunkline.agent import clips, phrases
from trunkline.agent.keys import Entered, Entry, Keypad, masked, step
from trunkline.agent.menu import _dialled
from trunkline.errors import Invalid
from trunkline.profiles.body import ProfileBody, read
from trunkline.profiles.keyed import opens

SOON = timedelta(milliseconds=20)


def enter(entry: Entry, keys: str) -> tuple[str, str | None]:
    """All of *keys* pressed, until the entry ends."""
    sofar, ended = "", None
    for key in keys:
        sofar, ended = step(entry, sofar, key)
        if ended:
            break
    return sofar, ended


@pytest.mark.parametrize(
    ("entry", "keys", "gives"),
    [
        (Entry(length=4), "1234", ("1234", "length")),
        (Entry(length=4), "12#", ("12", "terminator")),  # ended early on purpose
        (Entry(length=4), "12", ("12", None)),  # waits for more
        (Entry(), "00442071838750#", ("00442071838750", "terminator")),
        (Entry(length=1, terminator=None), "#", ("#", "length")),  # a menu may use any key
        (Entry(terminator="*"), "12#3*", ("12#3", "terminator")),
        (Entry(), "#", ("", "terminator")),  # nothing, said with a key
        (Entry(longest=5), "1111111", ("11111", "length")),  # somebody leans on the phone
    ],
)
def test_how_an_entry_ends(entry: Entry, keys: str, gives: tuple[str, str | None]) -> None:
    """By its length, by its terminator, or not yet."""
    assert enter(entry, keys) == gives


async def test_typing_ahead_counts() -> None:
    """Keys pressed before they are asked for are taken in order; what is left waits for the next entry."""
    pad = Keypad()
    for key in "2#75":
        pad.press(key)
    assert pad.pressed.is_set()
    assert await pad.collect(Entry()) == Entered("2", "terminator")
    assert pad.pressed.is_set()
    assert await pad.collect(Entry(length=2)) == Entered("75", "length")
    assert not pad.pressed.is_set()
    pad.press("9")
    pad.forget()
    assert await pad.collect(Entry(first=SOON)) == Entered("", "nothing")


async def test_a_pause_ends_an_entry() -> None:
    """What was keyed in until the pause counts."""
    pad = Keypad()
    entering = asyncio.create_task(pad.collect(Entry(between=SOON)))
    pad.press("4")
    pad.press("2")
    assert await entering == Entered("42", "pause")


def test_a_secret_entry_leaves_no_keys() -> None:
    """Only how many were pressed may be stored."""
    assert masked("1234") == "••••"


@pytest.mark.parametrize(
    ("keys", "number"), [("00442071838750", "+442071838750"), ("2025550134", "2025550134")]
)
def test_a_keyed_in_number(keys: str, number: str) -> None:
    """Two zeros are the plus sign, which no keypad has."""
    assert _dialled(keys) == number


def body(**changes: object) -> ProfileBody:
    return read(
        {
            "company": "Harbor Fiber",
            "agent_name": "Ann",
            "greeting": "Hello.",
            "greeting_unknown": "Hello.",
            "farewell": "Goodbye.",
            "silence_prompts": [],
            "silence_farewell": "Goodbye.",
            "instructions": "",
            "timezone": "UTC",
            "region": "US",
            "tts": {"provider": "cartesia", "voice": "v1"},
            "tools": [],
            **changes,
        }
    )


@pytest.mark.parametrize("language", phrases.languages())
def test_each_language_has_every_phrase(language: str) -> None:
    """A language is there as a whole, in words of its own, and names the company."""
    said = phrases.phrases(body(language=language))
    english = phrases.phrases(body())
    assert set(said) == set(english)
    assert "Harbor Fiber" in said["busy"]
    assert not any("{" in words for words in said.values())
    if language != "en":
        assert not set(said.values()) & set(english.values())


def test_a_language_that_is_not_there_is_answered_in_english() -> None:
    """Better English than nothing."""
    assert phrases.phrase(body(language="fi"), "goodbye") == phrases.phrase(body(), "goodbye")
    assert phrases.phrase(body(language="de-AT"), "goodbye") == phrases.phrase(
        body(language="de"), "goodbye"
    )


def test_the_package_says_every_phrase() -> None:
    """Each phrase has a clip of at least a second in the package, so that the menu always speaks."""
    for name in phrases.phrases(body()):
        clip = clips.packaged(name)
        assert len(clip.pcm) > 2 * 8000, name
        assert "{" not in clip.words


def test_a_clip_is_known_by_words_and_voice() -> None:
    """Another voice or other words are another clip; the same of another profile is the same clip."""
    one = clips.key_of(body(), "Goodbye.")
    assert one == clips.key_of(body(company="Other"), "Goodbye.")
    assert one != clips.key_of(body(), "Bye.")
    assert one != clips.key_of(body(tts={"provider": "cartesia", "voice": "v2"}), "Goodbye.")


CODE = {"name": "code", "when": "First.", "prompt": "Key it in."}


def test_codes_are_sealed_when_a_profile_is_read() -> None:
    """A profile shows no code, is the same each time it is read, and knows the right keys."""
    once = body(entries=[{**CODE, "secret": True, "accepts": ["4711", "0815"]}])
    again = read(once.model_dump(mode="json"))
    assert again == once
    assert "4711" not in once.model_dump_json()
    accepted = once.entries[0].accepts
    assert [opens(keys, accepted) for keys in ("4711", "0815", "4712", "")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([{**CODE, "secret": True}], "a secret entry needs accepts"),
        ([{**CODE, "accepts": ["secret"]}], "write the keys, like 4711"),
        ([{**CODE, "terminator": "5"}], "'#' or"),
        ([CODE, {**CODE, "name": "Code"}], "two entries have the same name"),
    ],
)
def test_an_entry_is_checked(entries: list[dict[str, object]], says: str) -> None:
    """What could not be collected, or would be of no use, is refused when the profile is read."""
    with pytest.raises(Invalid, match=says):
        body(entries=entries)
