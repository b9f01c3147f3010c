"""The sandbox's voice: espeak-ng in a process of its own, and the client that asks it to speak.

espeak-ng is under the GPL, so its library is only ever loaded in the process that
``python -m trunkline.sandbox.voice`` is; everything else talks to that process over a loopback
connection. One connection carries one sentence: a JSON line with the request, then frames (a JSON
line with the words and the size of the audio, and the audio). Closing it drops the request.
"""

import asyncio
import contextlib
import ctypes
import json
import re
import signal
import threading
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from trunkline.errors import Unavailable
from trunkline.kit.processes import Child, die_with_parent, spawn

_START_TIMEOUT = timedelta(seconds=20)
_ANSWER_TIMEOUT = timedelta(seconds=10)
_STOP_GRACE = timedelta(seconds=2)
_LINE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Word:
    """One word as it stands in the text, punctuation included; times count from the text's start."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Chunk:
    """A piece of audio (PCM, 16 bit little-endian, mono) and the words that ended with it."""

    pcm: bytes
    words: tuple[Word, ...]


class UnknownLanguage(Exception):
    """The voice doesn't speak that language."""


class Speaker(Protocol):
    """What the providers' wire protocols need of a voice."""

    def synthesize(
        self, text: str, language: str, sample_rate_hz: int
    ) -> AsyncGenerator[Chunk, None]:
        """Speak one piece of text; the same text gives the same bytes.

        *language* is a code as providers use it (``en``, ``pt-BR``). Raises UnknownLanguage, and
        Unavailable if the voice doesn't answer. Closing the generator drops the request.
        """
        ...


class PacedSpeaker(Protocol):
    """What a protocol needs that lets its clients set the pace."""

    def synthesize(
        self, text: str, language: str, sample_rate_hz: int, *, speed: float = 1.0
    ) -> AsyncGenerator[Chunk, None]:
        """See :meth:`Speaker.synthesize`; *speed* 1 is the voice's own, it can from 0.5 to 2.7."""
        ...


class Voice:
    """espeak-ng, running as a child process of this one; made by :meth:`start`."""

    def __init__(self, child: Child, port: int) -> None:
        self._child = child
        self._port = port

    @classmethod
    async def start(cls) -> "Voice":
        """Start the process. Raises ChildDied if it doesn't come up."""
        child = await spawn("trunkline.sandbox.voice")
        try:
            return cls(child, int(await child.ready(_START_TIMEOUT)))
        except BaseException:
            await child.stop(_STOP_GRACE)
            raise

    async def close(self) -> None:
        """End the process; requests under way fail with Unavailable."""
        await self._child.stop(_STOP_GRACE)

    async def synthesize(
        self, text: str, language: str, sample_rate_hz: int, *, speed: float = 1.0
    ) -> AsyncGenerator[Chunk, None]:
        """See :meth:`Speaker.synthesize`."""
        request: dict[str, object] = {
            "text": text,
            "language": language,
            "sample_rate_hz": sample_rate_hz,
        }
        if speed != 1.0:
            request["speed"] = speed
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT.total_seconds()):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
            while True:
                async with asyncio.timeout(_ANSWER_TIMEOUT.total_seconds()):
                    frame = json.loads(await reader.readline() or b"{}")
                    pcm = await reader.readexactly(frame.get("bytes", 0))
                if "bytes" in frame:
                    yield Chunk(pcm, tuple(Word(*word) for word in frame["words"]))
                elif "end" in frame:
                    return
                elif "unknown_language" in frame:
                    raise UnknownLanguage(frame["unknown_language"])
                else:
                    raise Unavailable("The sandbox's voice broke off; restart the sandbox.")
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise Unavailable(
                "The sandbox's voice does not answer; restart the sandbox."
            ) from error
        finally:
            if writer is not None:
                writer.close()


# What follows runs in the voice's own process.

