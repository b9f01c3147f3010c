"""OpenAI's chat completions wire protocol in front of the sandbox's brain.

``POST /v1/chat/completions`` (whole or streamed) and ``GET /v1/models``, with fields, order of
chunks and error bodies as in OpenAI's API reference ("Chat Completions", "Streaming", "Error
codes") and as its servers send them. Any model name is taken; sampling settings, limits on length
and response formats are accepted and make no difference.

Tokens are pieces of up to eight letters or digits with the space before them, or one other sign.
``prompt_tokens`` counts them in the texts and calls of all messages and in the tools as JSON, plus
three for each message and three for the answer's start (OpenAI's own rule of thumb, cookbook "How
to count tokens"); ``completion_tokens`` counts what is answered. Real counts differ a little.
"""

import asyncio
import hashlib
import hmac
import itertools
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from trunkline.kit.clock import utc_now
from trunkline.sandbox.brain import Brain, Reply
from trunkline.sandbox.faults import RETRY_AFTER_S, strike
from trunkline.sandbox.options import Delays, SandboxOptions

ELSEWHERE = "-eu"
"""A key that ends so is good, but for another region."""
NOT_THERE = "-none"
"""Models and deployments whose names end so are not there."""
_ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "gpt-4o-mini")
_TOKEN = re.compile(r"\s*\w{1,8}|\s*[^\w\s]|\s+")
_RESET_AFTER_TOKENS = 3
"""Where a connection breaks in mid-stream; always before the end is told."""


