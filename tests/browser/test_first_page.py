"""The first pages in a real browser: a manager opens a call, reads it and listens to it."""

import asyncio
import math
import re
from array import array
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import Browser, Page, Response, expect

from trunkline.calls import service as calls
from trunkline.calls.lifecycle import EndReason
from trunkline.calls.service import Lease
from trunkline.crm import service as crm
from trunkline.kit.asgi import listen, serve
from trunkline.kit.audio import wav_bytes
from trunkline.kit.blobs import BlobOptions, Blobs, open_blobs
from trunkline.kit.db import Database
from trunkline.web.app import create_app
from trunkline.web.options import WebOptions

if TYPE_CHECKING:
    from tests.conftest import Make

MS = timedelta(milliseconds=1)
RATE_HZ = 8000
DURATION_S = 90
"""Long enough that a player does not fetch it all before it is asked to seek."""


def a_recording() -> bytes:
    """A stereo WAV: one tone left, another right."""
    samples = array("h")
    for n in range(RATE_HZ):
        samples.append(round(8000 * math.sin(n * 0.17)))
        samples.append(round(8000 * math.sin(n * 0.12)))
    return wav_bytes(samples.tobytes() * DURATION_S, RATE_HZ, 2)


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return open_blobs(BlobOptions(str(tmp_path / "blobs")))


@pytest.fixture
async def address(sqlite_db: Database, blobs: Blobs, now: datetime) -> AsyncIterator[str]:
    """Where the pages are served."""
    app = create_app(sqlite_db, blobs, WebOptions(login=False), clock=lambda: now)
    listener = listen("127.0.0.1", 0)
    server = asyncio.create_task(serve(app, listener, lambda: None))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.cancel()
    with suppress(asyncio.CancelledError):
        await server


class Seen:
    """What a page did behind its face."""

    def __init__(self, page: Page) -> None:
        self.complaints: list[str] = []
        self.responses: list[Response] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", lambda answer: self.responses.append(answer))

    def _on_console(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        if kind in ("error", "warning"):
            self.complaints.append(text)


async def begin(db: Database, make: "Make", now: datetime) -> tuple[str, Lease]:
    """Dana is on the line."""
    async with db.work() as session:
        contact = await make.contact(session)
        deal = await make.deal(session, contact=contact)
        version = await make.profile(session)
        call = await make.call(session, contact_id=contact.id, profile_version_id=version.id)
        lease = await calls.take_lease(session, call.id, now=now)
        await calls.answer(session, lease, now=now)
        await calls.open_recording(session, lease, sample_rate_hz=RATE_HZ, now=now)
        await calls.save_turn(
            session, lease, turn_id=None, role="agent", text="Hello Dana, how can I help?",
            started_ms=300, ended_ms=4_000, now=now,
        )  # fmt: skip
        asked = await calls.save_turn(
            session, lease, turn_id=None, role="user", text="Yes, take the bigger plan.",
            started_ms=60_000, ended_ms=65_000, now=now,
        )  # fmt: skip
        run = await calls.start_tool(
            session, lease, name="move_deal", arguments={"stage": "won"}, turn_id=asked.id,
            offset_ms=60_000, now=now,
        )  # fmt: skip
        cause = crm.Cause("call", call.id, run.id, asked.id, 60_000)
        await crm.move_deal(session, deal.id, "won", cause=cause, now=now)
        await calls.finish_tool(session, lease, run.id, result="The deal is won.", now=now)
    return call.id, lease


async def finish(db: Database, blobs: Blobs, call_id: str, now: datetime) -> None:
    """Dana hangs up."""
    await blobs.put("recordings/1.wav", a_recording())
    async with db.work() as session:
        await calls.end(session, call_id, EndReason.CALLER_HANGUP, now=now + DURATION_S * 1000 * MS)
        await calls.close_recording(
            session, call_id, blob_key="recordings/1.wav", duration_ms=DURATION_S * 1000,
            peaks=[{"left": 30, "right": 60}] * 300, now=now,
        )  # fmt: skip


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_manager_opens_a_call_and_hears_the_sentence(
    chromium: Browser, address: str, sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime,
    width: int, scheme: str,
) -> None:  # fmt: skip
    """From the list to the call; transcript, tool run and change stand in place; a time plays there."""
    call_id, _ = await begin(sqlite_db, make, now)
    await finish(sqlite_db, blobs, call_id, now)
    context = await chromium.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if scheme == "dark" else "light",
        locale="en-GB",
        timezone_id="Europe/Berlin",
    )
    page = await context.new_page()
    seen = Seen(page)
    await page.goto(f"{address}/calls")
    await expect(page.get_by_role("row")).to_have_count(2 if width > 760 else 1)
    # The viewer's zone, not the server's.
    await expect(page.locator("time").first).to_contain_text("10:30")
    await assert_fits(page)
    await page.get_by_role("link", name="Dana Whitfield").click()
    await expect(page).to_have_url(f"{address}/calls/{call_id}")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Dana Whitfield")

    lines = page.locator(".transcript > li")
    await expect(lines).to_have_count(3)
    await expect(lines.nth(0)).to_contain_text("Hello Dana, how can I help?")
    await expect(lines.nth(1)).to_contain_text("Yes, take the bigger plan.")
    await expect(lines.nth(2)).to_contain_text("move_deal")
    await expect(lines.nth(2)).to_contain_text(re.compile(r"proposal\s*→\s*to\s*won"))
    await assert_fits(page)

    audio = page.locator("audio")
    duration_s = await audio.evaluate(
        """audio => audio.duration || new Promise((tell) =>
            audio.addEventListener('loadedmetadata', () => tell(audio.duration)))"""
    )
    assert duration_s == pytest.approx(DURATION_S, abs=0.1)
    before = len(seen.responses)
    await lines.nth(1).get_by_role("link").click()
    # Set by the player's own clock, so it plays there.
    await expect(lines.nth(1)).to_have_attribute("aria-current", "true")
    assert await audio.evaluate("audio => audio.currentTime") >= 60
    await expect(page).to_have_url(f"{address}/calls/{call_id}?t=60")
    parts = [answer for answer in seen.responses if answer.url.endswith("/recording.wav")]
    assert any(answer.url.endswith("/recording.wav") for answer in seen.responses[before:])
    assert {answer.status for answer in parts} == {206}
    assert {answer.url.split("/")[2] for answer in seen.responses} == {address.split("/")[2]}
    assert seen.complaints == []
    await context.close()


