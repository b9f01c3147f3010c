"""A language model that is several: who gives no word in time is answered for by the next."""

import asyncio
from collections import deque
from typing import Any

from livekit.agents import (
    APIConnectionError,
    APIConnectOptions,
    APIError,
    APITimeoutError,
    utils,
)
from livekit.agents.llm import (
    LLM,
    ChatChunk,
    ChatContext,
    ChoiceDelta,
    LLMStream,
    Tool,
    ToolChoice,
)
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS, NOT_GIVEN, NotGivenOr

from trunkline.agent.models.bridge import Bridge
from trunkline.agent.models.plugins import on_bytes
from trunkline.agent.models.roster import Candidate, Roster

_LOOK_S = 0.1
_LAST_S = 2.5
"""How long the last one left is waited for at least: there is nobody else to ask."""
_GO_ON = (
    "Your last message was cut off in the middle. Go on exactly where it ends, as if nothing had "
    "happened, and repeat nothing of it."
)

_Item = ChatChunk | BaseException | None


class _Asked:
    """One request to one model."""

    def __init__(self, candidate: Candidate[LLM[Any]]) -> None:
        self.candidate = candidate
        self.task: asyncio.Task[None] | None = None


_Inbox = asyncio.Queue[tuple[_Asked, _Item]]


