"""How soon a page is there: ``python -m tests.bench.pages [--rounds N]``.

Opens pages with real seeded data in Chromium, each in a fresh browser without a cache, and prints
Largest Contentful Paint, layout shift (both as the browser measures them, https://web.dev/vitals) and
what scripts and styles weigh as they are sent. Nothing is asserted.
"""

import argparse
import asyncio
import shutil
import statistics
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from playwright.async_api import Browser, async_playwright
from tests.conftest import Make

from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.recording import join
from trunkline.kit.asgi import listen, serve
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.db import Database, DatabaseOptions, open_database, upgrade
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

NOW = datetime(2026, 1, 15, 9, 30, tzinfo=UTC)
TURNS = 60
RATE_HZ = 8000
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"]

_WATCH = """
window.seen = {lcp: 0, shift: 0};
new PerformanceObserver(list => { for (const e of list.getEntries()) seen.lcp = e.startTime })
    .observe({type: 'largest-contentful-paint', buffered: true});
const moved = entry => { if (!entry.hadRecentInput) seen.shift += entry.value };
new PerformanceObserver(list => list.getEntries().forEach(moved))
    .observe({type: 'layout-shift', buffered: true});
"""
_WEIGH = """
performance.getEntriesByType('resource').filter(one => one.name.includes('/assets/'))
    .reduce((sum, one) => sum + one.transferSize, 0)
"""


async def seed(db: Database, blobs: Blobs) -> str:
    """Fifty calls; the last is ten minutes long, with sound. Returns its id."""
    make = Make()
    for n in range(50):
        at = NOW + n * timedelta(minutes=20)
        async with db.work() as session:
            call = await make.call(session, room=f"room-{n}", now=at)
            lease = await calls.take_lease(session, call.id, now=at)
            await calls.answer(session, lease, now=at)
            row = await calls.open_recording(session, lease, sample_rate_hz=RATE_HZ, now=at)
            for turn in range(TURNS if n == 49 else 2):
                await calls.save_turn(
                    session, lease, turn_id=None, role="user" if turn % 2 else "agent",
                    text="What somebody says in a call, which is a sentence or two. " * 2,
                    started_ms=turn * 10_000, ended_ms=turn * 10_000 + 8000, now=at,
                )  # fmt: skip
            if n == 49:
                await calls.add_segment(session, lease, row.id, "segment", now=at)
            await calls.end(
                session, call.id, EndReason.CALLER_HANGUP, now=at + timedelta(minutes=10)
            )
    noise = np.random.default_rng(1).normal(0, 2000, (RATE_HZ * 600, 2)).astype("<i2")
    await blobs.put("segment", noise.tobytes())
    async with db.work() as session:
        joined = await join(blobs, await session.merge(row))
        await calls.close_recording(
            session, call.id, blob_key=joined.blob_key, duration_ms=joined.duration_ms,
            peaks=joined.peaks, replies=joined.replies, now=at,
        )  # fmt: skip
    return call.id


async def measure(browser: Browser, url: str) -> tuple[float, float, float]:
    """LCP in milliseconds, layout shift, and kilobytes of scripts and styles, of a first visit."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    page = await context.new_page()
    await page.add_init_script(_WATCH)
    await page.goto(url, wait_until="networkidle")
    lcp, shift = await page.evaluate("[seen.lcp, seen.shift]")
    weight = await page.evaluate(_WEIGH)
    await context.close()
    return lcp, shift, weight / 1000


async def main(rounds: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder) / 'bench.db'}"
        await upgrade(url)
        db, blobs = open_database(DatabaseOptions(url)), open_blobs(BlobOptions(folder))
        long_call = await seed(db, blobs)
        listener = listen("127.0.0.1", 0)
        app = create_app(db, blobs, WebOptions(login=False), clock=lambda: NOW + timedelta(days=1))
        server = asyncio.create_task(serve(app, listener, lambda: None))
        base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            print(f"{'page':8} {'LCP p50':>9} {'LCP max':>9} {'shift':>7} {'JS+CSS':>9}")
            for name, path in (("calls", "/calls"), ("call", f"/calls/{long_call}")):
                found = [await measure(browser, base + path) for _ in range(rounds)]
                lcp = [one[0] for one in found]
                shift, weight = max(one[1] for one in found), max(one[2] for one in found)
                print(
                    f"{name:8} {statistics.median(lcp):6.0f} ms {max(lcp):6.0f} ms "
                    f"{shift:7.3f} {weight:6.1f} kB"
                )
            await browser.close()
        server.cancel()
        with suppress(asyncio.CancelledError):
            await server
        await db.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asyncio.run(main(parser.parse_args().rounds))
