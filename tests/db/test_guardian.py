"""What the guardian does about calls whose agent died."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sqlalchemy import select

from trunkline.calls import queries, recording, service
from trunkline.calls.lifecycle import EndReason, State
from trunkline.calls.models import Recording
from trunkline.calls.service import Lease
from trunkline.errors import StaleLease
from trunkline.guardian import Guardian, GuardianOptions
from trunkline.kit.audio import peaks, read_wav
from trunkline.kit.blobs import BlobMissing, BlobOptions, Blobs, open_blobs
from trunkline.kit.db import Database
from trunkline.outbox.models import EventRow

if TYPE_CHECKING:
    from tests.conftest import Make

S = timedelta(seconds=1)
RATE_HZ = 8000
OPTIONS = GuardianOptions(every=timedelta(0))


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(BlobOptions(str(tmp_path / "blobs")))


def segment(at: int, frames: int = RATE_HZ) -> bytes:
    """Audio that can be told from the next segment's: the caller's side rises, the agent's falls."""
    ramp = np.arange(frames) % 1000 + 1000 * at
    return np.stack([ramp, -ramp], axis=1).astype("<i2").tobytes()


async def live_call(
    db: Database, blobs: Blobs, make: "Make", seen: datetime, *, segments: int = 2
) -> Lease:
    """A recorded call, answered 10 s before its agent was last seen, in the middle of a turn and a tool."""
    async with db.work() as session:
        call = await make.call(session, now=seen - 12 * S)
        lease = await service.take_lease(session, call.id, now=seen - 12 * S)
        await service.answer(session, lease, now=seen - 10 * S)
        row = await service.open_recording(session, lease, sample_rate_hz=RATE_HZ, now=seen)
        for at in range(segments):
            key = f"recordings/{call.id}/{at:05d}.pcm"
            await blobs.put(key, segment(at))
            await service.add_segment(session, lease, row.id, key, now=seen)
        await service.save_turn(
            session,
            lease,
            turn_id=None,
            role="user",
            text="I would like to",
            started_ms=7000,
            ended_ms=None,
            now=seen,
        )
        await service.start_tool(
            session,
            lease,
            name="move_deal",
            arguments={},
            turn_id=None,
            offset_ms=9000,
            now=seen - S,
        )
        await service.heartbeat(session, lease, now=seen)
    return lease


async def types(db: Database, call_id: str) -> list[str]:
    async with db.look() as session:
        rows = await session.scalars(
            select(EventRow).where(EventRow.subject == call_id).order_by(EventRow.seq)
        )
        return [row.type for row in rows]


async def stored_recording(db: Database, call_id: str) -> Recording:
    async with db.look() as session:
        found = await queries.recording(session, call_id)
    assert found is not None
    return found


