"""The sandbox's ears: pocketsphinx with a grammar, in a process of its own, and its client.

pocketsphinx holds the interpreter for up to 180 ms at a time, so it runs in the process that
``python -m trunkline.sandbox.ears GRAMMAR`` is; everything else talks to that process over a loopback
connection, one per audio stream, in frames: four bytes of length (big-endian), one byte of kind,
the body. To the ears go ``r`` (the sample rate, a decimal), ``a`` (audio), ``f`` (finalize); from the
ears come ``e`` (an event as JSON) and ``z`` (that was all). The client ends the stream by closing its half
of the connection.

**What these ears can do.** They know the grammar's sentences and nothing else: for anything other than
a closed vocabulary they are useless. Speech and silence are told apart by pocketsphinx's own
endpointer. Beside the grammar's sentences runs a loop of all 39 phones; when that explains the sound much
better (``_GARBAGE``), or a word fits badly (``_DOUBTFUL``), nothing was understood and the text is empty.

**Measured** with the demo's grammar (20 intents), all sound through µ-law. The 13 lines of the grammar that
``lines/make_lines.py`` records, at six offsets to the endpointer's frames, at 8 kHz and resampled by
LiveKit to 16 kHz on three ways: 312 of 312 exact. The same lines in each of flite's voices slt, rms and
awb: 39 of 39. 6 dB quieter still all of 78, 12 dB quieter 71. Of 36 sentences from outside the grammar 32
gave empty text ("where is my dog" was twice heard as "where is my order"), and so did all of five
noises, twelve key tones and a click. The final reaches a websocket client 0.36 to 0.41 s after the
last sound; a second of audio costs 0.04 to 0.07 s of one core.
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import re
import signal
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from trunkline.errors import Unavailable
from trunkline.kit.processes import Child, die_with_parent, spawn

RATES_HZ = (8000, 16000)
"""The sample rates these ears take."""

_START_TIMEOUT = timedelta(seconds=20)
_CONNECT_TIMEOUT = timedelta(seconds=5)
_STOP_GRACE = timedelta(seconds=2)
_HEAD = struct.Struct(">Ic")
_FRAME_LIMIT_BYTES = 1 << 24


@dataclass(frozen=True)
class Word:
    """One recognised word; times count from the stream's start.

    ``confidence`` is above 0 and at most 1; 1 where in every frame no other sound would have fitted
    better. It orders words by how well they fitted and is no probability.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class SpeechStarted:
    """Someone began to speak, *at_s* seconds after the stream's start."""

    at_s: float


@dataclass(frozen=True)
class Interim:
    """What the words seem to be so far; comes at most every 100 ms, only when it has changed."""

    words: tuple[Word, ...]


@dataclass(frozen=True)
class Final:
    """An utterance is over; no words when nothing was understood.

    Each SpeechStarted is followed by one. ``finalized`` marks the answer to a ``finalize()``,
    which comes in any case; its times are both the end of the audio if nobody spoke.
    """

    words: tuple[Word, ...]
    start_s: float
    end_s: float
    finalized: bool = False


EarEvent = SpeechStarted | Interim | Final


class Hearing(Protocol):
    """One stream of audio being listened to. Iterating gives its events until it is closed."""

    async def send(self, pcm: bytes) -> None:
        """Hear more audio: PCM, 16 bit little-endian, mono. Raises Unavailable if the ears are gone."""
        ...

    async def finalize(self) -> None:
        """Take the utterance as over now. Raises Unavailable if the ears are gone."""
        ...

    async def end(self) -> None:
        """No more audio comes; the iteration ends once all events are out."""
        ...

    async def close(self) -> None:
        """Drop the stream."""
        ...

    def __aiter__(self) -> AsyncIterator[EarEvent]:
        """The events. Raises Unavailable if the ears are gone."""
        ...


class Listener(Protocol):
    """What the provider's wire protocol needs of ears."""

    async def stream(self, sample_rate_hz: int) -> Hearing:
        """Begin to listen to a stream. Raises Unavailable if the ears don't answer."""
        ...


_GONE = "The sandbox's ears do not answer; restart the sandbox."


class Ears:
    """pocketsphinx, running as a child process of this one; made by :meth:`start`."""

    def __init__(self, child: Child, port: int) -> None:
        self._child = child
        self._port = port

    @classmethod
    async def start(cls, grammar: str) -> Self:
        """Start the process on a JSGF grammar with one public rule.

        Raises ChildDied, with the reason, if the grammar is wrong or the process doesn't come up.
        """
        handle, path = tempfile.mkstemp(prefix="trunkline-", suffix=".jsgf")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(grammar)
            child = await spawn("trunkline.sandbox.ears", path)
            try:
                return cls(child, int(await child.ready(_START_TIMEOUT)))
            except BaseException:
                await child.stop(_STOP_GRACE)
                raise
        finally:
            os.unlink(path)

    async def close(self) -> None:
        """End the process; streams under way fail with Unavailable."""
        await self._child.stop(_STOP_GRACE)

    async def stream(self, sample_rate_hz: int) -> "EarStream":
        """See :meth:`Listener.stream`; *sample_rate_hz* is one of ``RATES_HZ``."""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT.total_seconds()):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except (OSError, TimeoutError) as error:
            raise Unavailable(_GONE) from error
        stream = EarStream(reader, writer)
        await stream.write(b"r", str(sample_rate_hz).encode())
        return stream


