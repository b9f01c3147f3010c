"""The sandbox's OpenAI, met by OpenAI's own client, by LiveKit's plugin and by bare HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from livekit.agents import APIConnectOptions, APIStatusError, function_tool
from livekit.agents import llm as livekit_llm
from livekit.agents._exceptions import APIConnectionError
from livekit.plugins import openai as plugin
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message

from trunkline.sandbox.brain import Brain
from trunkline.sandbox.faults import Fault
from trunkline.sandbox.openai import routes
from trunkline.sandbox.options import Delays, SandboxOptions

AT_ONCE = Delays(llm_first_token=timedelta(0), llm_token=timedelta(0))
NEVER = Delays(llm_first_token=timedelta(days=1), llm_token=timedelta(days=1))
BOUND_S = 20
"""No answer takes nearly as long; a test that waits for one fails then instead of hanging."""
BRAIN = Brain.load()
PROMPT = {
    "role": "system",
    "content": "Now: 2026-11-21 14:05 Saturday (America/New_York)\nCaller: Dana Whitfield",
}
GREET: list[Any] = [PROMPT, {"role": "user", "content": "hello"}]
HELLO = "Hello. How can I help you?"


def schema(name: str, **properties: object) -> Any:
    return {
        "type": "function",
        "function": {
            "name": name,
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            },
        },
    }


TEXT = {"type": "string"}
FIND_DEALS = schema("find_deals")
MOVE_DEAL = schema("move_deal", stage=TEXT, which={"type": ["integer", "null"]})
LOG_ACTIVITY = schema("log_activity", kind=TEXT, summary=TEXT)
CALL_BACK = schema("request_callback", date=TEXT, reason=TEXT)


@asynccontextmanager
async def serving(*faults: str, delays: Delays = AT_ONCE) -> AsyncIterator[str]:
    """The routes on a real port; gives what a client takes as its base URL."""
    options = SandboxOptions(delays=delays, faults=tuple(Fault.parse(fault) for fault in faults))
    app = Starlette(routes=[Mount("/openai", routes=routes(BRAIN, options))])
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/openai/v1"
    finally:
        await server.shutdown()


@asynccontextmanager
async def official(
    *faults: str, delays: Delays = AT_ONCE, key: str = "sandbox"
) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client, as it comes, without its retries."""
    async with (
        asyncio.timeout(BOUND_S),
        serving(*faults, delays=delays) as base_url,
        openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0) as client,
    ):
        yield client


async def test_a_completion_in_one_piece() -> None:
    """Not streamed, the official client gets text, finish reason and a usage that adds up."""
    async with official() as client:
        done = await client.chat.completions.create(model="gpt-4o-mini", messages=GREET)
    [choice] = done.choices
    assert (choice.message.role, choice.message.content) == ("assistant", HELLO)
    assert (choice.finish_reason, choice.message.tool_calls) == ("stop", None)
    assert (done.object, done.model) == ("chat.completion", "gpt-4o-mini")
    assert done.id.startswith("chatcmpl-")
    assert done.usage is not None
    assert done.usage.completion_tokens == 8  # Hello . How can I help you ?
    assert done.usage.total_tokens == done.usage.prompt_tokens + 8
    assert done.usage.prompt_tokens > 20


async def test_calls_in_one_piece_and_their_results() -> None:
    """Two parallel calls come back whole; answered, they lead to the confirmation."""
    tools = [FIND_DEALS, MOVE_DEAL, LOG_ACTIVITY]
    listed = "1. Office Fiber, stage proposal, 2,400.00 USD"
    messages: list[Any] = [*GREET[:1], {"role": "user", "content": "the bigger plan please"}]
    async with official() as client:
        for outputs in ([listed], ["Office Fiber moved from proposal to won.", "Logged a note."]):
            done = await client.chat.completions.create(model="m", messages=messages, tools=tools)
            assert done.choices[0].finish_reason == "tool_calls"
            assert done.choices[0].message.content is None
            calls = done.choices[0].message.tool_calls or []
            messages.append(done.choices[0].message.model_dump(exclude_none=True))
            messages += [
                {"role": "tool", "tool_call_id": call.id, "content": output}
                for call, output in zip(calls, outputs, strict=True)
            ]
        done = await client.chat.completions.create(model="m", messages=messages, tools=tools)
    assert json.loads(messages[-4 + 1]["tool_calls"][0]["function"]["arguments"]) == {
        "stage": "won",
        "which": None,
    }
    assert str(done.choices[0].message.content).startswith("Done. Your order is confirmed")