async def test_a_call_whose_agent_died_is_closed(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """It ended when the agent was last seen, as agent_lost; what was being said and done is closed."""
    lease = await live_call(db, blobs, make, now)
    await Guardian(db, blobs, OPTIONS, lambda: now + 7 * S).sweep()
    async with db.look() as session:
        call = await queries.call(session, lease.call_id)
        (turn,) = await queries.turns(session, lease.call_id)
        (run,) = await queries.tool_runs(session, lease.call_id)
        (leg,) = await queries.legs(session, lease.call_id)
    assert (call.state, call.end_reason, call.ended_at) == (State.ENDED, "agent_lost", now)
    assert (turn.text, turn.ended_ms) == ("I would like to", 10_000)
    assert (run.state, run.error) == ("error", "agent_lost")
    assert (leg.outcome, leg.ended_at) == ("agent_lost", now)
    assert await types(db, lease.call_id) == [
        "call.started",
        "call.answered",
        "tool.failed",
        "transcript.turn",
        "call.ended",
        "transcript.ready",
        "recording.ready",
    ]


async def test_an_agent_that_comes_back_is_fenced_off(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """It was only slow; the call is closed all the same and it may not write any more."""
    lease = await live_call(db, blobs, make, now)
    await Guardian(db, blobs, OPTIONS, lambda: now + 7 * S).sweep()
    with pytest.raises(StaleLease):
        async with db.work() as session:
            await service.heartbeat(session, lease, now=now + 8 * S)


async def test_the_recording_of_a_lost_call_can_be_played(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """All stored segments are one WAV, marked incomplete; the segments are gone afterwards."""
    lease = await live_call(db, blobs, make, now)
    await Guardian(db, blobs, OPTIONS, lambda: now + 7 * S).sweep()
    found = await stored_recording(db, lease.call_id)
    assert (found.state, found.duration_ms, found.segments) == ("incomplete", 2000, [])
    assert found.blob_key is not None
    samples, rate_hz = read_wav(await blobs.get(found.blob_key))
    assert rate_hz == RATE_HZ
    assert samples.astype("<i2").tobytes() == segment(0) + segment(1)
    assert found.peaks == peaks(samples, recording.BUCKETS)
    assert not await blobs.exists(f"recordings/{lease.call_id}/00000.pcm")
    assert not await blobs.exists(f"recordings/{lease.call_id}/00001.pcm")


@pytest.mark.parametrize(
    ("age", "closed"),
    [
        (5.999, False),  # three heartbeats may be late
        (6.0, False),  # not longer than it
        (6.001, True),
    ],
)
async def test_how_long_an_agent_may_be_silent(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime, age: float, closed: bool
) -> None:
    """A call is left alone until lost_after has passed without a sign of life."""
    lease = await live_call(sqlite_db, blobs, make, now)
    await Guardian(sqlite_db, blobs, OPTIONS, lambda: now + age * S).sweep()
    async with sqlite_db.look() as session:
        call = await queries.call(session, lease.call_id)
    assert (call.state == State.ENDED) is closed


async def test_a_call_that_no_agent_took_is_closed(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Without any sign of life its start counts; it was not recorded and needs no recording."""
    async with db.work() as session:
        call = await make.call(session, now=now)
    await Guardian(db, blobs, OPTIONS, lambda: now + 7 * S).sweep()
    assert await types(db, call.id) == ["call.started", "call.ended", "transcript.ready"]


async def test_a_heartbeat_in_the_last_moment_saves_the_call(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Between the guardian's look and its grip the agent gave a sign: nothing is closed."""
    lease = await live_call(db, blobs, make, now)
    async with db.work() as session:
        await service.heartbeat(session, lease, now=now + 7 * S)
    async with db.work() as session:
        assert (
            await service.lose(session, lease.call_id, silent_since=now + S, now=now + 7 * S)
        ) is None
        await service.heartbeat(session, lease, now=now + 8 * S)


async def test_a_hang_up_in_the_last_moment_stays(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Between the guardian's look and its grip the call ended: reason and lease stay as they are."""
    lease = await live_call(db, blobs, make, now)
    async with db.work() as session:
        await service.end(session, lease.call_id, EndReason.LINE_LOST, now=now)
    async with db.work() as session:
        later = now + 99 * S
        assert (await service.lose(session, lease.call_id, silent_since=later, now=later)) is None
        call = await service.fence(session, lease)
        (run,) = await queries.tool_runs(session, lease.call_id)
    assert (call.end_reason, run.state) == ("line_lost", "started")


async def test_several_guardians_close_a_call_once(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Four sweep at the same moment: one call.ended, one recording.ready, one new lease."""
    lease = await live_call(db, blobs, make, now)
    guardians = [Guardian(db, blobs, OPTIONS, lambda: now + 7 * S) for _ in range(4)]
    await asyncio.gather(*(guardian.sweep() for guardian in guardians))
    kinds = await types(db, lease.call_id)
    async with db.look() as session:
        call = await queries.call(session, lease.call_id)
    assert (kinds.count("call.ended"), kinds.count("recording.ready")) == (1, 1)
    assert call.lease_epoch == lease.epoch + 1


# --- joining ------------------------------------------------------------------------------------


async def test_a_join_that_nobody_finished_is_finished(
    db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """The agent ended the call and died over the recording: it is joined after join_after, once."""
    lease = await live_call(db, blobs, make, now)
    async with db.work() as session:
        await service.end(session, lease.call_id, EndReason.CALLER_HANGUP, now=now, lease=lease)
    await Guardian(db, blobs, OPTIONS, lambda: now + 59 * S).sweep()
    assert (await stored_recording(db, lease.call_id)).state == "open"
    guardians = [Guardian(db, blobs, OPTIONS, lambda: now + 61 * S) for _ in range(3)]
    await asyncio.gather(*(guardian.sweep() for guardian in guardians))
    found = await stored_recording(db, lease.call_id)
    assert (found.state, found.duration_ms) == ("incomplete", 2000)
    async with db.look() as session:
        assert (await queries.call(session, lease.call_id)).lease_epoch == lease.epoch + 1
    assert (await types(db, lease.call_id)).count("recording.ready") == 1


async def test_a_join_may_be_repeated_at_any_point(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Cut off before, in or after the clearing up, the next join says the same about the same blob."""
    lease = await live_call(sqlite_db, blobs, make, now, segments=3)
    row = await stored_recording(sqlite_db, lease.call_id)
    first = await recording.join(blobs, row)
    wav = await blobs.get(first.blob_key)
    for deleted in range(4):
        await recording.discard(blobs, row.segments[:deleted])
        assert await recording.join(blobs, row) == first
        assert await blobs.get(first.blob_key) == wav
    assert (first.duration_ms, len(first.peaks)) == (3000, recording.BUCKETS)


class FasterJoiner(Blobs):
    """A storage in which another joiner clears up while this one still reads."""

    def __init__(self, blobs: Blobs, clear_up: Callable[[], AsyncIterator[None]]) -> None:
        super().__init__(blobs._store)
        self._clear_up = clear_up()

    async def get_range(self, key: str, start: int, end: int) -> bytes:
        await anext(self._clear_up, None)
        return await super().get_range(key, start, end)


async def test_a_join_that_is_overtaken(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """When the segments vanish while they are read, the blob of whoever was faster is taken."""
    lease = await live_call(sqlite_db, blobs, make, now)
    row = await stored_recording(sqlite_db, lease.call_id)
    others: list[recording.Joined] = []

    async def clear_up() -> AsyncIterator[None]:
        yield  # after the first segment was read
        others.append(await recording.join(blobs, row))
        await recording.discard(blobs, row.segments)
        yield

    joined = await recording.join(FasterJoiner(blobs, clear_up), row)
    assert [joined] == others
    samples, _ = read_wav(await blobs.get(joined.blob_key))
    assert samples.astype("<i2").tobytes() == segment(0) + segment(1)


async def test_segments_of_any_length(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Empty ones, long ones, and one cut within a frame join without shifting the channels."""
    lease = await live_call(sqlite_db, blobs, make, now, segments=0)
    row = await stored_recording(sqlite_db, lease.call_id)
    whole = segment(1, frames=600_000)  # 2.4 MB: read in three pieces
    pieces = [b"", whole, segment(2, frames=5) + b"\1\2\3", segment(3, frames=1)]
    keys = [f"{at}.pcm" for at in range(4)]
    for key, piece in zip(keys, pieces, strict=True):
        await blobs.put(key, piece)
    row.segments = keys
    joined = await recording.join(blobs, row)
    samples, _ = read_wav(await blobs.get(joined.blob_key))
    expected = whole + segment(2, frames=5) + segment(3, frames=1)
    assert samples.astype("<i2").tobytes() == expected
    assert joined.peaks == peaks(samples, recording.BUCKETS)
    assert joined.duration_ms == 75_001


async def test_a_recording_without_a_segment(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """The agent died before its first segment: an empty WAV, no waveform."""
    lease = await live_call(sqlite_db, blobs, make, now, segments=0)
    await Guardian(sqlite_db, blobs, OPTIONS, lambda: now + 7 * S).sweep()
    found = await stored_recording(sqlite_db, lease.call_id)
    assert (found.state, found.duration_ms, found.peaks) == ("incomplete", 0, [])
    assert found.blob_key is not None
    assert read_wav(await blobs.get(found.blob_key))[0].shape == (0, 2)


async def test_a_segment_that_was_lost(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """What is left is joined, and the loss is reported."""
    lease = await live_call(sqlite_db, blobs, make, now)
    row = await stored_recording(sqlite_db, lease.call_id)
    await blobs.delete(row.segments[0])
    joined = await recording.join(blobs, row)
    assert (joined.missing, joined.duration_ms) == ((row.segments[0],), 1000)


# --- faults -------------------------------------------------------------------------------------


class BrokenBlobs(Blobs):
    """A storage that is down for one call."""

    def __init__(self, blobs: Blobs, call_id: str) -> None:
        super().__init__(blobs._store)
        self._call_id = call_id

    async def size(self, key: str) -> int:
        if self._call_id in key:
            raise OSError("the disk is gone")
        return await super().size(key)


async def test_one_broken_call_does_not_stop_the_others(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Its recording stays open and is tried again; the others are closed and joined meanwhile."""
    broken = await live_call(sqlite_db, blobs, make, now)
    async with sqlite_db.work() as session:
        other = await make.call(session, room="room-2", now=now)
        lease = await service.take_lease(session, other.id, now=now)
        await service.open_recording(session, lease, sample_rate_hz=RATE_HZ, now=now)
    bad = BrokenBlobs(blobs, broken.call_id)
    await Guardian(sqlite_db, bad, OPTIONS, lambda: now + 7 * S).sweep()
    assert (await stored_recording(sqlite_db, broken.call_id)).state == "open"
    assert (await stored_recording(sqlite_db, other.id)).state == "incomplete"
    assert "call.ended" in await types(sqlite_db, broken.call_id)
    await Guardian(sqlite_db, blobs, OPTIONS, lambda: now + 90 * S).sweep()
    assert (await stored_recording(sqlite_db, broken.call_id)).state == "incomplete"


async def test_the_loop_survives_a_failed_sweep(
    sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Whatever goes wrong in one sweep, the next one comes; only being cancelled ends it."""
    lease = await live_call(sqlite_db, blobs, make, now)
    failures, asked, joined = 6, 0, asyncio.Event()

    def clock() -> datetime:
        nonlocal asked
        asked += 1
        if asked <= failures:
            raise RuntimeError("no time today")
        return now + 7 * S

    class Watched(Blobs):
        async def delete(self, key: str) -> None:
            await super().delete(key)
            joined.set()

    guardian = asyncio.create_task(Guardian(sqlite_db, Watched(blobs._store), OPTIONS, clock).run())
    await asyncio.wait_for(joined.wait(), 60)
    assert not guardian.done()
    guardian.cancel()
    with pytest.raises(asyncio.CancelledError):
        await guardian
    assert (await stored_recording(sqlite_db, lease.call_id)).state == "incomplete"
    with pytest.raises(BlobMissing):
        await blobs.get(f"recordings/{lease.call_id}/00000.pcm")
