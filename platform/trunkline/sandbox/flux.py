"""Deepgram's Flux (speech-to-text v2) as the sandbox speaks it: a websocket that tells of turns.

Follows https://developers.deepgram.com/reference/speech-to-text/listen-flux and ``/docs/flux/state``:
StartOfTurn with the first words, Update, EagerEndOfTurn only where ``eager_eot_threshold`` was asked for,
TurnResumed when speech goes on after it, EndOfTurn. LiveKit's plugin and ``deepgram-sdk`` work against it
unchanged. Thresholds are checked and kept; what the ears take for the end of an utterance is the end.
"""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from trunkline.errors import Unavailable
from trunkline.kit.audio import SAMPLE_BYTES
from trunkline.sandbox.deepgram import REFUSALS, Refusal, admit
from trunkline.sandbox.ears import RATES_HZ, Final, Hearing, Interim, Listener, SpeechStarted, Word
from trunkline.sandbox.faults import Fault, strike
from trunkline.sandbox.options import SandboxOptions

MODELS = ("flux-general-en", "flux-general-multi")
_BOUNDS = {
    "eot_threshold": (0.5, 0.9),
    "eager_eot_threshold": (0.3, 0.9),
    "eot_timeout_ms": (500.0, 10_000.0),
}


def _refuse(message: str) -> Refusal:
    return Refusal(400, "Bad Request", f"Bad Request: {message}")


def _thresholds(given: Mapping[str, Any]) -> dict[str, float]:
    """The thresholds in *given*. Raises Refusal for one that is out of its bounds."""
    found: dict[str, float] = {}
    for name, (least, most) in _BOUNDS.items():
        if given.get(name) is None:
            continue
        try:
            value = float(given[name])
        except (TypeError, ValueError):
            raise _refuse(f"{name} must be a number.") from None
        if not least <= value <= most:
            raise _refuse(f"{name} must be between {least:g} and {most:g}.")
        found[name] = value
    if found.get("eager_eot_threshold", 0) > found.get("eot_threshold", 0.7):
        raise _refuse("eager_eot_threshold must not exceed eot_threshold.")
    return found


def routes(ears: Listener, options: SandboxOptions) -> list[BaseRoute]:
    """Flux's route, beside that of v1. Faults are those of part ``stt``, as there."""

    async def live(socket: WebSocket) -> None:
        request_id = str(uuid.uuid4())
        try:
            always = admit(socket, options, "stt")
            query = socket.query_params
            if query.get("model") not in MODELS:
                raise _refuse(f"model must be one of {', '.join(MODELS)}.")
            if query.get("encoding", "linear16") != "linear16":
                raise _refuse("only encoding=linear16 is supported.")
            rate = query.get("sample_rate", str(RATES_HZ[-1]))
            if rate not in map(str, RATES_HZ):
                raise _refuse(f"sample_rate {rate!a} is not supported.")
            thresholds = _thresholds(query)
            hearing = await ears.stream(int(rate))
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
                await _Turns(socket, hearing, request_id, int(rate), thresholds, options).run()
        finally:
            await hearing.close()

    return [WebSocketRoute("/v2/listen", live)]


class _Broken(Exception):
    """The stream ends without a close frame."""


