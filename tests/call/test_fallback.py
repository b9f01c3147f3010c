"""A provider's bad minute in the middle of a call: who answers instead, and what the caller hears of it."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.call.conftest import Place, Placed

from trunkline.agent.options import ProviderAccess
from trunkline.calls.usage import Price
from trunkline.sandbox.caller import HangUp, Listen, Say
from trunkline.sandbox.story import STORIES
from trunkline.sandbox.watch import hearing

STORY = {story.key: story for story in STORIES}
SILENCE_MS = 2000
"""The longest that a caller may wait for a word."""
STALL_MS = 1500
"""The most that a stalled provider may cost them over a healthy turn, where that alone is slow: on a machine
that runs several of these calls at once."""
ASK = (
    Listen(),
    Say("where_does_my_order_stand.wav"),
    Listen(),
    Say("where_does_my_order_stand.wav"),
    Listen(),
    HangUp(),
)
SPARES: dict[str, str] = {
    "stt": "openai gpt-4o-mini-transcribe",
    "llm": "openai gpt-4o-mini",
    "tts": "deepgram aura-2-thalia-en",
}


async def in_time(call: Placed) -> None:
    """The gap before the second reply is no longer than it may be, by the recording; the first is healthy."""
    heard = await hearing(call.page, call.blobs)
    first, second = heard.replies_ms
    assert second <= max(SILENCE_MS, first + STALL_MS), heard.replies_ms


def made_by(call: Placed, role: str, part: str) -> list[str | None]:
    """Who made each turn's part, in order."""
    return [(t.models or {}).get(part) for t in call.page.turns if t.role == role]


@pytest.mark.parametrize(
    "fault",
    [
        "llm/gpt-4.1-mini:stall@2",
        "llm/gpt-4.1-mini:500@2",
        "llm/gpt-4.1-mini:429@2",
        "llm/gpt-4.1-mini:reset@2",
        "tts/sonic-2:stall@2",
        "tts/sonic-2:reset@2",
        "tts/sonic-2:empty@2",
        "stt/nova-3:stall@2",
        "stt/nova-3:500@2",
        "stt/nova-3:no-final@2",
    ],
)
async def test_the_second_turn_has_another_answer(fault: str, placed: Place) -> None:
    """The caller is answered in time by the next choice, hears no apology, and the call says who it was."""
    part = fault.partition("/")[0]
    call = await placed(replace(STORY["d"], steps=ASK), fault)
    assert call.told["failure"] is None
    assert call.told["gave_up"] is None
    assert call.page.call.end_reason == "caller_hangup"
    said = [turn.text for turn in call.page.turns if turn.role == "agent"]
    assert not any("technical problem" in text for text in said)
    assert SPARES[part] in made_by(call, "user" if part == "stt" else "agent", part)
    await in_time(call)


async def test_a_turn_knows_its_models_and_the_call_its_cost(placed: Place) -> None:
    """Healthy turns are the first choice's; what each took is counted, and priced where a price is set."""
    prices = {
        "openai gpt-4.1-mini": Price(input=0.4, output=1.6),
        "deepgram nova-3": Price(minute=1),
    }
    call = await placed(replace(STORY["d"], steps=ASK), prices=prices)
    assert made_by(call, "user", "stt") == ["deepgram nova-3"] * 2
    assert made_by(call, "agent", "llm") == [None, *["openai gpt-4.1-mini"] * 2]
    assert made_by(call, "agent", "tts") == ["cartesia sonic-2"] * 3
    usage: Any = call.page.usage
    parts = {part["model"]: part for part in usage["parts"]}
    thought = parts["openai gpt-4.1-mini"]
    assert thought["input_tokens"] > 100
    assert thought["output_tokens"] > 5
    assert thought["cost_micros"] == round(
        thought["input_tokens"] * 0.4 + thought["output_tokens"] * 1.6
    )
    assert parts["deepgram nova-3"]["audio_ms"] > 5000
    assert parts["cartesia sonic-2"]["characters"] > 50
    assert parts["cartesia sonic-2"]["cost_micros"] is None
    assert usage["complete"] is False
    assert usage["cost_micros"] == thought["cost_micros"] + parts["deepgram nova-3"]["cost_micros"]


async def test_a_fallback_for_a_provider_that_is_not_there(placed: Place) -> None:
    """A voice that refuses the connection: from the greeting on the next one speaks, in time."""
    nowhere = ProviderAccess("sandbox", "http://127.0.0.1:9")
    call = await placed(replace(STORY["d"], steps=ASK), cartesia=nowhere)
    assert call.told["failure"] is None
    assert call.page.call.end_reason == "caller_hangup"
    assert made_by(call, "agent", "tts") == [SPARES["tts"]] * 3
    await in_time(call)


async def test_the_demos_fault_is_answered_by_the_fallback(tmp_path: Path) -> None:
    """``demo --fault llm:stall@2``: the document says that the second turn was the next model's, and nobody
    waited long for a word, though that turn's answer took two tools."""
    demo = (sys.executable, "-m", "trunkline", "demo", "--port", "0", "--once", "--json")
    process = await asyncio.create_subprocess_exec(
        *demo, "--calls", "a", "--fault", "llm:stall@2", "--data", str(tmp_path / "demo"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 200)
    assert process.returncode == 0, err.decode()
    [call] = json.loads(out)["calls"]
    models = [turn["models"].get("llm") for turn in call["turns"] if turn["role"] == "agent"]
    assert models[1] == "openai gpt-4.1-mini"
    assert SPARES["llm"] in models[2:]
    assert call["latency_ms"]["p95"] <= max(SILENCE_MS, call["latency_ms"]["p50"] + STALL_MS)
    assert not any("technical problem" in turn["text"] for turn in call["turns"])
