"""OpenAI's Realtime API over a websocket, with the sandbox's ears, brain and voice behind it.

Events, their order and their fields as in OpenAI's API reference, "Realtime: client events" and
"server events" (the form generally available since August 2025), and as LiveKit's plugin and the official
client's ``client.realtime.connect`` use them. A session of ``intent=transcription`` hears and never answers.
Azure's address, ``/openai/realtime?api-version=…&deployment=…`` or ``/openai/v1/realtime?model=…`` with an
``api-key`` header, leads to the same.

What a model would do by itself is the sandbox's: speech is told from silence by its level
(``realtime_audio``); ``semantic_vad`` takes a turn as over when the brain knows what the words mean, and
waits as long as its eagerness says when it does not. Audio counts one token for 100 ms heard and for
50 ms said (OpenAI's own rates); text as in ``openai``. Noise reduction, prompts, tracing, truncation
strategies and reasoning are accepted and make no difference; nor does the voice's name to the sound.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from trunkline.errors import Unavailable
from trunkline.kit.audio import SAMPLE_BYTES
from trunkline.kit.clock import utc_now
from trunkline.sandbox.brain import Brain
from trunkline.sandbox.brain_file import UNKNOWN
from trunkline.sandbox.deepgram import punctuated
from trunkline.sandbox.ears import Final, Hearing, Listener
from trunkline.sandbox.faults import strike
from trunkline.sandbox.openai import NOT_THERE, tokens
from trunkline.sandbox.options import SandboxOptions
from trunkline.sandbox.realtime_audio import EARS_HZ, RATES_HZ, Quiet, Started, ToEars, Vad, encode
from trunkline.sandbox.realtime_session import EAGERNESS_MS, Refused, for_response, fresh, updated
from trunkline.sandbox.voice import PacedSpeaker, Word

_VOICE_HZ = 24_000
_SEMANTIC_MS = 400
"""Silence after which semantic VAD asks what the words mean."""
_EARS_TIMEOUT_S = 10.0
_SHORTEST_COMMIT_MS = 100
_TOKENS_A_MINUTE = 40_000

_HTTP = {
    "401": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "429": (
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached on requests per min (RPM): Limit 500, Used 500, Requested 1.",
    ),
    "503": (503, "server_error", None, "The server is overloaded; please try again."),
    "500": (500, "server_error", None, "The server had an error while processing your request."),
}
"""A fault's kind → status, type, code and message; in a running session the error of a failed response."""


class _Broken(Exception):
    """The connection ends without a word."""


class _Expired(Exception):
    """The session has lasted as long as one may."""


def routes(
    brain: Brain, ears: Listener, voice: PacedSpeaker, options: SandboxOptions
) -> list[BaseRoute]:
    """The websocket's routes, to be mounted under ``/openai``; for Azure that path is fixed."""

    async def serve(socket: WebSocket) -> None:
        query = socket.query_params
        model = query.get("model") or query.get("deployment") or "gpt-realtime"
        struck = strike(options.faults, "realtime", 0, model)
        always = struck.kind if struck else None
        scheme, _, bearer = socket.headers.get("authorization", "").partition(" ")
        key = socket.headers.get("api-key") or (bearer if scheme.lower() == "bearer" else "")
        refusal = None
        if not secrets.compare_digest(key.strip().encode(), options.api_key.encode()):
            refusal = "401"
        elif always in _HTTP:
            refusal = always
        if refusal is not None:
            status, kind, code, message = _HTTP[refusal]
            body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
            headers = {"retry-after": "1"} if status == 429 else {}
            await socket.send_denial_response(JSONResponse(body, status, headers))
            return
        try:
            hearing = await ears.stream(EARS_HZ)
        except Unavailable:
            await socket.send_denial_response(JSONResponse({"error": {"message": "gone"}}, 500))
            return
        offered = socket.scope.get("subprotocols") or []
        await socket.accept(subprotocol="realtime" if "realtime" in offered else None)
        try:
            if model.endswith(NOT_THERE):
                refused = Refused(f"The model `{model}` does not exist.", code="model_not_found")
                await socket.send_json({"type": "error", "error": refused.error})
                await socket.close(4000)
            elif always != "reset":
                await _Session(socket, brain, hearing, voice, options, always).run()
        finally:
            await hearing.close()

    return [WebSocketRoute("/v1/realtime", serve), WebSocketRoute("/realtime", serve)]