async def test_a_streamed_text() -> None:
    """Chunks: the role first, then tokens that make up the text, the finish reason, then usage."""
    async with official() as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=GREET,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert [d.content for d in deltas[1:-1]] == [
        "Hello", ".", " How", " can", " I", " help", " you", "?",
    ]  # fmt: skip
    assert {chunk.choices[0].finish_reason for chunk in chunks[:-2]} == {None}
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(deltas) - 2
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_streamed_words_and_calls() -> None:
    """Words come before calls; a call opens with index, id and name, its arguments follow in pieces."""
    messages: list[Any] = [PROMPT, {"role": "user", "content": "please call me back tomorrow"}]
    async with official() as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=messages,
            tools=[CALL_BACK],
            stream=True,
        )
        chunks = [chunk async for chunk in stream]
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "One moment, please."
    )
    parts = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert (parts[0].index, parts[0].id, parts[0].type) == (0, "call_2_1", "function")
    assert parts[0].function is not None
    assert (parts[0].function.name, parts[0].function.arguments) == ("request_callback", "")
    assert len(parts) > 5
    assert {(part.id, part.index) for part in parts[1:]} == {(None, 0)}
    arguments = "".join(part.function.arguments or "" for part in parts if part.function)
    assert json.loads(arguments) == {"date": "2026-11-22", "reason": "Asked to be called back."}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage is None


async def test_the_stream_is_server_sent_events_to_the_byte() -> None:
    """Every line is `data: ` and JSON, one blank line between, `[DONE]` at the end."""
    async with asyncio.timeout(BOUND_S), serving() as base_url, httpx.AsyncClient() as http:
        answer = await http.post(
            f"{base_url}/chat/completions",
            headers={"Authorization": "Bearer sandbox"},
            json={"model": "m", "messages": GREET, "stream": True},
        )
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-request-id"].startswith("req_")
    *events, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for event in events:
        chunk = json.loads(event.removeprefix("data: "))
        assert chunk["object"] == "chat.completion.chunk"
        assert "usage" not in chunk  # only sent when asked for


TOOL = {"role": "tool", "tool_call_id": "call_9", "content": "x"}
CALLED = {
    "role": "assistant",
    "tool_calls": [
        {"id": "call_9", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ],
}


@pytest.mark.parametrize(
    ("body", "message", "param", "code"),
    [
        ("{", "We could not parse the JSON body of your request.", None, None),
        ("[]", "We could not parse the JSON body of your request.", None, None),
        ({"messages": GREET}, "you must provide a model parameter", None, None),
        (
            {"model": "m"},
            "Missing required parameter: 'messages'.",
            "messages",
            "missing_required_parameter",
        ),
        (
            {"model": "m", "messages": "hi"},
            "Invalid type for 'messages': expected an array of objects, but got a string instead.",
            "messages",
            "invalid_type",
        ),
        (
            {"model": "m", "messages": []},
            "Invalid 'messages': empty array.",
            "messages",
            "empty_array",
        ),
        (
            {"model": "m", "messages": [{"content": "hi"}]},
            "Missing required parameter: 'messages[0].role'.",
            "messages[0].role",
            "missing_required_parameter",
        ),
        (
            {"model": "m", "messages": [PROMPT, {"role": "caller", "content": "hi"}]},
            "Invalid value: 'caller'. Supported values are: 'system', 'assistant', 'user', "
            "'function', 'tool', and 'developer'.",
            "messages[1].role",
            "invalid_value",
        ),
        (
            {"model": "m", "messages": [{"role": "user", "content": 3}]},
            "Invalid type for 'messages[0].content'",
            "messages[0].content",
            "invalid_type",
        ),
        (
            {"model": "m", "messages": [*GREET, TOOL]},
            "Invalid parameter: messages with role 'tool' must be a response to a preceeding "
            "message with 'tool_calls'.",
            "messages.[2].role",
            None,
        ),
        (
            {"model": "m", "messages": [*GREET, CALLED, TOOL, *GREET[1:], TOOL]},
            "Invalid parameter: messages with role 'tool'",  # its call is too far back
            "messages.[5].role",
            None,
        ),
        (
            {"model": "m", "messages": [*GREET, CALLED, *GREET[1:]]},
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            "call_9",
            "messages.[3].role",
            None,
        ),
        (
            {"model": "m", "messages": GREET, "tool_choice": "auto"},
            "Invalid value for 'tool_choice'",
            "tool_choice",
            None,
        ),
        (
            {"model": "m", "messages": GREET, "stream_options": {"include_usage": True}},
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
            None,
        ),
    ],
)
async def test_a_wrong_request_gets_openais_own_error(
    body: dict[str, object] | str, message: str, param: str | None, code: str | None
) -> None:
    """Each fault in the request is answered with 400 and the error object of the real service."""
    content = body if isinstance(body, str) else json.dumps(body)
    async with asyncio.timeout(BOUND_S), serving() as base_url, httpx.AsyncClient() as http:
        answer = await http.post(
            f"{base_url}/chat/completions",
            headers={"Authorization": "Bearer sandbox", "Content-Type": "application/json"},
            content=content,
        )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].startswith(message)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