class _Turns:
    """One open websocket."""

    def __init__(
        self,
        socket: WebSocket,
        hearing: Hearing,
        request_id: str,
        rate_hz: int,
        thresholds: dict[str, float],
        options: SandboxOptions,
    ) -> None:
        self._socket, self._hearing, self._request_id = socket, hearing, request_id
        self._rate_hz, self._thresholds = rate_hz, thresholds
        self._model = socket.query_params["model"]
        self._faults: tuple[Fault, ...] = options.faults
        always = strike(options.faults, "stt", 0, self._model)
        self._stalled = always is not None and always.kind == "stall"
        self._final_s = options.delays.stt_final.total_seconds()
        self._received_s = 0.0
        self._sequence = 0
        self._turn = 0
        self._open = False
        self._began_s = 0.0
        self._before: tuple[Word, ...] = ()
        """Words of this turn from before the last pause."""
        self._ending: asyncio.Task[None] | None = None
        self._ended = False

    async def run(self) -> None:
        """Serve until either side ends it."""
        await self._send({"type": "Connected", "request_id": self._request_id})
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._report())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
            if tasks[1].done() and self._ending is not None:
                await self._ending
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the client was first
                await self._socket.close(1000)
        except Unavailable:
            await self._socket.close(1011)
        except (_Broken, WebSocketDisconnect):
            pass
        finally:
            if self._ending is not None:
                tasks.append(self._ending)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if self._ended:
                continue
            if message.get("text") is not None:
                await self._obey(message["text"])
            elif pcm := message.get("bytes"):
                if len(pcm) % SAMPLE_BYTES:
                    await self._fatal("UNPARSABLE_CLIENT_MESSAGE", "The audio has half a sample.")
                    raise _Broken
                self._received_s += len(pcm) / SAMPLE_BYTES / self._rate_hz
                await self._hearing.send(pcm)

    async def _obey(self, text: str) -> None:
        try:
            asked = json.loads(text)
            kind = asked["type"]
        except (ValueError, TypeError, KeyError):
            await self._fatal("UNPARSABLE_CLIENT_MESSAGE", "Could not deserialize the message.")
            raise _Broken from None
        if kind == "CloseStream":
            self._ended = True
            await self._hearing.end()
        elif kind == "Configure":
            try:
                self._thresholds |= _thresholds(asked.get("thresholds") or {})
            except Refusal:
                await self._send({"type": "ConfigureFailure", "request_id": self._request_id})
                return
            await self._send(
                {
                    "type": "ConfigureSuccess",
                    "request_id": self._request_id,
                    "thresholds": {name: self._thresholds.get(name) for name in _BOUNDS},
                    "keyterms": asked.get("keyterms") or [],
                }
            )
        elif kind == "ForceEndTurn":
            await self._hearing.finalize()

    async def _report(self) -> None:
        async for event in self._hearing:
            if isinstance(event, SpeechStarted):
                if self._ending is not None:
                    # It goes on: what was taken for the end was a pause.
                    self._ending.cancel()
                    self._ending = None
                    if "eager_eot_threshold" in self._thresholds:
                        await self._tell("TurnResumed", self._before, confidence=0.1)
                elif not self._open:
                    self._began_s = event.at_s
            elif isinstance(event, Interim):
                await self._update((*self._before, *event.words))
            else:
                await self._pause(event)

    async def _update(self, words: tuple[Word, ...]) -> None:
        if words:
            await self._tell("Update" if self._open else "StartOfTurn", words, confidence=0.1)
            self._open = True

    async def _pause(self, event: Final) -> None:
        words = (*self._before, *event.words)
        if not words:
            return
        fault = strike(self._faults, "stt", self._turn + 1, self._model)
        if fault is not None and fault.kind == "reset":
            raise _Broken
        if fault is not None and fault.kind != "no-final":
            if fault.kind != "stall":
                await self._fatal("INTERNAL_SERVER_ERROR", "An internal error occurred.")
                raise _Broken
            self._stalled = True
        if not self._open:
            await self._update(words)
        self._before = words
        if fault is None:
            self._ending = asyncio.create_task(self._end(words))

    async def _end(self, words: tuple[Word, ...]) -> None:
        if "eager_eot_threshold" in self._thresholds:
            await self._tell("EagerEndOfTurn", words, confidence=0.6)
        await asyncio.sleep(self._final_s)
        self._open, self._before, self._ending = False, (), None
        await self._tell("EndOfTurn", words, confidence=0.9, trigger="model")
        self._turn += 1

    async def _tell(
        self, event: str, words: tuple[Word, ...], *, confidence: float, **more: object
    ) -> None:
        if self._stalled:
            return
        told = {
            "type": "TurnInfo",
            "request_id": self._request_id,
            "event": event,
            "turn_index": self._turn,
            "audio_window_start": round(self._began_s, 3),
            "audio_window_end": round(self._received_s, 3),
            "transcript": " ".join(word.text for word in words),
            "words": [
                {
                    "word": word.text,
                    "confidence": word.confidence,
                    "start": word.start_s,
                    "end": word.end_s,
                }
                for word in words
            ],
            "end_of_turn_confidence": confidence,
            **more,
        }
        if self._model == "flux-general-multi":
            told["languages"] = ["en"]
        await self._send(told)

    async def _fatal(self, code: str, description: str) -> None:
        await self._send({"type": "Error", "code": code, "description": description})

    async def _send(self, message: dict[str, Any]) -> None:
        numbered = {**message, "sequence_id": self._sequence}
        self._sequence += 1
        await self._socket.send_json(numbered)