class EarStream:
    """See :class:`Hearing`; made by :meth:`Ears.stream`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def write(self, kind: bytes, body: bytes = b"") -> None:
        """Send one frame. Raises Unavailable."""
        try:
            self._writer.write(_HEAD.pack(len(body), kind) + body)
            async with asyncio.timeout(_CONNECT_TIMEOUT.total_seconds()):
                await self._writer.drain()
        except (OSError, TimeoutError) as error:
            raise Unavailable(_GONE) from error

    async def send(self, pcm: bytes) -> None:
        """See :meth:`Hearing.send`."""
        await self.write(b"a", pcm)

    async def finalize(self) -> None:
        """See :meth:`Hearing.finalize`."""
        await self.write(b"f")

    async def end(self) -> None:
        """See :meth:`Hearing.end`."""
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def close(self) -> None:
        """See :meth:`Hearing.close`."""
        self._writer.close()

    async def __aiter__(self) -> AsyncIterator[EarEvent]:
        """See :meth:`Hearing.__aiter__`."""
        try:
            # Waits as long as the caller is silent; a process that is gone closes the connection.
            async for kind, body in _frames(self._reader):
                if kind == b"z":
                    return
                yield _event(json.loads(body))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Unavailable(_GONE) from error
        raise Unavailable(_GONE)


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[bytes, bytes]]:
    """Kind and body of each frame. IncompleteReadError if the stream ends inside one."""
    while True:
        try:
            size, kind = _HEAD.unpack(await reader.readexactly(_HEAD.size))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return
        if size > _FRAME_LIMIT_BYTES:
            raise ConnectionError(f"a frame of {size} bytes is none of ours")
        yield kind, await reader.readexactly(size)


def _event(fields: dict[str, Any]) -> EarEvent:
    kind = fields.pop("event")
    if kind == "SpeechStarted":
        return SpeechStarted(**fields)
    words = tuple(Word(**word) for word in fields.pop("words"))
    return Interim(words) if kind == "Interim" else Final(words, **fields)


# What follows runs in the ears' own process.

_DECODER_HZ = 16000
_FRAME_S = 0.01
"""pocketsphinx's feature frame: the unit of its word times."""

_WINDOW_S = 0.24
"""How long nearly everything must be speech, or silence, to make an utterance begin or end. With 0.3
two of the recorded lines lost their first word, at some offsets to the endpointer's frames: the pause
within "yes please" falls into it."""

_INTERIM_EVERY_S = 0.1

_PHONES = re.findall(
    r"\w+",
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y"
    " Z ZH",
)
"""The phones of the bundled en-us model (CMUdict's)."""

_GARBAGE_WORDS = {f"garbage{phone}": phone for phone in _PHONES}
_GARBAGE = 1e-30
"""Prior weight of the phone loop against the grammar. At 1e-20 lines 3 dB too quiet are refused, at 1e-40
five more wrong sentences are accepted."""

_DOUBTFUL = 0.45
"""An utterance with a word of less confidence is not understood. The least of a right line's was 0.53;
key tones, when taken for a "no", had 0.26 to 0.35."""

_FLOOR = 14.0
"""RMS of the white noise laid under what is decoded, in 16-bit steps (-67 dBFS). The features are
logarithms, so above 4 kHz, where a telephone has nothing, they would tell one client's resampler from
another's: without it "thank you goodbye" was refused when LiveKit's had made 16 kHz of it."""

_BEAMS = {"beam": 1e-80, "pbeam": 1e-80, "wbeam": 1e-60}
"""Wider than the defaults (1e-48, 1e-48, 7e-29), with which lines lost their last word."""

_CEPSTRAL_MEAN = (
    "52.53,17.94,-18.85,22.56,-13.53,-21.33,3.89,-31.77,-15.43,-10.69,-15.11,1.02,-8.59"
)
"""Mean of the recorded lines' features, as the telephone leaves them. pocketsphinx subtracts a mean that
it learns as it goes; beginning from its default, 3 of 39 lines were recognised. Set anew for each
utterance, so that the first is heard as well as the last and noise before it spoils nothing."""

_CONFIDENCE_SCALE = 100.0
"""Turns pocketsphinx's score per frame into a confidence around 0.8 for a word that was said."""


