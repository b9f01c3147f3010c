"""Whole calls by audio over the loopback line: recogniser, model, tools, voice, recording."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from trunkline.agent.options import ProviderAccess
from trunkline.sandbox.caller import HangUp, Listen, Overhear, Pause, Press, Say, StayOn
from trunkline.sandbox.story import STORIES, Story

STORY = {story.key: story for story in STORIES}

Place = Callable[..., Awaitable[Any]]


@pytest.mark.parametrize(
    ("caller", "lines", "deal_moves"),
    [
        ("a", "e", False),  # Dana says Maria's line: a call back, and her deal stays
        ("e", "a", True),  # Maria says Dana's lines: Maria's deal is moved
    ],
)
async def test_the_outcome_follows_the_words(
    caller: str, lines: str, deal_moves: bool, placed: Place
) -> None:
    """Swapping two callers' recordings swaps what happens: nothing but sound reaches the agent."""
    steps = STORY[lines].steps
    if lines == "e":
        steps = (*steps[:2], Listen(), HangUp())
    call = await placed(replace(STORY[caller], steps=steps, tool_delays={}))
    names = [run.name for run in call.page.tool_runs if run.state == "ok"]
    moved = [change for change in call.page.changes if change.entity == "deal"]
    if deal_moves:
        assert [(c.title, c.before, c.after) for c in moved] == [("Home Fiber", "proposal", "won")]
        assert "request_callback" not in names
    else:
        assert moved == []
        assert names == ["request_callback"]


async def test_a_number_that_is_not_ours(placed: Place) -> None:
    """Nobody answers for it, and the call is stored with that reason."""
    call = await placed(STORY["a"], to_raw="+12025550199")
    assert call.page.call.end_reason == "no_profile"
    assert call.page.call.answered_at is None


async def test_a_silent_caller_is_asked_and_then_let_go(placed: Place) -> None:
    """Ask, ask again, say goodbye, hang up."""
    call = await placed(Story("s", "silent", "anonymous", (*[Listen()] * 4, StayOn())))
    said = [turn.text for turn in call.page.turns]
    assert [text.split(".")[0].split("?")[0] for text in said] == [
        "Hello, this is Harbor Fiber",
        "Are you still there",
        "I can't hear you",
        "I can't hear you, so I will hang up now",
    ]
    assert call.page.call.end_reason == "silence"
    assert call.page.call.from_number is None


ALONE: dict[str, Any] = {"fallback": {}}
"""A profile with one choice for each part."""


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("llm:401", "refused the key (401); set OPENAI_API_KEY"),
        ("llm:500@1", "answered with an error (500)"),
        ("llm:stall@1", "did not answer in time"),
        ("stt:401", "refused the key (401); set DEEPGRAM_API_KEY"),
        ("tts:401", "refused the key (401); set CARTESIA_API_KEY"),
        ("tts:reset@1", "broke off the connection; check the address"),  # the greeting is said
    ],
)
async def test_a_provider_that_fails(fault: str, says: str, placed: Place) -> None:
    """The caller hears an apology and the keypad menu, which does what is chosen; the operator reads why."""
    # Not only "One moment.", which comes before it when nobody has answered yet.
    to_the_menu = (Overhear(timedelta(seconds=4)), Listen())
    asked = (Listen(), Say("where_does_my_order_stand.wav"), *to_the_menu)
    steps = (*asked, Press("3"), StayOn())
    call = await placed(replace(STORY["a"], steps=steps), fault, profile=ALONE)
    assert call.page.call.end_reason == "provider_down"
    assert call.told["gave_up"] is None
    assert says in call.told["failure"]
    assert [a.kind for a in call.page.activities] == ["task"]
    said = [turn.text for turn in call.page.turns if turn.role == "agent"]
    assert any(text.startswith("I'm sorry, I have a technical problem") for text in said)
    assert said[-1].startswith("Thank you. Somebody will call you back")


async def test_whoever_hangs_up_on_a_failure_is_called_back(placed: Place) -> None:
    """A caller who hears the apology and hangs up has a call back booked all the same."""
    steps = (Overhear(timedelta(seconds=5)), HangUp())
    call = await placed(replace(STORY["a"], steps=steps), "stt:401", profile=ALONE)
    assert call.page.call.end_reason == "provider_down"
    assert [a.kind for a in call.page.activities] == ["task"]


async def test_one_error_is_survived(placed: Place) -> None:
    """A provider that fails once is asked again, and the caller gets an answer."""
    steps = (Listen(), Say("what_plans_do_you_have.wav"), Listen(), HangUp())
    call = await placed(replace(STORY["d"], steps=steps), "tts:500@1")
    assert call.page.call.end_reason == "caller_hangup"
    assert call.told["failure"] is None
    assert call.page.turns[-1].text.startswith("Of course.")


async def test_a_tool_that_is_too_slow(placed: Place) -> None:
    """A tool over its time has failed, is told so, and has changed nothing."""
    steps = (
        Listen(),
        Say("please_call_me_back_tomorrow.wav"),
        Listen(),
        Pause(timedelta(0)),
        HangUp(),
    )
    story = replace(
        STORY["e"], steps=steps, tool_delays={"request_callback": timedelta(seconds=30)}
    )
    call = await placed(story)
    (run,) = call.page.tool_runs
    assert (run.state, run.error) == ("error", "timeout")
    assert call.page.activities == ()


async def test_a_provider_that_is_not_there(placed: Place) -> None:
    """A wrong address is told as such; the call still ends, and with a reason."""
    nowhere = ProviderAccess("sandbox", "http://127.0.0.1:9/openai/v1")
    steps = (Listen(), Say("where_does_my_order_stand.wav"), StayOn())
    call = await placed(replace(STORY["a"], steps=steps), openai=nowhere)
    assert call.page.call.end_reason == "provider_down"
    assert "check the address and the network" in call.told["failure"]


MENU = {
    "prompt": "Press 1 for the assistant or 2 to leave a message.",
    "keys": {"1": "agent", "2": "message", "3": "callback"},
}


async def test_a_profiles_choices(placed: Place) -> None:
    """Keys that the profile offers are obeyed without a model; an unknown one has the prompt said again."""
    steps = (Listen(), Press("9"), Listen(), Press("3"), StayOn())
    call = await placed(replace(STORY["a"], steps=steps), profile={"menu": MENU})
    assert call.page.call.end_reason == "callback_booked"
    said = [turn.text for turn in call.page.turns]
    assert said.count(MENU["prompt"]) == 2
    assert [turn for turn in said if turn.startswith("[keys")] == ["[keys 9]", "[keys 3]"]
    assert [a.kind for a in call.page.activities] == ["task"]
    assert not call.page.tool_runs


async def test_who_speaks_instead_of_pressing(placed: Place) -> None:
    """A caller who just talks is answered by the agent, and keys are the model's again."""
    steps = (Listen(), Say("what_plans_do_you_have.wav"), Listen(), HangUp())
    call = await placed(replace(STORY["d"], steps=steps), profile={"menu": MENU})
    assert any(turn.text.startswith("Of course.") for turn in call.page.turns)
    assert call.page.call.end_reason == "caller_hangup"
