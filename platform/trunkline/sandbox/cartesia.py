"""Cartesia's text-to-speech wire protocol in front of the sandbox's voice.

``/tts/websocket`` and ``/tts/bytes`` as docs.cartesia.ai describes them (API reference, "Contexts",
"Context flushing and flush IDs", "API errors", "API conventions"). The voice id, speed, volume and
emotion are taken and make no difference: there is one voice.
"""

import asyncio
import base64
import contextlib
import json
import re
import secrets
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from trunkline.errors import Unavailable
from trunkline.sandbox.faults import RETRY_AFTER_S, Fault, strike
from trunkline.sandbox.options import SandboxOptions
from trunkline.sandbox.voice import Speaker, UnknownLanguage

_SAMPLE_RATES_HZ = (8000, 16000, 22050, 24000, 44100, 48000)
_STRUCTURED_ERRORS_SINCE = "2026-03-01"
_BUFFER_DELAY_MS = 3000
"""Cartesia's default for max_buffer_delay_ms."""
NO_VOICE = "00000000-0000-0000-0000-000000000000"
"""The one id that no voice has."""
_PAUSE_S = 0.2
"""Between two sentences of one context, which reach the voice one by one."""


class _Problem(Exception):
    """What Cartesia answers instead of audio."""

    def __init__(self, status: int, title: str, message: str, code: str | None = None) -> None:
        super().__init__(f"{title}: {message}")
        self.status, self.title, self.message, self.code = status, title, message, code

    def body(self, version: str, request_id: str) -> dict[str, object]:
        """The error's fields; before 2026-03-01 title and message were one text."""
        if version < _STRUCTURED_ERRORS_SINCE:
            return {"error": str(self)}
        return {
            "error_code": self.code,
            "title": self.title,
            "message": self.message,
            "request_id": request_id,
        }

    def response(self, version: str) -> Response:
        if version < _STRUCTURED_ERRORS_SINCE:
            return PlainTextResponse(str(self), self.status, self._headers())
        return JSONResponse(self.body(version, str(uuid.uuid4())), self.status, self._headers())

    def _headers(self) -> dict[str, str]:
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status in (429, 503) else {}


_FAULTS = {
    "401": _Problem(401, "Unauthorized", "The API key is not valid.", "unauthorized"),
    "429": _Problem(
        429,
        "Too many concurrent requests",
        "You have exceeded your plan's concurrency limit.",
        "concurrency_limited",
    ),
    "500": _Problem(500, "Internal server error", "An internal error occurred.", "internal_error"),
    "503": _Problem(503, "Service unavailable", "Please try again later.", "unavailable"),
}


def _invalid(title: str, message: str) -> _Problem:
    return _Problem(400, title, message, "invalid_request")


@dataclass(frozen=True)
class _Encoding:
    bytes_per_sample: int
    wav_format: int
    """WAVE_FORMAT_PCM, _IEEE_FLOAT or _MULAW, as in RFC 2361."""
    convert: Callable[[bytes], bytes]
    """From 16 bit little-endian PCM."""


def _to_float(pcm: bytes) -> bytes:
    return (np.frombuffer(pcm, "<i2").astype("<f4") / 32768).tobytes()


def _to_mulaw(pcm: bytes) -> bytes:
    """G.711 µ-law: sign, three bits for the octave, four bits within it; all inverted."""
    samples = np.frombuffer(pcm, "<i2").astype(np.int32)
    magnitude = np.minimum(np.abs(samples), 32635) + 132
    octave = np.log2(magnitude).astype(np.int32) - 7
    step = (magnitude >> (octave + 3)) & 0x0F
    code: np.ndarray[Any, np.dtype[np.int32]] = ~((samples < 0) << 7 | octave << 4 | step)
    return code.astype(np.uint8).tobytes()


_ENCODINGS = {
    "pcm_s16le": _Encoding(2, 1, bytes),
    "pcm_f32le": _Encoding(4, 3, _to_float),
    "pcm_mulaw": _Encoding(1, 7, _to_mulaw),
}


