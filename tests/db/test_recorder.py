"""The recording of a call: what was heard before its row was there, and behind an agent that died."""

import io
import wave
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trunkline.agent.audio import FRAME
from trunkline.agent.line import LINE_RATE_HZ
from trunkline.agent.recorder import Recorder
from trunkline.calls import queries, service
from trunkline.kit.blobs import BlobOptions, open_blobs
from trunkline.kit.db import Database

if TYPE_CHECKING:
    from tests.conftest import Make

CALLER, AGENT = b"\1\0" * FRAME, b"\2\0" * FRAME


@pytest.mark.parametrize(("before", "after"), [(0, 3), (2, 1), (3, 0)])
@pytest.mark.parametrize("from_ms", [0, 40])
async def test_what_is_pushed_before_the_start_is_recorded(
    sqlite_db: Database,
    make: "Make",
    tmp_path: Path,
    now: datetime,
    before: int,
    after: int,
    from_ms: int,
) -> None:
    """Frames of an open line are recorded where they were heard, whether or not the row was there yet."""
    blobs = open_blobs(BlobOptions(str(tmp_path / "blobs")))
    async with sqlite_db.work() as session:
        call = await make.call(session)
        lease = await service.take_lease(session, call.id, now=now)
    at_ms = from_ms
    recorder = Recorder(sqlite_db, blobs, lease, lambda: now, lambda: at_ms)
    for n in range(before + after):
        if n == before:
            await recorder.start()
        recorder.push(CALLER, AGENT)
        at_ms += 20
    if not after:
        await recorder.start()
    await recorder.stop()
    async with sqlite_db.look() as session:
        row = await queries.recording(session, call.id)
    assert row is not None
    assert row.blob_key is not None
    with wave.open(io.BytesIO(await blobs.get(row.blob_key))) as file:
        sound = file.readframes(file.getnframes())
    silent = from_ms * LINE_RATE_HZ // 1000
    assert sound == bytes(4 * silent) + b"\1\0\2\0" * FRAME * 3
