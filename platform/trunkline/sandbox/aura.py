"""Deepgram's Aura (text-to-speech) as the sandbox speaks it: by request and over a websocket.

Follows https://developers.deepgram.com/reference/text-to-speech/speak-request and ``/speak-streaming``.
Taken is ``encoding=linear16`` at Deepgram's rates, bare or as WAV. There is one voice, whatever the model.
"""

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from trunkline.errors import Unavailable
from trunkline.kit.audio import wav_bytes
from trunkline.sandbox.deepgram import REFUSALS, Refusal, admit
from trunkline.sandbox.faults import Fault, strike
from trunkline.sandbox.openai import Broken, Stall
from trunkline.sandbox.options import SandboxOptions
from trunkline.sandbox.voice import Speaker, UnknownLanguage

_RATES_HZ = (8000, 16000, 24000, 32000, 48000)
_MODEL = re.compile(r"aura(?:-2)?-[a-z]+-([a-z]{2})")
_LONGEST = 2000
"""Characters of one request: https://developers.deepgram.com/docs/tts-text-length."""


def _refuse(message: str) -> Refusal:
    return Refusal(400, "Bad Request", f"Bad Request: {message}")


@dataclass(frozen=True)
class _Form:
    model: str
    language: str
    rate_hz: int
    wav: bool

    @classmethod
    def read(cls, query: Mapping[str, str]) -> "_Form":
        """Raises Refusal."""
        model = query.get("model", "aura-asteria-en")
        found = _MODEL.fullmatch(model)
        if not found:
            raise Refusal(400, "INVALID_QUERY_PARAMETER", f"No such model: {model!a}.")
        if query.get("encoding", "linear16") != "linear16":
            raise _refuse("only encoding=linear16 is supported.")
        rate = query.get("sample_rate", "24000")
        if rate not in map(str, _RATES_HZ):
            raise _refuse(f"sample_rate {rate!a} is not supported.")
        return cls(model, found[1], int(rate), query.get("container", "wav") == "wav")


def routes(voice: Speaker, options: SandboxOptions) -> list[BaseRoute]:
    """Aura's routes. Faults of part ``tts``: for every turn at the door, for a turn at the nth reply."""
    first_byte_s = options.delays.tts_first_byte.total_seconds()

    async def speak(form: _Form, text: str, fault: Fault | None) -> bytes:
        if fault is not None and fault.kind == "empty":
            return b""
        rate_hz = form.rate_hz
        if fault is not None and fault.kind == "wrong-rate":
            rate_hz //= 2
        try:
            made = [chunk.pcm async for chunk in voice.synthesize(text, form.language, rate_hz)]
        except UnknownLanguage:
            raise _refuse(f"the language of {form.model} is not supported here.") from None
        return b"".join(made)

    async def by_request(request: Request) -> Response:
        request_id = str(uuid.uuid4())
        started_s = asyncio.get_running_loop().time()
        try:
            always = admit(request, options, "tts")
            form = _Form.read(request.query_params)
            try:
                text = (await request.json())["text"]
            except (ValueError, TypeError, KeyError):
                raise _refuse("the body must be JSON with a text.") from None
            if not isinstance(text, str) or not text.strip():
                raise Refusal(400, "INPUT_TEXT_EMPTY", "Input text contained no characters.")
            if len(text) > _LONGEST:
                raise Refusal(
                    413, "PAYLOAD_TOO_LARGE", f"Input text exceeds {_LONGEST} characters."
                )
            if always is not None and always.kind == "stall":
                return Stall()
            pcm = await speak(form, text, always)
        except Refusal as refusal:
            return refusal.response(request_id)
        except Unavailable:
            return Refusal(*REFUSALS["500"]).response(request_id)
        await asyncio.sleep(started_s + first_byte_s - asyncio.get_running_loop().time())
        body = wav_bytes(pcm, form.rate_hz, 1) if form.wav else pcm
        media = "audio/wav" if form.wav else f"audio/l16;rate={form.rate_hz};channels=1"
        headers = {
            "dg-request-id": request_id,
            "dg-model-name": form.model,
            "dg-char-count": str(len(text)),
        }

        async def pieces(until: int) -> object:
            for at in range(0, until, 4096):
                yield body[at : min(at + 4096, until)]

        if always is not None and always.kind == "reset":
            return Broken(pieces(len(body) // 2), headers=headers, media_type=media)  # type: ignore[arg-type]
        return StreamingResponse(pieces(len(body)), headers=headers, media_type=media)  # type: ignore[arg-type]

    async def live(socket: WebSocket) -> None:
        request_id = str(uuid.uuid4())
        try:
            always = admit(socket, options, "tts")
            form = _Form.read(socket.query_params)
        except Refusal as refusal:
            await socket.send_denial_response(refusal.response(request_id))
            return
        await socket.accept(headers=[(b"dg-request-id", request_id.encode())])
        if always is not None and always.kind == "reset":
            return
        with contextlib.suppress(WebSocketDisconnect):
            await socket.send_json(
                {"type": "Metadata", "request_id": request_id, "model_name": form.model}
            )
            text, flushed, spoken = "", 0, 0
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                asked = _read(message.get("text") or "")
                match asked.get("type"):
                    case "Speak" if isinstance(asked.get("text"), str):
                        text += str(asked["text"])
                    case "Flush":
                        spoken += 1
                        fault = strike(options.faults, "tts", spoken, form.model)
                        if fault is not None and fault.kind == "reset":
                            return
                        if fault is not None and fault.kind == "stall":
                            continue
                        if fault is not None and fault.kind in REFUSALS:
                            await socket.close(1011, "Internal server error.")
                            return
                        await asyncio.sleep(first_byte_s)
                        if text.strip():
                            pcm = await speak(form, text, fault)
                            for at in range(0, len(pcm), 4096):
                                await socket.send_bytes(pcm[at : at + 4096])
                        text = ""
                        await socket.send_json({"type": "Flushed", "sequence_id": flushed})
                        flushed += 1
                    case "Clear":
                        text = ""
                        await socket.send_json({"type": "Cleared", "sequence_id": flushed})
                    case "Close":
                        await socket.close(1000)
                        return
                    case _:
                        await socket.send_json(
                            {
                                "type": "Warning",
                                "code": "UNPARSABLE_CLIENT_MESSAGE",
                                "description": "Could not understand the last message.",
                            }
                        )

    return [
        Route("/v1/speak", by_request, methods=["POST"]),
        WebSocketRoute("/v1/speak", live),
    ]


def _read(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