@dataclass(frozen=True)
class _Format:
    """What the audio shall be, and in which language: what all inputs of a context share."""

    model_id: str
    voice: str
    language: str
    container: str
    encoding: str
    sample_rate_hz: int

    @classmethod
    def read(cls, request: dict[str, Any], containers: tuple[str, ...]) -> "_Format":
        """Check a generation request. Raises _Problem."""
        model_id, voice = request.get("model_id"), request.get("voice")
        if not isinstance(model_id, str) or not model_id:
            raise _invalid("Invalid model", "model_id is required.")
        if not isinstance(voice, dict) or not (
            isinstance(voice.get("id"), str) or isinstance(voice.get("embedding"), list)
        ):
            raise _invalid("Invalid voice", "voice must be given by id or embedding.")
        output = request.get("output_format")
        if not isinstance(output, dict):
            raise _invalid("Invalid output format", "output_format is required.")
        container, encoding = output.get("container"), output.get("encoding")
        if container not in containers:
            allowed = ", ".join(containers)
            raise _invalid("Invalid output format", f"container must be one of: {allowed}.")
        if encoding not in _ENCODINGS:
            allowed = ", ".join(_ENCODINGS)
            raise _invalid("Invalid output format", f"encoding must be one of: {allowed}.")
        if output.get("sample_rate") not in _SAMPLE_RATES_HZ:
            allowed = ", ".join(map(str, _SAMPLE_RATES_HZ))
            raise _invalid("Invalid output format", f"sample_rate must be one of: {allowed}.")
        if not isinstance(request.get("transcript"), str):
            raise _invalid("Invalid transcript", "transcript must be a string.")
        language = request.get("language") or "en"
        if not isinstance(language, str):
            raise _invalid("Invalid language", "language must be a language code.")
        kept = json.dumps(voice, sort_keys=True)
        return cls(model_id, kept, language, container, encoding, output["sample_rate"])

    def wav(self, audio: bytes) -> bytes:
        encoding = _ENCODINGS[self.encoding]
        width, rate_hz = encoding.bytes_per_sample, self.sample_rate_hz
        form = struct.pack(
            "<HHIIHH", encoding.wav_format, 1, rate_hz, rate_hz * width, width, width * 8
        )
        riff = b"WAVEfmt " + struct.pack("<I", len(form)) + form
        riff += b"data" + struct.pack("<I", len(audio)) + audio
        return b"RIFF" + struct.pack("<I", len(riff)) + riff


def _speakable(text: str) -> bool:
    return any(character.isalnum() for character in text)


def _language_unknown(language: str) -> _Problem:
    return _invalid("Invalid language", f"The language {language!r} is not supported.")


def routes(voice: Speaker, options: SandboxOptions) -> list[BaseRoute]:
    """Cartesia's routes, to be mounted where a client's ``base_url`` points.

    The one key is taken from ``X-API-Key``, ``Authorization: Bearer``, ``?api_key=`` or
    ``?access_token=``. Of the faults with part ``tts``, those for a turn strike the nth context of
    a websocket connection; those for every turn strike the upgrade and ``/tts/bytes``.
    """
    # Which model it is comes with the first request; a fault of one model waits for it.
    always = strike(options.faults, "tts", 0, "")
    if always and always.kind in ("empty", "wrong-rate"):
        always = None
    first_byte_s = options.delays.tts_first_byte.total_seconds()

    def admit(connection: HTTPConnection) -> str:
        """Check key and version, which it returns, and strike with what strikes always."""
        headers, query = connection.headers, connection.query_params
        keys = (
            headers.get("x-api-key"),
            headers.get("authorization", "").removeprefix("Bearer "),
            query.get("api_key"),
            query.get("access_token"),
        )
        given = next((key for key in keys if key), "")
        if not secrets.compare_digest(given.encode(), options.api_key.encode()):
            raise _FAULTS["401"]
        version = _version(connection)
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", version):
            raise _invalid("Bad Request", "Cartesia-Version header is required in YYYY-MM-DD form.")
        if always and always.kind in _FAULTS:
            raise _FAULTS[always.kind]
        return version

    async def speak_to_socket(socket: WebSocket) -> None:
        try:
            version = admit(socket)
        except _Problem as problem:
            await socket.send_denial_response(problem.response(_version(socket)))
            return
        if always and always.kind == "stall":
            await _until_gone(socket.receive, "websocket.disconnect")
            return
        await socket.accept(headers=[(b"x-request-id", str(uuid.uuid4()).encode())])
        # A websocket application that returns without closing breaks the connection.
        if not always:
            await _Connection(socket, version, voice, options.faults, first_byte_s).run()

    async def speak_to_request(request: Request) -> Response:
        try:
            admit(request)
            started_s = asyncio.get_running_loop().time()
            body = _parse(await request.body())
            form = _Format.read(body, ("raw", "wav"))
            text = body["transcript"]
            if not _speakable(text):
                raise _invalid("Invalid transcript", "transcript empty or only punctuation.")
            if always:
                if always.kind == "stall":
                    await _until_gone(request.receive, "http.disconnect")
                return _Broken()
            pcm = bytearray()
            async for chunk in voice.synthesize(text, form.language, form.sample_rate_hz):
                pcm += chunk.pcm
            await _sleep_until(started_s + first_byte_s)
        except _Problem as problem:
            return problem.response(_version(request))
        except UnknownLanguage as unknown:
            return _language_unknown(str(unknown)).response(_version(request))
        except Unavailable:
            return _FAULTS["500"].response(_version(request))
        audio = _ENCODINGS[form.encoding].convert(bytes(pcm))
        if form.container == "wav":
            return Response(form.wav(audio), media_type="audio/wav")
        return Response(audio, media_type="application/octet-stream")

    async def voices(request: Request) -> Response:
        try:
            admit(request)
        except _Problem as problem:
            return problem.response(_version(request))
        # Any voice id is taken; none is listed.
        return JSONResponse({"data": [], "has_more": False, "next_page": None})

    async def one_voice(request: Request) -> Response:
        voice_id = request.path_params["voice_id"]
        try:
            admit(request)
            if voice_id == NO_VOICE:
                raise _Problem(404, "Not found", "Voice not found.", "not_found")
        except _Problem as problem:
            return problem.response(_version(request))
        return JSONResponse({"id": voice_id, "name": "Voice", "language": "en"})

    return [
        Route("/voices", voices, methods=["GET"]),
        Route("/voices/{voice_id}", one_voice, methods=["GET"]),
        WebSocketRoute("/tts/websocket", speak_to_socket),
        Route("/tts/bytes", speak_to_request, methods=["POST"]),
    ]