class Thinking(LLM[Any]):
    """One LLM for the session, made of a roster's."""

    def __init__(self, roster: Roster[LLM[Any]], first_token_s: float, bridge: Bridge) -> None:
        super().__init__()
        self.roster, self.first_token_s, self.bridge = roster, first_token_s, bridge
        for one in roster.candidates:
            one.plugin.on("metrics_collected", self._on_metrics)

    @property
    def model(self) -> str:
        """Of whoever has answered last."""
        return self.roster.current.plugin.model

    @property
    def provider(self) -> str:
        """Of whoever has answered last."""
        return self.roster.current.plugin.provider

    def prewarm(self, *, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Connect to the one asked first."""
        self.roster.order()[0].plugin.prewarm(loop=loop)

    def chat(
        self,
        *,
        chat_ctx: ChatContext,
        tools: list[Tool] | None = None,
        conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS,
        parallel_tool_calls: NotGivenOr[bool] = NOT_GIVEN,
        tool_choice: NotGivenOr[ToolChoice] = NOT_GIVEN,
        extra_kwargs: NotGivenOr[dict[str, Any]] = NOT_GIVEN,
    ) -> LLMStream:
        """Ask; who answers is told by the roster."""
        given = {
            "parallel_tool_calls": parallel_tool_calls,
            "tool_choice": tool_choice,
            "extra_kwargs": extra_kwargs,
        }
        return _Answer(self, chat_ctx, tools or [], conn_options, given)

    async def aclose(self) -> None:
        """Close all of them."""
        for one in self.roster.candidates:
            one.plugin.off("metrics_collected", self._on_metrics)
        await self.roster.aclose()

    def _on_metrics(self, *args: Any) -> None:
        self.emit("metrics_collected", *args)


class _Answer(LLMStream):
    _llm_attempt_span_name = None

    def __init__(
        self,
        thinking: Thinking,
        chat_ctx: ChatContext,
        tools: list[Tool],
        conn_options: APIConnectOptions,
        given: dict[str, Any],
    ) -> None:
        # Whoever fails is answered for here; asking all of them again would only take longer.
        once = APIConnectOptions(max_retry=0, timeout=conn_options.timeout)
        super().__init__(thinking, chat_ctx=chat_ctx, tools=tools, conn_options=once)
        self._thinking, self._given = thinking, given

    async def _metrics_monitor_task(self, event_aiter: Any) -> None:
        async for _ in event_aiter:  # each model tells of itself
            pass

    async def _run(self) -> None:
        roster, loop = self._thinking.roster, asyncio.get_running_loop()
        left = deque(roster.order())
        inbox: _Inbox = asyncio.Queue()
        asked: list[_Asked] = []
        seen_s = loop.time()
        winner: _Asked | None = None
        context, said, called = self._chat_ctx, "", False
        bridge = self._thinking.bridge

        def seen() -> None:
            nonlocal seen_s
            seen_s = loop.time()

        def ask() -> None:
            one = _Asked(left.popleft())
            seen()
            one.task = asyncio.create_task(self._read(one, context, inbox, seen))
            asked.append(one)

        def drop(one: _Asked, error: BaseException | None) -> None:
            asked.remove(one)
            if one.task is not None:
                one.task.cancel()
            if error is not None:
                roster.failed(one.candidate, error)

        ask()
        try:
            while True:
                patience_s = self._thinking.first_token_s
                if not left:
                    patience_s = max(patience_s, _LAST_S)
                # A model that writes down a tool's arguments is as silent as one that is late.
                if not said and (words := bridge.take(loop.time())) is not None:
                    self._say(f"{words} ")
                until_s = seen_s + patience_s
                if not said:
                    until_s = min(until_s, loop.time() + _LOOK_S, bridge.due_s or until_s)
                try:
                    async with asyncio.timeout_at(until_s):
                        one, item = await inbox.get()
                except TimeoutError:
                    if loop.time() < seen_s + patience_s:
                        continue  # a sign of life came meanwhile
                    if winner is None and left:
                        bridge.trouble()
                        ask()  # the slow one may still be first
                        continue
                    late = APITimeoutError("no word came in time")
                    for silent in tuple(asked):
                        drop(silent, late)
                    if called:
                        return
                    if not left:
                        raise late from None
                    winner, context = None, self._continued(said)
                    ask()
                    continue
                if one not in asked:
                    continue
                if isinstance(item, ChatChunk):
                    delta = item.delta
                    if winner is None and delta and (delta.content or delta.tool_calls):
                        winner = one
                        slow = APITimeoutError("another model was faster")
                        place = asked.index(one)
                        for at, other in enumerate(tuple(asked)):
                            if other is not one:
                                same = other.candidate is one.candidate
                                drop(other, slow if at < place and not same else None)
                        roster.served(one.candidate)
                    if winner is one:
                        said += (delta.content or "") if delta else ""
                        called = called or bool(delta and delta.tool_calls)
                        self._event_ch.send_nowait(item)
                    continue
                if item is None and winner is one:
                    return
                error = item or APIConnectionError("the answer was empty")
                drop(one, error)
                if winner is one:
                    if called:
                        return  # what was called is known; the rest would only have ended it
                    winner, context = None, self._continued(said)
                if asked:
                    continue
                if not left:
                    raise _told(error)
                ask()
        finally:
            tasks = [one.task for one in asked if one.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _say(self, words: str) -> None:
        delta = ChoiceDelta(role="assistant", content=words)
        self._event_ch.send_nowait(ChatChunk(id=utils.shortuuid(), delta=delta))

    async def _read(self, one: _Asked, context: ChatContext, inbox: _Inbox, seen: Any) -> None:
        on_bytes.set(seen)
        options = APIConnectOptions(max_retry=0, timeout=self._conn_options.timeout)
        try:
            async with one.candidate.plugin.chat(
                chat_ctx=context, tools=self._tools, conn_options=options, **self._given
            ) as stream:
                async for chunk in stream:
                    seen()
                    inbox.put_nowait((one, chunk))
        except Exception as error:
            inbox.put_nowait((one, error))
        else:
            inbox.put_nowait((one, None))

    def _continued(self, said: str) -> ChatContext:
        if not said.strip():
            return self._chat_ctx
        context = self._chat_ctx.copy()
        context.add_message(role="assistant", content=said)
        context.add_message(role="system", content=_GO_ON)
        return context


def _told(error: BaseException) -> BaseException:
    if isinstance(error, APIError):
        error.retryable = False
        return error
    return APIConnectionError(f"the model's plugin failed: {type(error).__name__}")


async def probe(plugin: LLM[Any]) -> None:
    """Raises if *plugin* answers nothing to a word that is nobody's."""
    context = ChatContext.empty()
    context.add_message(role="user", content="Say: ok")
    options = APIConnectOptions(max_retry=0, timeout=5.0)
    async with plugin.chat(chat_ctx=context, conn_options=options) as stream:
        async for chunk in stream:
            if chunk.delta and chunk.delta.content:
                return
    raise APIConnectionError("the answer was empty")
