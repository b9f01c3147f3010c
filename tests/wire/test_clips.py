"""Sentences that are the same in every call have their sound made before the first one."""

import asyncio
from datetime import timedelta
from pathlib import Path

from trunkline.agent import persona
from trunkline.agent.clips import keep_rendered
from trunkline.agent.kept import Kept
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.db import Database
from trunkline.kit.processes import spawn
from trunkline.profiles.body import ProfileBody
from trunkline.sandbox.callers import sandbox_providers
from trunkline.sandbox.story import seed

BOUND_S = 60


class Watched(Kept):
    """Tells when it has so many sentences."""

    def __init__(self, folder: Path, many: int) -> None:
        super().__init__(folder, utc_now)
        self._many, self._loop = many, asyncio.get_running_loop()
        self.full = asyncio.Event()
        self.seconds: list[float] = []

    def put(self, body: ProfileBody, words: str, pcm: bytes) -> None:
        super().put(body, words, pcm)
        self.seconds.append(len(pcm) / 16_000)
        if len(self.seconds) == self._many:
            self._loop.call_soon_threadsafe(self.full.set)


async def test_a_worker_makes_them_of_every_published_profile(
    sqlite_db: Database, tmp_path: Path
) -> None:
    """Greeting, prompts, farewells, fillers and the word of a late answer are there, each as sound."""
    async with sqlite_db.work() as session:
        body = await seed(session, now=utc_now())
    fixed = dict.fromkeys(persona.fixed(body))
    assert {body.farewell, *body.silence_prompts, "One moment.", "One moment, please."} <= set(
        fixed
    )
    kept = Watched(tmp_path / "kept", len(fixed))
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    child = await spawn("trunkline.sandbox.server", "--delay=tts_first_byte=0")
    try:
        port = int(await child.ready(timedelta(seconds=BOUND_S)))
        options = sandbox_providers(port, "sandbox")
        making = asyncio.create_task(keep_rendered(sqlite_db, blobs, options, kept))
        async with asyncio.timeout(BOUND_S):
            await kept.full.wait()
        making.cancel()
        await asyncio.wait([making])
    finally:
        await child.stop(timedelta(seconds=3))
    assert all(kept.get(body, words) for words in fixed)
    assert all(0.3 < seconds < 10 for seconds in kept.seconds)