async def test_the_client_raises_its_own_classes() -> None:
    """400 and 401 are the official client's BadRequestError and AuthenticationError."""
    async with official() as client:
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="m", messages=[])
        assert (bad.value.code, bad.value.param) == ("empty_array", "messages")
        assert bad.value.request_id is not None
        with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /v1/embeddings\)"):
            await client.embeddings.create(model="m", input="x")
    async with official(key="sk-other") as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.chat.completions.create(model="m", messages=GREET)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_a_request_without_a_key_is_told_so() -> None:
    """No Authorization header at all is 401 with OpenAI's sentence."""
    async with asyncio.timeout(BOUND_S), serving() as base_url, httpx.AsyncClient() as http:
        answer = await http.post(f"{base_url}/chat/completions", json={})
        wrong_way = await http.get(f"{base_url}/chat/completions")
    assert answer.status_code == 401
    assert answer.json()["error"]["message"].startswith("You didn't provide an API key.")
    assert wrong_way.status_code == 405
    assert wrong_way.json()["error"]["code"] == "method_not_supported"


async def test_models_are_listed() -> None:
    """The list that clients ask for to warm up is there, and any model name is known."""
    async with official() as client:
        listed = [model.id async for model in client.models.list()]
        assert "gpt-4o-mini" in listed
        assert (await client.models.retrieve("of-my-own")).id == "of-my-own"


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("llm:401", openai.AuthenticationError, "invalid_api_key"),
        ("llm:429", openai.RateLimitError, "rate_limit_exceeded"),
        ("llm:500", openai.InternalServerError, None),
    ],
)
async def test_a_fault_is_the_providers_own(
    fault: str, error: type[openai.APIStatusError], code: str | None
) -> None:
    """An ordered 401, 429 or 500 reaches the client as the real one would, 429 with Retry-After."""
    async with official(fault) as client:
        with pytest.raises(error) as raised:
            await client.chat.completions.create(model="m", messages=GREET)
    assert raised.value.code == code
    assert raised.value.response.headers.get("retry-after") == ("1" if "429" in fault else None)


async def test_a_fault_hits_its_turn_only() -> None:
    """llm:500@2 strikes the request with two user messages, however often; not those around it."""
    twice = [*GREET, {"role": "assistant", "content": HELLO}, GREET[1]]
    async with official("llm:500@2") as client:
        create: Any = client.chat.completions.create
        for messages, fails in ((GREET, False), (twice, True), (twice, True), (GREET, False)):
            if fails:
                with pytest.raises(openai.InternalServerError):
                    await create(model="m", messages=messages)
            else:
                assert (await create(model="m", messages=messages)).choices
        assert (await create(model="m", messages=[*twice, GREET[1]])).choices


async def test_a_reset_breaks_the_stream_after_some_tokens() -> None:
    """The first words arrive, then the connection is gone before the end is told."""
    async with (
        asyncio.timeout(BOUND_S),
        serving("llm:reset") as base_url,
        httpx.AsyncClient() as http,
    ):
        url, headers = f"{base_url}/chat/completions", {"Authorization": "Bearer sandbox"}
        streamed = {"model": "m", "messages": GREET, "stream": True}
        async with http.stream("POST", url, headers=headers, json=streamed) as answer:
            lines = answer.aiter_lines()
            received = [await anext(lines) for _ in range(8)]
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(lines)
        text = "".join(
            json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
            for line in received
            if line
        )
        assert text == "Hello. How"
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(url, headers=headers, json={"model": "m", "messages": GREET})


async def call_app(
    options: SandboxOptions,
    body: dict[str, object],
    leaving: asyncio.Event,
    read: asyncio.Event | None = None,
) -> list[Message]:
    """One request straight into the routes; the client hangs up when *leaving* is set.

    *read* is set once the routes have the request and wait for more from the client.
    """
    app = Starlette(routes=routes(BRAIN, options))
    sent: list[Message] = []
    waiting = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

    async def receive() -> Message:
        for message in waiting:
            return message
        if read:
            read.set()
        await leaving.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},  # what uvicorn tells
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer sandbox")],
    }
    async with asyncio.timeout(BOUND_S):
        await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_ends_the_generation(stream: bool) -> None:
    """A reply that would take days ends at once when the client hangs up."""
    leaving = asyncio.Event()
    leaving.set()
    body: dict[str, object] = {"model": "m", "messages": GREET, "stream": stream}
    sent = await call_app(SandboxOptions(delays=NEVER), body, leaving)
    assert all(not message.get("body") for message in sent)