_SYNCHRONOUS = 2
_CHUNK_MS = 120
_DONT_EXIT = 0x8000
_UTF8 = 1
_RATE, _PITCH = 1, 3
_WORDS_PER_MINUTE = 165
_PITCH_PERCENT = 45
_EVENT_END, _EVENT_WORD = 0, 1

_VOICES = {"en": "en-us", "pt": "pt-br", "zh": "cmn", "no": "nb", "tl": "en-us"}
"""Where espeak-ng names a language otherwise than Cartesia, or has several and one is usual."""


def _rate(speed: float) -> int:
    return max(80, min(450, round(_WORDS_PER_MINUTE * speed)))  # espeak-ng's own bounds


class _Event(ctypes.Structure):
    """``espeak_EVENT`` of espeak-ng's speak_lib.h; ``sample`` counts from the text's start."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_byte * 8),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)

_CURRENCIES = {"USD": "dollars", "EUR": "euros", "GBP": "pounds"}
_SIGNS = {"$": "dollars", "€": "euros", "£": "pounds"}


def _say(token: str) -> str:
    """Write one English token as it is spoken: amounts of money and telephone numbers."""
    core = token.rstrip(".,;:!?")
    rest = token[len(core) :]
    if core in _CURRENCIES:
        return _CURRENCIES[core] + rest
    if re.fullmatch(r"\+?\d{7,}", core):
        return " ".join(core.lstrip("+")) + rest
    if found := re.fullmatch(r"([$€£]?)([\d,]*\d)\.(\d\d)|([$€£])([\d,]*\d)", core):
        sign, whole, cents = found[1] or found[4], found[2] or found[5], found[3]
        if not sign:
            return (whole if cents == "00" else core) + rest
        cents = f" and {int(cents)} cents" if cents and cents != "00" else ""
        return f"{whole} {_SIGNS[sign]}{cents}{rest}"
    return token


class _Words:
    """Turns espeak-ng's word events into the words of the text as it was given."""

    def __init__(self, text: str, english: bool) -> None:
        self._tokens = text.split()
        self._starts: list[int] = []
        self.spoken = ""
        for token in self._tokens:
            self._starts.append(len(self.spoken))
            self.spoken += (_say(token) if english else token) + " "
        self._open: tuple[int, float] | None = None

    def begins(self, position: int, at_s: float) -> list[Word]:
        """Something at *position* (characters from 1) of the spoken text begins; what ended?"""
        index = bisect_right(self._starts, position - 1) - 1
        # One token is often several words to espeak-ng ("2,400"): only a later token ends it.
        if self._open and index <= self._open[0]:
            return []
        ended = self._up_to(index, at_s)
        self._open = (index, at_s)
        return ended

    def end(self, at_s: float) -> list[Word]:
        """The audio is over."""
        return self._up_to(len(self._tokens), at_s)

    def _up_to(self, index: int, at_s: float) -> list[Word]:
        """The words before *index* that were not told yet, the last of which ends *at_s*.

        espeak-ng tells of "on the" and "I am" as one word; they share its time.
        """
        if not self._open:
            return []
        first, start_s = self._open
        self._open = None
        tokens = self._tokens[first:index]
        each_s = (at_s - start_s) / max(1, len(tokens))
        return [
            Word(token, round(start_s + n * each_s, 4), round(start_s + (n + 1) * each_s, 4))
            for n, token in enumerate(tokens)
        ]


