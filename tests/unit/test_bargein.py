"""Whether what is heard over the agent's voice is meant to stop it."""

import math
from collections.abc import AsyncIterator

import numpy as np
import pytest
from livekit.agents import stt
from livekit.agents.voice import SpeechHandle

from trunkline.agent.audio import EchoGate
from trunkline.agent.bargein import Floor, is_backchannel

INTERIM = stt.SpeechEventType.INTERIM_TRANSCRIPT
FINAL = stt.SpeechEventType.FINAL_TRANSCRIPT


@pytest.mark.parametrize(
    ("text", "language", "listening"),
    [
        ("Uh-huh.", "en-US", True),
        ("Okay, right.", "en", True),
        ("I see, yeah", "en", True),
        ("", "en", True),  # a cough
        ("no", "en", False),
        ("wait", "en", False),
        ("okay stop", "en", False),
        ("yeah yeah yeah yeah yeah", "en", False),  # too long for a nod
        ("Ja, genau.", "de-DE", True),
        ("D’accord", "fr", True),
        ("はい", "ja", False),  # of a language that is not known every word is meant
    ],
)
def test_what_only_shows_that_one_listens(text: str, language: str, listening: bool) -> None:
    """A nod in words is none of an interruption; a no, a wait and anything longer is one."""
    assert is_backchannel(text, language) is listening


def said(kind: stt.SpeechEventType, text: str) -> stt.SpeechEvent:
    data = stt.SpeechData(language="en", text=text)  # type: ignore[arg-type]
    return stt.SpeechEvent(type=kind, alternatives=[data])


async def heard_by(floor: Floor, *events: stt.SpeechEvent) -> list[str]:
    async def source() -> AsyncIterator[stt.SpeechEvent]:
        for event in events:
            yield event

    return [event.alternatives[0].text async for event in floor.filter(source())]


async def test_a_nod_while_the_agent_speaks_is_not_heard() -> None:
    """Neither its interim nor its final words reach the session, and the speech goes on."""
    speech = SpeechHandle.create()
    floor = Floor("en", lambda: speech, lambda: math.inf)
    assert await heard_by(floor, said(INTERIM, "uh"), said(FINAL, "Uh-huh.")) == []
    assert not speech.interrupted


async def test_a_word_that_is_meant_stops_the_speech_at_once() -> None:
    """The first interim words decide; the session gets all of them."""
    speech = SpeechHandle.create()
    floor = Floor("en", lambda: speech, lambda: math.inf)
    got = await heard_by(floor, said(INTERIM, "okay"), said(INTERIM, "okay wait"))
    assert got == ["okay wait"]
    assert speech.interrupted


async def test_a_yes_to_what_was_just_asked_is_an_answer() -> None:
    """With little left to say, or nothing being said, every word counts."""
    speech = SpeechHandle.create()
    assert await heard_by(Floor("en", lambda: speech, lambda: 0.4), said(FINAL, "Yes.")) == ["Yes."]
    assert await heard_by(Floor("en", lambda: None, lambda: 0.0), said(FINAL, "Okay.")) == ["Okay."]


async def test_what_may_not_be_interrupted_is_not() -> None:
    """What is said during a text that must be heard to its end is heard, and changes nothing."""
    speech = SpeechHandle.create(allow_interruptions=False)
    floor = Floor("en", lambda: speech, lambda: math.inf)
    assert await heard_by(floor, said(FINAL, "No, wait.")) == ["No, wait."]
    assert not speech.interrupted


async def test_each_utterance_is_judged_by_itself() -> None:
    """A nod before, and the next thing said after the agent is done, is heard."""
    speech: SpeechHandle | None = SpeechHandle.create()
    floor = Floor("en", lambda: speech, lambda: math.inf)
    assert await heard_by(floor, said(FINAL, "Uh-huh.")) == []
    speech = None
    assert await heard_by(floor, said(FINAL, "Okay.")) == ["Okay."]


def tone(level: int) -> bytes:
    """A frame of a 440 Hz tone of this peak."""
    at = np.arange(160) / 8000
    return (level * np.sin(2 * np.pi * 440 * at)).astype("<i2").tobytes()


def test_an_echo_is_silence_to_the_session() -> None:
    """28 dB below the agent's voice is taken out while it sounds, and as long as it may come back."""
    gate = EchoGate()
    gate.played(tone(8000))
    assert gate.heard(tone(200)) == bytes(320)
    for _ in range(EchoGate.FRAMES - 1):
        gate.played(bytes(320))
    assert gate.heard(tone(200)) == bytes(320)
    gate.played(bytes(320))
    assert gate.heard(tone(200)) == tone(200)


def test_a_voice_is_heard_over_the_agents() -> None:
    """Somebody who speaks, however softly beside it, gets through; so does all when the agent is silent."""
    gate = EchoGate()
    assert gate.heard(tone(20)) == tone(20)
    gate.played(tone(8000))
    assert gate.heard(tone(600)) == tone(600)
