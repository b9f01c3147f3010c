"""Whether what is heard over the agent's voice is meant to stop it."""

import math
from collections.abc import AsyncIterator

import pytest
from livekit.agents import stt
from livekit.agents.voice import SpeechHandle

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
