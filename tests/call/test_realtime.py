"""Whole calls by audio with a speech-to-speech model, with its words spoken by another voice, or it gone."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from trunkline.sandbox.caller import HangUp, Listen, Press, Say, StayOn
from trunkline.sandbox.story import STORIES
from trunkline.sandbox.watch import hearing

STORY = {story.key: story for story in STORIES}
Place = Callable[..., Awaitable[Any]]


def realtime(turns: str = "server_vad", **fields: Any) -> dict[str, Any]:
    """A profile's fields that choose speech-to-speech."""
    return {"realtime": {"provider": "openai", "turns": {"by": turns}, **fields}}


@pytest.mark.parametrize("turns", ["server_vad", "semantic_vad", "local"])
async def test_realtime_does_what_the_pipeline_does(turns: str, placed: Place) -> None:
    """The same caller, the same lines: the deal is moved, the turns stored, the call recorded."""
    call = await placed(STORY["a"], profile=realtime(turns))
    assert call.page.call.end_reason == "agent_hangup"
    said = [(turn.role, turn.text) for turn in call.page.turns]
    assert said[0] == (
        "agent",
        "Hello Dana, this is Harbor Fiber. This call is recorded. How can I help you?",
    )
    assert ("user", "Where does my order stand?") in said
    moved = [(c.title, c.before, c.after) for c in call.page.changes if c.entity == "deal"]
    assert moved == [("Office Fiber", "proposal", "won")]
    assert call.page.usage is not None
    (model,) = [part for part in call.page.usage["parts"] if part["part"] == "realtime"]
    assert model["model"].startswith("openai gpt-realtime")
    assert min(model["requests"], model["input_tokens"], model["output_tokens"]) > 0
    limits = {limit["name"]: limit for limit in model["rate_limits"]}
    assert limits["tokens"]["remaining"] < limits["tokens"]["limit"]


@pytest.mark.parametrize("modality", ["audio", "text"], ids=["realtime", "halfcascade"])
async def test_who_breaks_in_stops_the_realtime_answer(modality: str, placed: Place) -> None:
    """A barge-in ends the answer, the next question is answered, and what is stored is what was heard."""
    call = await placed(STORY["d"], profile=realtime(modality=modality))
    cut = [turn for turn in call.page.turns if turn.interrupted]
    (turn,) = cut
    # The caller speaks into "megabits", after 7.5 s of the answer.
    whole = ["The", "first", "is", "the", "basic", "plan,", "one", "hundred", "megabits"]
    heard = turn.text.split("like. ")[1].split()
    assert whole[: len(heard)] == heard
    assert abs(len(heard) - len(whole[:-1])) <= 1
    (silent_ms,) = (await hearing(call.page, call.blobs)).stops_ms
    assert silent_ms < 800
    said = [turn.text for turn in call.page.turns]
    assert any(text.startswith("We are open Monday to Friday") for text in said)
    assert call.page.call.end_reason == "agent_hangup"


async def test_halfcascade_speaks_with_the_profiles_voice(placed: Place) -> None:
    """Realtime writes, Cartesia speaks: the same outcome, and each word known when it was heard."""
    call = await placed(STORY["a"], profile=realtime(modality="text"))
    both = {"realtime": "openai gpt-realtime", "tts": "cartesia sonic-2"}
    made = [turn.models for turn in call.page.turns if turn.role == "agent"]
    assert made == [
        {"tts": both["tts"]},
        both,
        both,
        both,
    ]  # of the greeting the model knows nothing
    moved = [(c.title, c.before, c.after) for c in call.page.changes if c.entity == "deal"]
    assert moved == [("Office Fiber", "proposal", "won")]
    assert call.page.call.end_reason == "agent_hangup"


async def test_keys_reach_the_realtime_model(placed: Place) -> None:
    """Keys are a turn of their own, answered as in the pipeline."""
    call = await placed(STORY["c"], profile=realtime())
    assert "[keys 2]" in [turn.text for turn in call.page.turns if turn.role == "user"]
    done = [run.name for run in call.page.tool_runs if run.state == "ok"]
    assert done[:1] == ["request_callback"]


ASKS = (Listen(), Say("wait_what_are_your_opening_hours.wav"), Listen(), HangUp())


@pytest.mark.parametrize(
    "fault",
    [
        "realtime:401",
        "realtime:stall",
        "realtime:429@1",
        "realtime:500@1",
        "realtime:stall@1",
        "realtime:reset@1",
    ],
)
async def test_when_realtime_fails_the_pipeline_answers(fault: str, placed: Place) -> None:
    """However it fails, the question that was asked is answered, and nobody hears an apology."""
    call = await placed(replace(STORY["d"], steps=ASKS), fault, profile=realtime(answer_ms=1500))
    said = [turn.text for turn in call.page.turns if turn.role == "agent"]
    if fault == "realtime:stall":  # the question itself went nowhere
        assert said[-1].startswith("Sorry, we were cut off")
    else:
        assert said[-1].startswith("We are open Monday to Friday")
    assert call.page.call.end_reason == "caller_hangup"
    assert call.told["gave_up"] is None


async def test_when_realtime_and_the_pipeline_fail(placed: Place) -> None:
    """The caller hears the keypad menu, not silence."""
    steps = (Listen(), Say("what_plans_do_you_have.wav"), Listen(), Press("3"), StayOn())
    story = replace(STORY["d"], steps=steps)
    call = await placed(story, "realtime:401", "llm:401", profile=realtime())
    assert call.page.call.end_reason == "provider_down"
    assert [a.kind for a in call.page.activities] == ["task"]


async def test_a_realtime_session_is_renewed_unheard(placed: Place) -> None:
    """A call longer than the provider's sessions goes on with all that was said."""
    call = await placed(STORY["a"], profile=realtime(), providers=("--realtime-session=9",))
    moved = [(c.title, c.before, c.after) for c in call.page.changes if c.entity == "deal"]
    assert moved == [("Office Fiber", "proposal", "won")]
    said = [turn.text for turn in call.page.turns]
    assert len(set(said)) == len(said)
    assert call.page.call.end_reason == "agent_hangup"
