"""Deepgram's speech-to-text v1 as the sandbox speaks it: live over a websocket, and prerecorded.

Follows https://developers.deepgram.com/reference/speech-to-text/listen-streaming, ``/docs/errors`` and
``/docs/stt-troubleshooting-websocket-data-and-net-errors`` there; LiveKit's plugin and
``deepgram-sdk`` work against it unchanged. Taken are ``encoding=linear16`` at the ears' sample rates
and one channel; ``interim_results``, ``vad_events``, ``utterance_end_ms``, ``punctuate`` and
``smart_format`` do what they do there. ``endpointing`` can be switched off but not set: the ears
have their own. Every other query parameter is accepted without effect.
"""

import asyncio
import calendar
import contextlib
import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from trunkline.errors import Unavailable
from trunkline.kit.audio import SAMPLE_BYTES, read_wav
from trunkline.kit.clock import utc_now
from trunkline.sandbox.ears import (
    RATES_HZ,
    EarEvent,
    Final,
    Hearing,
    Interim,
    Listener,
    SpeechStarted,
    Word,
)
from trunkline.sandbox.faults import RETRY_AFTER_S, Fault, Part, strike
from trunkline.sandbox.options import SandboxOptions

IDLE = timedelta(seconds=10)
"""Deepgram closes a stream on which neither audio nor a text message came for this long."""

_MODEL = {"name": "grammar", "version": "sandbox", "arch": "pocketsphinx"}
_MODEL_ID = str(uuid.uuid5(uuid.NAMESPACE_URL, "trunkline.sandbox.ears"))
_CHANNEL = [0, 1]
"""Deepgram's channel_index: this channel, of so many."""

_ASKS = re.compile(r"(?:(?:yes|no|wait) )*(?:what|where|when|who|how|are|do|does|can|could)\b")
_CAPITALS = {name.lower(): name for name in (*calendar.day_name, "I")}


class Refusal(Exception):
    """An HTTP error of Deepgram's, before a stream or instead of a transcript."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def response(self, request_id: str) -> Response:
        """As Deepgram writes it."""
        return JSONResponse(
            {"err_code": self.code, "err_msg": self.message, "request_id": request_id},
            self.status,
            {
                "dg-request-id": request_id,
                "dg-error": self.message,
                **({"Retry-After": str(RETRY_AFTER_S)} if self.status in (429, 503) else {}),
            },
        )


REFUSALS = {
    "401": (401, "INVALID_AUTH", "Invalid credentials."),
    "429": (429, "TOO_MANY_REQUESTS", "Too many requests. Please try again later"),
    "500": (500, "INTERNAL_SERVER_ERROR", "Internal server error."),
    "503": (503, "SERVICE_UNAVAILABLE", "The service is overloaded. Please try again later"),
}


class _Closing(Exception):
    """The stream ends with a close frame of this code and reason."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class _Broken(Exception):
    """The stream ends without a close frame."""


_NOT_AUDIO = (1008, "DATA-0000")
_IDLE_TOO_LONG = (
    1011,
    "Deepgram did not receive audio data or a text message within the timeout window. "
    "See https://dpgr.am/net0001",
)
_NO_ANSWER = (
    1011,
    "Deepgram did not provide a response message within the timeout window. "
    "See https://dpgr.am/net0000",
)
_INTERNAL = (1011, "Internal server error.")


def _bad_request(message: str) -> Refusal:
    return Refusal(400, "Bad Request", f"Bad Request: {message}")


@dataclass(frozen=True)
class _Query:
    """What a client asked for in its URL. Flags are off unless given as ``true``."""

    decodable: bool
    sample_rate_hz: int
    interim_results: bool
    vad_events: bool
    endpointing: bool
    utterance_end_s: float | None
    punctuate: bool

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "_Query":
        """Raises Refusal with status 400."""
        encoding = query.get("encoding")
        if encoding not in (None, "linear16"):
            raise _bad_request(f"encoding {encoding!a} is not supported; send linear16.")
        rate_hz = _number(query, "sample_rate", default=RATES_HZ[-1])
        if rate_hz not in RATES_HZ:
            allowed = " or ".join(map(str, RATES_HZ))
            raise _bad_request(f"sample_rate {rate_hz} is not supported; send {allowed}.")
        if _number(query, "channels", default=1) != 1:
            raise _bad_request("only channels=1 is supported.")
        utterance_end_ms = _number(query, "utterance_end_ms", default=0)
        return cls(
            # Without an encoding Deepgram expects a container, and there is none it could find here.
            decodable=encoding is not None,
            sample_rate_hz=rate_hz,
            interim_results=query.get("interim_results") == "true",
            vad_events=query.get("vad_events") == "true",
            endpointing=query.get("endpointing") != "false",
            utterance_end_s=utterance_end_ms / 1000 or None,
            punctuate=_punctuates(query),
        )


