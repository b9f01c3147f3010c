"""A running house with people, calls, sound and a courier, and Chromium to look at it."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from trunkline.access import passwords
from trunkline.access import service as access
from trunkline.access.roles import Role
from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.recording import join
from trunkline.courier import Courier
from trunkline.crm import service as crm
from trunkline.kit.asgi import listen, serve
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.clock import utc_now
from trunkline.kit.crypt import new_key
from trunkline.kit.db import Database
from trunkline.sandbox.receiver import Receiver
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions
from trunkline.webhooks import service as webhooks
from trunkline.webhooks.options import CourierOptions, EndpointOptions

if TYPE_CHECKING:
    from tests.conftest import Make, Need

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    # As root, in a container, without a graphics card; and no connections but to the page.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
]
expect.set_options(timeout=30_000)
"""Milliseconds; only what fails takes so long."""
PASSWORD = "correct horse battery staple"
HASH = passwords.hashed(PASSWORD)
"""Hashed once: it is slow on purpose."""
MS = timedelta(milliseconds=1)
RATE_HZ = 8000
LENGTH_MS = 40_000

Line = tuple[str, int, int, str]
"""Who, from, until (milliseconds), what."""

SALE: tuple[Line, ...] = (
    ("agent", 300, 3_900, "Hello Dana, this is Northwind Internet. How can I help?"),
    ("user", 4_600, 8_200, "I wanted to ask about the office connection. It is rather slow."),
    ("agent", 9_150, 14_200, "I am sorry to hear that. You have an open offer. Shall I"),
    ("user", 13_800, 17_500, "Yes, please go ahead with the bigger plan."),
    ("agent", 18_620, 24_000, "Done. We will send the contract today. Is there anything else?"),
    ("user", 25_100, 25_100, "[keys 2 #]"),
    ("user", 30_000, 32_000, "No thank you, goodbye."),
    ("agent", 32_800, 35_000, "Thank you for calling. Goodbye."),
)
HEARD_AT_MS = 13_800
"""Where the caller agrees."""
LATENCY = {
    "stt": 180,
    "end_of_turn": 280,
    "llm_first_token": 520,
    "tts_first_byte": 140,
    "reply": 1120,
}


@pytest.fixture
async def chromium(need: "Need") -> AsyncIterator[Browser]:
    need("Chromium", CHROMIUM is not None, "apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


def sound(lines: tuple[Line, ...]) -> bytes:
    """Stereo samples with a tone wherever somebody speaks: the caller left, the agent right."""
    at = np.arange(RATE_HZ * LENGTH_MS // 1000) / RATE_HZ
    out = np.zeros((len(at), 2))
    for role, start, end, _ in lines:
        part = slice(start * RATE_HZ // 1000, end * RATE_HZ // 1000)
        side, hz = (0, 180) if role == "user" else (1, 220)
        beat = 0.4 + 0.6 * np.abs(np.sin(at[part] * 9))
        out[part, side] += np.sin(at[part] * 2 * np.pi * hz) * beat * 9000
    return out.astype("<i2").tobytes()


@dataclass(frozen=True)
class House:
    """A server with what a manager finds in the morning."""

    address: str
    db: Database
    blobs: Blobs
    receiver: Receiver
    sale: str
    """The call in which Dana took the bigger plan: deal proposal → won, one tool failed."""
    older: str
    newest: str

    async def enter(
        self, browser: Browser, role: str | None = "manager", **options: Any
    ) -> tuple[BrowserContext, Page]:
        """A fresh browser window, logged in as *role* through the form."""
        context = await browser.new_context(
            **{
                "viewport": {"width": 1440, "height": 900},
                "locale": "en-GB",
                "timezone_id": "Europe/Berlin",
                "base_url": self.address,
                **options,
            }
        )
        page = await context.new_page()
        if role is not None:
            await page.goto("/login")
            await page.get_by_label("E-mail").fill(f"{role}@example.com")
            await page.get_by_label("Password").fill(PASSWORD)
            await page.get_by_role("button", name="Log in").click()
            await page.wait_for_url(lambda url: "/login" not in url)
        return context, page


@pytest.fixture
async def house(sqlite_db: Database, make: "Make", tmp_path: Path) -> AsyncIterator[House]:
    """The house, open: people of each role, three calls, an endpoint that answers, a courier."""
    now = utc_now() - timedelta(hours=3)
    db, blobs = sqlite_db, open_blobs(BlobOptions(str(tmp_path / "blobs")))
    options = EndpointOptions((new_key(),), allow=("127.0.0.1",))
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(Receiver())
        async with db.work() as session:
            for role in Role:
                row, token = await access.invite(
                    session, role=role, email=f"{role}@example.com", by=None, now=now
                )
                assert row.email is not None
                await access.accept(
                    session, token, email=row.email, name=f"Robin {role.capitalize()}",
                    password_hash=HASH, now=now,
                )  # fmt: skip
            _, receiver.secret = await webhooks.add_endpoint(
                session, options=options, url=receiver.url, events=["*"], now=now
            )
        older = await _call(db, blobs, make, "room-1", now - timedelta(hours=2), sold=False)
        sale = await _call(db, blobs, make, "room-2", now, sold=True)
        newest = await _call(db, blobs, make, "room-3", now + timedelta(hours=1), sold=False)
        listener = listen("127.0.0.1", 0)
        app = create_app(db, blobs, WebOptions(endpoints=options), utc_now)
        tasks = [
            asyncio.create_task(serve(app, listener, lambda: None)),
            asyncio.create_task(Courier(db, CourierOptions(options), jitter=lambda: 0.0).run()),
        ]
        try:
            # By name: browsers keep the login's cookie of a plain http page only for localhost.
            address = f"http://localhost:{listener.getsockname()[1]}"
            yield House(address, db, blobs, receiver, sale, older, newest)
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _call(
    db: Database, blobs: Blobs, make: "Make", room: str, at: datetime, *, sold: bool
) -> str:
    async with db.work() as session:
        contact = await make.contact(session) if sold else None
        deal = await make.deal(session, contact=contact) if contact else None
        version = await make.profile(session) if sold else None
        call = await make.call(
            session, room=room, contact_id=contact.id if contact else None,
            profile_version_id=version.id if version else None,
            from_number=None if not sold else "+12025550134", now=at,
        )  # fmt: skip
        lease = await calls.take_lease(session, call.id, now=at)
        await calls.answer(session, lease, now=at)
        recording = await calls.open_recording(session, lease, sample_rate_hz=RATE_HZ, now=at)
        for role, start, end, text in SALE:
            turn = await calls.save_turn(
                session, lease, turn_id=None, role=role, text=text, started_ms=start, ended_ms=end,
                interrupted=text.endswith("Shall I"),
                latency=LATENCY if role == "agent" and start > 1000 else None, now=at + end * MS,
            )  # fmt: skip
            if deal is None or start != HEARD_AT_MS:
                continue
            run = await calls.start_tool(
                session, lease, name="move_deal", arguments={"stage": "won"}, turn_id=turn.id,
                offset_ms=end, now=at + end * MS,
            )  # fmt: skip
            cause = crm.Cause("call", call.id, run.id, turn.id, start)
            await crm.move_deal(session, deal.id, "won", cause=cause, now=at + end * MS)
            await calls.finish_tool(session, lease, run.id, result="Won.", now=at + end * MS)
            failed = await calls.start_tool(
                session, lease, name="request_callback", arguments={}, turn_id=turn.id,
                offset_ms=end + 100, now=at + end * MS,
            )  # fmt: skip
            await calls.fail_tool(session, lease, failed.id, error="timeout", now=at + end * MS)
        segment = f"recordings/{call.id}/0.pcm"
        await calls.add_segment(session, lease, recording.id, segment, now=at)
        await calls.end(session, call.id, EndReason.CALLER_HANGUP, now=at + LENGTH_MS * MS)
    await blobs.put(segment, sound(SALE))
    async with db.work() as session:
        joined = await join(blobs, await session.merge(recording))
        await calls.close_recording(
            session, call.id, blob_key=joined.blob_key, duration_ms=joined.duration_ms,
            peaks=joined.peaks, replies=joined.replies, now=at + LENGTH_MS * MS,
        )  # fmt: skip
    return call.id


class Screens:
    """Keeps what a page looked like, for a person to look at."""

    def __init__(self, folder: str | None) -> None:
        self._folder = Path(folder) if folder else None

    async def take(self, page: Page, name: str) -> None:
        """A picture of the whole page, if somebody wants them."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            await page.screenshot(path=self._folder / f"{name}.png", full_page=True)


@pytest.fixture
def screens() -> Screens:
    """Pictures go to the folder that TRUNKLINE_SCREENSHOTS names; without it none are taken."""
    return Screens(os.environ.get("TRUNKLINE_SCREENSHOTS"))