class BadGrammar(Exception):
    """The grammar cannot be used; the message says why."""


class Recogniser:
    """A grammar made ready for recognition. Raises BadGrammar if it cannot be used."""

    def __init__(self, grammar: str) -> None:
        public = re.findall(r"\bpublic\s+<([^>]+)>\s*=", grammar)
        if len(public) != 1:
            raise BadGrammar(f"the grammar has {len(public)} public rules; give it one")
        inner = re.sub(r"\bpublic\s+<", "<", grammar)
        self._grammar = (
            f"{inner}\n"
            f"public <heard_> = /1/ <{public[0]}> | /{_GARBAGE:g}/ <garbage_>;\n"
            f"<garbage_> = ({' | '.join(_GARBAGE_WORDS)})+;\n"
        )
        rules = re.sub(r"(?m)^\s*(#JSGF|grammar)\b.*$|<[^>]*>|/[^/]*/", " ", inner)
        words = set(re.findall(r"[^\s|()\[\]*+;=]+", rules))
        self._pronunciations = dict(_pronunciations(words))
        if missing := words - {re.sub(r"\(\d+\)$", "", word) for word in self._pronunciations}:
            raise BadGrammar(
                f"pocketsphinx's dictionary lacks {', '.join(sorted(missing))}; use other words"
            )
        self._pronunciations |= _GARBAGE_WORDS
        try:
            self.decoder()
        except (ValueError, RuntimeError) as error:
            raise BadGrammar(f"{error}; the log above says where") from error

    def decoder(self) -> Any:
        """A pocketsphinx decoder, for one stream."""
        from pocketsphinx import Decoder

        # Without the 134,000 words of the whole dictionary it is made in 20 instead of 150 ms. The best
        # path through the lattice is no longer a path through the grammar, so it is left out.
        decoder = Decoder(lm=None, dict=None, bestpath=False, loglevel="ERROR", **_BEAMS)
        for word, phones in self._pronunciations.items():
            decoder.add_word(word, phones, False)
        decoder.add_jsgf_string("heard", self._grammar)
        decoder.activate_search("heard")
        return decoder


def _pronunciations(words: set[str]) -> Iterator[tuple[str, str]]:
    """From pocketsphinx's own dictionary; a word's second pronunciation stands as ``word(2)``."""
    from pocketsphinx import get_model_path

    with open(get_model_path("en-us/cmudict-en-us.dict"), encoding="utf-8") as file:
        for line in file:
            word, _, phones = line.strip().partition(" ")
            if word.partition("(")[0] in words:
                yield word, phones


class Recognition:
    """One stream's recognition, fed as the audio comes. ValueError for a rate not in ``RATES_HZ``."""

    def __init__(self, recogniser: Recogniser, sample_rate_hz: int) -> None:
        if sample_rate_hz not in RATES_HZ:
            raise ValueError(f"{sample_rate_hz} Hz is not supported; send {RATES_HZ} Hz")
        self._decoder = recogniser.decoder()
        self._double = _Doubler() if sample_rate_hz == RATES_HZ[0] else None
        self._pending = bytearray()
        self._heard_s = 0.0
        self._start_s = 0.0
        self._interim_at_s = 0.0
        self._interim: tuple[str, ...] = ()
        self._listen()

    def _listen(self) -> None:
        from pocketsphinx import Endpointer

        self._endpointer = Endpointer(window=_WINDOW_S, sample_rate=_DECODER_HZ)
        # Its times count from here.
        self._origin_s = self._heard_s

    def hear(self, pcm: bytes) -> Iterator[EarEvent]:
        """Take more audio (16 bit little-endian, mono) and say what it shows."""
        self._pending += self._double(pcm) if self._double else pcm
        size = self._endpointer.frame_bytes
        while len(self._pending) >= size:
            frame = bytes(self._pending[:size])
            del self._pending[:size]
            was_in_speech = self._endpointer.in_speech
            speech = self._endpointer.process(frame)
            self._heard_s += self._endpointer.frame_length
            if speech is not None:
                yield from self._recognise(speech, was_in_speech)

    def _recognise(self, speech: bytes, was_in_speech: bool) -> Iterator[EarEvent]:
        if not was_in_speech:
            self._start_s = self._origin_s + self._endpointer.speech_start
            self._interim_at_s, self._interim = self._heard_s, ()
            self._noise = np.random.default_rng(0)
            self._decoder.set_cmn(_CEPSTRAL_MEAN)
            self._decoder.start_utt()
            yield SpeechStarted(round(self._start_s, 2))
        self._decode(speech)
        if not self._endpointer.in_speech:
            yield self._end(self._origin_s + self._endpointer.speech_end)
        elif self._heard_s >= self._interim_at_s + _INTERIM_EVERY_S:
            self._interim_at_s = self._heard_s
            words = self._words()
            texts = tuple(word.text for word in words)
            if words and texts != self._interim:
                self._interim = texts
                yield Interim(words)

    def _decode(self, speech: bytes) -> None:
        samples = np.frombuffer(speech, "<i2")
        floor = self._noise.normal(scale=_FLOOR, size=len(samples))
        self._decoder.process_raw(_pcm(samples + floor))

    def _end(self, end_s: float, finalized: bool = False) -> Final:
        self._decoder.end_utt()
        words = self._words()
        if any(word.confidence < _DOUBTFUL for word in words):
            words = ()
        return Final(words, round(self._start_s, 2), round(end_s, 2), finalized)

    def finish(self, finalized: bool) -> Iterator[EarEvent]:
        """Take the utterance as over; *finalized* if a client asked for it and awaits an answer."""
        if self._endpointer.in_speech:
            frame = bytes(self._pending)
            self._heard_s += len(frame) / 2 / _DECODER_HZ
            rest = self._endpointer.end_stream(frame)
            if rest:
                self._decode(rest)
            yield self._end(self._origin_s + self._endpointer.speech_end, finalized)
        elif finalized:
            yield Final((), round(self._heard_s, 2), round(self._heard_s, 2), finalized)
        self._pending.clear()
        self._listen()

    def _words(self) -> tuple[Word, ...]:
        if self._decoder.hyp() is None:
            return ()
        words = []
        for segment in self._decoder.seg():
            if segment.word in _GARBAGE_WORDS:
                return ()
            if segment.word[0] in "<[(":  # silence, a noise, a null transition
                continue
            frames = segment.end_frame - segment.start_frame + 1
            fit = math.log(segment.ascore) / frames if segment.ascore > 0 else -math.inf
            words.append(
                Word(
                    re.sub(r"\(\d+\)$", "", segment.word),
                    round(self._start_s + segment.start_frame * _FRAME_S, 2),
                    round(self._start_s + (segment.end_frame + 1) * _FRAME_S, 2),
                    round(min(1.0, max(0.001, math.exp(fit * _CONFIDENCE_SCALE))), 3),
                )
            )
        return tuple(words)