def _espeak(
    text: str,
    language: str,
    sample_rate_hz: int,
    speed: float,
    emit: Callable[[bytes, list[Word]], None],
    dropped: threading.Event,
) -> None:
    """Synthesise *text*, handing audio and words to *emit*, until done or *dropped*."""
    import _ctypes

    import av
    import espeakng_loader
    import numpy as np

    # Control characters are espeak-ng's embedded commands.
    words = _Words(re.sub(r"[\x00-\x1f\x7f]", " ", text), language.split("-")[0] == "en")
    # espeak-ng keeps its random state in static variables that nothing resets but loading it anew
    # (1 ms); without that, the same sentence sounds different after another one.
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        rate_hz = library.espeak_Initialize(
            _SYNCHRONOUS, _CHUNK_MS, espeakng_loader.get_data_path().encode(), _DONT_EXIT
        )
        if rate_hz <= 0:
            raise RuntimeError("espeak-ng finds no data; install the sandbox extra again")
        name = _VOICES.get(language.lower(), language.lower())
        known = re.fullmatch(r"[a-z]{2,3}(-[a-z0-9-]+)?", name)
        if not known or library.espeak_SetVoiceByName(name.encode()) != 0:
            raise UnknownLanguage(language)
        library.espeak_SetParameter(_RATE, _rate(speed), 0)
        library.espeak_SetParameter(_PITCH, _PITCH_PERCENT, 0)
        resampler = av.AudioResampler(format="s16", layout="mono", rate=sample_rate_hz)
        samples = 0

        def resample(frame: av.AudioFrame | None) -> bytes:
            return b"".join(part.to_ndarray().tobytes() for part in resampler.resample(frame))

        def callback(wave: Any, count: int, events: Any) -> int:
            nonlocal samples
            if dropped.is_set():
                return 1
            ended: list[Word] = []
            index = 0
            while (event := events[index]).type != _EVENT_END:
                if event.type == _EVENT_WORD:
                    ended += words.begins(event.text_position, event.sample / rate_hz)
                index += 1
            pcm = b""
            if wave and count:
                samples += count
                raw = np.frombuffer(ctypes.string_at(wave, count * 2), np.int16)
                frame = av.AudioFrame.from_ndarray(raw.reshape(1, -1), "s16", "mono")
                frame.sample_rate = rate_hz
                pcm = resample(frame)
            if pcm or ended:
                emit(pcm, ended)
            return 0

        callback_pointer = _Callback(callback)
        library.espeak_SetSynthCallback(callback_pointer)
        spoken = words.spoken.encode() + b"\0"
        library.espeak_Synth(spoken, len(spoken), 0, 1, 0, _UTF8, None, None)
        if not dropped.is_set():
            emit(resample(None), words.end(samples / rate_hz))
    finally:
        library.espeak_Terminate()
        _ctypes.dlclose(library._handle)


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, thread: ThreadPoolExecutor
) -> None:
    loop = asyncio.get_running_loop()
    dropped = threading.Event()

    def send(frame: dict[str, object], pcm: bytes = b"") -> None:
        if not writer.is_closing():
            writer.write(json.dumps(frame).encode() + b"\n" + pcm)

    def emit(pcm: bytes, words: list[Word]) -> None:
        times = [(word.text, word.start_s, word.end_s) for word in words]
        loop.call_soon_threadsafe(send, {"bytes": len(pcm), "words": times}, pcm)

    def speak(request: dict[str, Any]) -> None:
        if not dropped.is_set():
            _espeak(
                request["text"],
                request["language"],
                request["sample_rate_hz"],
                request.get("speed", 1.0),
                emit,
                dropped,
            )

    async def watch() -> None:
        try:
            with contextlib.suppress(ConnectionError):
                await reader.read()
        finally:
            dropped.set()

    with contextlib.suppress(ConnectionError):
        request = json.loads(await reader.readline())
        watcher = asyncio.create_task(watch())
        try:
            await loop.run_in_executor(thread, speak, request)
            send({"end": True})
        except UnknownLanguage as error:
            send({"unknown_language": str(error)})
        finally:
            dropped.set()
            watcher.cancel()
            writer.close()


async def _main() -> None:
    # The library is not re-entrant, and one core is plenty: five seconds of speech take 8 ms.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")
    asked_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_end.set)
    # Said once before the first request, which then needn't wait for the libraries.
    await loop.run_in_executor(
        thread, _espeak, "ready", "en", 8000, 1.0, lambda pcm, words: None, threading.Event()
    )
    server = await asyncio.start_server(
        lambda reader, writer: _answer(reader, writer, thread),
        "127.0.0.1",
        0,
        limit=_LINE_LIMIT_BYTES,
    )
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await asked_to_end.wait()
    server.close()


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(_main())
