"""OpenAI's audio API as the sandbox speaks it: transcriptions and speech, whole or as server-sent events.

``POST /v1/audio/transcriptions`` (JSON, text, or a stream of deltas) and ``POST /v1/audio/speech`` (bytes, or
``speech.audio.delta`` events) as https://platform.openai.com/docs/api-reference/audio describes them. Audio
comes as WAV; it goes as pcm (24 kHz), wav or mp3. Any model and voice is taken; there is one voice.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import av
import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from trunkline.errors import Unavailable
from trunkline.kit.audio import read_wav, wav_bytes
from trunkline.sandbox.ears import RATES_HZ, Final, Listener
from trunkline.sandbox.faults import Part, strike
from trunkline.sandbox.openai import PROBLEMS, Broken, Problem, Stall, check_key, refusal
from trunkline.sandbox.options import SandboxOptions
from trunkline.sandbox.voice import Speaker, UnknownLanguage

RATE_HZ = 24000
"""Of ``response_format: pcm``."""
_MEDIA = {"pcm": "audio/pcm", "wav": "audio/wav", "mp3": "audio/mpeg"}
_LONGEST = 4096
"""Characters of one speech."""


def routes(ears: Listener, voice: Speaker, options: SandboxOptions) -> list[BaseRoute]:
    """The routes. Of the faults only those for every turn strike: each request stands alone."""
    api = _Api(ears, voice, options)
    return [
        Route("/v1/audio/transcriptions", api.transcribe, methods=["POST"]),
        Route("/v1/audio/speech", api.speak, methods=["POST"]),
    ]


class _Api:
    def __init__(self, ears: Listener, voice: Speaker, options: SandboxOptions) -> None:
        self._ears, self._voice, self._options = ears, voice, options

    def _fault(self, part: Part, model: str) -> str | None:
        fault = strike(self._options.faults, part, 0, model)
        if fault is not None and fault.kind in PROBLEMS:
            raise PROBLEMS[fault.kind]
        return fault.kind if fault else None

    async def transcribe(self, request: Request) -> Response:
        """Text of a recording."""
        try:
            check_key(request, self._options)
            form = await request.form()
            model, file = form.get("model"), form.get("file")
            if not isinstance(model, str) or not model:
                raise Problem(400, "you must provide a model parameter")
            if not isinstance(file, UploadFile):
                raise Problem(400, "Missing required parameter: 'file'.", param="file")
            fault = self._fault("stt", model)
            if fault in ("stall", "no-final"):
                return Stall()
            try:
                samples, rate_hz = read_wav(await file.read())
            except ValueError:
                raise Problem(
                    400,
                    "Audio file might be corrupted or unsupported",
                    param="file",
                    code="invalid_value",
                ) from None
            text = await self._heard(samples[:, 0].astype(np.float64), rate_hz)
        except Problem as problem:
            return refusal(problem)
        except Unavailable:
            return refusal(PROBLEMS["500"])
        except ClientDisconnect:
            return Response()
        await asyncio.sleep(self._options.delays.stt_final.total_seconds())
        seconds = len(samples) / rate_hz
        usage = {"type": "duration", "seconds": round(seconds)}
        if form.get("response_format") == "text":
            return PlainTextResponse(f"{text}\n")
        if form.get("stream") == "true" and model != "whisper-1":
            return StreamingResponse(_told(text, usage), media_type="text/event-stream")
        whole: dict[str, Any] = {"text": text, "usage": usage}
        if form.get("response_format") == "verbose_json":
            whole |= {"task": "transcribe", "language": "english", "duration": seconds}
        return JSONResponse(whole)

    async def _heard(self, samples: Any, rate_hz: int) -> str:
        at_hz = RATES_HZ[-1]
        if rate_hz != at_hz and len(samples):
            times = np.arange(0, len(samples) / rate_hz, 1 / at_hz)
            samples = np.interp(times, np.arange(len(samples)) / rate_hz, samples)
        hearing = await self._ears.stream(at_hz)
        try:
            # A recording begins and ends within words; the ears look for the silence around them.
            quiet = bytes(at_hz)
            await hearing.send(quiet + samples.astype("<i2").tobytes() + quiet)
            await hearing.end()
            words = [
                word.text
                async for event in hearing
                if isinstance(event, Final)
                for word in event.words
            ]
        finally:
            await hearing.close()
        return " ".join(words)

    async def speak(self, request: Request) -> Response:
        """A text's audio."""
        started_s = asyncio.get_running_loop().time()
        try:
            check_key(request, self._options)
            try:
                body = await request.json()
                text, model, voice = body["input"], body["model"], body["voice"]
            except (ValueError, TypeError):
                raise Problem(400, "We could not parse the JSON body of your request.") from None
            except KeyError as missing:
                name = missing.args[0]
                raise Problem(400, f"Missing required parameter: '{name}'.", param=name) from None
            if not isinstance(text, str) or not 0 < len(text) <= _LONGEST:
                raise Problem(400, f"Invalid 'input': 1 to {_LONGEST} characters.", param="input")
            if not isinstance(voice, str) or not isinstance(model, str):
                raise Problem(400, "Invalid 'voice' or 'model': expected a string.", param="voice")
            kind = body.get("response_format", "mp3")
            if kind not in _MEDIA:
                allowed = ", ".join(_MEDIA)
                raise Problem(400, f"response_format must be one of: {allowed}.")
            fault = self._fault("tts", model)
            if fault == "stall":
                return Stall()
            made_hz = RATE_HZ // 2 if fault == "wrong-rate" else RATE_HZ
            pcm = b""
            if fault != "empty":
                spoken = self._voice.synthesize(text, "en", made_hz)
                pcm = b"".join([chunk.pcm async for chunk in spoken])
        except Problem as problem:
            return refusal(problem)
        except (Unavailable, UnknownLanguage):
            return refusal(PROBLEMS["500"])
        audio = {
            "pcm": lambda: pcm,
            "wav": lambda: wav_bytes(pcm, RATE_HZ, 1),
            "mp3": lambda: _mp3(pcm),
        }[kind]()
        first_s = self._options.delays.tts_first_byte.total_seconds()
        await asyncio.sleep(started_s + first_s - asyncio.get_running_loop().time())
        if fault == "reset":
            return Broken(_cut(audio[: len(audio) // 2]), media_type=_MEDIA[kind])
        if body.get("stream_format") == "sse":
            usage = {"input_tokens": len(text) // 4 + 1, "output_tokens": len(pcm) // 2400}
            return StreamingResponse(_events(audio, usage), media_type="text/event-stream")
        return StreamingResponse(_cut(audio), media_type=_MEDIA[kind])


async def _told(text: str, usage: dict[str, Any]) -> AsyncIterator[str]:
    for at, word in enumerate(text.split()):
        delta = {"type": "transcript.text.delta", "delta": word if at == 0 else f" {word}"}
        yield f"data: {json.dumps(delta)}\n\n"
    yield f"data: {json.dumps({'type': 'transcript.text.done', 'text': text, 'usage': usage})}\n\n"


async def _events(audio: bytes, usage: dict[str, int]) -> AsyncIterator[str]:
    async for piece in _cut(audio):
        delta = {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}
        yield f"data: {json.dumps(delta)}\n\n"
    total = {**usage, "total_tokens": sum(usage.values())}
    yield f"data: {json.dumps({'type': 'speech.audio.done', 'usage': total})}\n\n"


async def _cut(audio: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(audio), 4800):
        yield audio[at : at + 4800]


def _mp3(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=RATE_HZ)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = RATE_HZ
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()