async def test_a_stall_sends_no_byte() -> None:
    """A stalled request gets not even headers; it ends when the client gives up."""
    leaving, read = asyncio.Event(), asyncio.Event()
    options = SandboxOptions(delays=AT_ONCE, faults=(Fault("llm", "stall", 1),))
    body: dict[str, object] = {"model": "m", "messages": GREET}
    request = asyncio.create_task(call_app(options, body, leaving, read))
    await asyncio.wait_for(read.wait(), BOUND_S)
    assert not request.done()
    leaving.set()
    assert await request == []


@pytest.mark.parametrize("stream", [True, False])
async def test_tokens_take_their_time(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    """The first token comes after llm_first_token, each further one llm_token later."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    delays = Delays(llm_first_token=timedelta(seconds=3), llm_token=timedelta(seconds=1))
    body: dict[str, object] = {"model": "m", "messages": GREET, "stream": stream}
    await call_app(SandboxOptions(delays=delays), body, asyncio.Event())
    assert waits == ([3] + [1] * 7 if stream else [10])  # the greeting has eight tokens


# ---- LiveKit's plugin


@function_tool
async def find_deals() -> str:
    """List the caller's open deals."""
    return "1. Office Fiber, stage proposal, 2,400.00 USD"


@function_tool
async def request_callback(date: str, time: str | None, reason: str) -> str:
    """Book a call back."""
    return "Callback booked for 2026-11-22 09:00 (America/New_York)."


async def test_livekits_plugin_talks_and_calls() -> None:
    """The plugin streams words and calls from the sandbox, and the answer to the call's result."""
    context = livekit_llm.ChatContext.empty()
    context.add_message(role="system", content=str(PROMPT["content"]))
    context.add_message(role="assistant", content="Hello Dana, this is Harbor Fiber.")
    context.add_message(role="user", content="Please call me back tomorrow.")
    options = APIConnectOptions(max_retry=0, timeout=BOUND_S)
    async with asyncio.timeout(BOUND_S), serving() as base_url:
        llm = plugin.LLM(model="gpt-4o-mini", base_url=base_url, api_key="sandbox")
        tools: list[livekit_llm.Tool] = [find_deals, request_callback]
        async with llm.chat(chat_ctx=context, tools=tools, conn_options=options) as stream:
            first = await stream.collect()
        assert first.text == "One moment, please."
        [call] = first.tool_calls
        assert call.name == "request_callback"
        assert json.loads(call.arguments) == {
            "date": "2026-11-22",
            "time": None,
            "reason": "Asked to be called back.",
        }
        assert first.usage is not None
        assert first.usage.completion_tokens > 10
        context.add_message(role="assistant", content=first.text)
        context.items += [
            livekit_llm.FunctionCall(
                call_id=call.call_id, name=call.name, arguments=call.arguments
            ),
            livekit_llm.FunctionCallOutput(
                call_id=call.call_id,
                name=call.name,
                output="Callback booked for 2026-11-22 09:00 (America/New_York).",
                is_error=False,
            ),
        ]
        async with llm.chat(chat_ctx=context, tools=tools, conn_options=options) as stream:
            second = await stream.collect()
        assert second.text == "We will call you back tomorrow. Is there anything else?"
        await llm.aclose()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("llm:401", APIStatusError),
        ("llm:429", APIStatusError),
        ("llm:500", APIStatusError),
        ("llm:reset", APIConnectionError),
        ("llm:stall", APIConnectionError),
    ],
)
async def test_livekits_plugin_sees_the_fault(fault: str, expected: type[Exception]) -> None:
    """Each fault surfaces as the plugin's own error, with the provider's status where it has one."""
    context = livekit_llm.ChatContext.empty()
    context.add_message(role="user", content="hello")
    options = APIConnectOptions(max_retry=0, timeout=0.2 if fault == "llm:stall" else BOUND_S)
    async with asyncio.timeout(BOUND_S), serving(fault) as base_url:
        llm = plugin.LLM(model="gpt-4o-mini", base_url=base_url, api_key="sandbox")
        with pytest.raises(expected) as raised:
            async with llm.chat(chat_ctx=context, conn_options=options) as stream:
                await stream.collect()
        if isinstance(raised.value, APIStatusError):
            assert raised.value.status_code == int(fault[-3:])
        await llm.aclose()
