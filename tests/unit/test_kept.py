"""First words whose sound is kept from another call: how many, how long, and how they begin."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from trunkline.agent import kept
from trunkline.agent.audio import without_lead
from trunkline.agent.kept import Kept
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.profiles.body import read
from trunkline.sandbox.story import PROFILE

BODY = read(PROFILE)
OTHER_VOICE = read({**PROFILE, "tts": {**BODY.tts.model_dump(mode="json"), "speed": 1.2}})
NOW = datetime.fromisoformat("2026-03-02T09:00:00+00:00")


class Watch:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_words_are_found_again_in_the_same_voice_only(tmp_path: Path) -> None:
    """What was kept is found by its exact words and voice, and by no others."""
    found = Kept(tmp_path / "said", Watch())
    found.put(BODY, "Hello Dana.", b"\1\0" * 80)
    assert found.get(BODY, "Hello Dana.") == b"\1\0" * 80
    assert [found.has(BODY, words) for words in ("Hello Dana.", "Hello Jane.")] == [True, False]
    assert found.get(BODY, "Hello Jane.") is None
    assert found.get(OTHER_VOICE, "Hello Dana.") is None
    found.clear()
    assert found.get(BODY, "Hello Dana.") is None
    assert not (tmp_path / "said").exists()


def test_nothing_is_kept_longer_than_its_life(tmp_path: Path) -> None:
    """After a day a sentence is not found, and the next one that is kept takes its file away."""
    watch = Watch()
    found = Kept(tmp_path, watch)
    found.put(BODY, "Hello Dana.", b"\1\0")
    watch.now += kept.LIFE + timedelta(seconds=1)
    assert found.get(BODY, "Hello Dana.") is None
    assert not found.has(BODY, "Hello Dana.")
    found.put(BODY, "Hello Jane.", b"\2\0")
    assert len(list(tmp_path.iterdir())) == 1


def test_no_more_are_kept_than_the_bound(tmp_path: Path) -> None:
    """Beyond the bound those made first go."""
    watch = Watch()
    found = Kept(tmp_path, watch)
    for n in range(kept.MOST + 2):
        watch.now = NOW + timedelta(seconds=n)
        found.put(BODY, f"Hello {n}.", b"\1\0")
    assert len(list(tmp_path.iterdir())) == kept.MOST
    assert found.get(BODY, "Hello 1.") is None
    assert found.get(BODY, "Hello 2.") == b"\1\0"


def test_a_folder_that_cannot_be_used_costs_nothing_else(tmp_path: Path) -> None:
    """Where the folder should be stands a file: nothing is kept, and nothing is raised."""
    (tmp_path / "said").write_text("in the way")
    found = Kept(tmp_path / "said", Watch())
    found.put(BODY, "Hello.", b"\1\0")
    assert found.get(BODY, "Hello.") is None


@pytest.mark.parametrize(
    ("lead_ms", "left_ms"),
    [
        (0, 0),
        (5, 5),
        (120, 10),
    ],  # ten milliseconds before the first sound stay, if there are as many
)
def test_silence_before_the_first_sound_is_dropped(lead_ms: int, left_ms: int) -> None:
    """A sentence begins ten milliseconds before its first sound; silence alone stays as it is."""
    per_ms = LINE_RATE_HZ // 1000
    voice = np.full(50 * per_ms, 4000, "<i2").tobytes()
    hiss = np.full(lead_ms * per_ms, 20, "<i2").tobytes()
    assert len(without_lead(hiss + voice)) - len(voice) == left_ms * per_ms * 2
    assert without_lead(bytes(320)) == bytes(320)
