"""A caller on hold while a tool takes long, by audio over the loopback line."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from trunkline.agent.music import hold_music
from trunkline.calls import queries as calls
from trunkline.kit.audio import read_wav
from trunkline.kit.db import Database
from trunkline.sandbox.caller import HangUp, Listen, Overhear, Press
from trunkline.sandbox.story import STORIES

STORY = {story.key: story for story in STORIES}
RATE_HZ = 8000

Place = Callable[..., Awaitable[Any]]


def like_music(pcm: np.ndarray) -> float:
    """How well *pcm* fits the music at its best offset, 0 to 1."""
    music = np.frombuffer(b"".join(hold_music()), dtype="<i2").astype(float)
    part = pcm.astype(float)
    round_ = np.concatenate([music, music[: part.size]])
    size = 1 << (round_.size + part.size).bit_length()
    fit = np.fft.irfft(np.fft.rfft(round_, size) * np.conj(np.fft.rfft(part, size)), size)
    best = int(np.argmax(fit[: music.size]))
    there = round_[best : best + part.size]
    return float(fit[best] / max(1.0, np.linalg.norm(there) * np.linalg.norm(part)))


async def states_of(db: Database, room: str) -> list[str]:
    """The states that the call of *room* goes through from now on, until it has ended."""
    seen: list[str] = []
    while not seen or seen[-1] != "ended":
        async with db.look() as session:
            call = await calls.call_in_room(session, room)
        if call is not None and call.state not in seen[-1:]:
            seen.append(call.state)
        await asyncio.sleep(0.05)  # pace: the call is looked at while it goes on
    return seen


async def test_music_while_a_tool_takes_long(sqlite_db: Database, placed: Place) -> None:
    """After two seconds of silence there is music, the call is held, and the answer comes without it."""
    steps = (*STORY["e"].steps[:2], Overhear(timedelta(seconds=5)), Listen(), HangUp())
    slow = replace(STORY["e"], steps=steps, tool_delays={"request_callback": timedelta(seconds=6)})
    watching = asyncio.create_task(states_of(sqlite_db, f"test-{slow.key}"))
    call = await placed(slow, hold_after=timedelta(seconds=2), filler_after=None)
    assert await watching == ["ringing", "talking", "held", "talking", "ended"]
    samples, rate = read_wav(await call.blobs.get(f"recordings/{call.page.call.id}.wav"))
    assert rate == RATE_HZ
    agent = samples[:, 1]
    second = [
        like_music(agent[at : at + RATE_HZ]) for at in range(0, agent.size - RATE_HZ, RATE_HZ)
    ]
    assert sum(fit > 0.8 for fit in second) >= 2, second
    done = next(t for t in call.page.turns if t.text.startswith("We will call you back"))
    after = agent[done.started_ms * 8 : (done.ended_ms or done.started_ms) * 8]
    assert like_music(after) < 0.3, "the music stops before the answer"


async def test_a_key_ends_the_hold(sqlite_db: Database, placed: Place) -> None:
    """Who presses a key while they wait is answered at once."""
    steps = (*STORY["e"].steps[:2], Overhear(timedelta(seconds=3)), Press("9"), Listen(), HangUp())
    slow = replace(STORY["e"], steps=steps, tool_delays={"request_callback": timedelta(seconds=9)})
    call = await placed(slow, hold_after=timedelta(seconds=1.5), filler_after=None)
    said = [turn.text for turn in call.page.turns]
    assert "[keys 9]" in said
    assert any(text.startswith("That key does nothing here") for text in said), said


async def test_a_slow_tool_has_its_filler(placed: Place) -> None:
    """Who waits for a tool is told so, not in the words of before, and then answered; all of it is stored."""
    # The model's own word before the tool, the filler, the answer.
    steps = (*STORY["e"].steps[:2], Listen(), Listen(), Listen(), HangUp())
    slow = replace(STORY["e"], steps=steps, tool_delays={"request_callback": timedelta(seconds=4)})
    call = await placed(slow)
    page = call.page
    said = [turn for turn in page.turns if turn.role == "agent"]
    (filler,) = [turn for turn in said if turn.text == "I am still on it."]
    after = said[said.index(filler) + 1]
    assert after.text.startswith("We will call you back")
    (asked,) = [turn for turn in page.turns if turn.role == "user"]
    assert filler.started_ms - (asked.ended_ms or asked.started_ms) < 3 * 2500
    samples, _ = read_wav(await call.blobs.get(f"recordings/{page.call.id}.wav"))
    heard = samples[filler.started_ms * 8 : (filler.ended_ms or filler.started_ms) * 8, 1]
    assert float(np.sqrt(np.mean(heard.astype(float) ** 2))) > 100, "the filler is in the recording"
    assert page.call.state == "ended"
