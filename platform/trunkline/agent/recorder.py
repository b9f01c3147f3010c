"""Records the line: stereo, the caller left, the agent right, in segments that are only added.

A segment is stored every few seconds, so that killing the process loses no more than the last
one; at the end they are joined into one WAV.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import structlog

from trunkline.agent.line import LINE_RATE_HZ
from trunkline.calls import recording as recordings
from trunkline.calls import service as calls
from trunkline.calls.queries import recording as recording_of
from trunkline.errors import TrunklineError
from trunkline.kit.blobs import BlobMissing, Blobs
from trunkline.kit.clock import Clock
from trunkline.kit.db import Database

log = structlog.get_logger()

SEGMENT = timedelta(seconds=5)
"""How much is lost at most when the process is killed."""

_BYTES_PER_SECOND = LINE_RATE_HZ * 2 * 2


class Recorder:
    """One call's recorder; ``push`` is a tap of the line and never waits.

    *position_ms* is the line's: what nobody has recorded until the first push is silence.
    """

    def __init__(
        self,
        db: Database,
        blobs: Blobs,
        lease: calls.Lease,
        clock: Clock,
        position_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._db, self._blobs, self._lease, self._clock = db, blobs, lease, clock
        self._buffer = bytearray()
        self._segments: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._recording_id: str | None = None
        self._writer: asyncio.Task[None] | None = None
        self._count = 0
        self._position_ms = position_ms
        self._stored: int | None = None
        """Bytes that an earlier agent stored; None until that is known."""
        self._from_ms: int | None = None
        """Position of the first push."""

    async def start(self) -> None:
        """Open the recording; what was pushed before is in it too."""
        async with self._db.work() as session:
            row = await calls.open_recording(
                session, self._lease, sample_rate_hz=LINE_RATE_HZ, now=self._clock()
            )
            segments = list(row.segments)
        self._stored = sum([await self._size(key) for key in segments])
        if self._from_ms is not None:
            pushed, self._buffer = self._buffer, bytearray()
            self._fill(self._from_ms)
            self._buffer += pushed
        self._recording_id = row.id
        self._writer = asyncio.create_task(self._write(), name="recorder")

    def push(self, caller: bytes, agent: bytes) -> None:
        """Add the same stretch of both sides, PCM16 mono at LINE_RATE_HZ, equally long."""
        if self._from_ms is None:
            self._from_ms = self._position_ms()
            self._fill(self._from_ms)
        stereo = np.empty(len(caller), dtype="<i2")
        stereo[0::2] = np.frombuffer(caller, dtype="<i2")
        stereo[1::2] = np.frombuffer(agent, dtype="<i2")
        self._buffer += stereo.tobytes()
        is_open = self._stored is not None
        if is_open and len(self._buffer) >= SEGMENT.total_seconds() * _BYTES_PER_SECOND:
            self._cut()

    async def stop(self) -> None:
        """Store the rest, join all segments, and say that the recording is ready."""
        if self._writer is None:
            return
        self._cut()
        self._segments.put_nowait(None)
        await self._writer
        self._writer = None
        async with self._db.look() as session:
            row = await recording_of(session, self._lease.call_id)
        if row is None or not row.segments:
            return
        joined = await recordings.join(self._blobs, row)
        async with self._db.work() as session:
            await calls.close_recording(
                session,
                self._lease.call_id,
                blob_key=joined.blob_key,
                duration_ms=joined.duration_ms,
                peaks=joined.peaks,
                replies=joined.replies,
                now=self._clock(),
            )
        await recordings.discard(self._blobs, row.segments)

    def _fill(self, until_ms: int) -> None:
        """Silence from what an earlier agent stored up to *until_ms*, once that is known."""
        if self._stored is None:
            return
        gap = until_ms * _BYTES_PER_SECOND // 1000 - self._stored
        whole = int(SEGMENT.total_seconds() * _BYTES_PER_SECOND)
        while gap > 0:
            self._buffer += bytes(min(gap, whole))
            gap -= whole
            if len(self._buffer) >= whole:
                self._cut()

    async def _size(self, key: str) -> int:
        try:
            return await self._blobs.size(key)
        except BlobMissing:
            return 0

    def _cut(self) -> None:
        if self._buffer:
            self._segments.put_nowait(bytes(self._buffer))
            self._buffer.clear()

    async def _write(self) -> None:
        assert self._recording_id is not None
        while segment := await self._segments.get():
            # With the epoch, so that an agent that takes over never writes over its forerunner's.
            epoch = self._lease.epoch
            key = f"recordings/{self._lease.call_id}/{epoch:03d}-{self._count:05d}.pcm"
            self._count += 1
            try:
                await self._blobs.put(key, segment)
                async with self._db.work() as session:
                    await calls.add_segment(
                        session, self._lease, self._recording_id, key, now=self._clock()
                    )
            except (TrunklineError, OSError):
                # The call goes on without its recording rather than the other way round.
                log.exception("segment_not_stored", call_id=self._lease.call_id)
