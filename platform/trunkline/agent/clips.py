"""Recorded sentences in a profile's own voice, for when no voice can be asked any more.

They are rendered when a profile is published, by whichever worker sees it first, and kept as blobs under
a key made of the words and the voice: what is the same is rendered once. The last resort is the
English set of the package, so that something is always said.
"""

import asyncio
import io
import wave
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import structlog

from trunkline.agent import persona, phrases
from trunkline.agent.audio import at_line_rate, without_lead
from trunkline.agent.kept import Kept, digest
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.options import AgentOptions
from trunkline.kit.audio import wav_bytes
from trunkline.kit.blobs import BlobMissing, Blobs
from trunkline.kit.db import Database
from trunkline.profiles import queries as profiles
from trunkline.profiles.body import ProfileBody

log = structlog.get_logger()

_PACKAGE = Path(__file__).parent / "clips"
LOOK_EVERY = timedelta(seconds=10)
"""How soon a published profile is noticed."""
_TRY_AGAIN = timedelta(seconds=60)
"""Pause after a voice that could not be reached."""
_ONE = timedelta(seconds=20)
"""Longest that one sentence may take to be rendered."""
_PATIENCE = timedelta(seconds=0.5)
"""Longest that the store of blobs is waited for while a caller is on the line, before each sentence: they
hear nothing meanwhile."""


def key_of(body: ProfileBody, words: str) -> str:
    """Where the clip of *words* is kept: the same words in the same voice have the same key."""
    return f"clips/{digest(body, words)}.wav"


@dataclass(frozen=True)
class Clip:
    """A recorded sentence."""

    words: str
    pcm: bytes
    """PCM16 mono at LINE_RATE_HZ."""


async def load(blobs: Blobs, body: ProfileBody | None, name: str) -> Clip:
    """The clip of the phrase *name* in the profile's voice; the package's when there is no other."""
    if body is None:
        return packaged(name)
    words = phrases.phrase(body, name)
    try:
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            return Clip(words, _pcm(await blobs.get(key_of(body, words))))
    except Exception as error:
        # Whatever is wrong with the store of blobs, a caller waits for a word.
        if not isinstance(error, BlobMissing):
            log.warning("clip_not_read", phrase=name, error=type(error).__name__)
        return packaged(name)


@cache
def packaged(name: str) -> Clip:
    """The English clip of the package, which names no company."""
    return Clip(phrases.unnamed(name), _pcm((_PACKAGE / f"{name}.en.wav").read_bytes()))


async def keep_rendered(
    db: Database, blobs: Blobs, options: AgentOptions, kept: Kept | None = None
) -> None:
    """Render whatever published profiles need and do not have, again and again. Runs until cancelled.

    What is said in every call in the same words is put into *kept* as well.
    """
    done: set[str] = set()
    while True:
        pause = LOOK_EVERY
        try:
            async with db.look() as session:
                bodies = await profiles.published_bodies(session)
        except Exception as error:
            # The database is out of reach: what is there already is enough meanwhile.
            _not_rendered(error)
            bodies, pause = [], _TRY_AGAIN
        for body in bodies:
            try:
                await _render(blobs, options, body, done)
                if kept is not None:
                    await _keep(blobs, body, kept)
            except Exception as error:
                # One profile's voice may be wrong or out of reach; the others get theirs.
                _not_rendered(error)
                pause = _TRY_AGAIN
        await asyncio.sleep(pause.total_seconds())


def _not_rendered(error: Exception) -> None:
    log.warning("clips_not_rendered", error=type(error).__name__, detail=str(error)[:200])


async def _render(blobs: Blobs, options: AgentOptions, body: ProfileBody, done: set[str]) -> None:
    missing = {}
    for words in dict.fromkeys((*phrases.phrases(body).values(), *persona.fixed(body))):
        key = key_of(body, words)
        if key not in done and not await blobs.exists(key):
            missing[key] = words
        else:
            done.add(key)
    if not missing:
        return
    # The voice's plugin takes a second to load; a process that never renders never pays for it.
    from livekit.agents.utils import http_context

    from trunkline.agent.models import plugins

    async with http_context.open():
        # The first choice only: a clip is in the profile's own voice, or there is none yet.
        voice = plugins.speaker(body.tts, body.language, options)
        try:
            for key, words in missing.items():
                async with asyncio.timeout(_ONE.total_seconds()):
                    async with voice.synthesize(words) as stream:
                        frames = [event.frame async for event in stream]
                await blobs.put(key, wav_bytes(at_line_rate(frames), LINE_RATE_HZ, 1))
                done.add(key)
        finally:
            await plugins.close(voice)
    log.info("clips_rendered", count=len(missing), language=body.language)


async def _keep(blobs: Blobs, body: ProfileBody, kept: Kept) -> None:
    for words in persona.fixed(body):
        if not await asyncio.to_thread(kept.has, body, words):
            pcm = _pcm(await blobs.get(key_of(body, words)))
            await asyncio.to_thread(kept.put, body, words, without_lead(pcm))


def _pcm(data: bytes) -> bytes:
    with wave.open(io.BytesIO(data)) as file:
        rate, channels = file.getframerate(), file.getnchannels()
        if (rate, channels, file.getsampwidth()) != (LINE_RATE_HZ, 1, 2):
            raise wave.Error(f"a clip has {rate} Hz and {channels} channels")
        return bytes(file.readframes(file.getnframes()))