async def test_a_link_opens_the_call_at_that_second(
    chromium: Browser, address: str, sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Without scripts everything is there, and ?t=60 sets the player to that second."""
    call_id, _ = await begin(sqlite_db, make, now)
    await finish(sqlite_db, blobs, call_id, now)
    context = await chromium.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{address}/calls/{call_id}")
    link = page.locator(".transcript > li").nth(1).get_by_role("link")
    await link.click()
    await expect(page).to_have_url(f"{address}/calls/{call_id}?t=60#player")
    await expect(page.locator("audio")).to_have_attribute("src", re.compile(r"wav#t=60\.0$"))
    await expect(page.get_by_text("15 Jan 09:30 UTC").first).to_be_visible()
    await context.close()


async def test_a_live_call_grows_before_the_eyes(
    chromium: Browser, address: str, sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """What is said meanwhile appears by itself; when the call ends the player appears, and it rests."""
    call_id, lease = await begin(sqlite_db, make, now)
    page = await chromium.new_page()
    seen = Seen(page)
    await page.clock.install()
    await page.goto(f"{address}/calls/{call_id}")
    await expect(page.get_by_text("The call is in progress.")).to_be_visible()
    pause = page.get_by_role("link", name="Pause")
    await pause.focus()
    async with sqlite_db.work() as session:
        await calls.save_turn(
            session, lease, turn_id=None, role="user", text="One more thing", started_ms=70_000,
            ended_ms=None, now=now,
        )  # fmt: skip
    await page.clock.run_for(3_500)
    await expect(page.get_by_text("One more thing")).to_be_visible()
    await expect(pause).to_be_focused()
    await finish(sqlite_db, blobs, call_id, now)
    await page.clock.run_for(3_500)
    await expect(page.get_by_text("The caller hung up.")).to_be_visible()
    await expect(page.get_by_role("button", name="Play")).to_be_visible()
    await expect(page.locator("main[data-renew]")).to_have_count(0)
    asked = len(seen.responses)
    await page.clock.run_for(20_000)
    renewed = [answer for answer in seen.responses[asked:] if answer.url.endswith(call_id)]
    assert renewed == []
    assert seen.complaints == []
    await page.close()


async def test_the_keyboard_reaches_everything(
    chromium: Browser, address: str, sqlite_db: Database, blobs: Blobs, make: "Make", now: datetime
) -> None:
    """Tab leads over the skip link to the calls; Enter opens one; every target is 24 px or more."""
    call_id, _ = await begin(sqlite_db, make, now)
    await finish(sqlite_db, blobs, call_id, now)
    page = await chromium.new_page(viewport={"width": 390, "height": 844})
    await page.goto(f"{address}/calls")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    await page.keyboard.press("Enter")
    caller = page.get_by_role("link", name="Dana Whitfield")
    for _ in range(20):  # past the search and what narrows it
        await page.keyboard.press("Tab")
        if await caller.evaluate("link => link === document.activeElement"):
            break
    await expect(caller).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(f"{address}/calls/{call_id}")
    small = await page.evaluate(
        """() => [...document.querySelectorAll('a:not(.skip), summary, button')]
            .filter((target) => target.checkVisibility())
            .map((target) => [target.textContent.trim(), target.getBoundingClientRect()])
            .filter(([, box]) => box.height < 24 || box.width < 24)
            .map(([text, box]) => `${text} ${box.width}x${box.height}`)"""
    )
    assert small == []
    await page.close()


async def assert_fits(page: Page) -> None:
    """Nothing makes the page scroll sideways."""
    too_wide = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert too_wide <= 0
