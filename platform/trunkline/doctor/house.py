"""What is in our own house: settings, database, recordings, keys, processes."""

import asyncio
import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from sqlalchemy import make_url, text
from sqlalchemy.exc import ArgumentError

from trunkline.doctor.report import Finding, Findings, Group
from trunkline.errors import Misconfigured
from trunkline.kit.blobs import BlobsUnavailable, open_blobs
from trunkline.kit.clock import Clock
from trunkline.kit.db import Database, DatabaseError, check_revision, open_database
from trunkline.kit.http import in_words
from trunkline.settings import Settings

ENV = "set it in .env; infra/env.example explains each"

LEAST_FREE_BYTES = 2_000_000_000
"""Of the data folder's disk: some 17 hours of calls, an hour being 115 MB."""

SKEW = timedelta(seconds=5)
"""Clocks further apart than this make tokens of LiveKit and signatures of webhooks fail sooner or later."""

PROCESS_PATIENCE_S = 4.0


def settings_set(settings: Settings) -> Findings:
    """Whether everything that a real call needs is set at all."""
    wanted = (
        "livekit_url",
        "livekit_api_key",
        "livekit_api_secret",
        "deepgram_api_key",
        "openai_api_key",
        "cartesia_api_key",
        "trunkline_sip_host",
    )
    missing = [name.upper() for name in wanted if not getattr(settings, name)]
    if missing:
        return [Finding("settings", "complete", False, f"missing: {', '.join(missing)}", ENV)]
    return [Finding("settings", "complete", True, "all that a call needs is set")]


def secret_keys(settings: Settings) -> Findings:
    """The keys that seal the secrets of webhooks; makes none."""
    what = "keys for secrets"
    file = settings.trunkline_data.absolute() / "secret.key"
    if settings.trunkline_secret_keys is None and not file.exists():
        return [
            Finding(
                "data",
                what,
                None,
                f"none yet; {file} is made at the first start",
                "with processes on several machines set TRUNKLINE_SECRET_KEYS, the same on all",
            )
        ]
    try:
        settings.endpoints()
    except Misconfigured as error:
        return [Finding.wrong("data", what, error)]
    where = "TRUNKLINE_SECRET_KEYS" if settings.trunkline_secret_keys else str(file)
    return [Finding("data", what, True, f"{where} can be used")]


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database | DatabaseError]:
    """The database, or why it can't be opened. An embedded one that does not exist is not made."""
    try:
        _check_exists(settings.database_url)
        db = open_database(settings.database)
    except DatabaseError as error:
        yield error
        return
    try:
        yield db
    finally:
        await db.close()


def _check_exists(address: str) -> None:
    with contextlib.suppress(ArgumentError):  # open_database says what is wrong with it
        url = make_url(address)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            raise DatabaseError(
                f"there is no database yet at {url.database}; run: trunkline db upgrade"
            )


async def database(db: Database | DatabaseError) -> Findings:
    """Whether it answers and is at this program's revision."""
    try:
        if isinstance(db, DatabaseError):
            raise db
        await check_revision(db)
    except DatabaseError as error:
        return [Finding.wrong("data", "database", error)]
    return [Finding("data", "database", True, f"{db.dialect} answers, at this program's revision")]


async def database_clock(db: Database, clock: Clock) -> Findings:
    """Whether the database's machine and this one agree on the time."""
    what = "clock of the database"
    if db.dialect == "sqlite":
        return [Finding("data", what, None, "embedded: the clock is this machine's")]
    async with db.look() as session:
        theirs: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return [told_time("data", what, theirs.astimezone(UTC), clock())]


def told_time(group: Group, what: str, theirs: datetime, ours: datetime) -> Finding:
    """What is to be said of two clocks."""
    apart = abs((ours - theirs).total_seconds())
    if apart <= SKEW.total_seconds():
        return Finding(group, what, True, f"agrees with ours within {SKEW.total_seconds():.0f} s")
    side = "ahead of" if ours > theirs else "behind"
    return Finding(
        group,
        what,
        False,
        f"this machine's clock is {apart:.0f} s {side} it",
        "keep both by NTP: timedatectl set-ntp true",
    )


async def blobs(settings: Settings) -> Findings:
    """Whether recordings can be written and read back."""
    what, url = "recordings", settings.blobs.url
    key = f"doctor/{uuid.uuid4().hex}"
    local = not url.startswith("s3://")
    try:
        store = open_blobs(settings.blobs)
        await store.put(key, b"trunkline doctor")
        back = await store.get(key)
        await store.delete(key)
    except (BlobsUnavailable, OSError, ValueError) as error:
        fix = (
            "let the user who runs trunkline write there"
            if local
            else "check the bucket's name, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION"
        )
        return [Finding("data", what, False, f"{url} cannot be written: {error}", fix)]
    if back != b"trunkline doctor":
        return [Finding("data", what, False, f"{url} gives back something else than was written")]
    return [Finding("data", what, True, f"{url} can be written and read")]


async def disk(settings: Settings) -> Findings:
    """Whether the data folder's disk has room."""
    folder = settings.trunkline_data.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = (await asyncio.to_thread(shutil.disk_usage, there)).free
    says = f"{free / 1e9:.1f} GB free at {folder}; an hour of recording is 0.12 GB"
    if free < LEAST_FREE_BYTES:
        fix = "make room, or send recordings to a bucket: TRUNKLINE_BLOBS_URL=s3://bucket/prefix"
        return [Finding("data", "free space", False, says, fix)]
    return [Finding("data", "free space", True, says)]


async def process(client: httpx.AsyncClient, name: str, host: str, port: int) -> Findings:
    """What the process that listens on *host*:*port* says of itself, if it is on this machine."""
    here = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    address = f"http://{f'[{here}]' if ':' in here else here}:{port}"
    try:
        answer = await client.get(f"{address}/ready", timeout=PROCESS_PATIENCE_S)
        told = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        why = in_words(error) if isinstance(error, httpx.HTTPError) else "something else answers"
        if name == "web":
            fix = "start it: trunkline serve, or trunkline web"
            return [Finding("processes", name, False, f"does not answer at {address}: {why}", fix)]
        fix = {
            "worker": "if it should run here: trunkline worker",
            "courier": "part of trunkline serve; a process of its own: trunkline courier",
            "guardian": "part of trunkline serve; a process of its own: trunkline guardian",
        }[name]
        return [Finding("processes", name, None, f"none of its own at {address}", fix)]
    if answer.status_code == 200:
        calls = f", {len(told['calls'])} calls on" if "calls" in told else ""
        return [Finding("processes", name, True, f"ready at {address}{calls}")]
    wrong = "; ".join(told.get("problems", [])) or str(told.get("detail", answer.status_code))
    says, _, fix = wrong.partition("; ")
    return [Finding("processes", name, False, f"not ready: {says}", fix or None)]
