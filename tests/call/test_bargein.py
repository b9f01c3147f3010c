"""Speaking into the agent's words: what stops it, what does not, by audio over the loopback line."""

import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from trunkline.kit.audio import Interval, read_wav, sounds
from trunkline.sandbox.caller import HangUp, Listen, Overhear, Pause, Say, Step
from trunkline.sandbox.story import Story

Place = Callable[..., Awaitable[Any]]

PLANS = "what_plans_do_you_have.wav"
BETWEEN = Pause(timedelta(milliseconds=2100))
STOP_MS = 3 * 350
"""Three times the aim from the caller's first sound to the agent's last."""
GAP_MS = 3 * 800
"""Three times the longest quiet that an aside may make."""


async def heard(call: Any) -> tuple[list[Interval], list[Interval]]:
    """The caller's and the agent's sounds in the recording."""
    samples, rate = read_wav(await call.blobs.get(f"recordings/{call.page.call.id}.wav"))
    return sounds(samples[:, 0], rate), sounds(samples[:, 1], rate)


def story(*asides: str) -> Story:
    """A caller who lets the agent go through its plans, and makes small sounds meanwhile."""
    into: list[Step] = []
    for aside in asides:
        into += [Say(f"asides/{aside}.wav"), BETWEEN]
    steps = (Listen(), Say(PLANS), Overhear(timedelta(seconds=2)), *into, Listen(), HangUp())
    return Story("aside", "nods", "anonymous", steps)


async def test_nods_and_noises_do_not_stop_it(placed: Place) -> None:
    """Three nods, a cough and a keyboard: the agent says all it had to say, once, without long gaps."""
    asides = ("uh_huh", "noise_cough", "okay", "noise_keyboard", "yeah_right")
    call = await placed(story(*asides), ears="script")
    agent = [turn for turn in call.page.turns if turn.role == "agent"]
    assert [turn.role for turn in call.page.turns] == ["agent", "user", "agent"]
    assert not agent[-1].interrupted
    assert agent[-1].text.startswith("Of course. Let me go through our plans one by one")
    assert agent[-1].text.endswith("tell me which plan would suit you best.")
    caller, spoken = await heard(call)
    nodding = [one for one in caller if one.start_ms > caller[0].end_ms + 2000]
    assert len(nodding) >= 3
    long = [
        (one.end_ms, other.start_ms)
        for one, other in itertools.pairwise(spoken)
        if one.end_ms > nodding[0].start_ms and other.start_ms - one.end_ms > GAP_MS
    ]
    assert long == []


async def test_a_television_does_not_silence_it(placed: Place) -> None:
    """A sound that goes on for seconds, with no word for the agent in it, pauses its voice and no more."""
    call = await placed(story("noise_television"), ears="script")
    agent = [turn for turn in call.page.turns if turn.role == "agent"]
    assert [turn.role for turn in call.page.turns] == ["agent", "user", "agent"]
    assert not agent[-1].interrupted
    assert agent[-1].text.endswith("tell me which plan would suit you best.")
    caller, spoken = await heard(call)
    television = [one for one in caller if one.start_ms > caller[0].end_ms + 2000]
    spoken_meanwhile = [
        one
        for one in spoken
        if one.start_ms < television[-1].end_ms and one.end_ms > television[0].start_ms
    ]
    assert television[-1].end_ms - television[0].start_ms > 2 * GAP_MS
    gaps = [other.start_ms - one.end_ms for one, other in itertools.pairwise(spoken_meanwhile)]
    assert max(gaps) < GAP_MS


async def test_words_that_are_meant_stop_it(placed: Place) -> None:
    """Told to wait, it falls silent, keeps what was heard, and answers the new question once."""
    steps = (
        Listen(),
        Say(PLANS),
        Overhear(timedelta(milliseconds=3200)),
        Say("wait_what_are_your_opening_hours.wav"),
        Listen(),
        HangUp(),
    )
    call = await placed(Story("cut", "breaks in", "anonymous", steps), ears="script")
    turns = call.page.turns
    assert [turn.role for turn in turns] == ["agent", "user", "agent", "user", "agent"]
    cut = turns[2]
    assert cut.interrupted
    assert cut.text.startswith("Of course. Let me go")
    assert not cut.text.endswith("suit you best.")
    assert turns[4].text.startswith("We are open Monday to Friday, nine to five.")
    caller, spoken = await heard(call)
    onset = caller[1].start_ms if len(caller) > 1 else caller[-1].start_ms
    before = [one for one in spoken if one.start_ms < onset]
    assert before[-1].end_ms - onset < STOP_MS