class _Doubler:
    """8 to 16 kHz, by a half-band low-pass of 63 taps: the model expects 16 kHz, with nothing above 4."""

    def __init__(self) -> None:
        taps = np.arange(-15.5, 16.5)
        self._between = np.sinc(taps) * np.hamming(len(taps))
        self._past = np.zeros(len(taps) - 1, np.int16)

    def __call__(self, pcm: bytes) -> bytes:
        samples = np.concatenate([self._past, np.frombuffer(pcm, "<i2")])
        self._past = samples[-len(self._past) :]
        between = np.convolve(samples, self._between, "valid")
        doubled = np.empty(2 * len(between))
        doubled[0::2] = samples[15 : 15 + len(between)]
        doubled[1::2] = between
        return _pcm(doubled)


def _pcm(samples: npt.NDArray[np.float64]) -> bytes:
    return samples.round().clip(-32768, 32767).astype("<i2").tobytes()


_PIECE_BYTES = 1 << 12


async def _answer(
    recogniser: Recogniser, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    def tell(events: Iterator[EarEvent]) -> None:
        for event in events:
            body = json.dumps({"event": type(event).__name__, **asdict(event)}).encode()
            writer.write(_HEAD.pack(len(body), b"e") + body)

    with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
        recognition: Recognition | None = None
        async for kind, body in _frames(reader):
            if kind == b"r":
                recognition = Recognition(recogniser, int(body))
            elif recognition is None:
                raise ConnectionError("the sample rate comes first")
            elif kind == b"a":
                # In pieces, so that much audio at once doesn't hold up the other streams.
                for start in range(0, len(body), _PIECE_BYTES):
                    tell(recognition.hear(body[start : start + _PIECE_BYTES]))
                    await writer.drain()
                    await asyncio.sleep(0)
            else:
                tell(recognition.finish(finalized=True))
        if recognition:
            tell(recognition.finish(finalized=False))
        writer.write(_HEAD.pack(0, b"z"))
        await writer.drain()


async def _main(grammar: str) -> None:
    recogniser = Recogniser(grammar)
    asked_to_end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_end.set)
    server = await asyncio.start_server(
        lambda reader, writer: _answer(recogniser, reader, writer), "127.0.0.1", 0
    )
    print(f"ready {server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await asked_to_end.wait()
    server.close()


if __name__ == "__main__":
    die_with_parent()
    parser = argparse.ArgumentParser(prog="trunkline.sandbox.ears")
    parser.add_argument("grammar", type=Path, help="a file with a JSGF grammar")
    try:
        asyncio.run(_main(parser.parse_args().grammar.read_text(encoding="utf-8")))
    except (BadGrammar, OSError) as problem:
        sys.exit(f"ears: {problem}")
