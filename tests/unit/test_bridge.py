"""When a caller who waits for an answer hears that somebody is there."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from livekit.agents import APIConnectOptions
from livekit.agents.llm import (
    LLM,
    ChatChunk,
    ChatContext,
    ChoiceDelta,
    FunctionToolCall,
    LLMStream,
)
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS

from trunkline.agent.models.breaker import Breaker
from trunkline.agent.models.bridge import AFTER_S, Bridge
from trunkline.agent.models.roster import Candidate, Roster
from trunkline.agent.models.thinking import Thinking
from trunkline.agent.options import AgentOptions
from trunkline.kit.clock import utc_now

WORDS = "One moment."
assert AgentOptions.word_after is not None
LATEST_S = AgentOptions.word_after.total_seconds()
DETECTED_S, WAY_S = 0.3, 0.13
"""What the detector of voice takes, and the way through a room and back, at the most that was measured."""
AIM_S, HEALTHY_S = 1.5, 1.2
"""The longest silence without a word, and an answer in good health."""


def waiting(*, trouble: bool = True) -> Bridge:
    """The caller ended at 10 s."""
    bridge = Bridge(WORDS, LATEST_S)
    if trouble:
        bridge.trouble()
    bridge.caller(9.0, speaks=True)
    bridge.caller(10.0, speaks=False)
    return bridge


@pytest.mark.parametrize(("trouble", "after_s"), [(True, AFTER_S), (False, LATEST_S)])
def test_the_words_are_due_once_after_a_while(trouble: bool, after_s: float) -> None:
    """Not before the time, then once for each wait; sooner when somebody failed while they spoke."""
    bridge = waiting(trouble=trouble)
    assert bridge.due_s == 10.0 + after_s
    assert bridge.take(10.0 + after_s - 0.01) is None
    assert bridge.take(10.0 + after_s) == WORDS
    assert bridge.due_s is None
    assert bridge.take(10.0 + 2 * after_s) is None


def test_a_failure_in_the_wait_makes_them_due_sooner() -> None:
    """A model that turns out to be late is not waited for as one in good health is."""
    bridge = waiting(trouble=False)
    assert bridge.take(10.0 + AFTER_S) is None
    bridge.trouble()
    assert bridge.take(10.0 + AFTER_S) == WORDS


def test_the_arithmetic_of_a_second_and_a_half() -> None:
    """Whatever the reason, the words are heard within the aim; an answer in good health needs none."""
    assert HEALTHY_S < DETECTED_S + AFTER_S < DETECTED_S + LATEST_S
    assert DETECTED_S + LATEST_S + WAY_S < AIM_S


def test_nobody_waits() -> None:
    """While the caller speaks, and once the agent is heard, nothing is due; the next wait is
    a healthy one."""
    bridge = waiting()
    bridge.caller(10.5, speaks=True)
    assert bridge.take(20.0) is None
    bridge.caller(20.0, speaks=False)
    bridge.agent()
    assert bridge.take(30.0) is None
    bridge.caller(31.0, speaks=True)
    bridge.caller(32.0, speaks=False)
    assert bridge.take(32.0 + AFTER_S) is None


class _Scribbler(LLM[Any]):
    """Calls a tool, and is not done with writing before it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.done = asyncio.Event()

    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: Any = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        parallel_tool_calls: Any = None,
        tool_choice: Any = None,
        extra_kwargs: Any = None,
    ) -> LLMStream:
        return _Scribbling(self, chat_ctx=chat_ctx, tools=[], conn_options=conn_options)


class _Scribbling(LLMStream):
    async def _run(self) -> None:
        call = FunctionToolCall(name="find_deals", arguments="{}", call_id="one")
        delta = ChoiceDelta(role="assistant", tool_calls=[call])
        self._event_ch.send_nowait(ChatChunk(id="one", delta=delta))
        assert isinstance(self._llm, _Scribbler)
        await self._llm.done.wait()


def test_only_after_a_failure() -> None:
    """Without a time for good health the words wait for trouble."""
    bridge = Bridge(WORDS)
    bridge.caller(10.0, speaks=False)
    assert bridge.due_s is None
    assert bridge.take(1000.0) is None
    bridge.trouble()
    assert bridge.take(1000.0) == WORDS


async def _well(plugin: object) -> None:
    """Nobody is tried in this test."""


async def test_a_model_that_writes_down_a_call_does_not_keep_the_word_back(tmp_path: Path) -> None:
    """A tool is called, another may follow, nothing was said: the word is, before the answer is whole."""
    scribbler = _Scribbler()
    candidate = Candidate[LLM[Any]](scribbler, "slow", "", "slow", main=True)
    roster = Roster[LLM[Any]]("llm", [candidate], Breaker(tmp_path, utc_now), _well)
    bridge = waiting()
    bridge.caller(asyncio.get_running_loop().time() - AFTER_S + 0.05, speaks=False)
    thinking = Thinking(roster, 30.0, bridge)
    async with asyncio.timeout(20), thinking.chat(chat_ctx=ChatContext.empty()) as stream:
        deltas = []
        async for chunk in stream:
            assert chunk.delta is not None
            deltas.append(chunk.delta)
            if chunk.delta.content:
                scribbler.done.set()
    assert [delta.content for delta in deltas] == [None, f"{WORDS} "]
    assert [call.name for call in deltas[0].tool_calls] == ["find_deals"]
