"""What a profile may choose of speech-to-speech, and what is refused."""

from typing import Any

import pytest

from trunkline.errors import Invalid
from trunkline.profiles.body import check, read
from trunkline.profiles.known import OPENAI_REALTIME_VOICES
from trunkline.profiles.text import example, parse, write
from trunkline.sandbox.realtime_session import VOICES
from trunkline.sandbox.story import PROFILE, VARIANTS


def body(**fields: Any) -> Any:
    return read({**PROFILE, "realtime": {"provider": "openai", **fields}})


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_demos_profiles_are_sound(variant: str) -> None:
    """Each can be published as it stands, and is read back from the file that is written of it."""
    made = read({**PROFILE, **VARIANTS[variant]})
    check(made)
    assert parse(write(made)) == made


def test_none_is_the_pipeline() -> None:
    """A profile that says nothing of it has none, and the example tells that it could."""
    assert read(PROFILE).realtime is None
    assert "\nrealtime: null\n" in example()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"voice": "nobody"}, "realtime.voice: 'nobody' is no voice of Realtime models"),
        ({"model": "gpt-4.1"}, "realtime.model: 'gpt-4.1' is no Realtime model of OpenAI's"),
        (
            {"transcription": {"model": "gpt-realtime"}},
            "realtime.transcription.model: 'gpt-realtime' is a Realtime model",
        ),
    ],
)
def test_what_the_provider_does_not_know(fields: dict[str, Any], says: str) -> None:
    """It is refused when the profile is published, by the field's name; a stored body is read."""
    made = body(**fields)
    with pytest.raises(Invalid, match="the profile is not valid") as refused:
        check(made)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"speed": 2}, "realtime.speed"),
        ({"max_tokens": 1}, "realtime.max_tokens"),
        ({"turns": {"by": "magic"}}, "realtime.turns.by"),
        ({"turns": {"by": "server_vad", "threshold": 1.5}}, "realtime.turns.threshold"),
        ({"modality": "video"}, "realtime.modality"),
        ({"base_url": "nowhere"}, "realtime.base_url"),
        ({"temperature": 0.8}, "realtime.temperature"),
        ({"provider": "azure"}, "realtime.endpoint"),
        ({"provider": "nobody"}, "realtime.provider"),
    ],
)
def test_bounds(fields: dict[str, Any], place: str) -> None:
    """What is out of bounds or unknown is refused with its place as people write it."""
    with pytest.raises(Invalid) as refused:
        body(**fields)
    assert place in str(refused.value)


def test_a_realtime_model_has_no_place_in_the_pipeline() -> None:
    """It is refused there with the place where it belongs."""
    made = read({**PROFILE, "llm": {"model": "gpt-realtime"}})
    with pytest.raises(Invalid, match="choose it under realtime"):
        check(made)


def test_the_sandbox_speaks_with_the_same_voices() -> None:
    """The sandbox refuses no voice that a profile may have, and takes no other."""
    assert set(VOICES) == set(OPENAI_REALTIME_VOICES)
