"""Keys that the agent asks for, collected by code over the loopback line."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow
from trunkline.sandbox.caller import HangUp, Listen, Press, Say, StayOn
from trunkline.sandbox.story import PROFILE, STORIES

STORY = {story.key: story for story in STORIES}
WRONG, RIGHT = "9081726354", "7395182640"
ENTRIES = {
    "tools": [*PROFILE["tools"], "collect_digits"],  # type: ignore[misc]
    "entries": [
        {
            "name": "order number",
            "when": "They ask for an order.",
            "prompt": "Please key in your order number, then the hash key.",
            "first_s": 4,
            "tries": 1,
        },
        {
            "name": "access code",
            "when": "Before anything of their account is told.",
            "prompt": "Please key in your access code.",
            "length": len(RIGHT),
            "secret": True,
            "accepts": [RIGHT],
        },
    ],
}


def everything_in(folder: Path) -> bytes:
    """All that was written: the database with its log, recordings and clips."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


Place = Callable[..., Awaitable[Any]]


async def test_an_order_number(placed: Place) -> None:
    """The keys reach the model with the tool's result, the transcript and nothing else in between."""
    steps = (Listen(), Press("6"), Listen(), Press("12345#"), Listen(), HangUp())
    call = await placed(replace(STORY["a"], steps=steps), profile=ENTRIES)
    assert [(run.name, run.state, run.result) for run in call.page.tool_runs] == [
        ("collect_digits", "ok", "The caller keyed in 12345.")
    ]
    said = [turn.text for turn in call.page.turns]
    assert said[1:4] == [
        "[keys 6]",
        "Please key in your order number, then the hash key.",
        "[keys 12345]",
    ]
    assert said[4].startswith("Thank you. I have the number 12345."), said


async def test_speaking_instead(placed: Place) -> None:
    """Whoever speaks is listened to: the entry is over, and their words are answered."""
    steps = (
        Listen(), Press("6"), Listen(), Say("please_call_me_back_tomorrow.wav"), Listen(), HangUp(),
    )  # fmt: skip
    call = await placed(replace(STORY["a"], steps=steps), profile=ENTRIES)
    runs = [(run.name, run.state, run.error) for run in call.page.tool_runs]
    assert ("collect_digits", "error", "caller_spoke") in runs, call.page.turns
    assert ("request_callback", "ok", None) in runs, call.page.turns


async def test_nothing_pressed(placed: Place) -> None:
    """The agent goes on without it."""
    steps = (Listen(), Press("6"), Listen(), Listen(), Press("2"), StayOn())
    call = await placed(replace(STORY["a"], steps=steps), profile=ENTRIES)
    runs = [(run.name, run.state, run.error) for run in call.page.tool_runs]
    assert runs[0] == ("collect_digits", "error", "nothing_pressed")
    assert ("request_callback", "ok", None) in runs


async def test_a_secret_is_stored_nowhere(
    placed: Place, sqlite_db: Database, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a code there is how long it was and whether it was right: in no row, event, file or log are its
    keys, neither of a wrong one nor of keys that came too many."""
    steps = (
        Listen(), Press("7"), Listen(), Press(WRONG), Listen(), Press(f"{RIGHT}66#"), Listen(),
        HangUp(),
    )  # fmt: skip
    call = await placed(replace(STORY["a"], steps=steps), profile=ENTRIES)
    assert [(run.name, run.state, run.result) for run in call.page.tool_runs] == [
        ("collect_digits", "ok", "The caller keyed in a right code.")
    ]
    turns = [turn.text for turn in call.page.turns]
    dots = f"[keys {'•' * len(RIGHT)}]"
    assert [turn for turn in turns if turn.startswith("[keys")] == ["[keys 7]", dots, dots]
    assert "That was not right. Please key in your access code." in turns
    assert any(turn.startswith("Thank you, that is right.") for turn in turns), turns
    async with sqlite_db.look() as session:
        rows = await session.scalars(select(EventRow).where(EventRow.type == "dtmf.received"))
        told = [row.body["data"]["digits"] for row in rows]
    assert told == ["7"]
    written = everything_in(tmp_path)
    assert b"Please key in your access code." in written
    logged = "".join(capfd.readouterr()).encode()
    for code in (WRONG, RIGHT):
        assert code.encode() not in written
        assert code.encode() not in logged