@dataclass
class _Item:
    """One item of the conversation."""

    id: str
    type: str
    role: str = ""
    content: list[dict[str, Any]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    status: str = "completed"
    heard: str | None = None
    """Of an assistant's audio that was cut: the words that were heard. Nobody is shown them."""
    words: list[Word] = field(default_factory=list)
    audio_ms: int = 0
    """Length of its audio, the caller's or ours."""

    def shown(self) -> dict[str, Any]:
        """The item as the protocol has it."""
        item: dict[str, Any] = {"id": self.id, "object": "realtime.item", "type": self.type}
        item["status"] = self.status
        if self.type == "message":
            item["role"], item["content"] = self.role, [dict(part) for part in self.content]
        return {**item, **self.fields}

    def text(self) -> str:
        """What a model knows of it."""
        if self.heard is not None:
            return self.heard
        parts = (part.get("text") or part.get("transcript") or "" for part in self.content)
        return " ".join(part for part in parts if part)


@dataclass
class _Response:
    """One response under way."""

    id: str
    config: dict[str, Any]
    task: asyncio.Task[None] | None = None
    output: list[_Item] = field(default_factory=list)
    text_tokens: int = 0
    audio_ms: int = 0
    reason: str = "client_cancelled"
    """Why it is cancelled, if it is."""
    out_of_band: bool = False


class _Full(Exception):
    """The response has as many tokens as it may."""


class _Session:
    """One websocket: a conversation and what it is set to."""

    def __init__(
        self,
        socket: WebSocket,
        brain: Brain,
        hearing: Hearing,
        voice: PacedSpeaker,
        options: SandboxOptions,
        always: str | None,
    ) -> None:
        self._socket, self._brain, self._hearing, self._voice = socket, brain, hearing, voice
        self._options, self._always = options, always
        query = socket.query_params
        self._model = query.get("model") or query.get("deployment") or "gpt-realtime"
        self._name = secrets.token_hex(8)
        self._lasts = options.realtime_session
        expires = int((utc_now() + self._lasts).timestamp())
        transcription = query.get("intent") == "transcription"
        self._config = fresh(
            f"sess_{self._name}", self._model, expires, transcription=transcription
        )
        self._count = 0
        self._items: list[_Item] = []
        self._response: _Response | None = None
        self._spoke = False
        self._stalled = always == "stall"
        self._tokens_left = _TOKENS_A_MINUTE
        # The caller's audio since the last commit.
        self._to_ears = ToEars("audio/pcm")
        self._vad = Vad()
        self._buffer_ms = 0.0
        self._turn_id: str | None = None
        self._started_ms = 0
        self._words: list[str] = []
        self._asked: list[asyncio.Future[list[str]]] = []
        self._transcripts: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Serve until either side ends it."""
        listening = asyncio.create_task(self._listen())
        reading = asyncio.create_task(self._read_ears())
        waiting: set[asyncio.Future[Any]] = {listening, reading, self._failure}
        try:
            done, _ = await asyncio.wait(
                waiting,
                timeout=self._lasts.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                raise _Expired
            for task in done:
                task.result()
        except _Expired:
            minutes = max(1, round(self._lasts.total_seconds() / 60))
            await self._complain(
                Refused(
                    f"Your session hit the maximum duration of {minutes} minutes.",
                    code="session_expired",
                )
            )
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._socket.close(1001)
        except Unavailable:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self._socket.close(1011)
        except (_Broken, WebSocketDisconnect):
            pass  # a websocket application that returns without closing breaks the connection
        finally:
            tasks = {listening, reading, *self._tasks, *self._transcripts}
            for task in tasks:
                task.cancel()
            self._failure.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # From the client ------------------------------------------------------------------------

    async def _listen(self) -> None:
        await self._tell("session.created", session=self._config)
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            event: Any = None
            try:
                try:
                    event = json.loads(message.get("text") or "")
                except ValueError:
                    raise Refused("Invalid JSON.", code="invalid_json") from None
                if not isinstance(event, dict) or not isinstance(event.get("type"), str):
                    raise Refused(
                        "Missing required parameter: 'type'.",
                        code="missing_required_parameter",
                        param="type",
                    )
                await self._obey(event)
            except Refused as refused:
                told = event.get("event_id") if isinstance(event, dict) else None
                await self._complain(refused, told)

    async def _obey(self, event: dict[str, Any]) -> None:
        match event["type"]:
            case "session.update":
                old = self._config["audio"]["input"]
                self._config = updated(self._config, event.get("session"), has_spoken=self._spoke)
                new = self._config["audio"]["input"]
                if new["format"] != old["format"]:
                    self._to_ears = ToEars(new["format"]["type"])
                detection = new["turn_detection"] or {}
                self._vad.threshold = detection.get("threshold", 0.5)
                await self._tell("session.updated", session=self._config)
            case "input_audio_buffer.append":
                await self._hear(event.get("audio"))
            case "input_audio_buffer.commit":
                if self._buffer_ms < _SHORTEST_COMMIT_MS:
                    raise Refused(
                        "Error committing input audio buffer: buffer too small. Expected at least "
                        f"100ms of audio, but buffer only has {self._buffer_ms:.2f}ms of audio.",
                        code="input_audio_buffer_commit_empty",
                    )
                await self._commit()
            case "input_audio_buffer.clear":
                await self._clear()
            case "conversation.item.create":
                await self._create(event)
            case "conversation.item.retrieve":
                item = self._find(event.get("item_id"), event["type"])
                await self._tell("conversation.item.retrieved", item=item.shown())
            case "conversation.item.delete":
                item = self._find(event.get("item_id"), event["type"])
                self._items.remove(item)
                await self._tell("conversation.item.deleted", item_id=item.id)
            case "conversation.item.truncate":
                await self._truncate(event)
            case "response.create":
                await self._respond(event.get("response"))
            case "response.cancel":
                active = self._response
                wanted = event.get("response_id")
                if active is None or (wanted is not None and wanted != active.id):
                    raise Refused(
                        "Cancellation failed: no active response found",
                        code="response_cancel_not_active",
                    )
                await self._cancel("client_cancelled")
            case "output_audio_buffer.clear":
                raise Refused("output_audio_buffer.clear is for WebRTC and SIP sessions only.")
            case unknown:
                raise Refused(f"Invalid value: '{unknown}'.", param="type")

    def _find(self, item_id: object, kind: str) -> _Item:
        for item in self._items:
            if item.id == item_id:
                return item
        verb = kind.rpartition(".")[2]
        raise Refused(
            f"Error {verb.removesuffix('e')}ing item: the item with id '{item_id}' does not exist.",
            code=f"item_{verb}_invalid_item_id",
            param="item_id",
        )

    # The caller's audio ---------------------------------------------------------------------

    async def _hear(self, audio: object) -> None:
        kind = self._config["audio"]["input"]["format"]["type"]
        try:
            data = base64.b64decode(str(audio), validate=True)
            pcm = self._to_ears.push(data)
        except (binascii.Error, ValueError):
            raise Refused(
                "Invalid 'audio'. Expected base64-encoded audio bytes.", param="audio"
            ) from None
        width = SAMPLE_BYTES if kind == "audio/pcm" else 1
        self._buffer_ms += len(data) / width / RATES_HZ[kind] * 1000
        await self._hearing.send(pcm)
        detection = self._config["audio"]["input"]["turn_detection"]
        for found in self._vad.push(pcm):
            if detection is None:
                continue
            if isinstance(found, Started):
                await self._speech_started(found, detection)
            elif self._turn_id is not None and await self._is_over(found, detection):
                await self._speech_stopped(found, detection)

    async def _speech_started(self, found: Started, detection: Mapping[str, Any]) -> None:
        self._turn_id = self._new_id("item")
        start = max(0, found.at_ms - int(detection.get("prefix_padding_ms") or 300))
        self._started_ms = start
        await self._tell(
            "input_audio_buffer.speech_started", audio_start_ms=start, item_id=self._turn_id
        )
        if self._response is not None and detection["interrupt_response"]:
            await self._cancel("turn_detected")

    async def _is_over(self, quiet: Quiet, detection: Mapping[str, Any]) -> bool:
        if detection["type"] == "server_vad":
            return quiet.for_ms >= int(detection["silence_duration_ms"])
        if quiet.for_ms == _SEMANTIC_MS:
            words = " ".join(await self._heard(keep=True))
            return self._brain.understand(words).intent != UNKNOWN
        return quiet.for_ms >= EAGERNESS_MS[detection["eagerness"]]

    async def _speech_stopped(self, quiet: Quiet, detection: Mapping[str, Any]) -> None:
        self._vad.stop()
        await self._tell(
            "input_audio_buffer.speech_stopped", audio_end_ms=quiet.at_ms, item_id=self._turn_id
        )
        self._buffer_ms = quiet.at_ms - self._started_ms
        await self._commit()
        if detection["create_response"] and self._config["type"] == "realtime":
            if self._response is not None:
                await self._cancel("turn_detected")
            await self._respond(None)

    async def _commit(self) -> None:
        """The audio so far is an item; its words follow."""
        item = _Item(
            self._turn_id or self._new_id("item"),
            "message",
            "user",
            [{"type": "input_audio", "transcript": None}],
            audio_ms=round(self._buffer_ms),
        )
        self._turn_id, self._buffer_ms = None, 0.0
        self._vad.stop()
        before = self._items[-1].id if self._items else None
        await self._tell("input_audio_buffer.committed", item_id=item.id, previous_item_id=before)
        await self._add(item, before)
        asked = self._ask()
        await self._hearing.finalize()
        task = asyncio.create_task(self._transcribe(item, asked))
        self._transcripts.add(task)
        task.add_done_callback(self._transcripts.discard)

    async def _clear(self) -> None:
        self._turn_id, self._buffer_ms = None, 0.0
        self._vad.stop()
        await self._heard(keep=False)
        await self._tell("input_audio_buffer.cleared")

    def _ask(self) -> "asyncio.Future[list[str]]":
        asked: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        return asked

    async def _heard(self, *, keep: bool) -> list[str]:
        """The words since the last commit; *keep* leaves them to be committed."""
        asked = self._ask()
        await self._hearing.finalize()
        async with asyncio.timeout(_EARS_TIMEOUT_S):
            words = await asked
        if keep:
            self._words = [*words, *self._words]
        return words

    async def _read_ears(self) -> None:
        async for event in self._hearing:
            if not isinstance(event, Final):
                continue
            self._words += [word.text for word in event.words]
            if event.finalized and self._asked:
                asked, words = self._asked.pop(0), self._words
                self._words = []
                if not asked.done():
                    asked.set_result(words)
        raise Unavailable("The sandbox's ears do not answer; restart the sandbox.")

    async def _transcribe(self, item: _Item, asked: "asyncio.Future[list[str]]") -> None:
        try:
            async with asyncio.timeout(_EARS_TIMEOUT_S):
                words = await asked
        except TimeoutError as error:
            self._fail(Unavailable(str(error)))
            return
        text = " ".join(punctuated(words))
        item.content[0]["transcript"] = text
        wish = self._config["audio"]["input"]["transcription"]
        if wish is None and self._config["type"] == "realtime":
            return
        place = {"item_id": item.id, "content_index": 0}
        kind = "conversation.item.input_audio_transcription"
        for at, word in enumerate(text.split()):
            await self._tell(f"{kind}.delta", **place, delta=f" {word}" if at else word)
        heard, said = -(-item.audio_ms // 100), len(tokens(text))
        usage: dict[str, Any] = {
            "type": "tokens",
            "input_tokens": heard,
            "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
            "output_tokens": said,
            "total_tokens": heard + said,
        }
        if wish and str(wish.get("model", "")).startswith("whisper"):
            usage = {"type": "duration", "seconds": item.audio_ms / 1000}
        await self._tell(f"{kind}.completed", **place, transcript=text, usage=usage)

    # The conversation -----------------------------------------------------------------------

    async def _add(self, item: _Item, before: str | None) -> None:
        at = len(self._items)
        if before is not None:
            at = next(i for i, other in enumerate(self._items) if other.id == before) + 1
        self._items.insert(at, item)
        await self._tell("conversation.item.added", previous_item_id=before, item=item.shown())
        if item.status == "completed":
            await self._tell("conversation.item.done", previous_item_id=before, item=item.shown())

    async def _create(self, event: Mapping[str, Any]) -> None:
        item = _read_item(event.get("item"), self._new_id("item"))
        if any(other.id == item.id for other in self._items):
            raise Refused(
                f"Error adding item: an item with the id '{item.id}' already exists.",
                code="item_create_duplicate_item_id",
                param="item.id",
            )
        before = event.get("previous_item_id")
        if before == "root":
            self._items.insert(0, item)
            for kind in ("added", "done"):
                await self._tell(
                    f"conversation.item.{kind}", previous_item_id=None, item=item.shown()
                )
            return
        if before is None:
            before = self._items[-1].id if self._items else None
        elif not any(other.id == before for other in self._items):
            raise Refused(
                f"Error adding item: the previous item with id '{before}' does not exist.",
                code="item_create_invalid_previous_item_id",
                param="previous_item_id",
            )
        await self._add(item, before)

    async def _truncate(self, event: Mapping[str, Any]) -> None:
        item = self._find(event.get("item_id"), event["type"])
        end_ms = event.get("audio_end_ms")
        if item.role != "assistant" or not item.audio_ms:
            raise Refused("Only assistant audio messages can be truncated.", param="item_id")
        if not isinstance(end_ms, int) or end_ms < 0:
            raise Refused("Invalid 'audio_end_ms'.", param="audio_end_ms")
        if end_ms > item.audio_ms:
            raise Refused(
                f"Audio content of {item.audio_ms}ms is already shorter than {end_ms}ms",
                param="audio_end_ms",
            )
        item.heard = " ".join(word.text for word in item.words if word.end_s * 1000 <= end_ms)
        item.audio_ms = end_ms
        for part in item.content:
            part.pop("transcript", None)  # so that nothing stays that was not heard
        await self._tell(
            "conversation.item.truncated",
            item_id=item.id,
            content_index=event.get("content_index", 0),
            audio_end_ms=end_ms,
        )

    # The answer -----------------------------------------------------------------------------

    async def _respond(self, wishes: object) -> None:
        if self._config["type"] != "realtime":
            raise Refused("Responses are not supported in transcription sessions.")
        config = for_response(self._config, wishes)
        out_of_band = config["conversation"] == "none"
        if self._response is not None and not out_of_band:
            raise Refused(
                "Conversation already has an active response in progress: "
                f"{self._response.id}. Wait until the response is finished before creating a new one.",
                code="conversation_already_has_active_response",
            )
        response = _Response(self._new_id("resp"), config, out_of_band=out_of_band)
        if not out_of_band:
            self._response = response
        response.task = asyncio.create_task(self._answer(response))
        self._tasks.add(response.task)
        response.task.add_done_callback(self._tasks.discard)

    async def _cancel(self, reason: str) -> None:
        response = self._response
        if response is None or response.task is None:
            return
        response.reason = reason
        await asyncio.sleep(0)  # a task that is cancelled before its first step tells nothing
        response.task.cancel()
        await asyncio.wait([response.task])
        self._response = None

    async def _answer(self, response: _Response) -> None:
        status, details = "completed", None
        try:
            await self._tell("response.created", response=self._shown(response, "in_progress"))
            await self._tell("rate_limits.updated", rate_limits=self._limits())
            if self._transcripts:
                await asyncio.wait(set(self._transcripts))
            if error := self._strike():
                status, details = "failed", {"type": "failed", "error": error}
            else:
                await self._say(response)
        except _Full:
            status = "incomplete"
            details = {"type": "incomplete", "reason": "max_output_tokens"}
        except asyncio.CancelledError:
            status, details = "cancelled", {"type": "cancelled", "reason": response.reason}
        except (_Broken, Unavailable) as error:
            self._fail(error)
            return
        except (RuntimeError, WebSocketDisconnect):
            return  # the client is gone
        for item in response.output:
            if item.status == "in_progress":
                item.status = "incomplete"
                await self._close_item(response, item)
        if self._response is response:
            self._response = None
        shown = self._shown(response, status)
        shown["status_details"] = details
        shown["usage"] = self._usage(response)
        self._tokens_left = max(0, self._tokens_left - shown["usage"]["total_tokens"])
        await self._tell("response.done", response=shown)

    def _strike(self) -> dict[str, Any] | None:
        """The error of a response that a fault lets fail; raises where the connection ends."""
        turn = sum(item.role == "user" for item in self._items)
        struck = strike(self._options.faults, "realtime", turn, self._model)
        if struck is None:
            return None
        match struck.kind:
            case "reset":
                raise _Broken
            case "stall":
                self._stalled = True
                return None
            case _:
                _, error_type, code, _ = _HTTP[struck.kind]
                return {"type": error_type, "code": code}

    async def _say(self, response: _Response) -> None:
        delays, config = self._options.delays, response.config
        await asyncio.sleep(delays.llm_first_token.total_seconds())
        reply = self._brain.reply(self._request(response))
        if reply.text:
            if config["output_modalities"] == ["audio"]:
                await self._speak(response, reply.text, delays.tts_first_byte)
            else:
                await self._write(response, reply.text, delays.llm_token)
        for call in reply.tool_calls:
            item = _Item(
                self._new_id("item"),
                "function_call",
                fields={"call_id": self._new_id("call"), "name": call.name, "arguments": ""},
                status="in_progress",
            )
            at = await self._open_item(response, item)
            for piece in tokens(call.arguments):
                self._count_tokens(response, 1)
                await self._tell(
                    "response.function_call_arguments.delta",
                    **at,
                    call_id=item.fields["call_id"],
                    delta=piece,
                )
            item.fields["arguments"] = call.arguments
            await self._tell(
                "response.function_call_arguments.done",
                **at,
                call_id=item.fields["call_id"],
                name=call.name,
                arguments=call.arguments,
            )
            item.status = "completed"
            await self._close_item(response, item)

    async def _write(self, response: _Response, text: str, pause: timedelta) -> None:
        part = {"type": "output_text", "text": ""}
        item, at = await self._open_message(response, part, {"type": "text", "text": ""})
        for piece in tokens(text):
            self._count_tokens(response, 1)
            part["text"] += piece
            await self._tell("response.output_text.delta", **at, delta=piece)
            await asyncio.sleep(pause.total_seconds())
        item.status = "completed"
        await self._close_item(response, item)

    async def _speak(self, response: _Response, text: str, pause: timedelta) -> None:
        output = response.config["audio"]["output"]
        kind = output["format"]["type"]
        transcription = response.config["audio"]["input"]["transcription"] or {}
        language = str(transcription.get("language") or "en")
        part: dict[str, Any] = {"type": "output_audio", "transcript": ""}
        item, at = await self._open_message(response, part, {"type": "audio", "transcript": ""})
        await asyncio.sleep(pause.total_seconds())
        rest = text.split()
        rate_hz = RATES_HZ[kind]
        async for chunk in self._voice.synthesize(text, language, rate_hz, speed=output["speed"]):
            for word in chunk.words:
                item.words.append(word)
                delta = f" {word.text}" if part["transcript"] else word.text
                part["transcript"] += delta
                rest = rest[1:]
                self._count_tokens(response, len(tokens(delta)))
                await self._tell("response.output_audio_transcript.delta", **at, delta=delta)
            if chunk.pcm:
                ms = len(chunk.pcm) * 1000 // SAMPLE_BYTES // rate_hz
                item.audio_ms += ms
                response.audio_ms += ms
                self._count_tokens(response, 0)
                sound = base64.b64encode(encode(chunk.pcm, kind)).decode()
                await self._tell("response.output_audio.delta", **at, delta=sound)
                self._spoke = True
        item.status = "completed"
        await self._close_item(response, item)

    def _count_tokens(self, response: _Response, more: int) -> None:
        response.text_tokens += more
        limit = response.config["max_output_tokens"]
        if isinstance(limit, int) and response.text_tokens + response.audio_ms // 50 > limit:
            raise _Full

    async def _open_message(
        self, response: _Response, part: dict[str, Any], shown: dict[str, Any]
    ) -> tuple[_Item, dict[str, Any]]:
        item = _Item(self._new_id("item"), "message", "assistant", [], status="in_progress")
        at = await self._open_item(response, item)
        item.content.append(part)
        at["content_index"] = 0
        await self._tell("response.content_part.added", **at, part=shown)
        return item, at

    async def _open_item(self, response: _Response, item: _Item) -> dict[str, Any]:
        response.output.append(item)
        place = {"response_id": response.id, "output_index": len(response.output) - 1}
        await self._tell("response.output_item.added", **place, item=item.shown())
        if not response.out_of_band:
            before = self._items[-1].id if self._items else None
            await self._add(item, before)
        return {**place, "item_id": item.id}

    async def _close_item(self, response: _Response, item: _Item) -> None:
        place = {"response_id": response.id, "output_index": response.output.index(item)}
        at = {**place, "item_id": item.id, "content_index": 0}
        for part in item.content:
            if part["type"] == "output_audio":
                await self._tell("response.output_audio.done", **at)
                await self._tell(
                    "response.output_audio_transcript.done", **at, transcript=part["transcript"]
                )
                shown = {"type": "audio", "transcript": part["transcript"]}
            else:
                await self._tell("response.output_text.done", **at, text=part["text"])
                shown = {"type": "text", "text": part["text"]}
            await self._tell("response.content_part.done", **at, part=shown)
        await self._tell("response.output_item.done", **place, item=item.shown())
        if not response.out_of_band and item in self._items:
            index = self._items.index(item)
            before = self._items[index - 1].id if index else None
            await self._tell("conversation.item.done", previous_item_id=before, item=item.shown())

    def _request(self, response: _Response) -> dict[str, Any]:
        """The conversation as chat completions have it, which is what the brain reads."""
        config = response.config
        items = self._items
        if config["input"] is not None:
            known = {item.id: item for item in self._items}
            items = [
                known[str(one.get("id"))]
                if one.get("type") == "item_reference" and str(one.get("id")) in known
                else _read_item(one, self._new_id("item"))
                for one in config["input"]
            ]
        messages: list[dict[str, Any]] = [{"role": "system", "content": config["instructions"]}]
        for item in items:
            if item.status == "in_progress":
                continue
            if item.type == "function_call_output":
                output = str(item.fields["output"])
                messages.append(
                    {"role": "tool", "tool_call_id": item.fields["call_id"], "content": output}
                )
            elif item.type == "function_call":
                if messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": ""})
                messages[-1].setdefault("tool_calls", []).append(
                    {
                        "id": item.fields["call_id"],
                        "type": "function",
                        "function": {
                            "name": item.fields["name"],
                            "arguments": item.fields["arguments"],
                        },
                    }
                )
            else:
                messages.append({"role": item.role, "content": item.text()})
        tools = [
            {
                "type": "function",
                "function": {k: v for k, v in tool.items() if k != "type"},
            }
            for tool in config["tools"] or []
        ]
        choice = config["tool_choice"]
        if isinstance(choice, Mapping):
            choice = {"type": "function", "function": {"name": choice["name"]}}
        return {"messages": messages, "tools": tools, "tool_choice": choice}

    # To the client --------------------------------------------------------------------------

    def _shown(self, response: _Response, status: str) -> dict[str, Any]:
        config = response.config
        return {
            "object": "realtime.response",
            "id": response.id,
            "status": status,
            "status_details": None,
            "output": [item.shown() for item in response.output],
            "conversation_id": None if response.out_of_band else f"conv_{self._name}",
            "output_modalities": config["output_modalities"],
            "max_output_tokens": config["max_output_tokens"],
            "audio": {"output": config["audio"]["output"]},
            "usage": None,
            "metadata": config["metadata"],
        }

    def _usage(self, response: _Response) -> dict[str, Any]:
        texts = [str(response.config["instructions"]), json.dumps(response.config["tools"] or [])]
        heard = 0
        for item in self._items:
            if item in response.output:
                continue
            if item.audio_ms:
                heard += -(-item.audio_ms // (100 if item.role == "user" else 50))
            else:
                texts.append(item.text() or json.dumps(item.fields))
        written = sum(len(tokens(text)) for text in texts)
        said = response.audio_ms // 50
        return {
            "total_tokens": written + heard + response.text_tokens + said,
            "input_tokens": written + heard,
            "output_tokens": response.text_tokens + said,
            "input_token_details": {
                "text_tokens": written,
                "audio_tokens": heard,
                "image_tokens": 0,
                "cached_tokens": 0,
                "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
            },
            "output_token_details": {"text_tokens": response.text_tokens, "audio_tokens": said},
        }

    def _limits(self) -> list[dict[str, Any]]:
        return [
            {"name": "requests", "limit": 500, "remaining": 499, "reset_seconds": 0.12},
            {
                "name": "tokens",
                "limit": _TOKENS_A_MINUTE,
                "remaining": self._tokens_left,
                "reset_seconds": round(60 * (1 - self._tokens_left / _TOKENS_A_MINUTE), 3),
            },
        ]

    def _fail(self, error: BaseException) -> None:
        if not self._failure.done():
            self._failure.set_exception(error)

    def _new_id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._name}{self._count:05d}"

    async def _complain(self, refused: Refused, event_id: str | None = None) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await self._tell("error", error={**refused.error, "event_id": event_id})

    async def _tell(self, kind: str, **fields: Any) -> None:
        if not self._stalled:
            event = {"type": kind, "event_id": self._new_id("event"), **fields}
            await self._socket.send_text(json.dumps(event))


def _read_item(given: object, item_id: str) -> _Item:
    """An item as a client gives it. Raises Refused."""
    if not isinstance(given, Mapping):
        raise Refused(
            "Missing required parameter: 'item'.", code="missing_required_parameter", param="item"
        )
    kind = given.get("type")
    name = str(given.get("id") or item_id)
    if kind == "message":
        role, parts = given.get("role"), given.get("content")
        allowed = {
            "system": {"input_text"},
            "user": {"input_text", "input_audio", "input_image"},
            "assistant": {"output_text", "output_audio"},
        }.get(str(role))
        if allowed is None:
            raise Refused(
                f"Invalid value: {role!r}. Supported values are: 'system', 'user', and 'assistant'.",
                param="item.role",
            )
        for at, part in enumerate(parts if isinstance(parts, list) else [{}]):
            if not isinstance(part, Mapping) or part.get("type") not in allowed:
                wanted = " and ".join(f"'{one}'" for one in sorted(allowed))
                raise Refused(
                    f"Invalid value: {part.get('type')!r}. Supported values are: {wanted}.",
                    param=f"item.content[{at}].type",
                )
        content = [{k: v for k, v in part.items() if k != "audio"} for part in parts or []]
        return _Item(name, "message", str(role), content)
    wanted_fields = {
        "function_call": ("name", "arguments"),
        "function_call_output": ("call_id", "output"),
    }.get(str(kind))
    if wanted_fields is None:
        raise Refused(f"Invalid value: {kind!r} is no type of item.", param="item.type")
    for field_name in wanted_fields:
        if not isinstance(given.get(field_name), str):
            raise Refused(
                f"Missing required parameter: 'item.{field_name}'.",
                code="missing_required_parameter",
                param=f"item.{field_name}",
            )
    fields = {one: given[one] for one in wanted_fields}
    fields["call_id"] = str(given.get("call_id") or f"call_{item_id}")
    return _Item(name, str(kind), fields=fields)