class Problem(Exception):
    """What OpenAI answers instead of a completion: status and error body."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


PROBLEMS = {
    "401": Problem(
        401,
        "Incorrect API key provided. You can find your API key at "
        "https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    ),
    "429": Problem(
        429,
        "Rate limit reached on requests per min (RPM): Limit 500, Used 500, Requested 1. "
        f"Please try again in {RETRY_AFTER_S}s.",
        "requests",
        code="rate_limit_exceeded",
        headers={
            "Retry-After": str(RETRY_AFTER_S),
            "retry-after-ms": str(RETRY_AFTER_S * 1000),
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": f"{RETRY_AFTER_S}s",
        },
    ),
    "500": Problem(
        500,
        "The server had an error while processing your request. Sorry about that!",
        "server_error",
    ),
    "503": Problem(
        503,
        "The engine is currently overloaded, please try again later",
        "server_error",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    ),
}
"""What a fault of that status is answered with."""


def routes(brain: Brain, options: SandboxOptions) -> list[BaseRoute]:
    """The routes; mounted under ``/openai`` the client's base_url is ``…/openai/v1``."""
    api = _Api(brain, options)
    return [
        Route("/v1/chat/completions", api.completions, methods=["POST"]),
        # Azure's form of it: https://learn.microsoft.com/azure/ai-services/openai/reference
        Route("/openai/deployments/{name}/chat/completions", api.completions, methods=["POST"]),
        Route("/v1/models", api.models, methods=["GET"]),
        Route("/v1/models/{name}", api.model, methods=["GET"]),
        Route("/{rest:path}", api.elsewhere, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ]


class _Api:
    def __init__(self, brain: Brain, options: SandboxOptions) -> None:
        self._brain, self._options = brain, options

    async def models(self, request: Request) -> Response:
        """The list of models; LiveKit's plugin asks for it to warm the connection up."""
        try:
            check_key(request, self._options)
        except Problem as problem:
            return refusal(problem)
        data = [_model(name) for name in _MODELS]
        return JSONResponse({"object": "list", "data": data}, headers=_headers(b""))

    async def model(self, request: Request) -> Response:
        """One model, whatever its name, unless that says that it is not there."""
        name = request.path_params["name"]
        try:
            check_key(request, self._options)
            if name.endswith(NOT_THERE):
                raise _no_model(name)
        except Problem as problem:
            return refusal(problem)
        return JSONResponse(_model(name), headers=_headers(b""))

    async def elsewhere(self, request: Request) -> Response:
        """What OpenAI says to a path or method that is not there."""
        if request.path_params["rest"] == "v1/chat/completions":
            return refusal(
                Problem(
                    405,
                    f"Not allowed to {request.method} on /v1/chat/completions.",
                    code="method_not_supported",
                )
            )
        url = f"{request.method} /{request.path_params['rest']}"
        return refusal(Problem(404, f"Invalid URL ({url})"))

    async def completions(self, request: Request) -> Response:
        """Answer the messages, streamed if the client wants it so."""
        try:
            check_key(request, self._options)
            if request.path_params.get("name", "").endswith(NOT_THERE):
                says = "The API deployment for this resource does not exist."
                raise Problem(404, says, code="DeploymentNotFound")
            raw = await request.body()
            body = _read(raw)
            if body["model"].endswith(NOT_THERE):
                raise _no_model(body["model"])
            turn = sum(message["role"] == "user" for message in body["messages"])
            struck = strike(self._options.faults, "llm", turn, body["model"])
            fault = struck.kind if struck else None
            if fault in PROBLEMS:
                raise PROBLEMS[fault]
        except Problem as problem:
            return refusal(problem)
        except ClientDisconnect:
            return Response()
        if fault == "stall":
            return Stall()
        reply = _spoilt(self._brain.reply(body), fault)
        answer = _Answer(reply, body, raw, self._options.delays)
        if body.get("stream"):
            pieces, media_type = answer.stream(), "text/event-stream; charset=utf-8"
            cut: Iterable[tuple[timedelta, str]] = itertools.islice(pieces, 1 + _RESET_AFTER_TOKENS)
        else:
            pieces, media_type = iter([answer.whole()]), "application/json"
            cut = ((wait, text[: len(text) // 2]) for wait, text in pieces)
        if fault == "reset":
            return Broken(_paced(cut), headers=_headers(raw), media_type=media_type)
        return StreamingResponse(_paced(pieces), headers=_headers(raw), media_type=media_type)


def check_key(connection: HTTPConnection, options: SandboxOptions) -> None:
    """Raises Problem unless the connection brings the key, as Bearer or in Azure's ``api-key``."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    if azure := connection.headers.get("api-key"):
        scheme, key = "bearer", azure
    if scheme.lower() != "bearer" or not key.strip():
        raise Problem(
            401,
            "You didn't provide an API key. You need to provide your API key in an "
            "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        )
    if hmac.compare_digest(key.strip().encode(), f"{options.api_key}{ELSEWHERE}".encode()):
        raise Problem(
            401,
            "Attempted to access resource with incorrect regional hostname. Please make your request to "
            "eu.api.openai.com",
            code="incorrect_hostname",
        )
    if not hmac.compare_digest(key.strip().encode(), options.api_key.encode()):
        raise PROBLEMS["401"]


# ---- The answer


def _spoilt(reply: Reply, fault: str | None) -> Reply:
    """What a model that is out of its mind answers instead of *reply*."""
    if fault == "empty":
        return Reply("", ())
    if fault == "bad-json" and reply.tool_calls:
        calls = (replace(call, arguments=call.arguments[:-1]) for call in reply.tool_calls)
        return replace(reply, tool_calls=tuple(calls))
    if fault == "unknown-tool" and reply.tool_calls:
        calls = (replace(call, name="launch_rocket") for call in reply.tool_calls)
        return replace(reply, tool_calls=tuple(calls))
    return reply


class _Answer:
    """A reply in OpenAI's forms. Pieces come as (time since the piece before, text)."""

    def __init__(self, reply: Reply, body: Mapping[str, Any], raw: bytes, delays: Delays) -> None:
        self._reply, self._body, self._delays = reply, body, delays
        self._head = {
            "id": f"chatcmpl-{hashlib.sha256(raw).hexdigest()[:29]}",
            "created": int(utc_now().timestamp()),
            "model": body["model"],
            "service_tier": "default",
            "system_fingerprint": "fp_sandbox",
        }
        # A named tool_choice ends with "stop", as the API reference says.
        free = bool(reply.tool_calls) and not isinstance(body.get("tool_choice"), dict)
        self._finish_reason = "tool_calls" if free else "stop"
        self._words = tokens(reply.text)
        self._calls = [(call, tokens(call.arguments)) for call in reply.tool_calls]

    def whole(self) -> tuple[timedelta, str]:
        """The completion in one piece, after the time all its tokens take."""
        message: dict[str, object] = {
            "role": "assistant",
            "content": self._reply.text or (None if self._calls else ""),
            "refusal": None,
            "annotations": [],
        }
        if self._calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call, _ in self._calls
            ]
        completion = {
            **self._head,
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": self._finish_reason,
                }
            ],
            "usage": self._usage(),
        }
        further = max(0, self._count() - 1)
        wait = self._delays.llm_first_token + further * self._delays.llm_token
        return wait, json.dumps(completion)

    def stream(self) -> Iterator[tuple[timedelta, str]]:
        """The server-sent events: role, tokens, finish reason, usage if asked for, [DONE]."""
        at_once, token = timedelta(0), self._delays.llm_token
        start: dict[str, object] = {"role": "assistant", "refusal": None}
        start["content"] = "" if self._words or not self._calls else None
        yield self._delays.llm_first_token, self._event(start)
        wait = at_once
        for word in self._words:
            yield wait, self._event({"content": word})
            wait = token
        for index, (call, pieces) in enumerate(self._calls):
            opening = {
                "index": index,
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": ""},
            }
            yield wait, self._event({"tool_calls": [opening]})
            wait = token
            for piece in pieces:
                part = {"index": index, "function": {"arguments": piece}}
                yield wait, self._event({"tool_calls": [part]})
        yield at_once, self._event({}, self._finish_reason)
        if self._with_usage():
            yield at_once, self._chunk([], self._usage())
        yield at_once, "data: [DONE]\n\n"

    def _event(self, delta: Mapping[str, object], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice], None)

    def _chunk(self, choices: list[dict[str, object]], usage: dict[str, object] | None) -> str:
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._with_usage():
            chunk["usage"] = usage
        return f"data: {json.dumps(chunk)}\n\n"

    def _with_usage(self) -> bool:
        return bool((self._body.get("stream_options") or {}).get("include_usage"))

    def _count(self) -> int:
        """The answer's tokens; a call's name is one."""
        return len(self._words) + sum(1 + len(pieces) for _, pieces in self._calls)

    def _usage(self) -> dict[str, object]:
        texts = [json.dumps(self._body["tools"])] if self._body.get("tools") else []
        for message in self._body["messages"]:
            content = message.get("content")
            texts.append(content if isinstance(content, str) else json.dumps(content or ""))
            texts += [json.dumps(call) for call in message.get("tool_calls") or []]
        prompt = sum(len(tokens(t)) for t in texts) + 3 * len(self._body["messages"]) + 3
        answered = self._count()
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answered,
            "total_tokens": prompt + answered,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def tokens(text: str) -> list[str]:
    """What *text* is counted in, see above."""
    return _TOKEN.findall(text)