def _version(connection: HTTPConnection) -> str:
    """The API version asked for; the query wins over the header."""
    header = connection.headers.get("cartesia-version", "")
    return connection.query_params.get("cartesia_version", header)


def _parse(text: str | bytes) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError as error:
        raise _invalid("Invalid JSON", f"the request is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise _invalid("Invalid JSON", "the request must be a JSON object.")
    return body


async def _until_gone(receive: Receive, kind: str) -> None:
    while (await receive())["type"] != kind:
        pass


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(at_s - asyncio.get_running_loop().time())


class _Broken(Response):
    """An answer that breaks off before its first byte."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"1000000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


class _Connection:
    """One websocket and the contexts that speak on it."""

    def __init__(
        self,
        socket: WebSocket,
        version: str,
        voice: Speaker,
        faults: tuple[Fault, ...],
        first_byte_s: float,
    ) -> None:
        self.voice = voice
        self.first_byte_s = first_byte_s
        self._socket = socket
        self._version = version
        self._faults = faults
        self._contexts: dict[str, _Context] = {}
        self._struck: dict[str, Fault] = {}
        self._turns = 0

    async def run(self) -> None:
        """Answer until the client goes; returning earlier breaks the connection."""
        try:
            while (frame := await self._socket.receive())["type"] == "websocket.receive":
                context_id: object = None
                try:
                    request = _parse(frame.get("text") or frame.get("bytes") or "")
                    context_id = request.get("context_id")
                    if not self._take(request, context_id):
                        return
                except _Problem as problem:
                    await self.fail(problem, context_id)
        except WebSocketDisconnect:
            pass
        finally:
            tasks = [context.task for context in self._contexts.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _take(self, request: dict[str, Any], context_id: object) -> bool:
        """Hand one request to its context; False if the connection shall break."""
        if context_id is None:
            context_id = str(uuid.uuid4())
        if not isinstance(context_id, str) or not re.fullmatch(r"[\w-]+", context_id):
            raise _invalid("Invalid context", "context_id takes letters, digits, _ and - only.")
        context = self._contexts.get(context_id)
        if request.get("cancel") is True:
            if context:
                context.cancel()
            return True
        form = _Format.read(request, ("raw",))
        if context is None and context_id not in self._struck:
            self._turns += 1
            fault = strike(self._faults, "tts", self._turns, form.model_id)
            if fault:
                self._struck[context_id] = fault
        if struck := self._struck.get(context_id):
            if struck.kind in _FAULTS:
                raise _FAULTS[struck.kind]
            if struck.kind in ("reset", "stall"):
                return struck.kind != "reset"
        if context is None:
            final = not request.get("continue")
            if final and not _speakable(request["transcript"]):
                raise _invalid(
                    "transcript empty or contains only punctuation",
                    "first transcript for WS is empty or contains only punctuation",
                )
            spoilt = self._struck.get(context_id)
            context = _Context(
                self,
                context_id,
                form,
                bool(request.get("add_timestamps")),
                spoilt.kind if spoilt else None,
            )
            self._contexts[context_id] = context
            context.task.add_done_callback(lambda _: self._contexts.pop(context_id, None))
        elif form != context.form:
            raise _invalid(
                "Invalid context", "all inputs of a context must have the same voice and format."
            )
        context.take(request)
        return True

    async def send(self, kind: str, context_id: str, **fields: object) -> None:
        message = {"type": kind, "done": kind == "done", "status_code": 206}
        await self._socket.send_json({**message, "context_id": context_id, **fields})

    async def fail(self, problem: _Problem, context_id: object) -> None:
        request_id = f"{context_id or ''}:{uuid.uuid4()}".lstrip(":")
        message = {"type": "error", "done": True, "status_code": problem.status}
        if context_id is not None:
            message["context_id"] = context_id
        await self._socket.send_json({**message, **problem.body(self._version, request_id)})


@dataclass(frozen=True)
class _Piece:
    """One input of a context."""

    text: str
    at_s: float
    delay_s: float
    """How long it may be held back for more text to come."""
    flush: bool
    final: bool


class _Context:
    """One reply: text comes in pieces, audio goes out with times that run through."""

    def __init__(
        self,
        connection: _Connection,
        context_id: str,
        form: _Format,
        timestamps: bool,
        spoilt: str | None,
    ) -> None:
        self.form = form
        self._spoilt = spoilt
        self._connection = connection
        self._id = context_id
        self._timestamps = timestamps
        self._encoding = _ENCODINGS[form.encoding]
        self._inbox: asyncio.Queue[_Piece | None] = asyncio.Queue()
        self._samples = 0
        self._flush_id = 1
        self._stepped_s = asyncio.get_running_loop().time()
        self.task = asyncio.create_task(self._run())

    def take(self, request: dict[str, Any]) -> None:
        delay_ms = request.get("max_buffer_delay_ms")
        delay_ms = delay_ms if isinstance(delay_ms, int) else _BUFFER_DELAY_MS
        at_s = asyncio.get_running_loop().time()
        final, flush = not request.get("continue"), request.get("flush") is True
        self._inbox.put_nowait(_Piece(request["transcript"], at_s, delay_ms / 1000, flush, final))

    def cancel(self) -> None:
        """Drop what has not begun to be spoken; what has begun is finished."""
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)

    async def _run(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            try:
                await self._speak_all()
                await self._connection.send("done", self._id)
            except UnknownLanguage as unknown:
                await self._connection.fail(_language_unknown(str(unknown)), self._id)
            except Unavailable:
                await self._connection.fail(_FAULTS["500"], self._id)

    async def _speak_all(self) -> None:
        held, since_s, due_s = "", 0.0, None
        while True:
            try:
                async with asyncio.timeout_at(due_s):
                    piece = await self._inbox.get()
            except TimeoutError:
                await self._speak(held, since_s)
                held, due_s = "", None
                continue
            if piece is None:
                return
            if not held:
                since_s = piece.at_s
            held += piece.text
            due_s = since_s + piece.delay_s
            whole = held.rstrip().endswith((".", "!", "?", "…", "。"))
            if piece.final or piece.flush or piece.delay_s <= 0 or whole:
                await self._speak(held, since_s)
                held, due_s = "", None
            elif not _speakable(held):
                due_s = None
            if piece.flush:
                await self._connection.send(
                    "flush_done", self._id, flush_done=True, flush_id=self._flush_id
                )
                self._flush_id += 1
            if piece.final:
                return

    async def _speak(self, text: str, since_s: float) -> None:
        if not _speakable(text) or self._spoilt == "empty":
            return
        rate_hz = self.form.sample_rate_hz
        if self._samples:
            await self._send_audio(bytes(2 * int(_PAUSE_S * rate_hz)))
        else:
            await _sleep_until(since_s + self._connection.first_byte_s)
        start_s = self._samples / rate_hz
        made_hz = rate_hz // 2 if self._spoilt == "wrong-rate" else rate_hz
        speech = self._connection.voice.synthesize(text, self.form.language, made_hz)
        async with contextlib.aclosing(speech):
            async for chunk in speech:
                if chunk.words and self._timestamps:
                    times = {
                        "words": [word.text for word in chunk.words],
                        "start": [round(start_s + word.start_s, 4) for word in chunk.words],
                        "end": [round(start_s + word.end_s, 4) for word in chunk.words],
                    }
                    await self._connection.send("timestamps", self._id, word_timestamps=times)
                if chunk.pcm:
                    await self._send_audio(chunk.pcm)

    async def _send_audio(self, pcm: bytes) -> None:
        self._samples += len(pcm) // 2
        data = base64.b64encode(self._encoding.convert(pcm)).decode()
        now_s = asyncio.get_running_loop().time()
        step_ms, self._stepped_s = (now_s - self._stepped_s) * 1000, now_s
        await self._connection.send(
            "chunk", self._id, data=data, step_time=step_ms, flush_id=self._flush_id
        )
