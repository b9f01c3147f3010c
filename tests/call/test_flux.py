"""Whole calls by audio with a recogniser that tells itself when a turn is over."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from trunkline.sandbox.caller import HangUp, Listen, Pause, Say
from trunkline.sandbox.story import STORIES

STORY = {story.key: story for story in STORIES}
Place = Callable[..., Awaitable[Any]]
FLUX: dict[str, Any] = {
    "stt": {"provider": "deepgram-flux"},
    # What is late by intent must not be taken for a failure.
    "fallback": {"hearing_ms": 9000, "first_token_ms": 9000, "first_audio_ms": 9000},
}
ORDER = "where_does_my_order_stand.wav"
HOURS = "wait_what_are_your_opening_hours.wav"
SLOW = ("--delay=stt_final=1500",)
"""From Flux's early end of a turn to the end, so that the caller may go on in between."""


def thought(call: Any) -> int:
    """How many answers the language model was asked for."""
    (part,) = [one for one in call.page.usage["parts"] if one["part"] == "llm"]
    return int(part["requests"])


def said(call: Any, role: str) -> list[str]:
    return [turn.text for turn in call.page.turns if turn.role == role]


async def test_flux_drives_the_turns(placed: Place) -> None:
    """The answer is prepared at the early end of the turn, once, and is said when the turn is over: there are
    as many requests as answers, and the answer waited for nothing but Flux."""
    steps = (Listen(), Say(HOURS), Listen(), HangUp())
    call = await placed(replace(STORY["d"], steps=steps), profile=FLUX, providers=SLOW)
    assert call.told["gave_up"] is None
    assert said(call, "user") == ["wait what are your opening hours"]
    assert said(call, "agent")[-1].startswith("We are open Monday to Friday")
    assert thought(call) == 1
    (turn,) = [turn for turn in call.page.turns if turn.role == "user"]
    assert turn.models == {"stt": "deepgram-flux flux-general-en"}


async def test_a_turn_that_goes_on_drops_what_was_prepared(placed: Place) -> None:
    """The caller goes on after the early end: it is one turn, the answer to its first half is never heard,
    and the one that is heard was asked for anew."""
    steps = (
        Listen(),
        Say(HOURS),
        Pause(timedelta(milliseconds=700)),
        Say(ORDER),
        Listen(),
        HangUp(),
    )
    call = await placed(replace(STORY["a"], steps=steps), profile=FLUX, providers=SLOW)
    assert call.told["gave_up"] is None
    assert len(said(call, "user")) == 1
    assert "opening hours" in said(call, "user")[0]
    assert "my order stand" in said(call, "user")[0]
    assert len(said(call, "agent")) == 2  # the greeting, and one answer
    assert thought(call) > 1


async def test_when_flux_fails_our_own_model_tells_the_turns(placed: Place) -> None:
    """The next recogniser knows nothing of turns, and the conversation goes on."""
    fallback = {"stt": [{"provider": "openai"}], "hearing_ms": 1000}
    profile = {"stt": {"provider": "deepgram-flux"}, "fallback": fallback}
    steps = (Listen(), Say(HOURS), Listen(), Say(HOURS), Listen(), Say(HOURS), Listen(), HangUp())
    fault = "stt/flux-general-en:stall@2"
    call = await placed(replace(STORY["d"], steps=steps), fault, profile=profile)
    assert call.told["gave_up"] is None
    assert said(call, "user") == ["wait what are your opening hours"] * 3
    hears = [turn.models.get("stt") for turn in call.page.turns if turn.role == "user"]
    assert hears[0] == "deepgram-flux flux-general-en"
    assert "openai gpt-4o-mini-transcribe" in hears