async def _paced(pieces: Iterable[tuple[timedelta, str]]) -> AsyncIterator[str]:
    for wait, text in pieces:
        if wait:
            await asyncio.sleep(wait.total_seconds())
        yield text


class Broken(StreamingResponse):
    """A response whose end never comes: the server then drops the connection."""

    async def stream_response(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        async for text in self.body_iterator:
            body = text.encode() if isinstance(text, str) else text
            await send({"type": "http.response.body", "body": body, "more_body": True})


class Stall(Response):
    """Not a byte, until the client gives up."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


def _headers(raw: bytes) -> dict[str, str]:
    return {
        "x-request-id": f"req_{hashlib.sha256(raw).hexdigest()[:32]}",
        "openai-version": "2020-10-01",
        "cache-control": "no-store",
    }


def _no_model(name: str) -> Problem:
    says = f"The model `{name}` does not exist or you do not have access to it."
    return Problem(404, says, code="model_not_found")


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "sandbox"}


def refusal(problem: Problem) -> Response:
    body = json.dumps(problem.body)
    headers = {**_headers(body.encode()), **(problem.headers or {})}
    return Response(body, problem.status, headers, media_type="application/json")


# ---- The request


def _read(raw: bytes) -> dict[str, Any]:
    """The request body, checked as far as OpenAI checks it. Raises Problem."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Problem(
            400,
            "We could not parse the JSON body of your request. (HINT: This likely means you "
            "aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but "
            "what was sent was not valid JSON.)",
        )
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise Problem(400, "you must provide a model parameter")
    if "messages" not in body:
        _missing("messages")
    messages = body["messages"]
    if not isinstance(messages, list):
        _wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise Problem(
            400,
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            param="messages",
            code="empty_array",
        )
    for at, message in enumerate(messages):
        _check_message(f"messages[{at}]", message)
    _check_calls(messages)
    _check_tools(body)
    options = body.get("stream_options")
    if options is not None and not body.get("stream"):
        raise Problem(
            400,
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    if options is not None and not isinstance(options, dict):
        _wrong_type("stream_options", "an object", options)
    return body


def _check_message(place: str, message: object) -> None:
    if not isinstance(message, dict):
        _wrong_type(place, "an object", message)
    if "role" not in message:
        _missing(f"{place}.role")
    role, content = message["role"], message.get("content")
    if role not in _ROLES:
        allowed = ", ".join(f"'{name}'" for name in _ROLES[:-1])
        raise Problem(
            400,
            f"Invalid value: '{role}'. Supported values are: {allowed}, and '{_ROLES[-1]}'.",
            param=f"{place}.role",
            code="invalid_value",
        )
    if content is None and role != "assistant":
        raise Problem(
            400,
            "Invalid value for 'content': expected a string, got null.",
            param=f"{place}.content",
        )
    if not isinstance(content, str | list | None):
        _wrong_type(f"{place}.content", "one of a string or array of objects", content)
    for at, part in enumerate(content if isinstance(content, list) else []):
        if not isinstance(part, dict):
            _wrong_type(f"{place}.content[{at}]", "an object", part)
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        _wrong_type(f"{place}.tool_calls", "an array of objects", calls)
    for at, call in enumerate(calls):
        if not isinstance(call, dict):
            _wrong_type(f"{place}.tool_calls[{at}]", "an object", call)
        if "id" not in call:
            _missing(f"{place}.tool_calls[{at}].id")


def _check_calls(messages: list[dict[str, Any]]) -> None:
    """Every tool message answers a call of the assistant message before it, and none is left."""
    open_ids: list[str] = []
    answered: set[str] = set()
    for at, message in enumerate([*messages, {"role": "user"}]):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_ids:
                raise Problem(
                    400,
                    "Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceeding message with 'tool_calls'.",
                    param=f"messages.[{at}].role",
                )
            answered.add(message["tool_call_id"])
            continue
        if left := [call_id for call_id in open_ids if call_id not in answered]:
            raise Problem(
                400,
                "An assistant message with 'tool_calls' must be followed by tool messages "
                "responding to each 'tool_call_id'. The following tool_call_ids did not have "
                f"response messages: {', '.join(left)}",
                param=f"messages.[{at}].role",
            )
        open_ids = [str(call["id"]) for call in message.get("tool_calls") or []]
        answered = set()


def _check_tools(body: dict[str, Any]) -> None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools is not None and not isinstance(tools, list):
        _wrong_type("tools", "an array of objects", tools)
    names = []
    for at, tool in enumerate(tools or []):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            _missing(f"tools[{at}].function.name")
        names.append(function["name"])
    if choice is not None and not tools:
        raise Problem(
            400,
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are "
            "specified.",
            param="tool_choice",
        )
    function = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(function, dict) and function.get("name") not in names:
        raise Problem(
            400,
            f"Invalid value for 'tool_choice': no function named '{function.get('name')}' was "
            "specified in the 'tools' parameter.",
            param="tool_choice",
        )


def _missing(place: str) -> NoReturn:
    raise Problem(
        400,
        f"Missing required parameter: '{place}'.",
        param=place,
        code="missing_required_parameter",
    )


def _wrong_type(place: str, expected: str, value: object) -> NoReturn:
    kinds = {str: "a string", bool: "a boolean", int: "an integer", float: "a decimal"}
    got = {**kinds, list: "an array", dict: "an object"}.get(type(value), "null")
    raise Problem(
        400,
        f"Invalid type for '{place}': expected {expected}, but got {got} instead.",
        param=place,
        code="invalid_type",
    )