def admit(connection: HTTPConnection, options: SandboxOptions, part: Part) -> Fault | None:
    """Check the key; strike with a status, and return what else strikes every time. Raises Refusal."""
    scheme, _, key = connection.headers.get("authorization", "").partition(" ")
    known = secrets.compare_digest(key.encode(), options.api_key.encode())
    if scheme.lower() not in ("token", "bearer") or not known:
        raise Refusal(*REFUSALS["401"])
    always = strike(options.faults, part, 0, connection.query_params.get("model"))
    if always and always.kind in REFUSALS:
        raise Refusal(*REFUSALS[always.kind])
    return always


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _bad_request(f"{name} {text!a} is not a number.")
    return int(text)


def _punctuates(query: Mapping[str, str]) -> bool:
    return "true" in (query.get("punctuate"), query.get("smart_format"))


def routes(ears: Listener, options: SandboxOptions, *, idle: timedelta = IDLE) -> list[BaseRoute]:
    """Deepgram's routes, to be mounted where a client's address has its ``/v1/listen``.

    The one key is taken from ``Authorization: Token`` or ``Bearer``. Of the faults with part ``stt``,
    those for a turn strike where the final of a stream's nth utterance would come (every status
    as close code 1011); those for every turn strike the upgrade and the prerecorded request.
    """

    async def live(socket: WebSocket) -> None:
        request_id = str(uuid.uuid4())
        try:
            always = admit(socket, options, "stt")
            query = _Query.read(socket.query_params)
            hearing = await ears.stream(query.sample_rate_hz)
        except Refusal as refusal:
            await socket.send_denial_response(refusal.response(request_id))
            return
        except Unavailable:
            await socket.send_denial_response(Refusal(*REFUSALS["500"]).response(request_id))
            return
        try:
            await socket.accept(headers=[(b"dg-request-id", request_id.encode())])
            # A websocket application that returns without closing breaks the connection.
            if always is None or always.kind != "reset":
                await _Stream(socket, hearing, query, request_id, options, idle).run()
        finally:
            await hearing.close()

    async def prerecorded(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        try:
            admit(request, options, "stt")
            body = await request.body()
            try:
                samples, rate_hz = read_wav(body)
            except ValueError as error:
                raise _bad_request(f"failed to process audio: {error}") from None
            if rate_hz not in RATES_HZ:
                raise _bad_request(f"failed to process audio: {rate_hz} Hz is not supported")
            words = await _transcribe(ears, samples[:, 0].astype("<i2").tobytes(), rate_hz)
        except Refusal as refusal:
            return refusal.response(request_id)
        except Unavailable:
            return Refusal(*REFUSALS["500"]).response(request_id)
        alternative = _alternative(words, _punctuates(request.query_params))
        metadata = {
            **_metadata(request_id, hashlib.sha256(body).hexdigest(), len(samples) / rate_hz),
            "models": [_MODEL_ID],
            "model_info": {_MODEL_ID: _MODEL},
        }
        results = {"channels": [{"alternatives": [alternative]}]}
        headers = {"dg-request-id": request_id}
        return JSONResponse({"metadata": metadata, "results": results}, headers=headers)

    async def key_details(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        try:
            admit(request, options, "stt")
        except Refusal as refusal:
            return refusal.response(request_id)
        details = {"api_key_id": str(uuid.UUID(int=0)), "scopes": ["member"]}
        return JSONResponse(details, headers={"dg-request-id": request_id})

    async def models(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        try:
            admit(request, options, "stt")
        except Refusal as refusal:
            return refusal.response(request_id)
        heard = [_listed(name) for name in ("nova-3", "nova-2", "flux-general-en")]
        spoken = [_listed(f"aura-2-{name}-en") for name in ("thalia", "luna", "zeus")]
        return JSONResponse({"stt": heard, "tts": spoken}, headers={"dg-request-id": request_id})

    return [
        Route("/v1/auth/token", key_details, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        WebSocketRoute("/v1/listen", live),
        Route("/v1/listen", prerecorded, methods=["POST"]),
    ]


def _listed(name: str) -> dict[str, object]:
    """A row of https://developers.deepgram.com/reference/manage/models/list."""
    return {"name": name, "canonical_name": name, "architecture": name, "languages": ["en"]}


async def _transcribe(ears: Listener, pcm: bytes, sample_rate_hz: int) -> list[Word]:
    hearing = await ears.stream(sample_rate_hz)
    try:
        await hearing.send(pcm)
        await hearing.end()
        return [word async for event in hearing if isinstance(event, Final) for word in event.words]
    finally:
        await hearing.close()


def _metadata(request_id: str, sha256: str, duration_s: float) -> dict[str, Any]:
    return {
        "transaction_key": "deprecated",
        "request_id": request_id,
        "sha256": sha256,
        "created": utc_now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "duration": round(duration_s, 3),
        "channels": 1,
    }


def punctuated(texts: Sequence[str]) -> list[str]:
    """The words with capitals and a full stop or question mark, as far as that shows in them."""
    words = [_CAPITALS.get(text, text) for text in texts]
    if words:
        words[0] = words[0].capitalize()
        words[-1] += "?" if _ASKS.match(" ".join(texts)) else "."
    return words


def _alternative(words: Sequence[Word], punctuate: bool) -> dict[str, Any]:
    """Deepgram's ``alternatives[0]``."""
    texts = [word.text for word in words]
    shown = punctuated(texts) if punctuate else texts
    items: list[dict[str, Any]] = [
        {"word": w.text, "start": w.start_s, "end": w.end_s, "confidence": w.confidence}
        for w in words
    ]
    if punctuate:
        for item, text in zip(items, shown, strict=True):
            item["punctuated_word"] = text
    confidence = sum(word.confidence for word in words) / len(words) if words else 0.0
    return {"transcript": " ".join(shown), "confidence": round(confidence, 4), "words": items}


class _Stream:
    """One open websocket: what the client sends goes to the ears, what they hear to the client."""

    def __init__(
        self,
        socket: WebSocket,
        hearing: Hearing,
        query: _Query,
        request_id: str,
        options: SandboxOptions,
        idle: timedelta,
    ) -> None:
        self._socket = socket
        self._hearing = hearing
        self._query = query
        self._request_id = request_id
        model = socket.query_params.get("model")
        self._faults = tuple(one for one in options.faults if one.model in (None, "*", model))
        self._stt_final_s = options.delays.stt_final.total_seconds()
        self._idle_s = idle.total_seconds()
        self._clock = asyncio.get_running_loop().time
        self._sha256 = hashlib.sha256()
        self._received_s = 0.0
        self._received_at_s = self._clock()
        self._segment_s = 0.0
        self._turns = 0
        self._speaking = False
        self._ended = False
        always = strike(self._faults, "stt", 0)
        self._stalled = always is not None and always.kind == "stall"
        self._finals = True
        self._last_word_end_s: float | None = None

    async def run(self) -> None:
        """Serve until either side ends it."""
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._report())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        except _Closing as closing:
            await self._close(closing.code, closing.reason)
        except Unavailable:
            await self._close(*_NO_ANSWER)
        except (_Broken, WebSocketDisconnect):
            pass
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self, code: int, reason: str) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client was first
            await self._socket.close(code, reason)

    async def _listen(self) -> None:
        """Take what the client sends; returns once it is gone."""
        while True:
            try:
                async with asyncio.timeout(self._idle_s):
                    message = await self._socket.receive()
            except TimeoutError:
                raise _Closing(*_IDLE_TOO_LONG) from None
            if message["type"] == "websocket.disconnect":
                return
            if self._ended:
                continue
            if message.get("text") is not None:
                await self._obey(message["text"])
            elif message["bytes"]:
                await self._hear(message["bytes"])
            else:  # an empty binary message is Deepgram's older way to say CloseStream
                await self._end()

    async def _end(self) -> None:
        self._ended = True
        await self._hearing.end()

    async def _obey(self, text: str) -> None:
        try:
            asked = json.loads(text)
            kind = asked["type"]
        except (ValueError, TypeError, KeyError) as error:
            await self._complain(text, str(error))
            return
        if kind == "Finalize":
            await self._hearing.finalize()
        elif kind == "CloseStream":
            await self._end()
        # A Configure that succeeds has no answer; the grammar is fixed, so it changes nothing here.
        elif kind not in ("KeepAlive", "Configure"):
            await self._complain(
                text,
                f"unknown variant `{kind}`, expected one of "
                "`CloseStream`, `Configure`, `KeepAlive`, `Finalize`",
            )

    async def _complain(self, text: str, why: str) -> None:
        """Tell of a message that makes no sense; as with Deepgram, the stream stays open."""
        await self._send(
            {
                "type": "Error",
                "variant": "SchemaError",
                "description": f"Could not deserialize last text message: {why}",
                "message": text,
            }
        )

    async def _hear(self, pcm: bytes) -> None:
        if not self._query.decodable or len(pcm) % SAMPLE_BYTES:
            raise _Closing(*_NOT_AUDIO)
        self._sha256.update(pcm)
        self._received_s += len(pcm) / SAMPLE_BYTES / self._query.sample_rate_hz
        self._received_at_s = self._clock()
        await self._hearing.send(pcm)
        end_s, quiet_s = self._last_word_end_s, self._query.utterance_end_s
        if end_s is None or quiet_s is None or self._speaking:
            return
        if self._received_s - end_s >= quiet_s:
            self._last_word_end_s = None
            await self._tell({"type": "UtteranceEnd", "channel": _CHANNEL, "last_word_end": end_s})

    async def _report(self) -> None:
        """Tell the client what the ears hear, and at the end close the stream."""
        async for event in self._hearing:
            await self._pass_on(event)
        sha256 = self._sha256.hexdigest()
        metadata = _metadata(self._request_id, sha256, self._received_s)
        await self._tell({"type": "Metadata", **metadata})
        if self._stalled:
            await asyncio.Event().wait()
        raise _Closing(1000)

    async def _pass_on(self, event: EarEvent) -> None:
        if isinstance(event, SpeechStarted):
            self._speaking = True
            if self._query.vad_events:
                at = event.at_s
                await self._tell({"type": "SpeechStarted", "channel": _CHANNEL, "timestamp": at})
        elif isinstance(event, Interim):
            if self._query.interim_results:
                await self._tell(self._results(event, self._received_s))
        else:
            if self._speaking:
                self._turns += 1
                self._strike()
            self._speaking = False
            if event.words:
                self._last_word_end_s = event.words[-1].end_s
                await self._wait_for_final(event.words[-1].end_s)
            if self._finals:
                await self._tell(self._results(event, event.end_s))
            self._segment_s = event.end_s

    def _strike(self) -> None:
        fault = strike(self._faults, "stt", self._turns)
        self._finals = fault is None or fault.kind != "no-final"
        if fault is None or not self._finals:
            return
        if fault.kind == "reset":
            raise _Broken
        if fault.kind != "stall":
            raise _Closing(*_INTERNAL)
        self._stalled = True

    async def _wait_for_final(self, last_word_end_s: float) -> None:
        # Audio comes in real time, so what was received last was said just now.
        said_at_s = self._received_at_s - (self._received_s - last_word_end_s)
        await asyncio.sleep(said_at_s + self._stt_final_s - self._clock())

    def _results(self, event: Interim | Final, end_s: float) -> dict[str, Any]:
        final = isinstance(event, Final)
        alternative = _alternative(event.words, self._query.punctuate)
        return {
            "type": "Results",
            "channel_index": _CHANNEL,
            "duration": round(max(0.0, end_s - self._segment_s), 3),
            "start": round(self._segment_s, 3),
            "is_final": final,
            "speech_final": final and self._query.endpointing,
            "channel": {"alternatives": [alternative]},
            "metadata": {
                "request_id": self._request_id,
                "model_info": _MODEL,
                "model_uuid": _MODEL_ID,
            },
            "from_finalize": isinstance(event, Final) and event.finalized,
        }

    async def _tell(self, message: Mapping[str, Any]) -> None:
        if not self._stalled:
            await self._send(message)

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._socket.send_json(message)
